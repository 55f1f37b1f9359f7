"""Scores of some tiles -> scores of all: a coarse lattice first, refined where the outcome is open. Numpy alone."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

Score = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Adaptive:
    """What may be left out.

    Attributes:
        tolerance: a square of the lattice whose corners' P(cancer) differ by more is refined, 0-1.
        threshold: P(cancer) that decides; None takes the model's own.
    """

    tolerance: float = 0.1
    threshold: float | None = None


def lattice_step(tile_px: int, stride_px: int) -> int:
    """Cells between tiles of the first lattice: the largest power of two that leaves no gap between its tiles.

    At a step beyond a tile, drawn tumours of 0.04 mm2 fell through; so with tiles that do not overlap it is 1,
    and every tile is scored.
    """
    return 1 << max(0, (tile_px // stride_px).bit_length() - 1)


def score_where_open(
    rowcol: np.ndarray,
    score: Score,
    p_cancer: Score,
    *,
    step: int,
    threshold: float,
    tolerance: float,
) -> tuple[np.ndarray, np.ndarray]:
    """Values (N, C) float32 of all tiles at the cells `rowcol` (N, 2), and (N,) bool: really scored.

    `score` gives (n, C) of the tiles whose rows it is told, NaN where unreadable; `p_cancer` (n,) of such values.
    Scored are the tiles of a lattice of every `step`-th row and column. A square between four of them is open
    where P(cancer) at the corners lies on both sides of the threshold or differs by more than the tolerance,
    where a corner is unreadable, or none has a tile; open squares are halved and scored again, down to the single
    tile. In the others the tiles get their corners' values, bilinear, off-tissue corners left out. What lies within
    one square and shows at none of its corners is missed. `step` is a power of two.
    """
    if not len(rowcol):
        return score(np.arange(0)), np.zeros(0, bool)
    raster = _Raster(rowcol, step)
    values = np.empty((0, 0), np.float32)
    scored = np.zeros(len(rowcol), bool)
    inside = np.ones(raster.squares(step), bool)  # squares of this size in what is still open
    while True:
        wanted = raster.rows_of_corners(inside, step)
        rows = wanted[~scored[wanted]]
        found = score(rows)
        values = values if values.size else np.full((len(rowcol), found.shape[1]), np.nan, np.float32)
        values[rows], scored[rows] = found, True
        if step == 1:
            return values, scored
        known = np.nan_to_num(p_cancer(values), nan=np.inf)  # inf: scored, but unreadable
        corners = raster.corners(np.where(scored, known, np.nan), step)
        settled = inside & _settled(corners, threshold, tolerance)
        for rows, filled in raster.filled(values, scored, settled, step):
            values[rows] = filled
        inside = (inside & ~settled).repeat(2, axis=0).repeat(2, axis=1)
        step //= 2


def _settled(corners: np.ndarray, threshold: float, tolerance: float) -> np.ndarray:
    """Squares (rows, cols) bool whose known corners (4, rows, cols) agree; none known is open, and one that is inf."""
    known, closed = np.isfinite(corners), ~np.isinf(corners).any(axis=0)
    low, high = np.where(known, corners, np.inf).min(axis=0), np.where(known, corners, -np.inf).max(axis=0)
    return closed & known.any(axis=0) & ((low >= threshold) | (high < threshold)) & (high - low <= tolerance)


class _Raster:
    """The tiles on a raster of whole squares, a power of two a side, with one more row and column at the end."""

    def __init__(self, rowcol: np.ndarray, step: int) -> None:
        self._first = rowcol.min(axis=0)
        cells = rowcol - self._first
        self._squares = np.maximum(1, -(-cells.max(axis=0) // step)) * step
        self.index = np.full(self._squares + 1, -1)  # tile of a cell, -1 without
        self.index[tuple(cells.T)] = np.arange(len(rowcol))

    def squares(self, step: int) -> tuple[int, int]:
        rows, cols = self._squares // step
        return int(rows), int(cols)

    def rows_of_corners(self, inside: np.ndarray, step: int) -> np.ndarray:
        """The tiles at the corners of the squares `inside`, ascending."""
        lattice = np.zeros((inside.shape[0] + 1, inside.shape[1] + 1), bool)
        for down, right in _CORNERS:
            lattice[down : down + inside.shape[0], right : right + inside.shape[1]] |= inside
        rows = self.index[::step, ::step][lattice]
        return np.sort(rows[rows >= 0])

    def corners(self, values: np.ndarray, step: int) -> np.ndarray:
        """(4, rows, cols) or (4, rows, cols, C): values (N,) or (N, C) at the corners of each square, NaN without."""
        index = self.index[::step, ::step]
        lattice = np.where((index >= 0).reshape(*index.shape, *[1] * (values.ndim - 1)), values[index], np.nan)
        rows, cols = index.shape[0] - 1, index.shape[1] - 1
        return np.stack([lattice[down : down + rows, right : right + cols] for down, right in _CORNERS])

    def filled(
        self, values: np.ndarray, scored: np.ndarray, settled: np.ndarray, step: int
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """(tiles, their values (n, C)) of all that is not scored in the settled squares."""
        corners = self.corners(np.where(scored[:, None], values, np.nan), step)[:, settled]
        known = ~np.isnan(corners[..., 0])
        tops, lefts = np.nonzero(settled)
        for down in range(step + 1):
            for right in range(step + 1):
                rows = self.index[tops * step + down, lefts * step + right]
                want = (rows >= 0) & ~scored[rows]
                near = [abs(1 - y - down / step) * abs(1 - x - right / step) for y, x in _CORNERS]
                weights = (np.array(near) + 1e-6)[:, None] * known  # the little: no known corner may be on the side
                mean = np.einsum("kn,knc->nc", weights / weights.sum(axis=0), np.nan_to_num(corners))
                yield rows[want], mean[want]


_CORNERS = ((0, 0), (0, 1), (1, 0), (1, 1))  # (down, right) of a square's top left
