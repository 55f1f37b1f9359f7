"""A box moved over a mask -> the mask grown, with gaps closed, or without its rim.

In strips of rows that stay in the cache, laid out as one row each, so that every step is one long shift.
"""

from collections.abc import Iterator

import numpy as np

_STRIP = 64  # rows


def close_gaps(mask: np.ndarray, radius: tuple[int, int]) -> np.ndarray:
    """Morphological closing of (H, W) bool by a box of 2 radius + 1 cells (rows, cols); nothing is lost."""
    closed = np.empty_like(mask)
    for rows, strip, spare, stride in _strips(mask, (2 * radius[0], 2 * radius[1]), outside=False):
        grown, spare = _over_boxes(np.logical_or, strip, spare, radius=radius, stride=stride)
        shrunk, _ = _over_boxes(np.logical_and, grown, spare, radius=radius, stride=stride)
        closed[rows] = _columns(shrunk, stride, mask.shape[1])
    return closed


def grown(mask: np.ndarray, radius: tuple[int, int]) -> np.ndarray:
    """Cells of (H, W) bool with any True within `radius` (rows, cols)."""
    return _moved(np.logical_or, mask, radius, outside=False)


def inner(mask: np.ndarray, radius: tuple[int, int]) -> np.ndarray:
    """Cells of (H, W) bool with none but True within `radius` (rows, cols); beyond the border all counts as True."""
    return _moved(np.logical_and, mask, radius, outside=True)


def _moved(both: np.ufunc, mask: np.ndarray, radius: tuple[int, int], *, outside: bool) -> np.ndarray:
    """Any (or) or all (and) cells of the box around each, with `outside` beyond the border."""
    found = np.empty_like(mask)
    for rows, strip, spare, stride in _strips(mask, radius, outside=outside):
        over, _ = _over_boxes(both, strip, spare, radius=radius, stride=stride)
        found[rows] = _columns(over, stride, mask.shape[1])
    return found


def _strips(
    mask: np.ndarray, rim: tuple[int, int], *, outside: bool
) -> Iterator[tuple[slice, np.ndarray, np.ndarray, int]]:
    """Rows at a time of (H, W) bool: which, these framed as one row, room for as much, cells from row to row.

    `rim` is what is added on each side (rows, cols), of `outside`; all is in memory that is used again.
    """
    (height, width), (down, across) = mask.shape, rim
    stride = width + 2 * across
    room = np.empty((2, (min(_STRIP, height) + 2 * down) * stride + 2 * across), bool)
    for top in range(0, height, _STRIP):
        rows = min(_STRIP, height - top)
        framed, spare = room[:, : (rows + 2 * down) * stride + 2 * across]
        framed[:] = outside
        first, last = max(0, top - down), min(height, top + rows + down)
        start = (first - top + down) * stride + across
        _columns(framed[start : start + (last - first) * stride], stride, width)[:] = mask[first:last]
        yield slice(top, top + rows), framed, spare, stride


def _columns(cells: np.ndarray, stride: int, width: int) -> np.ndarray:
    """The first `width` cells of each row of `stride`."""
    return cells.reshape(-1, stride)[:, :width]


def _over_boxes(
    both: np.ufunc, mask: np.ndarray, spare: np.ndarray, *, radius: tuple[int, int], stride: int
) -> tuple[np.ndarray, np.ndarray]:
    """Any (or) or all (and) cells of the box that begins at each, in doubling steps; and the room that is left."""
    for unit, r in zip((stride, 1), radius, strict=True):
        width = 1
        while width <= 2 * r:
            step = min(width, 2 * r + 1 - width)
            length = len(mask) - step * unit
            out = both(mask[:length], mask[step * unit :], out=spare[:length])
            mask, spare, width = out, mask, width + step
    return mask, spare
