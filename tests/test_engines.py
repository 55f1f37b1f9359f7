"""Engines: the same logits by every way of computing them, whatever the batch; devices, memory that is too small."""

import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch

from wsi_pipeline.errors import ModelError
from wsi_pipeline.learn.model.checkpoint import Checkpoint
from wsi_pipeline.learn.model.densenet import build_densenet, build_model
from wsi_pipeline.learn.model.fold import FromPixels, folded
from wsi_pipeline.scores import engines, torch_engine
from wsi_pipeline.scores.engines import Engine, EngineName, open_engine, pick_device
from wsi_pipeline.scores.infer import Scorer
from wsi_pipeline.scores.onnx_engine import OnnxEngine
from wsi_pipeline.scores.torch_engine import TorchEngine, reduced

CPU = "cpu"
MEAN, STD = (0.6, 0.5, 0.7), (0.2, 0.3, 0.1)


def a_checkpoint(arch: str = "densenet_demo", **fields: Any) -> Checkpoint:
    """Random weights, norms with statistics, scales and shifts of their own, some scales negative."""
    torch.manual_seed(1)
    model = build_densenet(arch, 2).train()
    for part in model.modules():
        if isinstance(part, torch.nn.BatchNorm2d):
            torch.nn.init.normal_(part.weight, 1.0, 0.5)
            torch.nn.init.normal_(part.bias, 0.0, 0.2)
    with torch.no_grad():
        for _ in range(2):
            model(torch.randn(4, 3, 64, 64))
    known: dict[str, Any] = {
        "arch": arch, "class_names": ("tumour", "necrosis"), "positive": ("tumour",), "exclusive": False,
        "input_px": 64, "mpp": 0.5, "mean": MEAN, "std": STD, "state": model.state_dict(),
    }  # fmt: skip
    return Checkpoint(**known | fields)


def some_tiles(n: int, px: int) -> np.ndarray:
    """n tiles of noise, each of its own brightness."""
    noise = np.random.default_rng(0).integers(0, 256, (n, px, px, 3))
    return (noise * np.linspace(0.2, 1, n)[:, None, None, None]).astype(np.uint8)


def sigmoid(z: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-z))


@pytest.fixture(scope="module", params=["densenet_demo", "densenet121"])
def ways(request: pytest.FixtureRequest) -> tuple[torch.nn.Module, dict[str, Engine]]:
    """A network as it is, and by every engine."""
    checkpoint = a_checkpoint(request.param)
    engines = {name: open_engine(checkpoint, CPU, name) for name in ("onnx", "torch")}
    return FromPixels(build_model(checkpoint), MEAN, STD), engines


@pytest.mark.parametrize(
    ("tile_px", "px"), [(32, 32), (64, 64), (100, 100), (256, 256), (128, 64), (90, 64)], ids=lambda px: f"{px}"
)
def test_probabilities_are_those_of_plain_float32_torch(tile_px: int, px: int, ways: Any) -> None:
    model, engines = ways
    tiles = some_tiles(2, tile_px)
    with torch.inference_mode():
        expected = model(reduced(torch.from_numpy(tiles).permute(0, 3, 1, 2).float(), px)).numpy()
    assert np.ptp(expected, axis=0).min() > 1e-3
    for engine in engines.values():
        found = engine.forward(tiles, px)
        assert found.dtype == np.float32 and found.shape == (2, 2)
        np.testing.assert_allclose(sigmoid(found), sigmoid(expected), atol=1e-5)


@pytest.mark.parametrize("arch", ["densenet_demo", "densenet_small"])
def test_onnx_gives_the_same_bits_however_tiles_are_divided(arch: str) -> None:
    engine, tiles = OnnxEngine(a_checkpoint(arch)), some_tiles(13, 64)
    whole = engine.forward(tiles, 64)
    for piece in (1, 2, 5):
        parts = [engine.forward(tiles[start : start + piece], 64) for start in range(0, 13, piece)]
        np.testing.assert_array_equal(np.concatenate(parts), whole)


def test_onnx_gives_the_same_bits_from_many_threads_at_once() -> None:
    scorer, tiles = Scorer(a_checkpoint(), CPU, "onnx"), some_tiles(40, 64)
    whole = scorer.engine.forward(tiles, 64)
    np.testing.assert_array_equal(scorer.logits(tiles, 64), whole)


