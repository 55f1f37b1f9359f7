"""ExtentMap: where the cancer is and how much of the tissue it takes, from scored tiles."""

from dataclasses import dataclass, field
from math import ceil, nan, sqrt

import numpy as np

from wsi_pipeline.errors import StoreError
from wsi_pipeline.geometry import Mpp, cell_area_mm2
from wsi_pipeline.scores.store import Scores
from wsi_pipeline.slide.runs import runs_of
from wsi_pipeline.slide.tissue import TissueMask, fill_holes
from wsi_pipeline.tiles.grid import TileGrid, tissue_share

Z95 = 1.959964  # two-sided 95 % of the normal distribution
WHOLE_CELLS = 1e-6  # of a cell: quotients of areas or lengths that are off by less are whole numbers


@dataclass(frozen=True)
class ExtentSettings:
    """What counts as cancer. Areas in um2; 0 switches a clean-up off.

    Attributes:
        threshold: probability from which a cell is cancer; None takes the checkpoint's own.
        min_lesion_um2: connected cancer with less tissue than this is dropped.
        max_hole_um2: holes in the cancer up to this are filled, where there is scored tissue in them.
    """

    threshold: float | None = None
    min_lesion_um2: float = 0.0
    max_hole_um2: float = 0.0


@dataclass(frozen=True, eq=False)
class ExtentMap:
    """The probability raster of a slide and the areas drawn from it.

    The raster covers the slide; cell (row, col) starts at origin_l0 + (col, row) * cell_l0. Its tissue is
    either scored, or lies only under tiles that could not be read (unread_mm2), or under no tile at all
    (unscored_mm2: too little tissue for a tile, or a strip at the slide's edge).
    """

    probability: np.ndarray  # (rows, cols) float32 P(cancer), NaN off tissue and where no tile was readable
    classes: np.ndarray  # (C, rows, cols) float32, NaN as above
    class_names: tuple[str, ...]
    cancer: np.ndarray  # (rows, cols) bool, only where there is a probability
    tissue: np.ndarray  # (rows, cols) float32: share 0-1 of the cell that is tissue
    cell_l0: tuple[float, float]  # exact level-0 px (x, y) of a cell
    origin_l0: tuple[float, float]  # level-0 (x, y) of the raster's top left
    mpp_l0: Mpp
    threshold: float
    tissue_mm2: float
    unread_mm2: float
    cancer_mm2: float
    cancer_mm2_low: float
    cancer_mm2_high: float
    share: float
    share_low: float
    share_high: float
    unscored_mm2: float = 0.0
    unread: np.ndarray = field(default_factory=lambda: np.zeros((0, 0), bool))  # (rows, cols) where unread_mm2 lies
    size_l0: tuple[int, int] | None = None  # level-0 px (x, y) of the slide, where lesions are not to lie beyond it


def map_extent(
    grid: TileGrid,
    tissue: TissueMask,
    scores: Scores,
    settings: ExtentSettings,
    *,
    unreadable: np.ndarray | None = None,
) -> ExtentMap:
    """Spread the scores of tiles over a raster of cells, decide what is cancer, and measure it.

    A cell is one stride step, exact and never rounded. Where tiles overlap, a cell is the mean of the tiles
    over it, each by `window`: the part of the cell that it covers, times a weight that falls from its
    centre to its edge, so the map is sharper than a plain mean, and a constant stays constant. A cell whose middle
    no readable tile covers is not known, though one may reach a strip of it. With gaps
    between tiles a cell stands for its tile and is centred on it. Areas count the tissue in a cell.
    `unreadable` (rows, cols) bool are cells from the raster's first on that could not be read whatever tiles lie on
    them, as those of a dense map's windows do.

    Without tissue cancer_mm2 is 0 and the share NaN; with tissue of which nothing was scored all are NaN.
    Raises StoreError where `scores` are not of the tiles of `grid`.
    """
    if not np.array_equal(grid.rowcol, scores.rowcol):
        raise StoreError(f"{grid.slide.id}: {len(scores.rowcol)} scores, not of its {len(grid)} tiles; score again")
    origin, shape = _lay_raster(grid)
    share = _cell_tissue(grid, tissue, origin, shape)
    values = np.column_stack([scores.positive_prob(), scores.probs])
    mean, covered = _average(grid, values, shape)
    mean[:, share == 0] = nan
    if unreadable is not None:
        mean[:, : unreadable.shape[0], : unreadable.shape[1]][:, unreadable[: shape[0], : shape[1]]] = nan
    probability = mean[0]
    threshold = scores.threshold if settings.threshold is None else settings.threshold
    cell_mm2 = cell_area_mm2(grid.step_l0, grid.slide.mpp_l0)
    cancer = _find_cancer(probability, share, np.float32(threshold), cell_um2=cell_mm2 * 1e6, settings=settings)
    area_mm2 = share.astype(np.float64) * cell_mm2
    tissue_mm2 = float(tissue.mask.sum()) * cell_area_mm2(tissue.cell_l0, grid.slide.mpp_l0)
    unknown = np.isnan(probability)
    unread = unknown & covered & (share > 0)
    unread_mm2 = float(area_mm2[unread].sum())
    return ExtentMap(
        probability=probability,
        classes=mean[1:],
        class_names=scores.class_names,
        cancer=cancer,
        tissue=share,
        cell_l0=grid.step_l0,
        origin_l0=origin,
        mpp_l0=grid.slide.mpp_l0,
        threshold=float(threshold),
        tissue_mm2=tissue_mm2,
        unread_mm2=unread_mm2,
        unscored_mm2=float(area_mm2[unknown & ~unread].sum()),
        unread=unread,
        size_l0=grid.slide.size_l0,
        **_measure(probability, cancer, area_mm2, tissue_mm2, block=ceil(grid.tile_px / grid.stride_px)),
    )


