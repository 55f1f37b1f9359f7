"""Extent: known scores on a known raster give known areas."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from map_samples import a_slide

from wsi_pipeline.errors import StoreError
from wsi_pipeline.geometry import Mpp
from wsi_pipeline.maps.extent import ExtentSettings, area_interval, map_extent, window
from wsi_pipeline.scores.store import Scores
from wsi_pipeline.slide.tissue import TissueMask
from wsi_pipeline.tiles.grid import lay_grid

PLAIN = ExtentSettings()


def laid(size, tile, stride, *, mpp_l0=(0.5, 0.5), mpp=None, tissue=None, min_tissue=0.0):
    """A grid over a slide whose tissue is all of it, or a mask of cells of 16 px."""
    mask = np.ones((-(-size[1] // 16), -(-size[0] // 16)), bool) if tissue is None else tissue
    found = TissueMask(mask, (16.0, 16.0), np.zeros((*mask.shape, 3), np.uint8))
    slide, scale = a_slide(size, mpp=mpp_l0), Mpp(*(mpp or mpp_l0))
    return lay_grid(slide, found, tile_px=tile, stride_px=stride, mpp=scale, min_tissue=min_tissue), found


def scored(grid, probability):
    """One class, `probability` (N,)."""
    probs = np.asarray(probability, np.float32).reshape(-1, 1)
    return Scores(grid.rowcol, ("tumour",), ("tumour",), False, probs, "c", 0.5, 0.5)


def mapped(size, tile, stride, probability, *, settings=PLAIN, **layout):
    """The extent of a slide whose tiles score `probability(x_centre, y_centre)`, level-0 px."""
    grid, tissue = laid(size, tile, stride, **layout)
    centres = grid.xy_l0 + np.array(grid.footprint_l0) / 2
    return map_extent(grid, tissue, scored(grid, [probability(x, y) for x, y in centres]), settings)


@given(tile=st.integers(16, 150), stride=st.integers(13, 200))
@settings(deadline=None, max_examples=60)
def test_a_constant_stays_constant_wherever_tiles_cover(tile, stride):
    grid, tissue = laid((320, 256), tile, stride)
    extent = map_extent(grid, tissue, scored(grid, np.full(len(grid), 0.7)), ExtentSettings(threshold=0.7))
    known = ~np.isnan(extent.probability)
    assert np.unique(extent.probability[known]).tolist() == [np.float32(0.7)]
    assert known.all() or stride > tile
    assert (extent.cancer == known).all()


@pytest.mark.parametrize(("tile", "stride"), [(32, 32), (34, 32), (40, 32), (47, 32)], ids=str)
def test_a_tile_that_could_not_be_read_is_not_known_by_the_strips_of_its_neighbours(tile, stride):
    grid, tissue = laid((160, 160), tile, stride)
    probability = np.full(len(grid), 0.9)
    probability[12] = np.nan  # the middle one
    extent = map_extent(grid, tissue, scored(grid, probability), PLAIN)
    assert np.argwhere(extent.unread).tolist() == np.argwhere(np.isnan(extent.probability)).tolist() == [[2, 2]]
    assert extent.unread_mm2 == pytest.approx(16 * 16 * 1e-6) and extent.unscored_mm2 == 0


def test_of_the_last_cell_the_part_on_the_slide_is_known_by_the_tile_that_covers_it():
    grid, tissue = laid((72, 64), 40, 32)  # the second tile ends with the slide: 8 px of the third cell
    assert (grid.cols, grid.rows) == (2, 2)
    extent = map_extent(grid, tissue, scored(grid, np.full(len(grid), 0.9)), PLAIN)
    assert extent.probability.shape == (2, 3) and not np.isnan(extent.probability).any()


@given(tile=st.sampled_from([16, 32, 48]), stride=st.integers(9, 60), seed=st.integers(0, 9))
@settings(deadline=None, max_examples=40)
def test_cells_are_the_window_weighted_mean_counted_pixel_by_pixel(tile, stride, seed):
    grid, tissue = laid((160, 128), tile, stride)
    probability = np.random.default_rng(seed).random(len(grid)).astype(np.float32)
    extent = map_extent(grid, tissue, scored(grid, probability), PLAIN)
    pixel = np.arange(tile)
    ramp = np.minimum(pixel + 0.5, tile - pixel - 0.5)  # the triangle at each pixel's middle
    sums = np.zeros((2, 40, 40))
    for (row, col), p in zip(grid.rowcol, probability, strict=True):
        inside = pixel // stride if stride <= tile else 0 * pixel  # with gaps a cell stands for its tile
        for plane, value in zip(sums, (p, 1), strict=True):
            np.add.at(plane, np.ix_(row + inside, col + inside), value * np.outer(ramp, ramp))
    sums = sums[:, : extent.probability.shape[0], : extent.probability.shape[1]]
    expected = np.divide(sums[0], sums[1], out=np.full(sums[0].shape, np.nan), where=sums[1] > 0)
    assert np.allclose(extent.probability, expected, atol=1e-6, equal_nan=True)


@pytest.mark.parametrize(
    ("cells", "weights"),
    [(1.0, [1.0]), (2.0, [0.5, 0.5]), (4.0, [1 / 8, 3 / 8, 3 / 8, 1 / 8]), (1.5, [7 / 9, 2 / 9]), (0.5, [1.0])],
    ids=["no overlap", "half", "three quarters", "a third", "gaps"],
)
def test_the_window_is_the_triangle_integrated_over_each_cell(cells, weights):
    assert window(cells).tolist() == pytest.approx(weights)


def test_the_raster_covers_the_slide_in_exact_steps():
    extent = mapped((1000, 500), 64, 32, lambda x, y: 1.0, mpp_l0=(0.2525, 0.25), mpp=(0.5, 0.5))
    assert extent.cell_l0 == (32 * 0.5 / 0.2525, 64.0) and extent.origin_l0 == (0, 0)
    assert extent.probability.shape == (8, 16)  # 500 / 64 = 7.8 and 1000 / 63.4 = 15.8
    assert extent.cancer_mm2 == pytest.approx(1000 * 500 * 0.2525 * 0.25e-6)


def test_with_gaps_a_cell_is_centred_on_its_tile():
    extent = mapped((256, 256), 32, 64, lambda x, y: float((x, y) == (80, 16)))
    assert extent.origin_l0 == (-16, -16)
    row, col = np.argwhere(extent.cancer)[0]
    assert (-16 + (col + 0.5) * 64, -16 + (row + 0.5) * 64) == (80, 16)


def ellipse_share(grid, centre, radii):
    """Share of each tile (N,) inside an ellipse, all in um; exact along y, 64 lines along x."""
    mpp = grid.slide.mpp_l0
    corner, side = grid.xy_l0 * (mpp.x, mpp.y), np.array(grid.footprint_l0) * (mpp.x, mpp.y)
    lines = corner[:, :1] + side[0] * (np.arange(64) + 0.5) / 64
    half = radii[1] * np.sqrt(np.clip(1 - ((lines - centre[0]) / radii[0]) ** 2, 0, None))
    top, bottom = corner[:, 1:], corner[:, 1:] + side[1]
    inside = np.clip(centre[1] + half, top, bottom) - np.clip(centre[1] - half, top, bottom)
    return inside.mean(axis=1) / side[1]


def drawn(stride, centre, radii, **layout):
    """The extent of a drawn tumour by tiles of 256 px that score the tumour's share of them."""
    grid, tissue = laid((4800, 4800), 256, stride, **layout)
    return map_extent(grid, tissue, scored(grid, ellipse_share(grid, centre, radii)), PLAIN)


