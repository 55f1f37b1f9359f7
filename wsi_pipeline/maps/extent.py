"""ExtentMap: where the cancer is and how much of the tissue it takes, from scored tiles."""

from dataclasses import dataclass

import numpy as np

from wsi_pipeline.geometry import Mpp
from wsi_pipeline.scores.store import Scores
from wsi_pipeline.slide.tissue import TissueMask
from wsi_pipeline.tiles.grid import TileGrid


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
    raise NotImplementedError
