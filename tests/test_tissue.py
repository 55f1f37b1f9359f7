"""Tissue is found whatever the slide: none, all, pale, tiny, inked, dark; areas are right in mm2."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from wsi_pipeline.geometry import Mpp
from wsi_pipeline.slide.boxes import close_gaps
from wsi_pipeline.slide.reader import Reading, SlideReader, open_slide
from wsi_pipeline.slide.synthetic import Tumour, draw_slide
from wsi_pipeline.slide.tissue import (
    TissueSettings,
    fill_holes,
    find_tissue,
    otsu,
    tissue_from_rgb,
    tissue_polygons,
)

GLASS, PINK, PALE, BLUE_PEN = (242, 241, 243), (205, 120, 170), (232, 220, 229), (30, 60, 170)
SETTINGS = TissueSettings()
MPP = (8.0, 8.0)


class FakeReader:
    """A slide whose level 0 is one array; thumbnails are taken by box means."""

    warnings: tuple[str, ...] = ()

    def __init__(self, rgb: np.ndarray, mpp: Mpp) -> None:
        self.rgb = rgb
        self.slide = SimpleNamespace(size_l0=(rgb.shape[1], rgb.shape[0]), mpp_l0=mpp)

    def read_thumbnail(self, size_px: tuple[int, int]) -> np.ndarray:
        return np.asarray(Image.fromarray(self.rgb).resize(size_px, Image.Resampling.BOX))


def glass_with(*boxes: tuple[slice, slice, tuple], shape: tuple[int, int] = (300, 400), noise: float = 2) -> np.ndarray:
    """Glass with boxes (rows, cols, colour) and the noise of a JPEG."""
    rgb = np.full((*shape, 3), GLASS, float)
    for rows, cols, colour in boxes:
        rgb[rows, cols] = colour
    rgb += np.random.default_rng(0).normal(0, noise, rgb.shape)
    return rgb.clip(0, 255).astype(np.uint8)


def mask_of(rgb: np.ndarray, mpp: tuple[float, float] = MPP, settings: TissueSettings = SETTINGS) -> np.ndarray:
    return tissue_from_rgb(rgb, settings, mpp)[0]


def test_a_block_of_tissue_comes_back_to_the_cell() -> None:
    block = np.s_[50:150], np.s_[100:250]
    mask = mask_of(glass_with((*block, PINK)))
    assert mask[51:149, 101:249].all()
    assert abs(int(mask.sum()) - 100 * 150) <= 2 * (100 + 150)


@pytest.mark.parametrize("noise", [0, 1, 3, 5])
def test_an_all_white_slide_has_no_tissue(noise: float) -> None:
    assert not mask_of(glass_with(noise=noise)).any()


def test_glass_darker_towards_its_corners_is_no_tissue() -> None:
    rows, cols = np.mgrid[-1:1:300j, -1:1:400j]
    light = 1 - 0.06 * (rows**2 + cols**2)
    rgb = (glass_with() * light[..., None]).astype(np.uint8)
    assert not mask_of(rgb).any()


def test_a_slide_all_tissue_is_all_mask_and_says_so() -> None:
    rgb = glass_with((np.s_[:], np.s_[:], PINK), (np.s_[:150], np.s_[:], (120, 80, 150)), noise=8)
    mask, _, _, warnings = tissue_from_rgb(rgb, SETTINGS, MPP)
    assert mask.all()
    assert any("covers 100% of the slide" in line for line in warnings)


def test_pale_tissue_is_kept_beside_dark_tissue() -> None:
    rgb = glass_with((np.s_[50:150], np.s_[50:150], (90, 50, 120)), (np.s_[50:150], np.s_[150:250], PALE))
    assert mask_of(rgb)[52:148, 52:248].all()


def test_fat_is_kept_with_the_tissue_it_joins() -> None:
    rgb = glass_with((np.s_[50:250], np.s_[20:100], PINK))
    for line in range(50, 250, 10):  # walls 8 um thin of cells 72 um wide, half as pale as stroma
        rgb[line, 100:300] = rgb[50:250, line + 50] = (225, 190, 212)
    assert mask_of(rgb)[60:240, 105:295].mean() > 0.95


@pytest.mark.parametrize(("side_um", "kept"), [(224, True), (80, False)], ids=["0.05mm2", "0.006mm2"])
def test_islands_are_kept_from_min_piece_on(side_um: int, kept: bool) -> None:
    side = side_um // 8
    assert mask_of(glass_with((np.s_[50 : 50 + side], np.s_[50 : 50 + side], PINK))).any() == kept


@pytest.mark.parametrize("mpp", [(4.0, 16.0), (16.0, 4.0)], ids=["fine-x", "fine-y"])
def test_pieces_are_measured_with_x_and_y_apart(mpp: tuple[float, float]) -> None:
    rgb = glass_with((np.s_[100:118], np.s_[100:118], PINK))  # 18 x 18 cells of 64 um2: 0.0207 mm2
    assert mask_of(rgb, mpp).any()
    assert not mask_of(rgb, (mpp[0], mpp[1] / 2)).any()


def test_holes_are_filled_up_to_max_hole() -> None:
    small, large = (np.s_[80:90], np.s_[80:90]), (np.s_[80:140], np.s_[150:210])  # 0.0064 and 0.23 mm2
    mask = mask_of(glass_with((np.s_[50:200], np.s_[50:300], PINK), (*small, GLASS), (*large, GLASS)))
    assert mask[small].all() and not mask[85:135, 155:205].any()


@pytest.mark.parametrize(
    "ink", [BLUE_PEN, (20, 120, 60), (200, 30, 40), (25, 25, 30)], ids=["blue", "green", "red", "black"]
)
def test_pen_is_left_out_and_its_area_told(ink: tuple) -> None:
    rgb = glass_with((np.s_[20:60], np.s_[20:380], ink), (np.s_[150:250], np.s_[100:300], PINK))
    mask, _, _, warnings = tissue_from_rgb(rgb, SETTINGS, MPP)
    assert not mask[:100].any() and mask[152:248, 102:298].all()
    assert "pen marks" in warnings[0] and "mm2 left out" in warnings[0]


def test_pen_stays_when_removal_is_switched_off() -> None:
    rgb = glass_with((np.s_[20:60], np.s_[20:380], BLUE_PEN))
    assert mask_of(rgb, settings=TissueSettings(remove_pen=False))[22:58, 22:378].all()
    assert not mask_of(rgb).any()


def test_ink_that_may_be_a_stain_is_said_with_a_remedy() -> None:
    rgb = glass_with((np.s_[20:200], np.s_[20:380], BLUE_PEN))
    assert "switch pen removal off" in tissue_from_rgb(rgb, SETTINGS, MPP)[3][0]


def test_a_dark_background_is_said_and_gives_no_tissue() -> None:
    rgb = np.zeros((100, 100, 3), np.uint8)
    rgb[20:50, 20:50, 2] = 250
    mask, _, dark, warnings = tissue_from_rgb(rgb, SETTINGS, MPP)
    assert dark and not mask.any() and "dark background" in warnings[0]


@pytest.mark.parametrize("grey", [10, 60, 120, 190], ids=str)
def test_a_grey_or_black_strip_along_the_edge_is_no_tissue(grey: int) -> None:
    rgb = glass_with((np.s_[:40], np.s_[:], (grey,) * 3), (np.s_[150:250], np.s_[100:300], PINK))
    mask = mask_of(rgb)
    assert not mask[:100].any() and mask[152:248, 102:298].all()


def test_both_thresholds_are_reported_as_used_and_as_otsu_gave_them() -> None:
    thresholds = tissue_from_rgb(glass_with((np.s_[50:150], np.s_[100:250], PINK)), SETTINGS, MPP)[1]
    assert set(thresholds) == {"saturation", "optical_density", "saturation_otsu", "optical_density_otsu"}
    assert 12 <= thresholds["saturation"] <= 26 and 0.05 <= thresholds["optical_density"] <= 0.13


def test_otsu_splits_two_heaps_between_them() -> None:
    heaps = np.bincount([10, 10, 11, 90, 91, 91], minlength=256)
    assert 11 <= otsu(heaps, np.arange(256.0)) < 90


def test_otsu_of_one_heap_does_not_fail() -> None:
    assert otsu(np.bincount([7, 7], minlength=256), np.arange(256.0)) >= 0


def test_closing_bridges_a_gap_and_loses_nothing() -> None:
    mask = np.zeros((9, 9), bool)
    mask[4, [0, 3, 8]] = True
    closed = close_gaps(mask, (1, 1))
    assert closed[4].tolist() == [True, True, True, True, False, False, False, False, True]
    assert closed.sum() == 5


def test_a_gap_open_to_the_border_is_no_hole() -> None:
    mask = np.ones((5, 5), bool)
    mask[2, 2] = mask[0, 4] = False
    assert fill_holes(mask, 1).sum() == 24
    assert fill_holes(mask, 0.5).sum() == 23


def test_the_array_given_is_left_as_it_was() -> None:
    rgb = glass_with((np.s_[50:150], np.s_[100:250], PINK))
    rgb.flags.writeable = False
    assert mask_of(rgb).any()


def test_cells_cover_the_slide_and_area_counts_x_and_y_apart() -> None:
    rgb = glass_with((np.s_[400:800], np.s_[400:1000], PINK), shape=(1000, 1400), noise=0)
    tissue = find_tissue(FakeReader(rgb, Mpp(1.0, 2.0)), SETTINGS)  # type: ignore[arg-type]
    assert tissue.mask.shape == tissue.thumbnail.shape[:2] == (250, 175)
    assert tissue.cell_l0 == (8.0, 4.0)
    assert tissue.tissue_mm2 == pytest.approx(400 * 600 * 2e-6, rel=0.03)


def test_a_thumbnail_is_never_enlarged() -> None:
    tissue = find_tissue(FakeReader(glass_with(shape=(40, 60)), Mpp(30.0, 30.0)), SETTINGS)  # type: ignore[arg-type]
    assert tissue.mask.shape == (40, 60) and tissue.cell_l0 == (1.0, 1.0)


def test_a_slide_smaller_than_a_tile_keeps_its_tissue() -> None:
    rgb = glass_with((np.s_[4:12], np.s_[4:12], PINK), shape=(16, 16))
    tissue = find_tissue(FakeReader(rgb, Mpp(0.5, 0.5)), SETTINGS)  # type: ignore[arg-type]
    assert tissue.mask[5:11, 5:11].all()


@pytest.mark.parametrize("pen", [None, "blue", "green", "red", "black"], ids=str)
def test_a_drawn_slide_gives_back_its_tissue_area(tmp_path: Path, pen: str | None) -> None:
    truth = draw_slide(tmp_path / "a.tif", size_px=(4000, 4000), tumours=[Tumour(1000, 1100, 200, 150)], pen=pen)
    with SlideReader(open_slide(truth.path)) as reader:
        tissue = find_tissue(reader, SETTINGS)
    assert tissue.tissue_mm2 == pytest.approx(truth.tissue_mm2, rel=0.02)
    assert len(tissue.warnings) == (pen is not None)


def test_the_outline_has_the_area_of_the_mask_in_level_0_pixels(tmp_path: Path) -> None:
    truth = draw_slide(tmp_path / "a.tif", size_px=(3000, 2000), pieces=2)
    with SlideReader(open_slide(truth.path)) as reader:
        tissue = find_tissue(reader, SETTINGS)
    polygons = tissue_polygons(tissue)
    assert len(polygons.geoms) == 2
    assert polygons.area * 0.5**2 * 1e-6 == pytest.approx(tissue.tissue_mm2)


def test_a_slide_without_the_colour_profile_asked_for_says_so_beside_its_tissue(tmp_path: Path) -> None:
    truth = draw_slide(tmp_path / "a.tif", size_px=(1000, 800))
    with SlideReader(open_slide(truth.path), Reading(icc=True)) as reader:
        tissue = find_tissue(reader, SETTINGS)
    assert "no colour profile in the file: its colours are taken as they are" in tissue.warnings


@pytest.mark.real
def test_real_fluorescence_is_recognised_as_dark(real_data: Path) -> None:
    with SlideReader(open_slide(real_data / "slides/hamamatsu/test3-DAPI-2-387.ndpi")) as reader:
        tissue = find_tissue(reader, SETTINGS)
    assert tissue.dark_background and not tissue.mask.any() and tissue.tissue_mm2 == 0


@pytest.mark.real
@pytest.mark.parametrize(
    ("name", "low", "high"),
    [
        pytest.param("aperio/CMU-1-Small-Region.svs", 0.35, 0.45, id="half-glass"),
        pytest.param("ome-tiff/OS-1-detail.ome.tif", 0.98, 1.0, id="all-tissue"),
    ],
)
def test_real_sections_have_the_tissue_one_sees(real_data: Path, name: str, low: float, high: float) -> None:
    with SlideReader(open_slide(real_data / "slides" / name)) as reader:
        tissue = find_tissue(reader, SETTINGS)
    assert low <= tissue.mask.mean() <= high
    assert not any("pen" in line for line in tissue.warnings)


@pytest.mark.real
def test_nodes_on_a_real_overview_are_tissue_and_dust_is_not(real_data: Path) -> None:
    name = "multiframe_camelyon_challenge_image"
    slide = open_slide(real_data / "slides/dicom" / name / f"{name}.dcm", mpp=(20.0, 20.0))  # its own 29 is refused
    with SlideReader(slide) as reader:
        tissue = find_tissue(reader, SETTINGS)
    assert tissue.mask[300:560, 110:220].mean() > 0.95  # the left node, with a tear
    assert tissue.mask[230:420, 290:350].mean() > 0.3  # fat between the nodes
    assert not tissue.mask[:50, 300:500].any() and not tissue.mask[600:640, 250:600].any()
    assert tissue.warnings == ()
