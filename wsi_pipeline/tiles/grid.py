"""The grid of a slide: its tissue mask -> one raster of tiles from level-0 (0, 0), those on tissue kept."""

from dataclasses import dataclass
from math import ceil, floor
from typing import Literal

import numpy as np

from wsi_pipeline.geometry import Mpp, origins_l0, step_l0
from wsi_pipeline.slide.reader import Slide
from wsi_pipeline.slide.tissue import TissueMask

Edge = Literal["pad", "inside"]
EDGE_SLACK_L0 = 0.5  # level-0 px: origins are rounded by as much, so a thinner strip makes no tile of its own


@dataclass(frozen=True, eq=False)
class TileGrid:
    """Where the tiles of one slide lie; the raster spans the whole slide, `rowcol` names the tiles kept.

    Attributes:
        slide: the slide that the grid was laid over.
        tile_px, stride_px: side and step of a tile in pixels at `mpp`; stride < tile overlaps.
        mpp: um/px (x, y) that the tile pixels really have.
        rows, cols: size of the raster.
        rowcol: (N, 2) int32 [row, col] of the tiles kept, row-major.
        tissue: (N,) float32 in 0-1, share of each tile's footprint that is tissue.
        edge: "pad" (the raster covers the slide, white beyond it) or "inside" (only whole tiles).
    """

    slide: Slide
    tile_px: int
    stride_px: int
    mpp: Mpp
    rows: int
    cols: int
    rowcol: np.ndarray
    tissue: np.ndarray
    edge: Edge = "pad"

    def __len__(self) -> int:
        return len(self.rowcol)

    @property
    def step_l0(self) -> tuple[float, float]:
        """Exact level-0 distance (x, y) from one tile's origin to the next; never rounded."""
        return step_l0(self.stride_px, self.mpp, self.slide.mpp_l0)

    @property
    def footprint_l0(self) -> tuple[float, float]:
        """Exact level-0 width and height of a tile; never rounded."""
        return step_l0(self.tile_px, self.mpp, self.slide.mpp_l0)

    @property
    def xy_l0(self) -> np.ndarray:
        """(N, 2) int64 level-0 top left [x, y] of the tiles kept: round(k * exact step)."""
        return origins_l0(self.rowcol, self.step_l0)

    def boxes_l0(self, start: int, stop: int) -> np.ndarray:
        """(n, 4) float64 level-0 boxes [x, y, width, height] of tiles start to stop, for `read_box`."""
        corners = origins_l0(self.rowcol[start:stop], self.step_l0)
        return np.hstack([corners, np.broadcast_to(self.footprint_l0, corners.shape)])


def lay_grid(
    slide: Slide,
    tissue: TissueMask,
    *,
    tile_px: int,
    stride_px: int,
    mpp: Mpp,
    min_tissue: float,
    edge: Edge = "pad",
) -> TileGrid:
    """Lay one raster over the whole slide and keep the tiles on tissue.

    Tile k starts at round(k * stride) level-0 pixels, so nothing drifts. Along each axis, in level-0 px,

    - edge="pad": as many tiles as it takes to cover the slide, ceil((size - tile) / stride) + 1, and none
      that starts beyond it (as gaps could make one); the last may reach over, and is white there;
    - edge="inside": only tiles that lie inside, floor((size - tile) / stride) + 1.

    Both give one padded tile where the slide is smaller than a tile; strips under half a level-0 pixel do
    not count. A tile is kept where tissue covers at least `min_tissue` (0-1) of its footprint, and any at
    all: `min_tissue` = 0 keeps whatever touches tissue. Of a tile that
    reaches over the edge the part inside the slide is its footprint, so a slide smaller than a tile keeps it.
    """
    step, footprint = step_l0(stride_px, mpp, slide.mpp_l0), step_l0(tile_px, mpp, slide.mpp_l0)
    cols, rows = (
        tiles_along(size, tile, stride, edge) for size, tile, stride in zip(slide.size_l0, footprint, step, strict=True)
    )
    starts = _starts(rows, cols, step)
    share = tissue_share(tissue, starts, footprint, slide.size_l0) / _inside(starts, footprint, slide.size_l0)
    share = np.minimum(share, 1).astype(np.float32)
    kept = (share >= np.float32(min_tissue)) & (share > 0)
    return TileGrid(
        slide=slide,
        tile_px=tile_px,
        stride_px=stride_px,
        mpp=mpp,
        rows=rows,
        cols=cols,
        rowcol=np.argwhere(kept).astype(np.int32),
        tissue=share[kept],
        edge=edge,
    )


