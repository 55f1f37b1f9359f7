"""Int8: a checkpoint with ranges scores by integers, close to float32, the same bits in any batch, or is refused."""

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto
from small_slide import TILE, a_slide, a_store
from test_engines import a_checkpoint as random_checkpoint

from wsi_pipeline.cli.group import main
from wsi_pipeline.errors import ConfigError, ModelError, StoreError
from wsi_pipeline.learn.model.architectures import ARCHITECTURES, kept_layers
from wsi_pipeline.learn.model.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from wsi_pipeline.learn.model.densenet import build_model
from wsi_pipeline.scores.engines import open_engine
from wsi_pipeline.scores.graph import densenet_graph
from wsi_pipeline.scores.int8 import Int8Nodes
from wsi_pipeline.scores.nodes import Nodes
from wsi_pipeline.scores.onnx_engine import OnnxEngine, onnx_session
from wsi_pipeline.scores.ranges import find_ranges, speed_gain, take_tiles, to_int8
from wsi_pipeline.scores.store import read_scores
from wsi_pipeline.slide.synthetic import Tumour, draw_slide
from wsi_pipeline.tiles.making import mark_complete, write_shard

CPU = "cpu"


def a_checkpoint(**fields: Any) -> Checkpoint:
    return random_checkpoint(**{"input_px": TILE} | fields)


