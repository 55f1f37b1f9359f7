"""Nearest sampling: a raster of cells laid over the slide -> its values under any level-0 points."""

import numpy as np


def cell_under(centres_l0: np.ndarray, cell_l0: float, *, origin_l0: float, cells: int) -> np.ndarray:
    """Index of the cell under each level-0 position along one axis: (N,) int64, -1 where there is none."""
    index = np.floor((np.asarray(centres_l0, dtype=np.float64) - origin_l0) / cell_l0)
    return np.where((index >= 0) & (index < cells), index, -1).astype(np.int64)


def pixel_centres_l0(pixels: int, pixel_l0: float, *, origin_l0: float = 0.0) -> np.ndarray:
    """Level-0 positions of the centres of `pixels` pixels along one axis: (pixels,) float64."""
    return origin_l0 + (np.arange(pixels) + 0.5) * pixel_l0


def sample(cells: np.ndarray, rows: np.ndarray, cols: np.ndarray, *, outside: float) -> np.ndarray:
    """Values of a (rows, cols) raster where `rows` and `cols` cross: (R, C); `outside` where either is -1."""
    framed = np.pad(cells, ((0, 1), (0, 1)), constant_values=outside)  # index -1 is this frame
    return framed[np.ix_(rows, cols)]