@pytest.mark.parametrize(
    "mpp", [{}, {"mpp": (0.52, 0.48)}, {"mpp_l0": (0.5, 0.45), "mpp": (0.5, 0.5)}], ids=["square", "tiles", "slide"]
)
@pytest.mark.parametrize("centre", [(1200.0, 1200.0), (1187.3, 1078.9)], ids=["on the raster", "off it"])
@pytest.mark.parametrize("radii", [(800.0, 800.0), (900.0, 850.0), (1000.0, 950.0)])
def test_a_drawn_tumour_comes_back_within_two_percent_at_a_stride_of_64_px(mpp, centre, radii):
    extent = drawn(64, centre, radii, **mpp)
    truth = np.pi * radii[0] * radii[1] * 1e-6
    assert extent.cancer_mm2 == pytest.approx(truth, rel=0.02)
    assert extent.cancer_mm2_low < truth < extent.cancer_mm2_high


def test_the_error_of_the_area_falls_with_the_stride():
    def error(stride):
        spots = np.random.default_rng(0).uniform(1050, 1350, (6, 2))
        found = [drawn(stride, spot, (800.0, 800.0)).cancer_mm2 for spot in spots]
        return np.abs(np.array(found) / (np.pi * 0.64) - 1).mean()

    assert error(64) < 0.006 < error(256)  # what stays is the tiles' own blur of a bent border, 0.3 %


