"""Extent: known scores on a known raster give known areas."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from map_samples import a_slide

from wsi_pipeline.geometry import Mpp
from wsi_pipeline.maps.extent import ExtentSettings, map_extent, window
from wsi_pipeline.scores.store import Scores
from wsi_pipeline.slide.tissue import TissueMask
from wsi_pipeline.tiles.grid import lay_grid

PLAIN = ExtentSettings()


def mapped(size, tile, stride, probability, *, mpp=(0.5, 0.5), tissue=None, settings=PLAIN):
    """The extent of a slide all tissue whose tiles score `probability(x_centre, y_centre)`, level-0 px."""
    slide = a_slide(size, mpp=mpp)
    mask = np.ones((size[1] // 16, size[0] // 16), bool) if tissue is None else tissue
    area = mask.sum() * 256 * mpp[0] * mpp[1] * 1e-6
    found = TissueMask(mask, (16.0, 16.0), np.zeros((*mask.shape, 3), np.uint8), tissue_mm2=area)
    grid = lay_grid(slide, found, tile_px=tile, stride_px=stride, mpp=Mpp(*mpp), min_tissue=0)
    centres = grid.xy_l0 + np.array(grid.footprint_l0) / 2
    probs = np.array([[probability(x, y)] for x, y in centres], np.float32).reshape(-1, 1)
    scores = Scores(grid.rowcol, ("tumour",), ("tumour",), False, probs, "c", 0.5, 0.5)
    return map_extent(grid, found, scores, settings)


@given(tile=st.integers(2, 9), stride=st.integers(1, 12))
def test_a_constant_stays_constant_wherever_tiles_cover(tile, stride):
    extent = mapped((320, 256), 16 * tile, 16 * stride, lambda x, y: 0.7)
    assert np.nanmin(extent.probability) == pytest.approx(0.7, abs=1e-6)
    assert np.nanmax(extent.probability) == pytest.approx(0.7, abs=1e-6)


@pytest.mark.parametrize(
    ("cells", "weights"),
    [(1.0, [1.0]), (2.0, [0.5, 0.5]), (4.0, [1 / 8, 3 / 8, 3 / 8, 1 / 8]), (0.5, [1.0])],
    ids=["no overlap", "half", "three quarters", "gaps"],
)
def test_the_window_is_the_triangle_integrated_over_each_cell(cells, weights):
    assert window(cells).tolist() == pytest.approx(weights)


@pytest.mark.parametrize("mpp", [(0.5, 0.5), (0.5, 0.45)], ids=["square", "x and y apart"])
@pytest.mark.parametrize("offset", [0, 37, 90])
@pytest.mark.parametrize("radius_um", [600.0, 900.0])
def test_a_disc_of_known_area_comes_back_within_two_percent(mpp, offset, radius_um):
    def score(x, y):
        away = np.hypot((x - 2400 - offset) * mpp[0], (y - 2400 + offset) * mpp[1]) - radius_um
        return 1 / (1 + np.exp(np.clip(away / 20, -30, 30)))

    extent = mapped((4800, 4800), 256, 64, score, mpp=mpp)
    assert extent.cancer_mm2 == pytest.approx(np.pi * radius_um**2 * 1e-6, rel=0.02)


def test_areas_count_only_the_tissue_of_a_cell():
    tissue = np.zeros((4, 4), bool)
    tissue[:, :2] = True  # half of the slide
    extent = mapped((64, 64), 64, 64, lambda x, y: 1.0, tissue=tissue)
    assert extent.cancer_mm2 == pytest.approx(32 * 64 * 0.25e-6)
    assert extent.share == pytest.approx(1.0)


def test_unreadable_tiles_are_no_cancer_and_their_tissue_is_told():
    extent = mapped((64, 32), 32, 32, lambda x, y: np.nan if x < 32 else 1.0)
    assert np.isnan(extent.probability).tolist() == [[True, False]]
    assert extent.unread_mm2 == pytest.approx(32 * 32 * 0.25e-6)
    assert extent.share == pytest.approx(0.5)


def test_small_specks_go_and_small_holes_are_filled():
    def score(x, y):
        hole, speck = (x, y) == (80, 80), (x, y) == (208, 208)
        return float((x < 160 and y < 160 and not hole) or speck)

    cell_um2 = 256.0
    cleaned = ExtentSettings(min_lesion_um2=1.5 * cell_um2, max_hole_um2=1.5 * cell_um2)
    assert mapped((256, 256), 32, 32, score).cancer.sum() == 25 - 1 + 1
    assert mapped((256, 256), 32, 32, score, settings=cleaned).cancer.sum() == 25


def test_no_tissue_gives_an_empty_map_without_a_warning():
    extent = mapped((64, 64), 32, 32, lambda x, y: 1.0, tissue=np.zeros((4, 4), bool))
    assert np.isnan(extent.probability).all() and extent.cancer_mm2 == 0
    assert np.isnan(extent.share)


def test_the_interval_follows_the_classifiers_own_doubt():
    sure = mapped((64, 64), 32, 32, lambda x, y: 1.0)
    assert (sure.cancer_mm2_low, sure.cancer_mm2_high) == (sure.cancer_mm2, sure.cancer_mm2)
    doubt = mapped((64, 64), 32, 32, lambda x, y: 0.6)
    error = 1.959964 * np.sqrt(4 * (1024 * 0.25e-6) ** 2 * 0.6 * 0.4)
    assert doubt.cancer_mm2_low == pytest.approx(doubt.cancer_mm2 - error, rel=1e-5)
    assert doubt.cancer_mm2_high == pytest.approx(doubt.tissue_mm2)


def test_the_threshold_is_the_checkpoints_unless_given():
    assert mapped((32, 32), 32, 32, lambda x, y: 0.4).cancer_mm2 == 0
    assert mapped((32, 32), 32, 32, lambda x, y: 0.4, settings=ExtentSettings(threshold=0.4)).cancer_mm2 > 0
