"""Glass, dark backgrounds and pen marks are told from tissue by colour."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from wsi_pipeline.slide.quality import channel_range, find_pen, glass_colour, grey_of, is_dark_background
from wsi_pipeline.slide.texture import draw_stain, draw_textures

MPP = (8.0, 8.0)
INKS = {
    "blue": [(30, 60, 170), (37, 95, 160), (30, 65, 130)],
    "green": [(20, 120, 60), (60, 130, 90), (45, 115, 100)],
    "red": [(200, 30, 40), (190, 40, 60), (150, 20, 30)],
    "black": [(25, 25, 30), (60, 58, 66), (10, 10, 10)],
}
EACH_INK = [pytest.param(name, rgb, id=f"{name}-{rgb}") for name, shades in INKS.items() for rgb in shades]


def plain(rgb: tuple[int, int, int], shape: tuple[int, int] = (200, 300)) -> np.ndarray:
    return np.full((*shape, 3), rgb, np.uint8)


def share_of_pen(rgb: np.ndarray, mpp: tuple[float, float]) -> float:
    return float(sum(mark.mean() for mark in find_pen(rgb, mpp).values()))


def test_grey_weighs_green_twice() -> None:
    assert grey_of(np.array([[[40, 80, 200]]], np.uint8))[0, 0] == (40 + 160 + 200) // 4


def test_channel_range_is_the_largest_and_the_least_channel() -> None:
    most, least = channel_range(np.array([[[3, 9, 1], [5, 5, 5]]], np.uint8))
    assert most.tolist() == [[9, 5]] and least.tolist() == [[1, 5]]


def test_glass_is_the_commonest_bright_grey() -> None:
    rgb = plain((231, 226, 235))
    rgb[:150] = (190, 90, 150)
    assert glass_colour(rgb) == (231, 226, 235)


def test_white_filled_in_round_the_scan_is_not_taken_for_glass() -> None:
    rgb = plain((255, 255, 255))
    rgb[50:150, 50:250] = (228, 224, 230)
    assert glass_colour(rgb) == (228, 224, 230)


def test_glass_that_the_scanner_made_pure_white_is_white() -> None:
    assert glass_colour(plain((255, 255, 255))) == (255, 255, 255)


def test_without_glass_a_usual_one_is_assumed() -> None:
    assert glass_colour(plain((170, 80, 140))) == (243, 243, 243)


@pytest.mark.parametrize(
    ("ground", "glass", "dark"),
    [
        pytest.param((2, 2, 6), None, True, id="black"),
        pytest.param((0, 0, 90), None, True, id="deep-blue"),
        pytest.param((90, 50, 120), None, False, id="dense-tissue"),
        pytest.param((0, 0, 0), (240, 240, 240), False, id="black-strips-round-a-brightfield-scan"),
    ],
)
def test_dark_background(ground: tuple, glass: tuple | None, dark: bool) -> None:
    rgb = plain(ground)
    if glass:
        rgb[60:140] = glass
    assert is_dark_background(rgb) is dark


@pytest.mark.parametrize(("colour", "ink"), EACH_INK)
def test_a_stroke_of_ink_is_found_with_its_rim(colour: str, ink: tuple[int, int, int]) -> None:
    rgb = plain((243, 243, 243))
    rgb[80:120, 20:280] = ink  # 320 um x 2 mm
    marks = find_pen(rgb, MPP)
    assert list(marks) == [colour]
    assert marks[colour][78:122, 18:282].all() and not marks[colour][:60].any()


@pytest.mark.parametrize(("colour", "ink"), EACH_INK)
def test_ink_fading_out_goes_with_the_stroke(colour: str, ink: tuple[int, int, int]) -> None:
    rgb = plain((243, 243, 243)).astype(float)
    fade = np.clip((140 - np.arange(200)) / 20, 0, 1)[:, None, None] * np.ones((1, 300, 1))  # over 160 um
    fade[:80] = 0
    rgb = (rgb + fade * (np.array(ink) - rgb)).round().astype(np.uint8)
    assert find_pen(rgb, MPP)[colour][80:135].all()


def test_a_speck_of_ink_is_no_pen_mark() -> None:
    rgb = plain((243, 243, 243))
    rgb[40:46, 40:46] = (30, 60, 170)  # 48 um
    assert find_pen(rgb, MPP) == {}


def test_pen_is_judged_in_micrometres_along_each_axis() -> None:
    rgb = plain((243, 243, 243), (100, 300))
    rgb[40:60, 20:280] = (30, 60, 170)
    mark = find_pen(rgb, (8.0, 16.0))["blue"]
    assert mark.shape == (100, 300) and mark[40:60, 20:280].all() and not mark[:30].any()


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("kind", ["stroma", "dense", "lymphoid", "tumour"])
def test_no_drawn_stain_is_taken_for_ink(kind: str, seed: int) -> None:
    textures = draw_textures(draw_stain(np.random.default_rng(seed)), mpp=8.0, side_px=1024, variant=0)
    assert share_of_pen(np.tile(textures[kind], (4, 4, 1)), MPP) == 0


@pytest.mark.real
@pytest.mark.parametrize("folder", ["camelyon16_256", "lc25000_lung"])
def test_real_tissue_is_not_taken_for_ink(real_data: Path, folder: str) -> None:
    images = sorted(p for p in (real_data / "histology" / folder).rglob("*") if p.suffix in {".png", ".jpg", ".jpeg"})
    blocks = []
    for path in images[::3]:
        with Image.open(path) as image:  # the mean colours of a thumbnail, each tile a square of 7 x 7
            blocks.append(np.asarray(image.convert("RGB").reduce(32).resize((7, 7))))
    assert len(blocks) > 20
    assert share_of_pen(np.concatenate(blocks, axis=1), (32.0, 32.0)) < 0.02
