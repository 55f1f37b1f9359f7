"""Dense maps: windows every 32 px from tiles scored once, by the network's own cells."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from small_slide import a_slide, all_tissue
from test_engines import CPU, a_checkpoint, some_tiles

from wsi_pipeline.config import load_config
from wsi_pipeline.errors import ConfigError, ModelError
from wsi_pipeline.geometry import Mpp
from wsi_pipeline.keys import scoring_key
from wsi_pipeline.learn.model.checkpoint import Checkpoint
from wsi_pipeline.maps.extent import ExtentSettings, map_extent
from wsi_pipeline.scores.dense import cells_of, lay_windows, window_logits
from wsi_pipeline.scores.engines import open_engine
from wsi_pipeline.scores.infer import Scorer, score_tiles
from wsi_pipeline.scores.store import read_scores, write_scores
from wsi_pipeline.scores.torch_engine import TorchEngine
from wsi_pipeline.tiles.grid import TileGrid, lay_grid
from wsi_pipeline.tiles.making import create_store
from wsi_pipeline.tiles.store import TileStore, open_store

TILE = 64  # 2 x 2 cells


@pytest.fixture(scope="module")
def checkpoint() -> Checkpoint:
    return a_checkpoint()


@pytest.fixture
def store(tmp_path: Path) -> TileStore:
    """5 x 4 tiles of 64 px on a slide of 320 x 256 px, read from the slide again when scored."""
    slide, _ = a_slide(tmp_path)
    grid = lay_grid(slide, all_tissue(slide), tile_px=TILE, stride_px=TILE, mpp=slide.mpp_l0, min_tissue=0.5)
    create_store(tmp_path / "a.zarr", grid, all_tissue(slide), pixels=False, shard_tiles=8, key="k", settings={})
    return open_store(tmp_path / "a.zarr", complete=False)


def a_grid(tmp_path: Path, **options: int) -> TileGrid:
    slide, _ = a_slide(tmp_path)
    known = {"tile_px": TILE, "stride_px": TILE} | options
    return lay_grid(slide, all_tissue(slide), mpp=slide.mpp_l0, min_tissue=0.5, **known)


def test_windows_end_where_the_tiles_do_when_the_slide_goes_on(tmp_path: Path) -> None:
    slide, _ = a_slide(tmp_path)  # 320 x 256 px: one tile of 192 px, and windows beyond it
    how = {"mpp": slide.mpp_l0, "min_tissue": 0.5, "edge": "inside"}
    grid = lay_grid(slide, all_tissue(slide), tile_px=192, stride_px=192, **how)
    windows = lay_windows(grid, all_tissue(slide), TILE, 0.5)
    assert len(grid) == 1 and windows.rowcol.min() == 0 and windows.rowcol.max() == 5  # the last touches the tile
    found = window_logits(grid, np.ones((1, 1, 6, 6), np.float32), windows)
    np.testing.assert_array_equal(found, 1)


@pytest.mark.parametrize("name", ["onnx", "torch"])
def test_the_mean_of_the_cells_is_the_tiles_own_logit(name, checkpoint: Checkpoint) -> None:
    tiles = some_tiles(3, 96)
    cells = open_engine(checkpoint, CPU, name, cells=True).forward(tiles, 96)
    assert cells.shape == (3, 2, 3, 3)
    whole = open_engine(checkpoint, CPU, name).forward(tiles, 96)
    np.testing.assert_allclose(cells.mean(axis=(2, 3)), whole, atol=1e-5)


def test_cells_in_half_precision_are_nearly_the_same(checkpoint: Checkpoint) -> None:
    tiles = some_tiles(2, 64)
    half = TorchEngine(checkpoint, CPU, half=torch.bfloat16, cells=True).forward(tiles, 64)
    np.testing.assert_allclose(half, TorchEngine(checkpoint, CPU, cells=True).forward(tiles, 64), atol=0.1)


def test_a_window_is_the_mean_of_the_known_cells_under_it(tmp_path: Path) -> None:
    grid = a_grid(tmp_path)
    cells = np.random.default_rng(0).normal(size=(len(grid), 1, 2, 2)).astype(np.float32)
    cells[grid.rowcol.tolist().index([0, 1])] = np.nan  # a tile that could not be read
    windows = lay_windows(grid, all_tissue(grid.slide), TILE, 0.5)
    found = dict(zip(map(tuple, windows.rowcol.tolist()), window_logits(grid, cells, windows)[:, 0], strict=True))
    tile = {tuple(cell): cells[k, 0] for k, cell in enumerate(grid.rowcol.tolist())}
    assert (windows.rows, windows.cols) == (7, 9)
    assert found[2, 4] == pytest.approx(tile[1, 2].mean(), abs=1e-6)
    assert found[3, 5] == pytest.approx((tile[1, 2][1, 1] + tile[1, 3][1, 0] + tile[2, 2][0, 1] + tile[2, 3][0, 0]) / 4)
    assert found[0, 1] == pytest.approx(tile[0, 0][:, 1].mean(), abs=1e-6)
    assert np.isnan(found[0, 2])


def test_windows_that_touch_no_tile_are_left_out(tmp_path: Path) -> None:
    grid = a_grid(tmp_path)
    left = grid.rowcol[:, 1] < 2  # cells 0 to 3 of each row
    kept = replace(grid, rowcol=grid.rowcol[left], tissue=grid.tissue[left])
    windows = lay_windows(kept, all_tissue(grid.slide), TILE, 0.5)
    assert sorted(set(windows.rowcol[:, 1].tolist())) == [0, 1, 2, 3]
    assert not np.isnan(window_logits(kept, np.ones((len(kept), 1, 2, 2), np.float32), windows)).any()


def test_windows_where_tiles_lie_have_the_tiles_scores(store: TileStore, checkpoint: Checkpoint) -> None:
    plain = score_tiles(store, Scorer(checkpoint, CPU), batch=4)
    dense = score_tiles(store, Scorer(checkpoint, CPU, cells=True), batch=3, min_tissue=0.5)
    aligned = (dense.rowcol % 2 == 0).all(axis=1)
    np.testing.assert_allclose(dense.probs[aligned], plain.probs, atol=1e-5)
    assert (dense.rows, dense.tiles, dense.filled) == (7 * 9, 20, 0)
    assert "63 windows from 20 tiles" in dense.remarks[0]


def test_fewer_windows_than_tiles_are_no_fewer_tiles_scored(store: TileStore, checkpoint: Checkpoint) -> None:
    dense = score_tiles(store, Scorer(checkpoint, CPU, cells=True), batch=4)
    few = replace(dense, rowcol=dense.rowcol[:6], probs=dense.probs[:6], seconds=2.0)  # as of windows of many tiles
    assert "6 windows from 20 tiles" in few.remarks[0]
    assert few.tiles_per_s == 10


def test_a_dense_map_is_written_read_and_mapped(store: TileStore, checkpoint: Checkpoint) -> None:
    dense = score_tiles(store, Scorer(checkpoint, CPU, cells=True), batch=4)
    write_scores(store.path, dense, key="d")
    found = read_scores(store.path, checkpoint.id, key="d")
    grid = found.grid_over(store.grid)
    np.testing.assert_array_equal(found.probs, dense.probs)
    np.testing.assert_array_equal(grid.tissue, dense.windows.tissue)
    assert (grid.tile_px, grid.stride_px, grid.mpp) == (64, 32, store.grid.mpp)
    extent = map_extent(grid, store.mask(), found, ExtentSettings(threshold=0.0))
    assert extent.cancer.shape == (8, 10)
    assert extent.cancer_mm2 == pytest.approx(320 * 256 * 0.25e-6)


def test_scores_of_the_tiles_leave_nothing_of_a_dense_map(store: TileStore, checkpoint: Checkpoint) -> None:
    write_scores(store.path, score_tiles(store, Scorer(checkpoint, CPU, cells=True), batch=4))
    write_scores(store.path, score_tiles(store, Scorer(checkpoint, CPU), batch=4))
    assert [path.name for path in (Path(store.path) / "scores").iterdir() if path.is_dir()] == [checkpoint.id]
    assert read_scores(store.path, checkpoint.id).windows is None


def test_tissue_of_a_tile_that_could_not_be_read_is_unread_though_windows_lie_on_it(
    store: TileStore, checkpoint: Checkpoint
) -> None:
    dense = score_tiles(store, Scorer(checkpoint, CPU, cells=True), batch=4)
    lost = replace(dense, missed=(0, 7))  # their cells were not known, the windows' means are of their neighbours
    unreadable = cells_of(store.grid, lost.missed)
    assert (unreadable.shape, unreadable.sum()) == ((8, 10), 2 * 4)
    grid, settings = lost.grid_over(store.grid), ExtentSettings(threshold=0.0)
    extent = map_extent(grid, store.mask(), lost, settings, unreadable=unreadable)
    np.testing.assert_array_equal(extent.unread, unreadable)
    assert extent.unread_mm2 == pytest.approx(2 * TILE**2 * 0.25e-6)
    assert extent.cancer_mm2 == pytest.approx((320 * 256 - 2 * TILE**2) * 0.25e-6)


def test_plain_scores_take_the_place_of_a_dense_map(store: TileStore, checkpoint: Checkpoint) -> None:
    for cells in (True, False):
        write_scores(store.path, score_tiles(store, Scorer(checkpoint, CPU, cells=cells), batch=4))
    found = read_scores(store.path, checkpoint.id)
    assert found.windows is None and len(found.probs) == store.n_tiles


@pytest.mark.parametrize("options", [{"stride_px": 32}, {"tile_px": 80, "stride_px": 80}], ids=["overlap", "80 px"])
def test_tiles_that_make_no_cells_are_refused(options: dict[str, int], tmp_path: Path) -> None:
    grid = a_grid(tmp_path, **options)
    with pytest.raises(ConfigError, match=r"dense maps: tiles of .* leave tiles\.stride_px"):
        lay_windows(grid, all_tissue(grid.slide), 64, 0.5)


def test_tiles_at_another_scale_are_refused(store: TileStore, checkpoint: Checkpoint) -> None:
    finer = replace(store, grid=replace(store.grid, mpp=Mpp(0.25, 0.25)))
    with pytest.raises(ModelError, match="dense maps need tiles at the model's scale"):
        score_tiles(finer, Scorer(checkpoint, CPU, cells=True), batch=4)


def test_dense_is_refused_with_a_stride_and_has_a_key_of_its_own() -> None:
    for other in ("tiles.stride_px=64", "model.adaptive=true"):
        with pytest.raises(ConfigError, match=r"model.dense: has a stride of 32 px of its own"):
            load_config(None, ["model.dense=true", other])
    plain, dense = load_config(), load_config(None, ["model.dense=true"])
    assert scoring_key(plain, "t", "m") != scoring_key(dense, "t", "m")
