"""Checkpoints: saved and loaded as they were, or refused in words that name what does not fit."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from wsi_pipeline.errors import ModelError
from wsi_pipeline.learn.model import checkpoint as module
from wsi_pipeline.learn.model.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from wsi_pipeline.learn.model.densenet import build_densenet, build_model


def weights(classes: int = 1, *, channels: int = 3) -> dict[str, Tensor]:
    torch.manual_seed(0)
    return build_densenet("densenet_demo", classes, in_channels=channels).state_dict()


def a_checkpoint(**fields: Any) -> Checkpoint:
    known = {
        "arch": "densenet_demo",
        "class_names": ("tumour",),
        "positive": ("tumour",),
        "exclusive": False,
        "input_px": 64,
        "mpp": 0.5,
        "mean": (0.6, 0.5, 0.6),
        "std": (0.2, 0.2, 0.2),
        "prior": (0.25,),
        "temperature": 1.5,
        "threshold": 0.4,
        "note": "knows little",
        "about": {"seed": 1},
    } | fields
    return Checkpoint(**{"state": weights(len(known["class_names"]))} | known)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_checkpoint(a_checkpoint(), tmp_path / "model")
    return tmp_path / "model"


def edit_card(folder: Path, **fields: object) -> None:
    card = json.loads((folder / "card.json").read_text())
    (folder / "card.json").write_text(json.dumps(card | fields))


def test_a_checkpoint_comes_back_as_it_was_saved(folder: Path) -> None:
    saved, found = a_checkpoint(), load_checkpoint(folder)
    for name in ("id", "class_names", "positive", "mean", "std", "prior", "temperature", "threshold", "note", "about"):
        assert getattr(found, name) == getattr(saved, name)
    assert all(np.array_equal(found.state[name], array) for name, array in saved.state.items())
    assert len(found.id) == 12 and int(found.id, 16) >= 0


def test_a_folder_holds_weights_and_card_and_says_research_use(folder: Path) -> None:
    assert sorted(path.name for path in folder.iterdir()) == ["card.json", "model.safetensors"]
    assert "Research use only" in json.loads((folder / "card.json").read_text())["use"]


def test_a_safetensors_file_carries_its_card(folder: Path, tmp_path: Path) -> None:
    moved = (folder / "model.safetensors").rename(tmp_path / "alone.safetensors")
    assert load_checkpoint(moved).id == a_checkpoint().id


def test_the_id_tells_weights_and_meaning_and_nothing_else() -> None:
    first = a_checkpoint()
    assert replace(first, note="other words", about={}).id == first.id
    others = [replace(first, threshold=0.5), replace(first, temperature=1.0), replace(first, prior=None)]
    state = {name: array.copy() for name, array in first.state.items()}
    state["classifier.bias"] += 1e-6
    others.append(replace(first, state=state))
    assert len({checkpoint.id for checkpoint in [first, *others]}) == 5


def test_the_network_is_ready_to_score_and_leaves_the_checkpoint_alone(folder: Path) -> None:
    checkpoint = load_checkpoint(folder)
    model = build_model(checkpoint)
    assert not model.training and not any(p.requires_grad for p in model.parameters())
    with torch.no_grad():
        model.classifier.bias += 1
    assert np.array_equal(checkpoint.state["classifier.bias"], weights()["classifier.bias"])


def test_half_precision_weights_are_computed_with_in_float32() -> None:
    half = {name: t.half() if t.is_floating_point() else t for name, t in weights().items()}
    model = build_model(a_checkpoint(state=half))
    assert {p.dtype for p in model.parameters()} == {torch.float32}


def test_fields_at_their_default_leave_the_id_as_it_was() -> None:
    first = a_checkpoint()
    assert replace(first, thresholds=None, kind="plain", fit="pad", ordinal=False).id == first.id
    others = [{"thresholds": (0.4,)}, {"kind": "retina"}, {"fit": "circle"}, {"ordinal": True}, {"mpp": None}]
    assert len({first.id, *(replace(first, **fields).id for fields in others)}) == 6


def test_each_class_has_its_threshold_or_the_one_for_all(tmp_path: Path) -> None:
    one = a_checkpoint(class_names=("a", "b"), positive=(), prior=None, mpp=None)
    assert one.class_thresholds.tolist() == [0.4, 0.4]
    save_checkpoint(replace(one, thresholds=(0.1, 0.7)), tmp_path)
    assert load_checkpoint(tmp_path).class_thresholds.tolist() == [0.1, 0.7]


def test_half_the_bytes_are_saved_with_an_id_of_their_own(folder: Path, tmp_path: Path) -> None:
    saved = save_checkpoint(a_checkpoint(), tmp_path / "half", half=True)
    found = load_checkpoint(tmp_path / "half")
    assert found.id == saved.id != a_checkpoint().id
    assert found.state["classifier.weight"].dtype == np.float16
    assert found.state["features.norm0.num_batches_tracked"].dtype == np.int64
    sizes = [(path / "model.safetensors").stat().st_size for path in (folder, tmp_path / "half")]
    assert sizes[1] < 0.6 * sizes[0]


def test_weights_too_large_for_half_precision_are_refused_and_nothing_is_written(folder: Path) -> None:
    state = weights() | {"classifier.bias": torch.tensor([1e5])}
    with pytest.raises(ModelError, match="bias has values that are not finite in float16"):
        save_checkpoint(a_checkpoint(state=state), folder, half=True)
    assert load_checkpoint(folder).id == a_checkpoint().id


@pytest.mark.parametrize("wrap", [dict, lambda state: {"epoch": 3, "state_dict": state}], ids=["plain", "wrapped"])
@pytest.mark.parametrize("name", ["old.pth", "old.pt"])
def test_a_torch_file_of_plain_weights_is_read_with_a_card_beside_it(
    folder: Path, name: str, wrap: Callable[[dict[str, Tensor]], Any]
) -> None:
    torch.save(wrap(weights()), folder / name)
    assert load_checkpoint(folder / name).id == a_checkpoint().id


class Harmful:
    """Would write a file if it were ever unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.path,))


