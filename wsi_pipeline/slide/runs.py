"""A mask as runs of cells along its rows -> its connected pieces, their areas, and a mask of some of them.

A clean mask has a few runs a row, so that labelling runs takes a fifth of what labelling cells takes.
"""

from dataclasses import dataclass

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components


@dataclass(frozen=True, eq=False)
class Runs:
    """The runs of True in a mask, row by row.

    Attributes:
        shape: (rows, columns) of the mask.
        starts, stops: (n,) int64, first cell and the one after the last, in a raster of columns + 2 a row: each
            row has an empty cell before and after it, so that no run goes on into the next.
        piece: (n,) int, the connected piece that each run belongs to, from 0; `count` pieces.
    """

    shape: tuple[int, int]
    starts: np.ndarray
    stops: np.ndarray
    piece: np.ndarray
    count: int

    def areas(self) -> np.ndarray:
        """(count,) cells of each piece."""
        return self._sums(self.stops - self.starts)

    def cells_of(self, mask: np.ndarray) -> np.ndarray:
        """(count,) cells of each piece that are True in another mask (H, W) bool."""
        edges = np.stack([self.starts, self.stops], 1).ravel()
        return self._sums(np.add.reduceat(_framed(mask), edges, dtype=np.int32)[::2] if len(edges) else edges)

    def at_border(self) -> np.ndarray:
        """(count,) bool, the pieces that touch a side of the mask."""
        rows, cols = self.shape
        row, first = np.divmod(self.starts, cols + 2)
        at = (row == 0) | (row == rows - 1) | (first == 1) | (first + self.stops - self.starts == cols + 1)
        return self._sums(at) > 0

    def painted(self, keep: np.ndarray) -> np.ndarray:
        """(H, W) bool of the pieces that are True in `keep` (count,)."""
        kept = keep[self.piece]
        edges = np.stack([self.starts[kept], self.stops[kept]], 1).ravel()
        lengths = np.diff(edges, prepend=0, append=self._raster)
        values = np.arange(len(lengths)) % 2 == 1  # from one edge to the next, by turns out of a run and in it
        return np.repeat(values, lengths).reshape(self.shape[0], self.shape[1] + 2)[:, 1:-1]

    @property
    def _raster(self) -> int:
        return self.shape[0] * (self.shape[1] + 2)

    def _sums(self, values: np.ndarray) -> np.ndarray:
        return np.bincount(self.piece, values, minlength=self.count)


def runs_of(mask: np.ndarray, *, corners: bool) -> Runs:
    """(H, W) bool -> its runs, in pieces that join along sides, or with `corners` along these too."""
    rows, cols = mask.shape
    framed = _framed(mask)
    edges = np.flatnonzero(framed[1:] != framed[:-1]) + 1
    starts, stops = edges[::2], edges[1::2]
    below = cols + 2  # from a cell to the one under it
    reach = int(corners)
    first = np.searchsorted(stops, starts + below - reach, side="right")
    after = np.searchsorted(starts, stops + below + reach, side="left")
    touched = np.maximum(after - first, 0)
    upper = np.repeat(np.arange(len(starts)), touched)
    lower = np.arange(len(upper)) + np.repeat(first - np.cumsum(touched) + touched, touched)
    joined = coo_array((np.ones(len(upper), np.int8), (upper, lower)), shape=(len(starts), len(starts)))
    count, piece = connected_components(joined, directed=False)
    return Runs((rows, cols), starts, stops, piece, int(count))


def _framed(mask: np.ndarray) -> np.ndarray:
    """The mask with an empty column on either side, flat."""
    framed = np.zeros((mask.shape[0], mask.shape[1] + 2), bool)
    framed[:, 1:-1] = mask
    return framed.ravel()
