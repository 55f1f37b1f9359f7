"""ExtentMap: where the cancer is and how much of the tissue it takes, from scored tiles."""

from dataclasses import dataclass

import numpy as np
import scipy.ndimage

from wsi_pipeline.geometry import Mpp, cell_area_mm2
from wsi_pipeline.scores.store import Scores
from wsi_pipeline.slide.tissue import TissueMask, fill_holes
from wsi_pipeline.tiles.grid import TileGrid, tissue_share

Z95 = 1.959964  # two-sided 95 % of the normal distribution


@dataclass(frozen=True)
class ExtentSettings:
    """What counts as cancer. Areas in um2; 0 switches a clean-up off.

    Attributes:
        threshold: probability from which a cell is cancer; None takes the checkpoint's own.
        min_lesion_um2: connected cancer smaller than this is dropped.
        max_hole_um2: holes in the cancer up to this are filled (where there is tissue).
    """

    threshold: float | None = None
    min_lesion_um2: float = 0.0
    max_hole_um2: float = 0.0


@dataclass(frozen=True)
class ExtentMap:
    """The probability raster of a slide and the areas drawn from it."""

    probability: np.ndarray  # (rows, cols) float32, NaN off tissue and where no tile was readable
    classes: np.ndarray  # (C, rows, cols) float32, NaN as above
    class_names: tuple[str, ...]
    cancer: np.ndarray  # (rows, cols) bool
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


def map_extent(grid: TileGrid, tissue: TissueMask, scores: Scores, settings: ExtentSettings) -> ExtentMap:
    """Spread the scores of tiles over a raster of cells, decide what is cancer, and measure it.

    A cell is one stride step, exact and never rounded. Where tiles overlap, a cell is the mean of the tiles
    over it, each weighted by the integral over the cell of a separable triangular window that falls from
    the tile's centre to its edge: the map is sharper than a plain mean, and a constant stays constant. With
    gaps between tiles a cell stands for its tile and is centred on it. Areas of cells count by their share
    of tissue.
    """
    slide = grid.slide
    cell = grid.step_l0
    offset = tuple(min(0.0, (foot - step) / 2) for foot, step in zip(grid.footprint_l0, cell, strict=True))
    origin = (offset[0], offset[1])
    weights = window(grid.tile_px / grid.stride_px)
    shape = _raster_shape(grid, origin, len(weights))
    share = _cell_tissue(grid, tissue, shape, origin)
    probability = _spread(grid, scores.positive_prob()[:, None], weights, shape, share)[0]
    classes = _spread(grid, scores.probs, weights, shape, share)
    threshold = scores.threshold if settings.threshold is None else settings.threshold
    area = cell_area_mm2(cell, slide.mpp_l0)
    with np.errstate(invalid="ignore"):
        cancer = _clean((probability >= threshold) & (share > 0), share > 0, area * 1e6, settings)
    covered = _spread(grid, np.ones((len(grid), 1), np.float32), weights, shape, share)[0]
    measured = float((share[cancer].sum(dtype=np.float64)) * area)
    low, high = _interval(probability, share * area, measured, len(weights), tissue.tissue_mm2)
    return ExtentMap(
        probability=probability,
        classes=classes,
        class_names=scores.class_names,
        cancer=cancer,
        tissue=share,
        cell_l0=cell,
        origin_l0=origin,
        mpp_l0=slide.mpp_l0,
        threshold=float(threshold),
        tissue_mm2=tissue.tissue_mm2,
        unread_mm2=float(share[np.isnan(probability) & ~np.isnan(covered)].sum(dtype=np.float64) * area),
        cancer_mm2=measured,
        cancer_mm2_low=low,
        cancer_mm2_high=high,
        share=_ratio(measured, tissue.tissue_mm2),
        share_low=_ratio(low, tissue.tissue_mm2),
        share_high=_ratio(high, tissue.tissue_mm2),
    )


def window(cells: float) -> np.ndarray:
    """Weight of each cell under a tile `cells` cells long: the triangular window integrated over the cell.

    The last cell counts by the part of it that the tile covers. They sum to 1.
    """
    edges = np.minimum(np.arange(np.ceil(cells) + 1), cells) / cells
    cumulated = np.where(edges < 0.5, 2 * edges**2, 1 - 2 * (1 - edges) ** 2)
    return np.diff(cumulated)