def test_what_needs_unpickling_is_refused_and_never_run(folder: Path, tmp_path: Path) -> None:
    torch.save({"state_dict": weights(), "trick": Harmful(tmp_path / "owned")}, folder / "bad.pth")
    with pytest.raises(ModelError, match=r"can run any code, so it is refused. Where it was made, save"):
        load_checkpoint(folder / "bad.pth")
    assert not (tmp_path / "owned").exists()


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("cut.safetensors", b"\x08\0\0\0\0\0\0\0{", "cannot be read as safetensors"),
        ("empty.safetensors", b"", "cannot be read as safetensors"),
        ("empty.pth", b"", "cannot be read as weights|refused"),
        ("text.pt", b"hello there", "refused|cannot be read as weights"),
        ("model.h5", b"\x89HDF", r"\.h5 is not read; use \.safetensors"),
        ("model.pkl", b"\x80\x04.", r"\.pkl is not read"),
    ],
)
def test_files_that_are_no_weights_are_refused(folder: Path, name: str, content: bytes, words: str) -> None:
    (folder / name).write_bytes(content)
    with pytest.raises(ModelError, match=words):
        load_checkpoint(folder / name)


def drop(*names: str) -> Callable[[dict[str, Tensor]], dict[str, Tensor]]:
    return lambda state: {name: tensor for name, tensor in state.items() if name not in names}