@pytest.mark.parametrize("mpp_l0", [(0.5, 0.5), (0.5, 0.45)], ids=["square", "x and y apart"])
@pytest.mark.parametrize("offset", [0, 37, 90])
@pytest.mark.parametrize("radius_um", [600.0, 900.0])
def test_a_disc_seen_through_a_soft_classifier_comes_back_within_two_percent(mpp_l0, offset, radius_um):
    def score(x, y):
        away = np.hypot((x - 2400 - offset) * mpp_l0[0], (y - 2400 + offset) * mpp_l0[1]) - radius_um
        return 1 / (1 + np.exp(np.clip(away / 20, -30, 30)))

    extent = mapped((4800, 4800), 256, 64, score, mpp_l0=mpp_l0)
    assert extent.cancer_mm2 == pytest.approx(np.pi * radius_um**2 * 1e-6, rel=0.02)


def test_areas_count_only_the_tissue_of_a_cell():
    tissue = np.zeros((4, 4), bool)
    tissue[:, :2] = True  # half of the slide
    extent = mapped((64, 64), 64, 64, lambda x, y: 1.0, tissue=tissue)
    assert extent.cancer_mm2 == extent.tissue_mm2 == pytest.approx(32 * 64 * 0.25e-6)
    assert extent.share == pytest.approx(1.0)


def test_unreadable_tiles_are_no_cancer_and_their_tissue_is_told():
    extent = mapped((64, 32), 32, 32, lambda x, y: np.nan if x < 32 else 1.0)
    assert np.isnan(extent.probability).tolist() == extent.unread.tolist() == [[True, False]]
    assert (extent.unread_mm2, extent.unscored_mm2) == pytest.approx((32 * 32 * 0.25e-6, 0))
    assert extent.share == pytest.approx(0.5)


def test_a_readable_tile_stands_in_for_an_unreadable_one_over_the_same_cell():
    extent = mapped((96, 32), 64, 32, lambda x, y: np.nan if x < 40 else 0.25)
    assert extent.probability.tolist() == [[pytest.approx(np.nan, nan_ok=True), 0.25, 0.25]]
    assert extent.unread_mm2 == pytest.approx(32 * 32 * 0.25e-6)


def test_tissue_too_little_for_a_tile_is_unscored_and_not_unread():
    tissue = np.array([[True, True, True, False]])
    extent = mapped((64, 16), 32, 32, lambda x, y: 1.0, tissue=tissue, min_tissue=0.6)
    assert (extent.unscored_mm2, extent.unread_mm2) == pytest.approx((16 * 16 * 0.25e-6, 0))
    assert not extent.unread.any()
    assert extent.share == pytest.approx(2 / 3)


@pytest.mark.parametrize("seed", range(5))
def test_where_all_is_scored_nothing_is_unscored_to_the_last_digit(seed):
    tissue = np.random.default_rng(seed).random((33, 47)) < 0.7
    extent = mapped((47 * 16, 33 * 16), 96, 48, lambda x, y: 0.3, tissue=tissue, min_tissue=0.0)
    assert extent.unscored_mm2 == 0 < extent.tissue_mm2


def test_the_probability_of_exclusive_classes_is_the_sum_of_the_positive_ones():
    grid, tissue = laid((32, 32), 32, 32)
    probs = np.array([[0.2, 0.3, 0.5]], np.float32)
    scores = Scores(grid.rowcol, ("benign", "a", "b"), ("a", "b"), True, probs, "c", 0.5, 0.5)
    extent = map_extent(grid, tissue, scores, PLAIN)
    assert extent.probability.item() == pytest.approx(0.8)
    assert extent.classes[:, 0, 0] == pytest.approx([0.2, 0.3, 0.5])


