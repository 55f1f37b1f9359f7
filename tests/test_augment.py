"""Augmentation keeps what the label is about, for each kind of image; the contact sheet shows it."""

import pickle
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from wsi_pipeline.errors import ConfigError
from wsi_pipeline.learn.data.augment import augmentation, contact_sheet
from wsi_pipeline.learn.data.labels import LabelledImages
from wsi_pipeline.learn.datasets import open_dataset

KINDS = ("histology", "chest_xray", "retina", "skin", "plain")
PX = 96


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Images this small are done before a second thread has woken up."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def versions(kind: str, image: Tensor, *, count: int = 40, seed: int = 0) -> list[Tensor]:
    torch.manual_seed(seed)
    change = augmentation(kind)  # type: ignore[arg-type]
    return [change(image) for _ in range(count)]


def noise(px: int = PX) -> Tensor:
    return torch.randint(0, 256, (3, px, px), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


def disc(colour: tuple[int, int, int], radius: float, *, centre: tuple[float, float] = (0, 0), on: int = 0) -> Tensor:
    """(3, PX, PX) uint8: a disc about `centre` (x, y from the middle) on a plain ground."""
    axis = torch.arange(PX) - (PX - 1) / 2
    inside = (axis[:, None] - centre[1]) ** 2 + (axis[None] - centre[0]) ** 2 <= radius**2
    return torch.where(inside, torch.tensor(colour)[:, None, None], on).to(torch.uint8)


@pytest.mark.parametrize("kind", KINDS)
def test_an_augmented_image_has_the_shape_and_type_it_came_with(kind: str) -> None:
    for version in versions(kind, noise(), count=5):
        assert version.shape == (3, PX, PX) and version.dtype == torch.uint8


@pytest.mark.parametrize("kind", KINDS)
def test_the_image_itself_is_left_as_it_was(kind: str) -> None:
    image = noise()
    before = image.clone()
    versions(kind, image, count=5)
    assert torch.equal(image, before)


@pytest.mark.parametrize("kind", KINDS)
def test_an_augmentation_can_be_sent_to_a_worker(kind: str) -> None:
    copy = pickle.loads(pickle.dumps(augmentation(kind)))  # type: ignore[arg-type]
    torch.manual_seed(0)
    assert torch.equal(copy(noise()), versions(kind, noise(), count=1)[0])


@pytest.mark.parametrize("kind", KINDS)
def test_one_seed_repeats_and_another_differs(kind: str) -> None:
    first, again, other = (torch.stack(versions(kind, noise(), count=4, seed=seed)) for seed in (3, 3, 4))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("kind", KINDS)
def test_numpys_generator_has_no_say(kind: str) -> None:
    np.random.seed(0)
    before = np.random.get_state()[1].copy()  # type: ignore[union-attr, index]
    versions(kind, noise(), count=3)
    np.testing.assert_array_equal(np.random.get_state()[1], before)  # type: ignore[index]


@pytest.mark.parametrize("kind", ["histology", "skin", "plain"])
def test_corners_get_the_colour_of_the_border(kind: str) -> None:
    for version in versions(kind, torch.full((3, PX, PX), 120, dtype=torch.uint8)):
        found = version.flatten(1).float()
        assert (found.max(dim=1).values - found.min(dim=1).values <= 1).all()


@pytest.mark.parametrize("kind", ["chest_xray", "plain"])
def test_a_marker_on_the_left_stays_on_the_left(kind: str) -> None:
    image = disc((220, 220, 220), 10, centre=(-22, 0))
    for version in versions(kind, image, count=200):
        columns = version.float().sum(dim=(0, 1))
        centre = (columns * torch.arange(PX)).sum() / columns.sum() - (PX - 1) / 2
        assert -33 < centre < -11  # shifted and zoomed by 10 px at most, never mirrored


def test_a_radiograph_is_hardly_turned() -> None:
    image = torch.zeros(3, PX, PX, dtype=torch.uint8)
    image[:, :, 47:49] = 255  # an upright line, 96 px long
    for version in versions("chest_xray", image, count=200):
        rows, columns = (version[0] > 100).nonzero().double().T.numpy()
        assert abs(np.degrees(np.arctan(np.polyfit(rows, columns, 1)[0]))) < 8


def test_grey_radiographs_stay_grey() -> None:
    for version in versions("chest_xray", noise()[:1].expand(3, -1, -1).contiguous()):
        assert (version == version[:1]).all()


def test_a_retinas_circle_stays_inside_its_square() -> None:
    eye = disc((180, 90, 30), PX / 2)
    area = (eye[0] > 60).sum()
    for version in versions("retina", eye, count=100):
        lit = version[0] > 60
        assert 0.8 < lit.sum() / area < 1.02  # zoomed out to 0.92 of its side at most, 0.85 of its area
        assert not lit[:6, :6].any() and not lit[-6:, -6:].any()


@pytest.mark.parametrize("kind", ["retina", "skin", "histology"])
def test_what_has_no_up_is_seen_from_all_sides(kind: str) -> None:
    image = disc((40, 40, 40), 8, centre=(-25, -10), on=200)
    sides = set()
    for version in versions(kind, image, count=200):
        y, x = (version[0] < 120).nonzero().float().mean(dim=0) - (PX - 1) / 2
        sides.add((bool(x > 0), bool(y > 0)))
    assert len(sides) == 4


def test_histology_turns_resample_no_pixel() -> None:
    image = disc((90, 40, 120), 12, centre=(-25, -10), on=240)
    counts = [int((version[0] < 160).sum()) for version in versions("histology", image)]
    assert max(counts) - min(counts) <= 0.05 * counts[0]  # the blur alone moves the border a little


@pytest.mark.parametrize(
    ("kind", "bound"), [("histology", 25), ("skin", 45), ("retina", 55), ("chest_xray", 45), ("plain", 35)]
)
def test_the_colour_moves_within_bounds(kind: str, bound: float) -> None:
    ground = torch.tensor([190, 120, 170], dtype=torch.uint8)[:, None, None].expand(3, PX, PX).contiguous()
    before = ground[:, 0, 0].float()
    moved = [torch.linalg.norm(v[:, 48, 48].float() - before).item() for v in versions(kind, ground, count=200)]
    assert bound / 3 < max(moved) < bound


def test_stain_jitter_keeps_which_stain_is_which() -> None:
    nucleus, plasma = (80, 50, 130), (220, 150, 190)  # haematoxylin is bluer than eosin, whatever the jitter
    for colour in (nucleus, plasma):
        image = torch.tensor(colour, dtype=torch.uint8)[:, None, None].expand(3, PX, PX).contiguous()
        for version in versions("histology", image, count=100):
            red, green, blue = version.float().mean(dim=(1, 2)).tolist()
            assert green < red and green < blue
            assert (blue > red) == (colour == nucleus)


def test_white_glass_stays_nearly_white() -> None:
    for version in versions("histology", torch.full((3, PX, PX), 255, dtype=torch.uint8), count=100):
        assert version.min() >= 235


def test_uncovered_corners_get_the_asked_fill() -> None:
    torch.manual_seed(0)
    change = augmentation("skin", fill=(10, 200, 30))
    corners = torch.stack([change(torch.full((3, PX, PX), 255, dtype=torch.uint8))[:, 0, 0] for _ in range(40)])
    assert ((corners[:, 1] > corners[:, 0] + 100) & (corners[:, 1] > corners[:, 2] + 100)).any()


@pytest.mark.parametrize("kind", ["chest_xray", "retina"])
def test_radiographs_and_retinas_are_framed_in_black(kind: str) -> None:
    corners = [version[:, 0, 0].max() for version in versions(kind, torch.full((3, PX, PX), 200, dtype=torch.uint8))]
    assert min(corners) < 30  # some are uncovered; contrast lifts black a little


def test_an_unknown_kind_is_refused() -> None:
    with pytest.raises(ConfigError, match="kind 'mri': give one of histology, chest_xray, retina, skin, plain"):
        augmentation("mri")  # type: ignore[arg-type]


def drawn(count: int = 3) -> LabelledImages:
    return LabelledImages(
        name="drawn",
        class_names=("left", "right"),
        labels=np.array([[1, 0], [0, 1], [np.nan, 0]])[:count],
        ids=np.array(["a", "b", "c"])[:count],
        patients=np.array(["1", "2", "3"])[:count],
        read=lambda index: np.full((40, 60, 3), 40 * index + 100, np.uint8),
    )


def test_a_contact_sheet_has_a_line_for_each_sample(tmp_path: Path) -> None:
    contact_sheet(drawn(), "plain", 32, tmp_path / "s.png", seed=0)
    sheet = np.asarray(Image.open(tmp_path / "s.png"))
    assert sheet.shape == (3 * 50, 6 * 36, 3)  # 32 px and a caption of 14, a gap of 4; itself and 5 versions
    assert [sheet[16 + 50 * line, 16].tolist() for line in range(3)] == [[100] * 3, [140] * 3, [180] * 3]


def test_a_contact_sheet_leaves_the_generator_as_found(tmp_path: Path) -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    contact_sheet(drawn(), "skin", 32, tmp_path / "s.png", seed=0)
    assert torch.equal(torch.get_rng_state(), before)


def test_one_seed_gives_one_sheet(tmp_path: Path) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        contact_sheet(drawn(), "retina", 32, tmp_path / f"{name}.png", seed=seed)
    first, again, other = ((tmp_path / f"{name}.png").read_bytes() for name in "abc")
    assert first == again
    assert first != other


@pytest.mark.real
@pytest.mark.parametrize(
    ("name", "below", "options"),
    [("chest_xray", "xray", {}), ("retina", "retina/idrid", {}), ("skin", "skin", {})],
    ids=["chest_xray", "retina", "skin"],
)
def test_real_images_survive_augmentation(
    real_data: Path, name: str, below: str, options: dict, tmp_path: Path
) -> None:
    images = open_dataset(name, real_data / below, **options)
    contact_sheet(images, images.kind, 96, tmp_path / "s.png", seed=0, fit="circle" if name == "retina" else "pad")
    sheet = np.asarray(Image.open(tmp_path / "s.png")).astype(float)
    lines = [sheet[top : top + 96] for top in range(0, sheet.shape[0], 114)]
    for line in lines:
        cells = [line[:, left : left + 96].mean() for left in range(0, 600, 100)]
        assert max(cells) - min(cells) < 0.35 * cells[0] + 10