def test_onnx_keeps_no_session_for_each_size_of_tiles() -> None:
    engine, tiles = OnnxEngine(a_checkpoint()), some_tiles(2, 90)
    first = engine.forward(tiles, 64)
    for px in (70, 80, 64):
        found = engine.forward(tiles, px)
        assert len(engine._sessions) == 1
    np.testing.assert_array_equal(found, first)


def test_half_precision_moves_no_probability_by_a_hundredth() -> None:
    checkpoint, tiles = a_checkpoint(), some_tiles(16, 64)
    found = TorchEngine(checkpoint, CPU, half=torch.bfloat16).forward(tiles, 64)
    exact = sigmoid(TorchEngine(checkpoint, CPU).forward(tiles, 64))
    assert 0 < np.abs(sigmoid(found) - exact).max() < 0.01


def test_folding_leaves_only_norms_that_a_relu_follows() -> None:
    model = build_model(a_checkpoint())
    norms = [name for name, part in folded(model).named_modules() if isinstance(part, torch.nn.BatchNorm2d)]
    assert len(norms) == 12 + 3 + 1  # norm1 of each layer, a norm a transition, norm5
    assert isinstance(model.features.norm0, torch.nn.BatchNorm2d)  # the model itself is as it was


def test_auto_is_onnx_on_a_cpu_and_onnx_is_refused_on_a_gpu() -> None:
    checkpoint = a_checkpoint()
    assert open_engine(checkpoint, CPU).name == "onnx"
    assert open_engine(checkpoint, CPU, "torch").name == "torch"
    with pytest.raises(ModelError, match="engine onnx runs on a CPU, the device is cuda:0"):
        open_engine(checkpoint, "cuda:0", "onnx")


def test_precision_bfloat16_is_torch_in_half_where_the_processor_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint = a_checkpoint()
    assert open_engine(checkpoint, CPU, precision="float32").name == "onnx"
    monkeypatch.setattr(torch_engine, "_has_bfloat16", lambda device: True)
    engine = open_engine(checkpoint, CPU, precision="bfloat16")
    assert (engine.name, engine.precision) == ("torch", "bfloat16")
    assert torch_engine.half_of("cuda:0") == torch_engine.half_of("cuda:0", "bfloat16") == torch.bfloat16
    assert torch_engine.half_of("cuda:0", "float32") is None
    with pytest.raises(ModelError, match=r"engine onnx computes in float32, got model\.precision=bfloat16"):
        open_engine(checkpoint, CPU, "onnx", precision="bfloat16")
    monkeypatch.setattr(torch_engine, "_has_bfloat16", lambda device: False)
    assert torch_engine.half_of("cuda:0") == torch.float16
    with pytest.raises(ModelError, match="cpu here has no instructions for it; use auto, or float32"):
        open_engine(checkpoint, CPU, precision="bfloat16")


@pytest.mark.parametrize("name", ["onnx", "torch"])
def test_after_a_rest_it_computes_as_before(name: EngineName) -> None:
    engine, tiles = open_engine(a_checkpoint(), CPU, name), some_tiles(2, 64)
    before = engine.forward(tiles, 64)
    engine.rest()
    np.testing.assert_array_equal(engine.forward(tiles, 64), before)


def test_compiled_for_one_size_smaller_batches_are_filled_up(monkeypatch: pytest.MonkeyPatch) -> None:
    engine, tiles, seen = TorchEngine(a_checkpoint(), CPU), some_tiles(4, 64), []
    whole, model = engine.forward(tiles, 64), engine.model
    monkeypatch.setattr(engine, "_full", 0)
    monkeypatch.setattr(engine, "_least", 16)  # as on a GPU
    monkeypatch.setattr(engine, "model", lambda planes: seen.append(len(planes)) or model(planes))
    found = np.concatenate([engine.forward(tiles[:3], 64), engine.forward(tiles[3:], 64)])
    assert seen == [16, 16]
    np.testing.assert_allclose(found, whole, atol=1e-5)
    engine.forward(some_tiles(17, 64), 64)
    engine.forward(tiles, 64)
    assert seen[2:] == [64, 64]  # few sizes: after eight torch compiles no more


def test_compiled_on_a_cpu_no_more_tiles_are_computed_than_a_call_has(monkeypatch: pytest.MonkeyPatch) -> None:
    engine, seen = TorchEngine(a_checkpoint(), CPU), []
    model = engine.model
    monkeypatch.setattr(engine, "_full", 0)
    monkeypatch.setattr(engine, "model", lambda planes: seen.append(len(planes)) or model(planes))
    piece = engine.piece(64, 100)
    engine.forward(some_tiles(piece, 64), 64)
    assert seen == [piece]


