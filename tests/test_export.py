"""Exports: what other software reads answers as the checkpoint does, or is not left on disk."""

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from scipy.special import expit, softmax
from torch import nn

from wsi_pipeline.cli.group import main
from wsi_pipeline.errors import ModelError
from wsi_pipeline.learn.model import export
from wsi_pipeline.learn.model.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from wsi_pipeline.learn.model.densenet import build_densenet, build_model
from wsi_pipeline.learn.model.export import to_onnx, to_qupath, to_safetensors, to_torchscript
from wsi_pipeline.learn.model.probabilities import probabilities

TORCHSCRIPT_IS_OLD = pytest.mark.filterwarnings("ignore:`torch.jit:FutureWarning")  # torch.jit.load in the tests


def a_checkpoint(classes: int, **fields: Any) -> Checkpoint:
    torch.manual_seed(4)
    model = build_densenet("densenet_demo", classes, in_channels=fields.get("in_channels", 3))
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.uniform_(-0.2, 0.2)
    model.classifier.weight.data *= 5
    known = {
        "arch": "densenet_demo",
        "class_names": tuple("abcd"[:classes]),
        "positive": ("a",),
        "exclusive": classes > 1,
        "input_px": 64,
        "mpp": 0.5,
        "mean": (0.6, 0.4, 0.7),
        "std": (0.2, 0.3, 0.1),
        "prior": (0.1, 0.2, 0.7)[:classes] if classes != 2 else None,
        "temperature": 1.7,
    }
    return Checkpoint(**known | {"state": model.state_dict()} | fields)


def images_of(count: int, channels: int = 3) -> np.ndarray:
    return np.random.default_rng(count).random((count, channels, 64, 64), dtype=np.float32)


def expected(checkpoint: Checkpoint, images: np.ndarray) -> np.ndarray:
    """Calibrated probabilities by the project's own way: normalise, network, prior, temperature."""
    mean, std = (np.array(values, np.float32)[:, None, None] for values in (checkpoint.mean, checkpoint.std))
    with torch.inference_mode():
        z = build_model(checkpoint)(torch.from_numpy((images - mean) / std)).numpy()
    return probabilities(z, exclusive=checkpoint.exclusive, prior=checkpoint.prior, temperature=checkpoint.temperature)


def test_safetensors_is_one_file_that_loads_alone(tmp_path: Path) -> None:
    checkpoint = a_checkpoint(3)
    assert load_checkpoint(to_safetensors(checkpoint, tmp_path / "alone.safetensors")).id == checkpoint.id
    assert [path.name for path in tmp_path.iterdir()] == ["alone.safetensors"]


@TORCHSCRIPT_IS_OLD
@pytest.mark.parametrize("classes", [1, 3], ids=["sigmoid", "softmax"])
def test_torchscript_takes_rgb_in_0_to_1_in_any_batch_and_gives_calibrated_logits(tmp_path: Path, classes: int) -> None:
    checkpoint, activation = a_checkpoint(classes), expit if classes == 1 else lambda z: softmax(z, axis=1)
    extra = {"card.json": ""}
    model = torch.jit.load(to_torchscript(checkpoint, tmp_path / "model.pt"), _extra_files=extra)
    for count in (1, 4, 7):
        z = model(torch.from_numpy(images_of(count))).detach().numpy()
        np.testing.assert_allclose(activation(z), expected(checkpoint, images_of(count)), atol=1e-5)
    assert json.loads(extra["card.json"])["id"] == checkpoint.id


@pytest.mark.slow
@pytest.mark.parametrize(
    "checkpoint",
    [
        a_checkpoint(3),
        a_checkpoint(2, exclusive=False, prior=(0.1, 0.3), mpp=None, in_channels=1, mean=(0.5,), std=(0.2,)),
    ],
    ids=["softmax", "grey, sigmoids"],
)
def test_onnx_answers_as_the_original_in_any_batch(tmp_path: Path, checkpoint: Checkpoint) -> None:
    path = to_onnx(checkpoint, tmp_path / "model.onnx")
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    for count in (1, 4, 7):
        images = images_of(count, checkpoint.in_channels)
        (z,) = session.run(["logits"], {"image": images})
        found = softmax(z, axis=1) if checkpoint.exclusive else expit(z)
        np.testing.assert_allclose(found, expected(checkpoint, images), atol=1e-4)
    told = {prop.key: prop.value for prop in onnx.load(path).metadata_props}
    assert json.loads(told["card"])["id"] == checkpoint.id and "Research use only" in told["output"]
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]


def as_the_extension(folder: Path, images: np.ndarray) -> tuple[list[str], np.ndarray]:
    """(class names, probabilities) as QuPath's WSInfer extension computes them from the folder alone."""
    config = json.loads((folder / "config.json").read_text())
    resize, to_tensor, normalise = config["transform"]
    assert (resize, to_tensor) == ({"name": "Resize", "arguments": {"size": 64}}, {"name": "ToTensor"})
    mean, std = (np.array(normalise["arguments"][key], np.float32)[:, None, None] for key in ("mean", "std"))
    z = torch.jit.load(folder / "torchscript_model.pt")(torch.from_numpy((images - mean) / std)).detach().numpy()
    assert config["num_classes"] == len(config["class_names"]) == z.shape[1]
    return config["class_names"], softmax(z, axis=1)


@TORCHSCRIPT_IS_OLD
def test_qupath_gets_the_calibrated_probability_of_a_single_class(tmp_path: Path) -> None:
    checkpoint = a_checkpoint(1, class_names=("tumour",), positive=("tumour",))
    names, found = as_the_extension(to_qupath(checkpoint, tmp_path / "q"), images_of(5))
    assert names == ["not tumour", "tumour"]
    np.testing.assert_allclose(found[:, 1:], expected(checkpoint, images_of(5)), atol=1e-5)