def window(tile_cells: float) -> np.ndarray:
    """Weight along one axis of a tile in each cell under it, (ceil(tile_cells),) float64 of sum 1.

    The integral over the cell of a triangle that is highest at the tile's centre and 0 at its edges: the
    part of the cell under the tile (the last may be covered in part) times the mean weight there.
    """
    edges = np.minimum(np.arange(ceil(tile_cells) + 1), tile_cells) / tile_cells
    return np.diff(np.where(edges < 0.5, 2 * edges**2, 1 - 2 * (1 - edges) ** 2))


def area_interval(probability: np.ndarray, area_mm2: np.ndarray, cancer: np.ndarray, block: int) -> tuple[float, float]:
    """95 % interval (low, high) in mm2 of the cancer's area, from what the classifier itself is unsure of.

    Were the probabilities p right, the area would be a sum of draws with mean m = sum of a * p (probabilistic
    classify and count: Bella et al., ICDM 2010) and the spread of a Poisson-binomial sum in its normal
    approximation (Keith & O'Connor, EMNLP 2018). Tiles overlap, so cells of one block, `block` cells a side
    as a tile, count as a single draw: se^2 = sum over blocks of (sum over cells of a sqrt(p (1 - p)))^2.
    The counted area A (p >= threshold) need not be m: the interval goes from 1.96 se below the smaller of
    both to 1.96 se above the larger, within 0 and the scored tissue.

    It covers doubt that the classifier shows, such as blurred borders and faint suspicion over much tissue.
    It does not cover errors made with confidence, a scanner, stain or organ that the model has not learnt, a
    prevalence far from that of its calibration, errors that reach further than a tile, or unread tissue.

    Args:
        probability: (rows, cols) P(cancer), NaN where not scored.
        area_mm2: (rows, cols) tissue of each cell.
        cancer: (rows, cols) bool, the cells counted.
    """
    p = np.nan_to_num(probability).astype(np.float64)
    counted, expected = float(area_mm2[cancer].sum()), float((area_mm2 * p).sum())
    doubt = area_mm2 * np.sqrt(p * (1 - p))
    rows, cols = (range(0, side, block) for side in doubt.shape)
    blocks = np.add.reduceat(np.add.reduceat(doubt, rows, axis=0), cols, axis=1)
    margin = Z95 * sqrt(float((blocks**2).sum()))
    scored = float(area_mm2[~np.isnan(probability)].sum())
    return max(0.0, min(counted, expected) - margin), min(scored, max(counted, expected) + margin)


def _lay_raster(grid: TileGrid) -> tuple[tuple[float, float], tuple[int, int]]:
    """Level-0 top left (x, y) of the raster and its (rows, cols), so that it covers the slide."""
    starts, counts = [], []
    for size, tile, step in zip(grid.slide.size_l0, grid.footprint_l0, grid.step_l0, strict=True):
        starts.append(min(0.0, (tile - step) / 2))  # below 0 only with gaps: a cell is centred on its tile
        counts.append(max(1, ceil((size - starts[-1]) / step - WHOLE_CELLS)))
    return (starts[0], starts[1]), (counts[1], counts[0])


def _cell_tissue(
    grid: TileGrid, tissue: TissueMask, origin_l0: tuple[float, float], shape: tuple[int, int]
) -> np.ndarray:
    """Share of each cell that is tissue, (rows, cols) float32 in 0-1, exact by area."""
    (left, top), (step_x, step_y) = origin_l0, grid.step_l0
    tops, lefts = top + np.arange(shape[0]) * step_y, left + np.arange(shape[1]) * step_x
    return tissue_share(tissue, (tops, lefts), grid.step_l0, grid.slide.size_l0)