def test_float32_on_a_gpu_is_not_tf32() -> None:
    places = torch.backends.cudnn, torch.backends.cuda.matmul
    before = [place.allow_tf32 for place in places]
    try:
        for place in places:
            place.allow_tf32 = True
        torch_engine._compute_in_float32()
        assert not any(place.allow_tf32 for place in places)
    finally:
        for place, allowed in zip(places, before, strict=True):
            place.allow_tf32 = allowed


def test_compiled_and_out_of_memory_it_goes_on_with_what_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    engine, tiles = TorchEngine(a_checkpoint(), CPU), some_tiles(20, 64)
    whole = engine.forward(tiles, 64)
    monkeypatch.setattr(engine, "_full", 0)
    out_of_memory_above(6, engine, monkeypatch)
    np.testing.assert_allclose(engine.forward(tiles, 64), whole, atol=1e-5)
    assert engine.most == 5  # 20, 10, 5


def out_of_memory_above(
    limit: int, engine: TorchEngine, monkeypatch: pytest.MonkeyPatch, error: RuntimeError | None = None
) -> None:
    """As on a GPU whose memory holds `limit` tiles, and which is given all at once."""
    model = engine.model

    def forward(planes: torch.Tensor) -> torch.Tensor:
        if len(planes) > limit:
            raise error or torch.cuda.OutOfMemoryError("no memory")
        return model(planes)

    monkeypatch.setattr(engine, "model", forward)


def test_out_of_memory_halves_the_batch_and_keeps_every_row(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    engine, tiles = TorchEngine(a_checkpoint(), CPU), some_tiles(13, 64)
    whole = engine.forward(tiles, 64)
    out_of_memory_above(3, engine, monkeypatch)
    np.testing.assert_allclose(engine.forward(tiles, 64), whole, atol=1e-5)
    assert engine.most == 3  # 13, 6, 3
    assert "out of memory with 13 tiles; going on with 6" in caplog.text


def test_words_of_cudnn_for_too_little_memory_count_as_such(monkeypatch: pytest.MonkeyPatch) -> None:
    engine, tiles = TorchEngine(a_checkpoint(), CPU), some_tiles(4, 64)
    whole = engine.forward(tiles, 64)
    out_of_memory_above(2, engine, monkeypatch, RuntimeError("GET was unable to find an engine to execute this"))
    np.testing.assert_allclose(engine.forward(tiles, 64), whole, atol=1e-5)
    out_of_memory_above(0, engine, monkeypatch, RuntimeError("something else"))
    with pytest.raises(RuntimeError, match="something else"):
        engine.forward(tiles, 64)


def test_memory_for_no_tile_at_all_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = TorchEngine(a_checkpoint(), CPU)
    out_of_memory_above(0, engine, monkeypatch)
    with pytest.raises(ModelError, match="no memory for one tile of 64 px"):
        engine.forward(some_tiles(5, 64), 64)


@pytest.mark.parametrize("name", ["cuda:7", "cpu0", "mps", "gpu"])
def test_a_device_that_is_not_here_is_refused_with_what_there_is(name: str) -> None:
    with pytest.raises(ModelError, match=f"device '{name}' is not here; this machine has cpu"):
        pick_device(name)


@pytest.mark.parametrize(("gpus", "auto"), [(0, "cpu"), (2, "cuda:0")])
def test_auto_takes_the_first_gpu_or_the_cpu(gpus: int, auto: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    monkeypatch.setattr(engines, "_DRIVERS", (__file__,))  # as if there was one
    assert pick_device("auto") == auto
    assert pick_device("cpu") == "cpu"
    if gpus:
        assert [pick_device(name) for name in ("cuda", "cuda:1")] == ["cuda:0", "cuda:1"]


def test_scoring_on_a_cpu_loads_no_torch() -> None:
    program = (
        "import sys, numpy as np\n"
        "from wsi_pipeline.pipeline.score import Classifier\n"
        "scorer = Classifier('demo', device='auto', batch=None, resample=False)._scorer\n"
        "scorer.logits(np.zeros((1, 256, 256, 3), np.uint8), 256)\n"
        "sys.exit('torch' in sys.modules and scorer.device == 'cpu')"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