def spoil(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return state | {"features.norm5.weight": state["features.norm5.weight"] * float("nan")}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            lambda s: {f"module.{n}": t for n, t in s.items()},
            "none of its .* tensors is of densenet_demo: module.class",
        ),
        (drop("classifier.bias", "features.norm0.bias"), "2 of .* are missing: classifier.bias, features.norm0.bias"),
        (lambda s: s | {"extra.weight": torch.zeros(1)}, "1 tensors do not belong .*: extra.weight"),
        (lambda _: weights(4), "classifier.weight gives 4 classes, the card names 1: tumour"),
        (lambda _: weights(1, channels=1), r"conv0.weight has shape \(16, 1, 7, 7\), .* on 3 channels \(16, 3, 7, 7\)"),
        (spoil, "features.norm5.weight has values that are not finite"),
    ],
    ids=["other names", "missing", "extra", "classes", "channels", "not finite"],
)
def test_weights_that_do_not_fit_are_named_with_both_numbers(
    folder: Path, change: Callable[[dict[str, Tensor]], dict[str, Tensor]], words: str
) -> None:
    state = change(load_file(folder / "model.safetensors"))
    save_file({name: tensor.contiguous() for name, tensor in state.items()}, folder / "model.safetensors")
    with pytest.raises(ModelError, match=words):
        load_checkpoint(folder)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"arch": "vgg16"}, "arch 'vgg16' is unknown"),
        ({"version": 2}, "version: Input should be 1"),
        ({"positive": ["tumor"]}, r"positive names \['tumor'\], which are not in class_names \['tumour'\]"),
        ({"exclusive": True}, "exclusive needs two classes"),
        ({"mean": [0.5]}, "1 means, 3 stds for 3 channels"),
        ({"std": [0.2, 0.0, 0.2]}, "std.1: Input should be greater than 0"),
        ({"prior": [1.0]}, "prior.0: Input should be less than 1"),
        ({"prior": [0.2, 0.3]}, "prior has 2 values for 1 classes"),
        ({"thresholds": [0.2, 0.3]}, "thresholds has 2 values for 1 classes"),
        ({"class_names": ["tumour", "b"], "exclusive": True, "ordinal": True, "prior": None}, "exclusive and ordinal"),
        ({"kind": "mri"}, "kind: Input should be 'histology', 'chest_xray', 'retina', 'skin' or 'plain'"),
        ({"fit": "squash"}, "fit: Input should be 'pad', 'crop' or 'circle'"),
        ({"temperature": 0}, "temperature: Input should be greater than 0"),
        ({"mpp": 500}, "mpp: Input should be less than or equal to 20"),
        ({"colour": "blue"}, "colour: Extra inputs are not permitted"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_card_that_does_not_hold_is_refused(folder: Path, fields: dict[str, Any], words: str) -> None:
    edit_card(folder, **fields)
    with pytest.raises(ModelError, match=words):
        load_checkpoint(folder)


def test_a_card_of_other_weights_is_refused(folder: Path) -> None:
    edit_card(folder, threshold=0.9)
    with pytest.raises(ModelError, match=f"the card is of {a_checkpoint().id}, .* one of them was changed"):
        load_checkpoint(folder)
    edit_card(folder, id=None)
    assert load_checkpoint(folder).threshold == 0.9


def test_weights_without_a_card_and_cards_that_are_no_json_are_refused(folder: Path) -> None:
    (folder / "card.json").write_text("[1]")
    with pytest.raises(ModelError, match="is no JSON object"):
        load_checkpoint(folder)
    (folder / "card.json").write_text("{")
    with pytest.raises(ModelError, match="cannot be read as JSON"):
        load_checkpoint(folder)
    torch.save(weights(), folder.parent / "bare.pth")
    with pytest.raises(ModelError, match=r"no card; put a card.json"):
        load_checkpoint(folder.parent / "bare.pth")


def test_a_name_that_is_nothing_lists_the_models_in_the_box(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "shipped_models", lambda: {"demo": folder})
    assert load_checkpoint("demo").id == a_checkpoint().id
    with pytest.raises(ModelError, match=r"demmo: no such model; .* of the box: demo"):
        load_checkpoint("demmo")


def test_a_full_disk_keeps_the_checkpoint_that_was_there(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module.os, "fsync", full)
    with pytest.raises(ModelError, match=r"not saved .disk full"):
        save_checkpoint(a_checkpoint(threshold=0.9), folder)
    assert load_checkpoint(folder).id == a_checkpoint().id
    assert sorted(path.name for path in folder.iterdir()) == ["card.json", "model.safetensors"]


def test_weights_in_channels_last_order_are_saved_too(tmp_path: Path) -> None:
    model = build_densenet("densenet_demo", 1).to(memory_format=torch.channels_last)
    saved = a_checkpoint(state=model.state_dict())
    save_checkpoint(saved, tmp_path)
    assert load_checkpoint(tmp_path).id == saved.id