@TORCHSCRIPT_IS_OLD
def test_qupath_gets_the_calibrated_probabilities_of_classes_that_exclude_each_other(tmp_path: Path) -> None:
    checkpoint = a_checkpoint(3)
    names, found = as_the_extension(to_qupath(checkpoint, tmp_path), images_of(5))
    assert names == ["a", "b", "c"]
    np.testing.assert_allclose(found, expected(checkpoint, images_of(5)), atol=1e-5)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json", "torchscript_model.pt"]


def test_the_config_of_qupath_has_the_fields_of_wsinfers_schema(tmp_path: Path) -> None:
    config = json.loads((to_qupath(a_checkpoint(3), tmp_path) / "config.json").read_text())
    assert list(config) == [
        "spec_version", "architecture", "num_classes", "class_names", "patch_size_pixels", "spacing_um_px", "transform",
    ]  # fmt: skip
    assert (config["spec_version"], config["patch_size_pixels"], config["spacing_um_px"]) == ("1.0", 64, 0.5)


@pytest.mark.parametrize(
    ("classes", "fields", "words"),
    [
        (1, {"mpp": None}, "knows no um/px, by which QuPath cuts tiles"),
        (1, {"in_channels": 1, "mean": (0.5,), "std": (0.2,)}, "takes grey images, QuPath gives RGB"),
        (2, {"exclusive": False}, "2 classes that do not exclude each other; .* softmax"),
    ],
    ids=["no scale", "grey", "sigmoids"],
)
def test_what_qupath_cannot_run_is_refused(tmp_path: Path, classes: int, fields: dict[str, Any], words: str) -> None:
    with pytest.raises(ModelError, match=words):
        to_qupath(a_checkpoint(classes, **fields), tmp_path / "q")
    assert not (tmp_path / "q").exists()


FAULTS: dict[str, Callable[[nn.Module], None]] = {
    "weights": lambda model: model.classifier.bias.add_(1e-3),
    "not finite": lambda model: model.classifier.bias.fill_(float("nan")),
    "classes": lambda model: setattr(model, "classifier", nn.Linear(model.classifier.in_features, 4)),
}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("form", ["torchscript", "qupath"])
def test_an_export_that_answers_otherwise_is_not_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str, fault: str
) -> None:
    prepared = export._calibrated

    def broken(checkpoint: Checkpoint) -> nn.Module:
        model = prepared(checkpoint)
        FAULTS[fault](model)
        return model

    monkeypatch.setattr(export, "_calibrated", broken)
    (tmp_path / "model.pt").write_bytes(b"from before")
    with pytest.raises(ModelError, match=r"differs from the original by|gives \(1, 4\) for 1 images, not \(1, 3\)"):
        export.FORMATS[form](a_checkpoint(3), tmp_path / "model.pt" if form == "torchscript" else tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"model.pt": b"from before"}


def test_a_name_of_another_kind_and_a_full_disk_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"model.h5: name a file that ends in \.onnx"):
        to_onnx(a_checkpoint(1), tmp_path / "model.h5")
    (tmp_path / "file").touch()
    with pytest.raises(ModelError, match=r"not written .*; free the disk or name another"):
        to_safetensors(a_checkpoint(1), tmp_path / "file" / "model.safetensors")


def test_a_file_that_would_be_read_by_another_models_card_is_not_written(tmp_path: Path) -> None:
    other, mine = replace(a_checkpoint(1), temperature=3.0), a_checkpoint(1)
    save_checkpoint(other, tmp_path)
    with pytest.raises(ModelError, match=rf"b.safetensors: card.json beside it is not of model {mine.id}"):
        to_safetensors(mine, tmp_path / "b.safetensors")
    assert load_checkpoint(to_safetensors(other, tmp_path / "b.safetensors")).id == other.id


@pytest.mark.parametrize(
    ("source", "form", "out"),
    [
        ("run/model.pt", ["torchscript"], "run/here/../model.pt"),
        ("run/model.pt", ["int8", "--tiles", "none"], "run"),
        ("run", ["int8", "--tiles", "none"], "run"),
        ("run/model.safetensors", ["safetensors"], "run/model.safetensors"),
    ],
    ids=["TorchScript onto weights", "int8 beside weights", "int8 into its folder", "a file onto itself"],
)
def test_the_exported_model_is_never_replaced(
    source: str,
    form: list[str],
    out: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    save_checkpoint(a_checkpoint(1), tmp_path / "run")
    torch.save(build_model(a_checkpoint(1)).state_dict(), tmp_path / "run" / "model.pt")
    (tmp_path / "run" / "here").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["x", "export", "--checkpoint", source, "--out", out, "--format", *form])
    assert main() == 2 and "is where the exported model lies" in capsys.readouterr().err


def test_the_command_exports_a_folder_for_qupath(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    save_checkpoint(a_checkpoint(3), tmp_path / "run", half=True)
    words = ["export", "--checkpoint", tmp_path / "run", "--format", "qupath", "--out", tmp_path / "q"]
    monkeypatch.setattr(sys, "argv", ["wsi_pipeline", *map(str, words)])
    assert main() == 0 and "answers as the original does" in capsys.readouterr().out
    assert (tmp_path / "q" / "torchscript_model.pt").is_file()
    save_checkpoint(replace(a_checkpoint(3), mpp=None), tmp_path / "run")
    assert main() == 1 and "knows no um/px" in capsys.readouterr().err