def too_little(grid: TileGrid, tissue_mm2: float) -> tuple[str, ...]:
    """What is to be told of a slide with tissue of which no tile has enough."""
    if len(grid) or not tissue_mm2:
        return ()
    return (f"{tissue_mm2:.3f} mm2 of tissue, but no tile with enough of it: lower tiles.min_tissue or tiles.tile_px",)


def tiles_along(size_l0: float, tile_l0: float, stride_l0: float, edge: Edge) -> int:
    """Tiles along one axis of `size_l0` level-0 px, by the edge rule of `lay_grid`; at least 1."""
    if edge == "inside":
        return max(1, floor((size_l0 - tile_l0 + EDGE_SLACK_L0) / stride_l0) + 1)
    covering = ceil((size_l0 - tile_l0 - EDGE_SLACK_L0) / stride_l0) + 1
    starting_inside = ceil((size_l0 - EDGE_SLACK_L0) / stride_l0)
    return max(1, min(covering, starting_inside))


def tissue_share(
    tissue: TissueMask,
    starts_l0: tuple[np.ndarray, np.ndarray],
    footprint_l0: tuple[float, float],
    size_l0: tuple[int, int],
) -> np.ndarray:
    """Share of each tile that is tissue: (rows, cols) float32 in 0-1, exact by area, 0 only without any.

    `starts_l0` are the level-0 tops of the rows and lefts of the columns. A summed-area table with
    fractional corners, one axis after the other; a mask cell counts by the part of it in the tile.
    """
    (tops, lefts), (width, height) = starts_l0, footprint_l0
    cell_x, cell_y = tissue.cell_l0
    by_row = _sums_between(tissue.mask, *_in_cells(tops, height, cell_y, limit_l0=size_l0[1]))
    by_tile = _sums_between(by_row.T, *_in_cells(lefts, width, cell_x, limit_l0=size_l0[0])).T
    share = by_tile * (cell_x * cell_y / (width * height))
    return np.minimum(share, 1.0).astype(np.float32)


def _inside(
    starts_l0: tuple[np.ndarray, np.ndarray], footprint_l0: tuple[float, float], size_l0: tuple[int, int]
) -> np.ndarray:
    """Share of each tile that lies inside the slide, (rows, cols)."""
    (tops, lefts), (width, height) = starts_l0, footprint_l0
    down = np.clip(size_l0[1] - tops, 1, height) / height
    along = np.clip(size_l0[0] - lefts, 1, width) / width
    return down[:, None] * along


def _starts(rows: int, cols: int, step: tuple[float, float]) -> tuple[np.ndarray, np.ndarray]:
    """Level-0 tops (rows,) and lefts (cols,) of a raster, rounded as `origins_l0` rounds them."""
    diagonal = np.repeat(np.arange(max(rows, cols))[:, None], 2, axis=1)
    lefts, tops = origins_l0(diagonal, step).T
    return tops[:rows], lefts[:cols]


def _in_cells(
    starts_l0: np.ndarray, length_l0: float, cell_l0: float, *, limit_l0: int
) -> tuple[np.ndarray, np.ndarray]:
    """First and last position of each tile in mask cells, cut at the slide's edge."""
    stops_l0 = np.maximum(starts_l0, np.minimum(starts_l0 + length_l0, limit_l0))
    return starts_l0 / cell_l0, stops_l0 / cell_l0


def _sums_between(values: np.ndarray, starts: np.ndarray, stops: np.ndarray) -> np.ndarray:
    """Integrals along axis 0 of `values` (n, m), constant in each cell: (tiles, m) float64.

    `starts` and `stops` (tiles,) are fractional cell positions. Sums only grow along the axis, so cells
    of zeros give exactly 0 and no difference is negative.
    """
    padding = np.zeros((1, values.shape[1]), values.dtype)  # of bool, or the whole mask would become float64
    sums = np.concatenate([padding, np.cumsum(values, axis=0, dtype=np.float64)])
    cells = np.concatenate([values, padding])

    def up_to(position: np.ndarray) -> np.ndarray:
        position = np.clip(position, 0, len(values))
        whole = position.astype(np.intp)
        return sums[whole] + (position - whole)[:, None] * cells[whole]

    return up_to(stops) - up_to(starts)