def _raster_shape(grid: TileGrid, origin: tuple[float, float], spread: int) -> tuple[int, int]:
    """Rows and columns that all tiles reach, without those that lie wholly beyond the slide."""
    reached = grid.rows + spread - 1, grid.cols + spread - 1
    sides = zip(reached, grid.slide.size_l0[::-1], origin[::-1], grid.step_l0[::-1], strict=True)
    rows, cols = (max(1, min(n, int(np.ceil((size - start) / step)))) for n, size, start, step in sides)
    return rows, cols


def _cell_tissue(
    grid: TileGrid, tissue: TissueMask, shape: tuple[int, int], origin: tuple[float, float]
) -> np.ndarray:
    """Share 0-1 of each cell that is tissue, (rows, cols) float32."""
    tops = origin[1] + np.arange(shape[0]) * grid.step_l0[1]
    lefts = origin[0] + np.arange(shape[1]) * grid.step_l0[0]
    return tissue_share(tissue, (tops, lefts), grid.step_l0, grid.slide.size_l0)


def _spread(
    grid: TileGrid, values: np.ndarray, weights: np.ndarray, shape: tuple[int, int], share: np.ndarray
) -> np.ndarray:
    """Weighted mean of the tiles over each cell: (N, C) -> (C, rows, cols) float32, NaN where none or no tissue."""
    readable = ~np.isnan(values).any(axis=1)
    rows, cols = grid.rowcol[readable].T
    dense = np.zeros((values.shape[1] + 1, grid.rows, grid.cols))
    dense[:-1, rows, cols] = values[readable].T
    dense[-1, rows, cols] = 1.0
    reach = len(weights) - 1
    total = np.zeros((len(dense), grid.rows + reach, grid.cols + reach))
    for down, weight in enumerate(weights):
        for right, other in enumerate(weights):
            total[:, down : down + grid.rows, right : right + grid.cols] += weight * other * dense
    total = total[:, : shape[0], : shape[1]]
    kept = (total[-1] > 0) & (share > 0)
    mean = np.divide(total[:-1], total[-1], out=np.full(total[:-1].shape, np.nan), where=kept)
    return mean.astype(np.float32)


def _clean(cancer: np.ndarray, tissue: np.ndarray, cell_um2: float, settings: ExtentSettings) -> np.ndarray:
    """Small holes filled where there is tissue, then small specks (8-connected) dropped."""
    if settings.max_hole_um2 > 0:
        cancer = fill_holes(cancer, settings.max_hole_um2 / cell_um2) & tissue
    if settings.min_lesion_um2 > 0:
        pieces, count = scipy.ndimage.label(cancer, np.ones((3, 3)))
        large = np.bincount(pieces.ravel(), minlength=count + 1) * cell_um2 >= settings.min_lesion_um2
        large[0] = False
        cancer = large[pieces]
    return cancer


def _interval(
    probability: np.ndarray, area_mm2: np.ndarray, measured: float, block: int, tissue_mm2: float
) -> tuple[float, float]:
    """95 % interval of the cancer's area in mm2, from what the classifier itself is unsure of.

    Each block of a tile's side is one draw with its calibrated probability, its cells wholly correlated as
    they share tiles; the area is then a weighted sum of independent Bernoulli draws, whose variance is the
    sum over blocks of (sum over cells of a * sqrt(p (1 - p)))^2 (Poisson-binomial, normal approximation:
    Hodges & Le Cam, Ann. Math. Stat. 31, 1960). It holds as far as the probabilities are calibrated; it does
    not cover errors made with confidence, nor a scanner or stain that the model never saw.
    """
    spread = area_mm2 * np.sqrt(np.clip(np.nan_to_num(probability * (1 - probability)), 0, None))
    pad = [(0, -n % block) for n in spread.shape]
    padded = np.pad(spread, pad).astype(np.float64)
    blocks = padded.reshape(padded.shape[0] // block, block, padded.shape[1] // block, block).sum(axis=(1, 3))
    error = Z95 * float(np.sqrt((blocks**2).sum()))
    return max(0.0, measured - error), min(max(measured, tissue_mm2), measured + error)


def _ratio(part: float, whole: float) -> float:
    return min(1.0, part / whole) if whole > 0 else float("nan")
