"""An overview against the colour of its glass -> saturation and grey, smoothed, and where they are pale tissue's.

Strip by strip in room that is used again: what fits the cache of a core is three times as fast, and fresh memory
costs more than the sums that it is for. All in whole numbers and by tables.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

_STRIP = 32  # rows
_LUMA = 19595, 38470, 7471  # of ITU-R 601-2, in 65,536ths


@dataclass(frozen=True, eq=False)
class Colours:
    """What each cell of an overview looks like, (H, W) each.

    Attributes:
        saturation: uint8, largest less least channel: without a division.
        grey: uint8, by ITU-R 601-2, rounded just as Pillow does it; both of channels weighted 1 2 1 along both axes.
        pale: bool, more saturation than `least` has for this grey.
        above: bool, more saturation before the smoothing than after it.
    """

    saturation: np.ndarray
    grey: np.ndarray
    pale: np.ndarray
    above: np.ndarray


def colours_of(rgb: np.ndarray, glass: Sequence[float], least: np.ndarray) -> Colours:
    """(H, W, 3) uint8 whose glass has the colour `glass`; `least` (256,) uint8 saturation by grey value."""
    height, width = rgb.shape[:2]
    values = [np.empty((height, width), np.uint8) for _ in range(2)]
    masks = [np.empty((height, width), bool) for _ in range(2)]
    found, room = Colours(*values, *masks), _Room(width)
    tables = [bytes(min(255, round(value * 255 / white)) for value in range(256)) for white in glass]
    for top in range(0, height, _STRIP):
        bottom = min(top + _STRIP, height)
        rim = int(top == 0), int(bottom == height)  # the edge's own row once more
        plain = room.framed(rgb[max(0, top - 1) : bottom + 1], tables, rim)
        smooth = room.smoothed(bottom - top)
        rows = slice(top, bottom)
        room.spread(smooth, found.saturation[rows])
        room.luma(smooth, found.grey[rows])
        np.greater(found.saturation[rows], _looked_up(found.grey[rows], least.tobytes()), out=found.pale[rows])
        np.greater(room.spread(plain, room.byte[: bottom - top]), found.saturation[rows], out=found.above[rows])
    return found


def _looked_up(values: np.ndarray, table: bytes) -> np.ndarray:
    """(rows, width) uint8 by a table (256,); half of what numpy or Pillow take, as neither has bytes to look up."""
    return np.frombuffer(bytearray(values).translate(table), np.uint8).reshape(values.shape)


class _Room:
    """Memory for one strip of an overview of this width, and the sums that are done in it."""

    def __init__(self, width: int) -> None:
        self._bands = np.empty((3, _STRIP + 2, width + 2), np.uint8)
        self._smooth = np.empty((3, _STRIP, width), np.uint8)
        self._sums = np.empty((2, _STRIP + 2, width + 2), np.uint16)
        self._long = np.empty((2, _STRIP, width), np.uint32)
        self._channel = np.empty((_STRIP + 2, width), np.uint8)
        self.byte, self._other = np.empty((2, _STRIP, width), np.uint8)

    def framed(self, rgb: np.ndarray, tables: Sequence[bytes], rim: tuple[int, int]) -> np.ndarray:
        """(rows, width, 3) by a table a channel, with the edges repeated where there is nothing beyond.

        Returns (3, rows, width) of the strip itself.
        """
        last = len(rgb) + sum(rim)
        for channel, (room, table) in enumerate(zip(self._bands, tables, strict=True)):
            one = self._channel[: len(rgb)]
            one[:] = rgb[..., channel]
            room[rim[0] : last - rim[1], 1:-1] = _looked_up(one, table)
            if rim[0]:
                room[0] = room[1]
            if rim[1]:
                room[last - 1] = room[last - 2]
            room[:, 0], room[:, -1] = room[:, 1], room[:, -2]
        return self._bands[:, 1 : last - 1, 1:-1]

    def smoothed(self, rows: int) -> np.ndarray:
        """The bands that were framed, weighted 1 2 1 along both axes, each time as two sums of neighbours."""
        one, two = self._sums
        for band, out in zip(self._bands, self._smooth, strict=True):
            np.copyto(one[: rows + 2], band[: rows + 2])
            np.add(one[: rows + 1], one[1 : rows + 2], out=two[: rows + 1])
            np.add(two[:rows], two[1 : rows + 1], out=one[:rows])
            np.add(one[:rows, :-1], one[:rows, 1:], out=two[:rows, :-1])
            total = np.add(two[:rows, :-2], two[:rows, 1:-1], out=one[:rows, :-2])
            total += 8
            total >>= 4
            np.copyto(out[:rows], total, casting="unsafe")
        return self._smooth[:, :rows]

    def spread(self, bands: np.ndarray, out: np.ndarray) -> np.ndarray:
        """Largest less least of three bands (3, rows, width) uint8, in `out`."""
        least = self._other[: len(out)]
        np.maximum(np.maximum(bands[0], bands[1], out=out), bands[2], out=out)
        np.minimum(np.minimum(bands[0], bands[1], out=least), bands[2], out=least)
        return np.subtract(out, least, out=out)

    def luma(self, bands: np.ndarray, out: np.ndarray) -> None:
        """Grey of three bands (3, rows, width) uint8, in `out`."""
        total, part = self._long[:, : len(out)]
        np.multiply(bands[0], np.uint32(_LUMA[0]), out=total)
        for band, weight in zip(bands[1:], _LUMA[1:], strict=True):
            total += np.multiply(band, np.uint32(weight), out=part)
        total += np.uint32(1 << 15)
        total >>= np.uint32(16)
        np.copyto(out, total, casting="unsafe")