def noise(n: int, seed: int = 0) -> np.ndarray:
    """n tiles of noise, each of its own brightness."""
    pixels = np.random.default_rng(seed).integers(0, 256, (n, TILE, TILE, 3))
    return (pixels * np.linspace(0.2, 1, n)[:, None, None, None]).astype(np.uint8)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As a run folder: a store of 80 tiles of noise, the third unreadable, and one that was never finished."""
    folder = tmp_path_factory.mktemp("run") / "tiles"
    folder.mkdir()
    slide, _ = a_slide(folder)
    store, tiles = a_store(folder, slide), noise(80)
    for shard, (start, stop) in enumerate(store.shards):
        write_shard(store, shard, tiles[start:stop], np.arange(start, stop) != 2)
    mark_complete(store)
    a_store(folder, slide, name="b.zarr")
    return folder.parent


@pytest.fixture(scope="module")
def both(run: Path) -> tuple[Checkpoint, Checkpoint]:
    """A checkpoint, and int8 of it."""
    return (exact := a_checkpoint()), to_int8(exact, take_tiles(exact, run))


def test_it_is_a_checkpoint_of_its_own_that_comes_back_from_disk(tmp_path: Path, both: Any) -> None:
    exact, made = both
    save_checkpoint(made, tmp_path)
    loaded = load_checkpoint(tmp_path)
    assert loaded.id == made.id != exact.id == replace(made, ranges=None).id
    assert loaded.ranges == made.ranges and set(made.ranges) == set(kept_layers(made.arch))
    assert loaded.note.endswith("int8, ranges of 79 tiles")
    assert (made.about["int8"]["of"], made.about["int8"]["tiles"], made.about["int8"]["slides"]) == (exact.id, 79, 1)


def test_its_probabilities_are_close_to_those_of_float32(both: Any) -> None:
    tiles = noise(40, seed=1)
    exact, found = (1 / (1 + np.exp(-OnnxEngine(checkpoint).forward(tiles, TILE))) for checkpoint in both)
    off = np.abs(found - exact)
    assert np.ptp(exact) > 0.1 and 0 < off.mean() < 0.005 and off.max() < 0.02


def test_tiles_give_the_same_bits_however_they_are_divided(both: Any) -> None:
    engine, tiles = OnnxEngine(both[1]), noise(13)
    whole = engine.forward(tiles, TILE)
    for piece in (1, 2, 5):
        parts = [engine.forward(tiles[start : start + piece], TILE) for start in range(0, 13, piece)]
        np.testing.assert_array_equal(np.concatenate(parts), whole)


@pytest.mark.parametrize("arch", ["densenet121", "densenet_demo"])
def test_onnx_runtime_computes_all_but_the_first_and_the_last_convolution_in_integers(
    tmp_path: Path, arch: str
) -> None:
    made = a_checkpoint(arch=arch, ranges=dict.fromkeys(kept_layers(arch), (0.0, 1.0)))
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "as_run.onnx")
    options.log_severity_level = 3  # it warns that the file is for this processor
    onnxruntime.InferenceSession(densenet_graph(made, tiles=True), options, providers=["CPUExecutionProvider"])
    kinds = [node.op_type for node in onnx.load(tmp_path / "as_run.onnx").graph.node]
    blocks = ARCHITECTURES[arch].blocks
    assert kinds.count("QLinearConv") == 2 * sum(blocks) + len(blocks) - 1
    assert kinds.count("Conv") - kinds.count("BatchNormalization") <= 2


def test_a_value_is_rounded_to_255_steps_of_its_range_and_cut_off_outside() -> None:
    nodes = Int8Nodes({}, {"layer": (-51.0, 204.0)})  # steps of 1
    nodes.outputs = [nodes.kept("x", "layer")]
    session = onnx_session(nodes.model(("x", TensorProto.FLOAT, ["n"])))
    (found,) = session.run(None, {"x": np.array([-60, -51, -0.6, 0, 0.4, 7.6, 204, 300], np.float32)})
    np.testing.assert_array_equal(found, [-51, -51, -1, 0, 0, 8, 204, 204])


def test_a_convolution_of_integers_is_exact_where_weights_are_whole_steps() -> None:
    kernel = np.array([64, -64, 32, 0], np.float64).reshape(2, 2, 1, 1)  # steps of 1 and of a half, channel by channel
    x = np.array([255, 3, 255, 7], np.float32).reshape(2, 2, 1, 1)
    nodes = Int8Nodes({}, {"layer": (0.0, 255.0)})
    nodes.outputs = [nodes.conv(nodes.kept("x", "layer"), (kernel, np.array([5.0, -2.0])))]
    (found,) = onnx_session(nodes.model(("x", TensorProto.FLOAT, ["n", 2, 1, 1]))).run(None, {"x": x})
    by_hand = [[(255 - 3) * 64 + 5, 255 * 32 - 2], [(255 - 7) * 64 + 5, 255 * 32 - 2]]
    np.testing.assert_allclose(found[..., 0, 0], by_hand, rtol=1e-6)


def test_a_channel_without_weights_keeps_its_bias() -> None:
    nodes = Int8Nodes({}, {"layer": (0.0, 0.0)})  # a layer that gave nothing but 0
    kernel = np.array([0.0, 1e-12]).reshape(2, 1, 1, 1)
    nodes.outputs = [nodes.conv(nodes.kept("x", "layer"), (kernel, np.array([0.25, -3.0])))]
    session = onnx_session(nodes.model(("x", TensorProto.FLOAT, [1, 1, 1, 1])))
    (found,) = session.run(None, {"x": np.ones((1, 1, 1, 1), np.float32)})
    np.testing.assert_allclose(found.ravel(), [0.25, -3.0], rtol=1e-6)


def test_ranges_are_the_least_and_the_most_over_all_tiles() -> None:
    checkpoint, tiles = a_checkpoint(), noise(6)
    whole, logits = find_ranges(checkpoint, tiles)
    parts = [find_ranges(checkpoint, tiles[start : start + 3])[0] for start in (0, 3)]
    assert whole == {n: (min(p[n][0] for p in parts), max(p[n][1] for p in parts)) for n in whole}
    np.testing.assert_array_equal(logits, OnnxEngine(checkpoint).forward(tiles, TILE))


def test_the_layers_of_every_architecture_are_those_that_its_graph_keeps() -> None:
    for arch in ("densenet_small", "densenet_demo"):
        seen: list[str] = []

        class Listening(Nodes):
            def kept(self, x: str, name: str) -> str:
                seen.append(name)  # noqa: B023 (used at once)
                return x

        checkpoint = a_checkpoint(arch=arch)
        densenet_graph(checkpoint, tiles=True, nodes=Listening(checkpoint.state))
        assert sorted(seen) == sorted(kept_layers(arch))


def test_tiles_are_spread_evenly_and_unreadable_ones_left_out(run: Path) -> None:
    few = take_tiles(a_checkpoint(), run, 4)
    np.testing.assert_array_equal(few.tiles, noise(80)[[10, 30, 50, 70]])  # the middle of each quarter
    assert len(take_tiles(a_checkpoint(), run / "tiles" / "a.zarr", 1000).tiles) == 79


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"input_px": 64}, "tiles are 32 px .* wants 64 px .*--set tiles.tile_px=64 and give it as --tiles$"),
        ({"mpp": 1.0}, r"tiles are 32 px at 0.5 .* at 1 um/px; make a run with --set tiles.mpp=1 --set "),
        ({"in_channels": 1, "mean": (0.5,), "std": (0.2,), "state": None}, "takes grey images"),
        ({"ranges": dict.fromkeys(kept_layers("densenet_demo"), (0.0, 1.0))}, "is int8 already"),
    ],
    ids=["size", "scale", "grey", "int8"],
)
def test_a_model_that_the_tiles_are_not_for_is_refused(run: Path, fields: dict[str, Any], words: str) -> None:
    if fields.get("in_channels"):
        state = a_checkpoint().state
        fields = fields | {"state": state | {"features.conv0.weight": state["features.conv0.weight"][:, :1]}}
    with pytest.raises(ModelError, match=words):
        to_int8(checkpoint := a_checkpoint(**fields), take_tiles(checkpoint, run))


def test_a_folder_without_tiles_and_no_tile_wanted_are_refused(tmp_path: Path, run: Path) -> None:
    with pytest.raises(ConfigError, match="no readable tile in 0 complete stores; cut some"):
        take_tiles(a_checkpoint(), tmp_path)
    with pytest.raises(ConfigError, match="no such folder; give a run folder"):
        take_tiles(a_checkpoint(), tmp_path / "nowhere")
    with pytest.raises(StoreError, match="'writing', not complete"):
        take_tiles(a_checkpoint(), run / "tiles" / "b.zarr")
    with pytest.raises(ConfigError, match="images: got 0"):
        take_tiles(a_checkpoint(), run, 0)


def test_the_gain_in_speed_is_measured_in_turns(both: Any) -> None:
    assert 0.1 < speed_gain(*both, noise(6)) < 10  # what it is depends on the processor


def test_ranges_of_other_layers_or_the_wrong_way_round_are_refused() -> None:
    layers = kept_layers("densenet_demo")
    with pytest.raises(ModelError, match=r"its 2 ranges are not those of the 42 layers of densenet_demo"):
        a_checkpoint(ranges=dict.fromkeys(layers[:2], (0.0, 1.0)))
    with pytest.raises(ModelError, match="least value is above its most"):
        a_checkpoint(ranges=dict.fromkeys(layers, (1.0, 0.0)))


def test_torch_and_a_gpu_refuse_it_and_tell_what_to_use(both: Any) -> None:
    for device, engine in ((CPU, "torch"), ("cuda:0", "auto"), ("cuda:0", "torch")):
        with pytest.raises(ModelError, match=f"is int8, .* got engine {engine} on {device}: use --device cpu"):
            open_engine(both[1], device, engine)
    with pytest.raises(ModelError, match=r"is int8, got model\.precision=float32; leave it at auto"):
        open_engine(both[1], CPU, precision="float32")
    with pytest.raises(ModelError, match="is int8, which only scores slides; give the float32 one"):
        build_model(both[1])
    assert open_engine(both[1], CPU).name == "onnx"


def test_options_that_do_not_go_together_are_a_usage_error(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for words in (["int8"], ["onnx", "--tiles", "runs"], ["onnx", "--images", "4"]):
        monkeypatch.setattr(sys, "argv", ["x", "export", "--checkpoint", "demo", "--out", "a.onnx", "--format", *words])
        assert main() == 2 and "--tiles goes with --format int8" in capsys.readouterr().err


def test_a_place_that_cannot_be_written_is_told_before_any_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    words = ["--checkpoint", "demo", "--format", "int8", "--tiles", "none", "--out", str(tmp_path / "file" / "below")]
    monkeypatch.setattr(sys, "argv", ["x", "export", *words])
    assert main() == 2 and f"{tmp_path / 'file'} is a file; name a folder" in capsys.readouterr().err


@pytest.mark.slow
def test_a_drawn_slide_is_scored_in_int8_as_in_float32(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    draw_slide(tmp_path / "a.tif", size_px=(1100, 1100), tumours=[Tumour(275.0, 275.0, 130.0, 130.0)], seed=3)
    run, made, knobs = tmp_path / "run", tmp_path / "int8", ["--scheduler", "threads", "--set", "tiles.stride_px=128"]
    probs = []
    for words in (
        ["run", tmp_path / "a.tif", "--out", run, *knobs],
        ["export", "--checkpoint", "demo", "--format", "int8", "--tiles", run, "--images", "32", "--out", made],
        ["check", tmp_path / "a.tif", "--set", f"model.checkpoint={made}"],
        ["run", tmp_path / "a.tif", "--out", run, "--resume", "--model", made, *knobs],
    ):
        monkeypatch.setattr(sys, "argv", ["wsi_pipeline", *map(str, words)])
        assert main() == 0
        if words[0] == "run":
            probs.append(read_scores(run / "tiles" / "a.zarr", load_checkpoint(made if probs else "demo").id).probs)
    off = np.abs(probs[1] - probs[0])
    assert probs[0].min() < 0.01 and probs[0].max() > 0.99 and off.mean() < 0.01 and off.max() < 0.1
