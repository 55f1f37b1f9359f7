"""The four planes of a slide and the conversions between them.

====== ============================================ =========================================
suffix plane                                        order, unit
====== ============================================ =========================================
_l0    level-0 pixels of the slide                  (x, y), y down
_px    pixels at the working resolution             arrays are (row, col[, channel])
row,col grid cells                                  integers, one tile each
_um    the glass                                    micrometres; areas in _mm2
====== ============================================ =========================================

Micrometres per pixel (mpp) always name their plane, x and y apart. No step is rounded before it
is multiplied: tile k starts at round(k * step), so nothing drifts over a slide.
"""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Mpp:
    """Micrometres per pixel along x and y, with the place they were read from."""

    x: float
    y: float
    source: str = "given"

    @property
    def mean(self) -> float:
        """Geometric mean of x and y: the side of a square pixel of the same area."""
        return float(np.sqrt(self.x * self.y))


def step_l0(px: float, mpp: Mpp, mpp_l0: Mpp) -> tuple[float, float]:
    """Exact level-0 length (x, y) of `px` pixels at `mpp`; never rounded."""
    return px * mpp.x / mpp_l0.x, px * mpp.y / mpp_l0.y


def origins_l0(rowcol: np.ndarray, step: tuple[float, float]) -> np.ndarray:
    """Level-0 top left (x, y) of grid cells: (N, 2) [row, col] -> (N, 2) int64 [x, y].

    Each is round(index * exact step): off by at most half a pixel however far along the slide.
    """
    cells = np.asarray(rowcol, dtype=np.float64).reshape(-1, 2)
    return np.rint(cells[:, ::-1] * np.asarray(step)).astype(np.int64)


def l0_to_um(xy_l0: np.ndarray, mpp_l0: Mpp) -> np.ndarray:
    """Level-0 pixels (..., 2) [x, y] to micrometres on the glass, y still down."""
    return np.asarray(xy_l0, dtype=np.float64) * (mpp_l0.x, mpp_l0.y)


def um_to_l0(xy_um: np.ndarray, mpp_l0: Mpp) -> np.ndarray:
    """Micrometres on the glass (..., 2) [x, y], y down, to level-0 pixels."""
    return np.asarray(xy_um, dtype=np.float64) / (mpp_l0.x, mpp_l0.y)


def cell_area_mm2(cell_l0: tuple[float, float], mpp_l0: Mpp) -> float:
    """Area on the glass, in mm2, of one cell of (x, y) level-0 pixels."""
    return cell_l0[0] * mpp_l0.x * cell_l0[1] * mpp_l0.y * 1e-6
