"""The grid: where tiles lie, which are kept, and how much of each is tissue."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsi_pipeline.geometry import Mpp
from wsi_pipeline.slide.reader import Slide
from wsi_pipeline.slide.tissue import TissueMask
from wsi_pipeline.tiles.grid import TileGrid, lay_grid, tiles_along, tissue_share, too_little


def a_slide(width: int, height: int, mpp: tuple[float, float] = (0.5, 0.5)) -> Slide:
    return Slide(
        id="a",
        path="a.tif",
        size_l0=(width, height),
        mpp_l0=Mpp(*mpp),
        level_sizes=((width, height),),
        level_downsamples=(1.0,),
        bounds_l0=None,
        fingerprint="0-0",
        vendor="test",
        backend="tifffile",
        codec="none",
        objective_power=None,
    )


def a_mask(cells: np.ndarray, cell_l0: tuple[float, float]) -> TissueMask:
    return TissueMask(mask=cells, cell_l0=cell_l0, thumbnail=np.zeros((*cells.shape, 3), np.uint8))


def all_tissue(slide: Slide, cell: float = 16.0) -> TissueMask:
    width, height = slide.size_l0
    return a_mask(np.ones((int(np.ceil(height / cell)), int(np.ceil(width / cell))), bool), (cell, cell))


def grid_of(slide: Slide, tissue: TissueMask, tile: int, stride: int, **given_: object) -> TileGrid:
    options = {"mpp": slide.mpp_l0, "min_tissue": 0.0} | given_
    return lay_grid(slide, tissue, tile_px=tile, stride_px=stride, **options)


def test_no_origin_drifts_over_400_columns_at_an_mpp_ratio_of_1_98():
    slide = a_slide(400 * 507, 1000, (0.2525, 0.2525))
    grid = grid_of(slide, all_tissue(slide, 500.0), 256, 256, mpp=Mpp(0.49995, 0.49995))
    exact = grid.rowcol[:, 1] * (256 * 1.98)
    assert grid.cols >= 400
    assert np.abs(grid.xy_l0[:, 0] - exact).max() <= 0.5
    assert grid.xy_l0.dtype == np.int64


def test_x_and_y_keep_their_own_scale():
    slide = a_slide(1000, 1000, (0.5, 0.25))
    grid = grid_of(slide, all_tissue(slide), 100, 100, mpp=Mpp(0.5, 0.5))
    assert grid.step_l0 == (100.0, 200.0)
    assert (grid.rows, grid.cols) == (5, 10)


@pytest.mark.parametrize(
    ("tile", "stride", "edge", "tiles"),
    [
        pytest.param(100, 100, "pad", 11, id="padded: 1000..1100 covers the last 50"),
        pytest.param(100, 100, "inside", 10, id="inside: the last 50 px have no tile"),
        pytest.param(100, 50, "pad", 20, id="overlap: 950..1050 ends the slide, 1000 would add nothing"),
        pytest.param(100, 50, "inside", 20, id="overlap inside: 950..1050 fits"),
        pytest.param(100, 300, "pad", 4, id="gaps: 0, 300, 600, 900"),
        pytest.param(100, 525, "pad", 2, id="gaps: no tile may start at the edge, 1050"),
        pytest.param(2000, 2000, "pad", 1, id="a slide smaller than a tile, padded"),
        pytest.param(2000, 2000, "inside", 1, id="a slide smaller than a tile has one tile in any case"),
        pytest.param(104.96, 104.96, "pad", 10, id="0.4 px of a level-0 pixel make no tile"),
    ],
)
def test_edge_rule_on_1050_px(tile, stride, edge, tiles):
    assert tiles_along(1050, tile, stride, edge) == tiles


@given(
    size=st.integers(1, 3000),
    tile=st.floats(1, 900),
    stride=st.floats(1, 900),
)
def test_padded_tiles_cover_the_slide_and_inside_tiles_stay_inside(size, tile, stride):
    padded = (tiles_along(size, tile, stride, "pad") - 1) * stride
    inside = (tiles_along(size, tile, stride, "inside") - 1) * stride
    assert padded + max(tile, stride) >= size - 0.5 - 1e-6
    assert padded == 0 or (padded < size and padded - stride + tile < size)
    assert inside == 0 or inside + tile <= size + 0.5 + 1e-6


def test_tissue_share_counts_parts_of_cells():
    cells = np.array([[1, 0, 0], [0, 0, 0]], bool)
    tissue = a_mask(cells, (4.0, 4.0))
    starts = (np.array([0, 2]), np.array([0, 2, 4]))
    share = tissue_share(tissue, starts, (4.0, 4.0), (12, 8))
    assert share.tolist() == [[1.0, 0.5, 0.0], [0.5, 0.25, 0.0]]


@given(
    cells=st.lists(st.lists(st.booleans(), min_size=5, max_size=5), min_size=4, max_size=4),
    cell=st.sampled_from([1, 2, 3, 7]),
    tile=st.integers(1, 20),
    stride=st.integers(1, 25),
    cut=st.integers(0, 6),
)
def test_tissue_share_equals_counting_pixels(cells, cell, tile, stride, cut):
    cut = min(cut, cell - 1)
    mask = np.array(cells)
    slide = a_slide(5 * cell - cut, 4 * cell - cut)
    grid = grid_of(slide, a_mask(mask, (float(cell), float(cell))), tile, stride)
    pixels = np.kron(mask, np.ones((cell, cell), bool))[: slide.size_l0[1], : slide.size_l0[0]]
    counted = {}
    for row, col in np.ndindex(grid.rows, grid.cols):
        window = pixels[row * stride : row * stride + tile, col * stride : col * stride + tile]
        counted[(row, col)] = window.mean() if window.size else 0.0
    kept = {cell_: share for cell_, share in counted.items() if share > 0}
    assert [tuple(rowcol) for rowcol in grid.rowcol.tolist()] == sorted(kept)
    assert grid.tissue == pytest.approx([kept[key] for key in sorted(kept)], rel=1e-5)


@pytest.mark.parametrize("min_tissue", [0.0, 1e-7], ids=["any", "next to nothing"])
def test_an_island_far_smaller_than_a_tile_keeps_its_tile(min_tissue):
    cells = np.zeros((1000, 1000), bool)
    cells[333, 900] = True
    slide = a_slide(2000, 2000)
    grid = grid_of(slide, a_mask(cells, (2.0, 2.0)), 1000, 1000, min_tissue=min_tissue)
    assert grid.rowcol.tolist() == [[0, 1]]
    assert grid.tissue == pytest.approx([4 / 1e6])


def test_min_tissue_1_keeps_a_padded_tile_whose_part_inside_the_slide_is_all_tissue():
    slide = a_slide(250, 100)
    grid = grid_of(slide, all_tissue(slide, 7.3), 100, 100, min_tissue=1.0)
    assert grid.rowcol.tolist() == [[0, 0], [0, 1], [0, 2]]
    assert grid.tissue.tolist() == [1, 1, 1]


def test_a_slide_smaller_than_a_tile_keeps_one_padded_tile():
    slide = a_slide(50, 50)
    grid = grid_of(slide, all_tissue(slide, 64.0), 100, 100)
    assert grid.rowcol.tolist() == [[0, 0]]
    assert grid.tissue == pytest.approx([1.0])


def test_tissue_too_little_for_any_tile_is_told():
    slide, cells = a_slide(1000, 1000), np.zeros((63, 63), bool)
    cells[5, 5] = True
    tissue = a_mask(cells, (16.0, 16.0))
    none, one = (grid_of(slide, tissue, 256, 256, min_tissue=share) for share in (0.5, 0.0))
    assert "lower tiles.min_tissue" in too_little(none, 0.001)[0]
    assert too_little(none, 0.0) == too_little(one, 0.001) == ()


def test_no_tissue_gives_no_tiles_of_the_same_type():
    slide = a_slide(1000, 1000)
    grid = grid_of(slide, a_mask(np.zeros((10, 10), bool), (100.0, 100.0)), 64, 64)
    assert grid.rowcol.shape == (0, 2)
    assert (grid.rowcol.dtype, grid.tissue.dtype) == (np.int32, np.float32)
    assert (len(grid), grid.xy_l0.shape, grid.boxes_l0(0, 0).shape) == (0, (0, 2), (0, 4))


def test_tiles_are_row_major_and_boxes_follow_them():
    slide = a_slide(300, 200)
    grid = grid_of(slide, all_tissue(slide), 100, 100)
    assert grid.rowcol.tolist() == [[0, 0], [0, 1], [0, 2], [1, 0], [1, 1], [1, 2]]
    assert grid.boxes_l0(4, 6).tolist() == [[100, 100, 100, 100], [200, 100, 100, 100]]