def _average(grid: TileGrid, values: np.ndarray, shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Weighted mean over each cell of the tiles on it: (N, K) -> (K, rows, cols) float32 and (rows, cols) bool.

    Tiles with a NaN add nothing; a cell with no other on its middle is NaN. The bools tell where there is any tile,
    read or not, on it. One axis after the other, as the weights are a product.
    """
    readable = ~np.isnan(values).any(axis=1)
    rows, cols = grid.rowcol.T
    planes = np.zeros((values.shape[1] + 2, grid.rows, grid.cols))
    planes[:-2, rows, cols] = np.where(readable[:, None], values, 0.0).T
    planes[-2, rows, cols] = readable
    planes[-1, rows, cols] = 1.0
    tile, (width, height) = grid.tile_px / grid.stride_px, np.divide(grid.slide.size_l0, grid.step_l0)
    weights = np.repeat(window(tile)[:, None], max(shape), axis=1)
    total = _spread(_spread(planes[:-1], weights, shape[0], axis=1), weights, shape[1], axis=2)
    down, along = _on_middle(tile, height, shape[0]), _on_middle(tile, width, shape[1])
    known, covered = _spread(_spread(planes[-2:], down, shape[0], axis=1), along, shape[1], axis=2) > 0
    mean = np.full((values.shape[1], *shape), nan)
    np.divide(total[:-1], total[-1], out=mean, where=known)
    return np.clip(mean, 0.0, 1.0).astype(np.float32), covered


def _on_middle(tile_cells: float, slide_cells: float, cells: int) -> np.ndarray:
    """Whether a tile that starts so many cells before each cell covers the middle of its part on the slide.

    (ceil(tile_cells), cells) bool along one axis; a tile is always on the cell that it starts in, as with gaps that
    is centred on it.
    """
    middle = np.full(cells, 0.5)
    middle[-1] = np.clip(slide_cells - (cells - 1), 0, 1) / 2
    before = np.arange(ceil(tile_cells))[:, None]
    return (before == 0) | (middle <= tile_cells - before)


def _spread(planes: np.ndarray, weights: np.ndarray, cells: int, *, axis: int) -> np.ndarray:
    """Sum of what starts in each cell and the ones before it along an axis; cut or padded to `cells`.

    `weights` (offsets, cells or more) of what starts `offset` cells before a cell.
    """
    given = np.moveaxis(planes, axis, 0)
    total = np.zeros((cells, *given.shape[1:]))
    for offset, weight in enumerate(weights):
        part = given[: max(0, cells - offset)]
        total[offset : offset + len(part)] += weight[offset : offset + len(part), None, None] * part
    return np.moveaxis(total, 0, axis)


def _find_cancer(
    probability: np.ndarray,
    share: np.ndarray,
    threshold: np.float32,
    *,
    cell_um2: float,
    settings: ExtentSettings,
) -> np.ndarray:
    """Cells (rows, cols) bool at or above the threshold; small holes filled first, then small specks dropped."""
    cancer = np.nan_to_num(probability, nan=-1.0) >= threshold
    if settings.max_hole_um2 > 0:
        most_cells = settings.max_hole_um2 / cell_um2 + WHOLE_CELLS
        cancer = fill_holes(cancer, most_cells) & ~np.isnan(probability)
    if settings.min_lesion_um2 > 0:
        runs = runs_of(cancer, corners=True)
        pieces = runs.labelled()
        cells = np.bincount(pieces.ravel(), weights=share.ravel(), minlength=runs.count + 1)
        large = cells + WHOLE_CELLS >= settings.min_lesion_um2 / cell_um2
        cancer = cancer & large[pieces]
    return cancer


def _measure(
    probability: np.ndarray, cancer: np.ndarray, area_mm2: np.ndarray, tissue_mm2: float, *, block: int
) -> dict[str, float]:
    """Cancer in mm2 and as a share of all tissue, each with its interval; NaN where nothing is known."""
    if tissue_mm2 > 0 and np.isnan(probability).all():
        areas = (nan, nan, nan)
    else:
        areas = (float(area_mm2[cancer].sum()), *area_interval(probability, area_mm2, cancer, block))
    fields = ("cancer_mm2", "cancer_mm2_low", "cancer_mm2_high"), ("share", "share_low", "share_high")
    shares = [float(np.minimum(area / tissue_mm2, 1.0)) if tissue_mm2 > 0 else nan for area in areas]
    return dict(zip(fields[0], areas, strict=True)) | dict(zip(fields[1], shares, strict=True))
