"""Logits of 32 px cells of tiles that lie side by side -> logits of windows every 32 px: a dense map for one pass.

A DenseNet answers for each cell of 32 x 32 px and takes the mean over a tile; so the answer for a window anywhere on
the cells is the mean over them, wherever the tiles' borders run. What differs from a window cut and scored by itself:
cells beside a tile's border have seen the network's padding there, and not beside the window's. How much that is
depends on the model: the one in the box was trained on what lies at a tile's centre and can tell by the padding where
that is. Against windows scored one by one its logits correlate by 0.97 to 0.985; a drawn tumour of 0.20 mm2 kept 97 %
of its windows and one of 0.04 mm2 only 73 %. Larger blocks were worse for it (87 and 61 to 65 %).
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from wsi_pipeline.errors import ConfigError
from wsi_pipeline.slide.tissue import TissueMask
from wsi_pipeline.tiles.grid import TileGrid, lay_grid

CELL_PX = 32  # a DenseNet halves its input five times


def lay_windows(grid: TileGrid, tissue: TissueMask, window_px: int, min_tissue: float) -> TileGrid:
    """The windows of `window_px` px every 32 px, over the slide of a grid of tiles that abut; none that touch no tile.

    Raises ConfigError for tiles with overlap or gaps, and for sides that are no multiple of 32 px.
    """
    if grid.stride_px != grid.tile_px or grid.tile_px % CELL_PX or window_px % CELL_PX:
        raise ConfigError(
            f"dense maps: tiles of {grid.tile_px} px every {grid.stride_px} px, windows of {window_px} px; tiles lie "
            f"side by side in multiples of {CELL_PX} px: leave tiles.stride_px, or --set model.dense=false"
        )
    laid = lay_grid(
        grid.slide,
        tissue,
        tile_px=window_px,
        stride_px=CELL_PX,
        mpp=grid.mpp,
        min_tissue=min_tissue,
        edge=grid.edge,
    )
    k, side = grid.tile_px // CELL_PX, window_px // CELL_PX
    tiled = np.zeros((1, grid.rows, k, grid.cols, k), np.int64)
    tiled[:, grid.rowcol[:, 0], :, grid.rowcol[:, 1]] = 1
    top, left = laid.rowcol.T
    touched = _sums(tiled.reshape(1, grid.rows * k, grid.cols * k), top, left, side)[0] > 0
    return replace(laid, rowcol=laid.rowcol[touched], tissue=laid.tissue[touched])


def cells_of(grid: TileGrid, tiles: Sequence[int]) -> np.ndarray:
    """(rows, cols) bool over the cells of a grid of tiles that abut: those of the tiles with these rows."""
    k = grid.tile_px // CELL_PX
    found = np.zeros((grid.rows, grid.cols), bool)
    found[tuple(grid.rowcol[list(tiles)].T)] = True
    return found.repeat(k, axis=0).repeat(k, axis=1)


def window_logits(grid: TileGrid, cells: np.ndarray, windows: TileGrid) -> np.ndarray:
    """(W, C) float32 of each window: the mean of its cells that are known, NaN where none is.

    `cells` (N, C, k, k) are of the tiles of `grid`, NaN where unreadable. Tiles that were not kept are not known.
    """
    classes, k = cells.shape[1:3]
    side = windows.tile_px // CELL_PX
    rows, cols = grid.rowcol.T
    raster = np.full((classes, grid.rows, k, grid.cols, k), np.nan)
    raster[:, rows, :, cols] = cells
    raster = raster.reshape(classes, grid.rows * k, grid.cols * k)
    known = ~np.isnan(raster[:1])
    top, left = windows.rowcol.T
    sums = _sums(np.concatenate([np.nan_to_num(raster), known]), top, left, side)
    with np.errstate(invalid="ignore"):
        mean = np.where(sums[-1] > 0.5, sums[:-1] / sums[-1], np.nan)
    return np.asarray(mean.T, np.float32)


def _sums(planes: np.ndarray, top: np.ndarray, left: np.ndarray, side: int) -> np.ndarray:
    """(P, W) sums over squares of a side in (P, rows, cols), from the first row and column; nothing lies beyond."""
    bottom, right = top + side, left + side
    below, beside = (  # beyond the raster: with tiles.edge=inside it ends up to a tile before the slide
        max(0, int(ends.max(initial=0)) - length)
        for ends, length in zip((bottom, right), planes.shape[1:], strict=True)
    )
    padded = np.pad(planes, ((0, 0), (1, below), (1, beside))).cumsum(axis=1).cumsum(axis=2)
    return padded[:, bottom, right] - padded[:, top, right] - padded[:, bottom, left] + padded[:, top, left]