def a_ring_and_a_speck(x, y):
    hole, speck = (x, y) == (80, 80), (x, y) == (208, 208)
    return float((x < 160 and y < 160 and not hole) or speck)


@pytest.mark.parametrize(
    ("cells", "left"),
    [((0, 0), 24 + 1), ((1, 0), 24 + 1), ((1.1, 0), 24), ((0, 1), 25 + 1), ((0, 0.9), 24 + 1), ((1.1, 1), 25)],
    ids=["off", "speck as large as allowed", "speck", "hole", "hole too large", "both"],
)
def test_small_specks_go_and_small_holes_are_filled(cells, left):
    cleaned = ExtentSettings(min_lesion_um2=cells[0] * 16**2, max_hole_um2=cells[1] * 16**2)
    assert mapped((256, 256), 32, 32, a_ring_and_a_speck, settings=cleaned).cancer.sum() == left


def test_a_hole_that_could_not_be_read_is_not_filled():
    def score(x, y):
        return np.nan if (x, y) == (48, 48) else 1.0

    extent = mapped((96, 96), 32, 32, score, settings=ExtentSettings(max_hole_um2=1e6))
    assert extent.cancer.sum() == 8


def test_no_tissue_gives_an_empty_map_without_a_warning():
    extent = mapped((64, 64), 32, 32, lambda x, y: 1.0, tissue=np.zeros((4, 4), bool))
    assert np.isnan(extent.probability).all() and extent.classes.shape == (1, 2, 2)
    assert (extent.cancer_mm2, extent.cancer_mm2_high) == (0, 0)
    assert np.isnan([extent.share, extent.share_low, extent.share_high]).all()


def test_tissue_of_which_nothing_was_read_has_no_area_of_cancer_rather_than_none():
    extent = mapped((64, 64), 32, 32, lambda x, y: np.nan)
    assert extent.unread_mm2 == extent.tissue_mm2 > 0
    assert np.isnan([extent.cancer_mm2, extent.cancer_mm2_low, extent.share, extent.share_high]).all()


def test_the_interval_is_no_wider_than_the_classifiers_doubt():
    sure = mapped((64, 64), 32, 32, lambda x, y: 1.0)
    assert (sure.cancer_mm2_low, sure.cancer_mm2_high) == (sure.cancer_mm2, sure.cancer_mm2)
    doubt = mapped((64, 64), 32, 32, lambda x, y: 0.6)  # four tiles, each a draw
    margin = 1.959964 * np.sqrt(4 * 0.6 * 0.4) / 4
    assert doubt.share == 1
    assert (doubt.share_low, doubt.share_high) == pytest.approx((max(0, 0.6 - margin), 1), abs=1e-6)


@pytest.mark.parametrize("shape", [(0.1, 0.4), (0.5, 0.5), (2.0, 5.0)], ids=["mostly sure", "mixed", "unsure"])
def test_the_area_lies_in_the_interval_19_times_of_20_where_the_probabilities_are_right(shape):
    random = np.random.default_rng(0)
    inside = []
    for _ in range(400):
        p = np.repeat(np.repeat(random.beta(*shape, (12, 12)), 2, axis=0), 2, axis=1)
        truth = np.repeat(np.repeat(random.random((12, 12)), 2, axis=0), 2, axis=1) < p
        low, high = area_interval(p, np.full(p.shape, 0.25), p >= 0.5, 2)
        inside.append(low <= 0.25 * truth.sum() <= high)
    assert np.mean(inside) >= 0.93


def test_the_threshold_is_the_checkpoints_unless_given():
    assert mapped((32, 32), 32, 32, lambda x, y: 0.4).cancer_mm2 == 0
    assert mapped((32, 32), 32, 32, lambda x, y: 0.4, settings=ExtentSettings(threshold=0.4)).cancer_mm2 > 0


def test_scores_of_other_tiles_are_refused():
    grid, tissue = laid((64, 32), 32, 32)
    scores = replace(scored(grid, [0.1, 0.2]), rowcol=grid.rowcol[::-1])
    with pytest.raises(StoreError, match="not of its 2 tiles; score again"):
        map_extent(grid, tissue, scores, PLAIN)
