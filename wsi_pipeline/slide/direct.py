"""The JPEG tiles of a TIFF, read where they lie -> any region of a level; what neighbours share is decoded once.

Four to six times as fast as OpenSlide, with its pixels bit for bit (tests/test_direct.py). Only where all is
simple: levels that are pages of JPEG tiles, laid out as the pages are. Whatever else a slide has stays with
OpenSlide, and so does whatever goes wrong here.
"""

import io
import math
import weakref
from collections import OrderedDict
from functools import lru_cache
from pathlib import Path

import numpy as np

from wsi_pipeline.slide.jpeg import decode_into, head_of, standalone
from wsi_pipeline.slide.jpeg_levels import JpegLevel

WHITE = 255

_KEPT_BYTES = 48 * 2**20  # of decoded tiles a reader: a row of 240 tiles of 256 px, and 60,000 px of slide

Row = tuple[int, int, int]  # of tiles: level, number and reduction

_BLOCK_BYTES = 8 * 2**20  # taken at once: large enough for huge pages, without which fresh memory costs half a decode


class DirectPixels:
    """An open file of JPEG tiles; keeps the tiles that it decoded last, for one thread at a time."""

    def __init__(self, path: str | Path, levels: tuple[JpegLevel | None, ...]) -> None:
        self._file = io.FileIO(path)
        self._close = weakref.finalize(self, self._file.close)  # also where a thread ends with it open
        self._size = self._file.seek(0, io.SEEK_END)
        self._levels = levels
        self._heads: dict[int, tuple[bytes, bytes]] = {}  # of the last tile of each level: as it lies there, as decoded
        self._bytes = bytearray()  # what was read last, after room for a head
        self._kept: dict[Row, OrderedDict[int, np.ndarray]] = {}  # of each row by column; what came first is the first
        self._kept_bytes = 0
        self._from: Row = 0, 0, 1  # from which on tiles may be wanted again
        self._free: dict[tuple[int, ...], list[np.ndarray]] = {}
        self.decoded = 0  # tiles, for whoever wants to know what a walk over the slide costs

    def __enter__(self) -> "DirectPixels":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def has(self, level: int) -> bool:
        """Whether it reads this level."""
        return self._levels[level] is not None

    def read(
        self,
        x: int,
        y: int,
        level: int,
        size_px: tuple[int, int],
        *,
        reduction: int = 1,
        out: np.ndarray | None = None,
    ) -> np.ndarray:
        """Region at (x, y) of the level, or of the level reduced -> (height, width, 3) uint8 RGB, white outside.

        With `reduction` 2, 4 or 8 everything is in pixels of the level at 1/2, 1/4, 1/8, made in the decoder. Read
        into `out`, contiguous and of just that shape, where one is given.
        Raises ValueError or OSError where a tile cannot be decoded.
        """
        info = self._known(level)
        cols, rows = info.tile[0] // reduction, info.tile[1] // reduction
        right = min(x + size_px[0], info.size[0] // reduction)
        bottom = min(y + size_px[1], info.size[1] // reduction)
        self._from = level, max(y, 0) // rows, reduction
        region = np.empty((size_px[1], size_px[0], 3), np.uint8) if out is None else out
        if info.gaps or x < 0 or y < 0 or (right - x, bottom - y) != size_px:
            region[:] = WHITE
        whole = size_px == info.tile == (right - x, bottom - y) and x % cols == y % rows == 0
        whole = whole and reduction == 1 and not self._kept
        across = _pieces(x, right, cols)
        for number, to_rows, of_rows in _pieces(y, bottom, rows):
            row = level, number, reduction
            kept: dict[int, np.ndarray] = self._kept.get(row, {})
            for col, to_cols, of_cols in across:
                if whole:
                    self._decode_whole(level, number * info.across + col, region)
                elif (tile := kept.get(col)) is not None or (tile := self._decoded(row, col)) is not None:
                    region[to_rows, to_cols] = tile[of_rows, of_cols]
        return region

    def tile_bytes(self, x: int, y: int, level: int, size_px: tuple[int, int]) -> bytes | None:
        """The JPEG of the region, not decoded, if it is just one tile of the slide and wholly inside it; else None.

        Raises ValueError or OSError where the tile is no JPEG.
        """
        info = self._known(level)
        col, row = x // info.tile[0], y // info.tile[1]
        whole = x >= 0 <= y and x + size_px[0] <= info.size[0] and y + size_px[1] <= info.size[1]
        if size_px != info.tile or (col * info.tile[0], row * info.tile[1]) != (x, y) or not whole:
            return None
        index = row * info.across + col
        if not info.counts[index]:
            return None
        return standalone(self._data(info, index), info.tables, ycbcr=info.ycbcr, shape=(info.tile[1], info.tile[0]))

    def close(self) -> None:
        """Close the file and forget what was decoded."""
        self._kept.clear()
        self._free.clear()
        self._close()

    def _known(self, level: int) -> JpegLevel:
        info = self._levels[level]
        assert info is not None, "asked for a level that it has not"
        return info

    def _decode_whole(self, level: int, index: int, region: np.ndarray) -> None:
        """A region that is just one tile: straight into it. Not kept: where all were so, no neighbour needs it."""
        if self._known(level).counts[index]:
            decode_into(self._read_jpeg(level, index), region)
            self.decoded += 1

    def _decoded(self, row: Row, col: int) -> np.ndarray | None:
        """One more tile (rows, columns, 3), kept for its neighbours; None where none was written."""
        level, number, reduction = row
        info = self._known(level)
        index = number * info.across + col
        if not info.counts[index]:
            return None
        jpeg = self._read_jpeg(level, index)
        room = self._room((info.tile[1] // reduction, info.tile[0] // reduction, 3))
        try:
            decode_into(jpeg, room, reduction)
        except ValueError:
            self._free[room.shape].append(room)
            raise
        self.decoded += 1
        self._kept.setdefault(row, OrderedDict())[col] = room
        self._kept_bytes += room.nbytes
        return room

    def _room(self, shape: tuple[int, int, int]) -> np.ndarray:
        """Memory for one more tile: of a row that is passed; once all there may be is taken, of the oldest row.

        Slides are read row by row, so tiles above the row that is read now are not wanted again; and the less
        memory is in use, the more of it is in the cache of the processor. Of the oldest row it is the tile decoded
        first: where the one below is as wide as all there may be, those to the left are not wanted again either.
        """
        while self._kept and (self._kept_bytes >= _KEPT_BYTES or self._is_passed(next(iter(self._kept)))):
            oldest = next(iter(self._kept))
            tiles = self._kept[oldest]
            tile = tiles.popitem(last=False)[1]
            if not tiles:
                del self._kept[oldest]
            self._kept_bytes -= tile.nbytes
            self._free.setdefault(tile.shape, []).append(tile)
        free = self._free.setdefault(shape, [])
        if not free:
            free.extend(np.empty((max(1, _BLOCK_BYTES // math.prod(shape)), *shape), np.uint8))
        return free.pop()

    def _is_passed(self, row: Row) -> bool:
        level, number, reduction = self._from
        return row[1] < number or row[0] != level or row[2] != reduction

    def _read_jpeg(self, level: int, index: int) -> memoryview:
        """A tile for the decoder, until the next one is read: as it was read, with its head put in front of it.

        What lies before its pixels is taken apart only where it is not the last one's.
        """
        info = self._known(level)
        raw, head = self._heads.get(level, (b"", b""))
        start = len(head)
        stop = start + self._read_into(info, index, start)
        if not raw or not self._bytes.startswith(raw, start):
            raw, head = self._heads[level] = _head(info, bytes(self._bytes[start:stop]))
            return memoryview(head + self._bytes[start + len(raw) : stop])
        pixels = start + len(raw)
        self._bytes[pixels - len(head) : pixels] = head
        return memoryview(self._bytes)[pixels - len(head) : stop]

    def _data(self, info: JpegLevel, index: int) -> bytes:
        """The bytes of a tile as they lie in the file."""
        count = self._read_into(info, index, 0)
        return bytes(self._bytes[:count])

    def _read_into(self, info: JpegLevel, index: int, at: int) -> int:
        """Read a tile as it lies in the file into memory used before, from `at` on -> its length in bytes."""
        start, count = int(info.offsets[index]), int(info.counts[index])
        if start + count > self._size:  # room is made for all that is asked for
            raise ValueError("a tile beyond the end of the file")
        if len(self._bytes) < at + count:
            self._bytes = bytearray(2 * (at + count))
        self._file.seek(start)
        return self._file.readinto(memoryview(self._bytes)[at : at + count])


def _head(info: JpegLevel, data: bytes) -> tuple[bytes, bytes]:
    """What lies before the pixels of a tile, and what the decoder needs there in its place."""
    head, at = head_of(data, info.tables, ycbcr=info.ycbcr, shape=(info.tile[1], info.tile[0]))
    raw = data[: at + 2]  # with the marker of the scan, so that nothing else can follow
    return raw, head + raw[at:]


@lru_cache(maxsize=4096)
def _pieces(start: int, stop: int, side: int) -> tuple[tuple[int, slice, slice], ...]:
    """The tiles that start to stop touches: number, what of the region it fills, with what of it."""
    found = []
    for tile in range(max(start, 0) // side, -(-stop // side)):
        first, last = max(start, tile * side), min(stop, (tile + 1) * side)
        found.append((tile, slice(first - start, last - start), slice(first - tile * side, last - tile * side)))
    return tuple(found)
