"""Grad-CAM: equal to what follows by hand for a linear head, and without a trace on the model."""

import errno
import gzip
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.text import Text
from PIL import Image
from torch import Tensor, nn
from torch.nn.functional import interpolate, relu

from wsi_pipeline.cli.explain import top_class
from wsi_pipeline.cli.group import main
from wsi_pipeline.errors import ConfigError, ModelError, StoreError
from wsi_pipeline.learn.evaluation.explain import blend, draw_explanation, grad_cam, pointing_hit, read_boxes
from wsi_pipeline.learn.model.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from wsi_pipeline.learn.model.densenet import build_densenet
from wsi_pipeline.learn.model.transfer import freeze


@pytest.fixture
def model() -> nn.Module:
    torch.manual_seed(3)
    made = build_densenet("densenet_demo", 3)
    for module in made.modules():
        if isinstance(module, nn.BatchNorm2d):  # as after training, so that maps are not all alike
            module.running_mean.uniform_(-0.2, 0.2)
            module.bias.data.uniform_(-0.5, 0.5)
    return made.eval()


IMAGE = torch.rand(3, 96, 96, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("class_index", [0, 1, 2])
def test_with_a_linear_head_the_map_is_the_heads_weights_on_the_last_maps(model: nn.Module, class_index: int) -> None:
    # logit = sum_k w_k mean(A_k) + b, so d logit / d A_k = w_k / 9 in each of 3 x 3 cells: CAM but for a scale.
    with torch.no_grad():
        maps = relu(model.features(IMAGE[None]))[0]
        cam = torch.einsum("k,khw->hw", model.classifier.weight[class_index], maps) / 9
        logit = model(IMAGE[None])[0, class_index]
    assert cam.shape == (3, 3)
    torch.testing.assert_close(cam.sum() + model.classifier.bias[class_index], logit)
    large = interpolate(relu(cam)[None, None], size=(96, 96), mode="bilinear")[0, 0]
    np.testing.assert_allclose(grad_cam(model, IMAGE, class_index), (large / large.max()).numpy(), atol=1e-5)


def test_a_bright_place_is_pointed_at_also_where_the_image_is_no_whole_number_of_cells() -> None:
    halving = nn.Module()
    halving.features = nn.Sequential(*(nn.AvgPool2d(2) for _ in range(5)))
    halving.classifier = nn.Linear(1, 1)
    halving.classifier.weight.data.fill_(1.0)
    image = torch.zeros(1, 250, 250)  # 7 x 7 cells of 32 px, and 26 px more
    image[:, 96:128, 160:192] = 1
    heat = grad_cam(halving, image, 0)
    assert heat.shape == (250, 250) and pointing_hit(heat, [(172, 108, 8, 8)])
    assert not grad_cam(halving, image, 0)[:, 224:].any()


def test_maps_are_taken_after_the_last_relu(model: nn.Module) -> None:
    # All of a channel is below 0 before the ReLU: the head never sees it, so it must not count.
    with torch.no_grad():
        model.features.norm5.weight.zero_()
        model.features.norm5.bias.fill_(-1.0)
    model.classifier.weight.data.fill_(-1.0)
    assert not grad_cam(model, IMAGE, 0).any()


def test_a_map_that_only_speaks_against_the_class_is_zeros(model: nn.Module) -> None:
    model.classifier.weight.data = -model.classifier.weight.data.abs()
    heat = grad_cam(model, IMAGE, 1)
    assert heat.shape == (96, 96) and heat.dtype == np.float32 and not heat.any()


def test_only_the_asked_class_counts(model: nn.Module) -> None:
    before = grad_cam(model, IMAGE, 1)
    model.classifier.weight.data[[0, 2]] = torch.rand(2, model.classifier.in_features)
    np.testing.assert_array_equal(grad_cam(model, IMAGE, 1), before)
    assert not np.allclose(grad_cam(model, IMAGE, 0), before)


def traces(model: nn.Module) -> list[Any]:
    modules = list(model.modules())
    return [
        [module.training for module in modules],
        [(weight.requires_grad, None if weight.grad is None else weight.grad.clone()) for weight in model.parameters()],
        [tensor.clone() for tensor in model.state_dict().values()],
        [(len(module._forward_hooks), len(module._backward_hooks)) for module in modules],
    ]


def same(left: Any, right: Any) -> bool:
    if isinstance(left, list | tuple):
        return len(left) == len(right) and all(same(a, b) for a, b in zip(left, right, strict=True))
    return torch.equal(left, right) if isinstance(left, Tensor) else left == right


@pytest.mark.parametrize("state", ["training", "frozen", "eval", "no gradients", "mixed modes"])
def test_the_model_is_left_as_found(model: nn.Module, state: str) -> None:
    model(IMAGE[None]).sum().backward()
    model.train(state != "eval")
    if state == "frozen":
        freeze(model, "denseblock4")
    if state == "no gradients":
        model.requires_grad_(False)
    if state == "mixed modes":
        model.features.denseblock1.eval()
    before = traces(model)
    with torch.inference_mode() if state == "no gradients" else torch.enable_grad():
        heat = grad_cam(model, IMAGE, 0)
    assert same(traces(model), before)
    assert heat.max() == 1 and heat.min() >= 0
    np.testing.assert_array_equal(heat, grad_cam(model.eval(), IMAGE[None], 0))


def test_the_model_is_left_as_found_also_when_it_fails(model: nn.Module) -> None:
    model.train()
    with pytest.raises(ModelError, match="class 3 of a model with 3 classes, counted from 0"):
        grad_cam(model, IMAGE, 3)
    assert all(module.training for module in model.modules())


def test_what_cannot_be_explained_is_refused(model: nn.Module) -> None:
    with pytest.raises(ModelError, match="Linear has no features and classifier; give a DenseNet"):
        grad_cam(nn.Linear(2, 2), IMAGE, 0)
    with pytest.raises(ModelError, match=r"shape \(2, 3, 96, 96\); give one"):
        grad_cam(model, IMAGE.expand(2, -1, -1, -1), 0)
    with pytest.raises(ModelError, match="not finite; check the image"):
        grad_cam(model, IMAGE * float("nan"), 0)


def test_pointing_asks_for_the_highest_place() -> None:
    heat = np.zeros((10, 10), np.float32)
    heat[2, 7] = 1
    heat[8, 8] = 0.9
    assert pointing_hit(heat, [(7, 2, 1, 1)])
    assert pointing_hit(heat, [(0, 0, 2, 2), (5, 0, 5, 5)])
    assert not pointing_hit(heat, [(8, 2, 2, 2), (7, 7, 3, 3)])
    assert not pointing_hit(np.zeros((10, 10)), [(0, 0, 10, 10)])


def test_a_flat_top_points_to_its_middle() -> None:
    heat = np.zeros((10, 10))
    heat[0:4, 2:6] = 1  # middle: x 4, y 2
    assert pointing_hit(heat, [(3.5, 1.5, 1, 1)]) and not pointing_hit(heat, [(2, 0, 1.5, 1.5)])


def test_colour_lies_where_the_map_is_and_nowhere_else() -> None:
    grey, heat = np.full((2, 2, 3), 128, np.uint8), np.array([[0, 0.5], [1, 0]])
    laid = blend(grey, heat)
    assert (laid[heat == 0] == 128).all()
    yellow = np.array((253, 231, 37))  # the end of viridis
    assert laid[1, 0] == pytest.approx(np.rint(0.3 * 128 + 0.7 * yellow), abs=1)


def test_the_picture_shows_the_image_twice_the_second_time_in_colour(tmp_path: Path) -> None:
    grey, heat = np.full((64, 64, 3), 128, np.uint8), np.zeros((64, 64), np.float32)
    heat[16:48, 16:48] = 1
    draw_explanation(grey, heat, tmp_path / "a.png", title="tumour 0.93", boxes=[(10, 10, 30, 30)])
    pixels = np.asarray(Image.open(tmp_path / "a.png").convert("RGB")).astype(int)
    yellow, cyan = (np.flatnonzero((pixels == c).all(axis=2).any(axis=0)) for c in ((216, 200, 64), (0, 255, 255)))
    middle = pixels.shape[1] // 2
    assert yellow.min() > middle and cyan.min() < middle < cyan.max()
    with pytest.raises(ModelError, match="give both in one size"):
        draw_explanation(grey, heat[1:], tmp_path / "b.png", title="")


@pytest.mark.parametrize("name", [r"a$\foo$b", "TCGA-" + "0123456789-" * 10], ids=["no formula", "long"])
def test_a_title_is_shown_as_it_is_and_whole(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines: list[str] = []
    write = Text.draw

    def drawn(self: Text, renderer: Any) -> None:
        lines.append(self.get_text())
        assert self.figure.bbox.containsx(self.get_window_extent(renderer).x0), self.get_text()
        write(self, renderer)

    monkeypatch.setattr(Text, "draw", drawn)
    grey = np.full((40, 40, 3), 128, np.uint8)
    draw_explanation(grey, np.zeros((40, 40)), tmp_path / "a.png", title=f"{name}: mass, probability 0.525")
    assert f"{name}: mass, probability 0.525".replace(" ", "") in "".join("".join(lines).split())


Call = Callable[..., tuple[int, str]]


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Call:
    """Runs `explain` into maps/ in this process: (exit code, what it said)."""

    def run(*arguments: str | Path) -> tuple[int, str]:
        command = ["wsi_pipeline", "explain", "--out", tmp_path / "maps", *arguments]
        monkeypatch.setattr(sys, "argv", [str(word) for word in command])
        return main(), "".join(capsys.readouterr())

    return run


@pytest.fixture
def run(tmp_path: Path, model: nn.Module) -> Path:
    checkpoint = Checkpoint(
        arch="densenet_demo",
        class_names=("Mass", "Nodule", "Infiltration"),
        positive=(),
        exclusive=False,
        input_px=64,
        mpp=None,
        mean=(0.5,) * 3,
        std=(0.25,) * 3,
        state=model.state_dict(),
    )
    save_checkpoint(checkpoint, tmp_path / "run")
    for name in ("a", "b"):
        Image.fromarray(np.random.default_rng(len(name)).integers(0, 255, (64, 64), np.uint8)).save(
            tmp_path / f"{name}.png"
        )
    return tmp_path / "run"


def test_the_command_writes_a_picture_for_each_image(call: Call, run: Path, tmp_path: Path) -> None:
    code, said = call("--checkpoint", run, tmp_path / "a.png", tmp_path / "b.png", "--class", "Nodule")
    assert code == 0 and said.count("Nodule 0.") == 2 and "Research use only" in said
    assert sorted(path.name for path in (tmp_path / "maps").iterdir()) == ["a.png", "b.png"]


def test_boxes_are_pointed_at_with_an_interval(call: Call, run: Path, tmp_path: Path) -> None:
    table = tmp_path / "boxes.csv"
    table.write_text(
        "Image Index,Finding Label,Bbox [x,y,w,h],,,\n"
        "a.png,Mass,0,0,1024,1024\na.png,Infiltrate,0,0,512,1024\na.png,Infiltrate,512,0,512,1024\n"
        "b.png,Infiltrate,1023,1023,1,1\nc.png,Mass,1,1,2,2\n"
    )
    code, said = call("--checkpoint", run, tmp_path / "a.png", tmp_path / "b.png", "--boxes", table)
    assert code == 0
    # Wilson 95 % of 2 of 3. At random: 1, 1 and nearly 0.
    assert "pointing game: 2 of 3 hit (66.7 %, 95 % interval 20.8 to 93.9 %); a point at random would in 66.7 %" in said
    assert {path.name for path in (tmp_path / "maps").iterdir()} == {"a.Mass.png", "a.Infiltration.png", "b.png"}


def test_an_unreadable_image_is_told_and_the_others_are_explained(call: Call, run: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.png").write_bytes(b"")
    code, said = call("--checkpoint", run, tmp_path / "bad.png", tmp_path / "a.png")
    assert code == 3 and "bad.png: empty file" in said and "1 of 2 images explained" in said
    assert call("--checkpoint", run, tmp_path / "bad.png")[0] == 1


def test_a_folder_in_place_of_an_image_is_told(call: Call, run: Path, tmp_path: Path) -> None:
    code, said = call("--checkpoint", run, run)
    assert code == 1 and "run: a folder, not an image; give the images in it" in said


def test_an_image_that_is_cropped_is_explained_without_a_warning(call: Call, run: Path, tmp_path: Path) -> None:
    save_checkpoint(replace(load_checkpoint(run), fit="crop"), run)
    Image.new("RGB", (90, 70), (120, 40, 90)).save(tmp_path / "wide.png")  # reduced by Pillow: its pixels are read-only
    torch.set_warn_always(True)  # else once a process
    try:
        assert call("--checkpoint", run, tmp_path / "wide.png")[0] == 0
    finally:
        torch.set_warn_always(False)


def test_what_cannot_be_asked_is_a_usage_error(call: Call, run: Path, tmp_path: Path) -> None:
    image = tmp_path / "a.png"
    code, said = call("--checkpoint", run, image, "--class", "Hernia")
    assert code == 2 and "no class 'Hernia'; the model has Mass, Nodule, Infiltration" in said
    code, said = call("--checkpoint", run, image, tmp_path / "other" / "a.png")
    assert code == 2 and "a: two images have this name" in said


def test_pictures_go_into_no_folder_of_the_images(call: Call, run: Path, tmp_path: Path) -> None:
    image, before = tmp_path / "a.png", (tmp_path / "a.png").read_bytes()
    (tmp_path / "maps").symlink_to(tmp_path)
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked" / "c.png").symlink_to(image)
    for given in (image, tmp_path / "linked" / "c.png"):
        code, said = call("--checkpoint", run, tmp_path / "linked" / "d.png", given)
        assert code == 2 and f"maps: holds {given}, which a picture could replace; name another folder" in said
    assert call("--checkpoint", run, image, "--out", tmp_path / "linked" / "..")[0] == 2
    assert image.read_bytes() == before


def test_a_link_to_an_image_is_not_replaced_by_its_picture(call: Call, run: Path, tmp_path: Path) -> None:
    (tmp_path / "maps").mkdir()
    (tmp_path / "maps" / "a.png").symlink_to(tmp_path / "a.png")
    assert call("--checkpoint", run, tmp_path / "maps" / "a.png")[0] == 2
    assert (tmp_path / "maps" / "a.png").is_symlink()


def test_a_folder_that_takes_no_file_is_refused_before_the_first_image(
    call: Call, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(dir: str) -> None:
        raise PermissionError(13, "Permission denied", dir)

    monkeypatch.setattr("wsi_pipeline.cli.places.TemporaryFile", refused)
    code, said = call("--checkpoint", run, tmp_path / "a.png")
    assert code == 1 and "maps: cannot be written" in said and said.count("\n") == 1


@pytest.mark.parametrize("below", ["", "below/it"])
def test_a_file_for_out_is_a_usage_error_in_one_line(call: Call, run: Path, tmp_path: Path, below: str) -> None:
    (tmp_path / "maps").write_text("a file")
    out = tmp_path / "maps" / below
    code, said = call("--checkpoint", run, tmp_path / "a.png", "--out", out)
    assert code == 2 and said == f"error: --out {out}: {tmp_path / 'maps'} is a file; name a folder\n"


def test_a_picture_that_cannot_be_written_keeps_the_one_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, data: bytes) -> int:
        with path.open("wb") as file:
            file.write(data[:100])
        raise OSError(errno.ENOSPC, "No space left on device")

    (tmp_path / "a.png").write_bytes(b"before")
    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(StoreError, match=r"a\.png: not written"):
        draw_explanation(np.zeros((8, 8, 3), np.uint8), np.zeros((8, 8)), tmp_path / "a.png", title="")
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"before"]


def test_of_grades_the_highest_reached_is_explained(run: Path) -> None:
    graded = replace(load_checkpoint(run), class_names=("mild", "moderate", "severe"), ordinal=True)
    assert top_class(graded, np.array([0.9, 0.6, 0.1])) == "moderate"
    assert top_class(graded, np.array([0.3, 0.1, 0.0])) == "mild"
    assert top_class(replace(graded, ordinal=False), np.array([0.2, 0.3, 0.1])) == "moderate"


@pytest.mark.real
def test_the_real_list_holds_984_boxes_by_the_labels_of_the_images(real_data: Path) -> None:
    found = read_boxes(real_data / "xray" / "labels" / "BBox_List_2017.csv.gz")
    counts = Counter(finding for boxes in found.values() for finding, places in boxes.items() for _ in places)
    assert counts.total() == 984 and counts["Infiltration"] == 123 and "Infiltrate" not in counts
    assert found["00013118_008.png"]["Atelectasis"][0] == pytest.approx((225.08, 547.02, 86.78, 79.19), abs=0.01)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", r"columns \[\]; give Image Index"),
        ("image,label\n", r"columns \['image', 'label'\]"),
        ("Image Index,Finding Label,Bbox [x,y,w,h]\na.png,Mass,1,2,3\n", r"row 2: \['1', '2', '3'\] is no box"),
    ],
    ids=["empty", "columns", "three numbers"],
)
def test_a_list_that_holds_no_boxes_is_refused(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "boxes.csv").write_text(text)
    with pytest.raises(ConfigError, match=words):
        read_boxes(tmp_path / "boxes.csv")
    with pytest.raises(ConfigError, match="cannot be read"):
        read_boxes(tmp_path / "none.csv")


def test_a_list_that_a_spreadsheet_saved_is_read_and_half_a_file_is_told(tmp_path: Path) -> None:
    text = "\ufeffImage Index,Finding Label,Bbox [x,y,w,h]\na.png,Mass,1,2,3,4\n,,,,,\n\n"
    (tmp_path / "boxes.csv").write_text(text, encoding="utf-8")
    assert read_boxes(tmp_path / "boxes.csv") == {"a.png": {"Mass": [(1.0, 2.0, 3.0, 4.0)]}}
    (tmp_path / "boxes.csv.gz").write_bytes(gzip.compress(text.encode())[:-12])
    with pytest.raises(ConfigError, match=r"boxes.csv.gz: cannot be read \(Compressed file ended"):
        read_boxes(tmp_path / "boxes.csv.gz")
