"""One page of a TIFF, in tiles or strips -> any region of it, decoding only the pieces it touches."""

from collections import OrderedDict
from typing import Any

import numpy as np

WHITE = 255
_KEPT_BYTES = 64 * 2**20  # of decoded pieces: neighbouring tiles of a slide share strips
_RAW_BYTES = 2**20  # of one piece where an uncompressed page is one strip
_JPEG = (6, 7, 34892, 33007)
_ASSOCIATED, _STRAIGHT = 1, 2  # ExtraSamples: colour already multiplied by alpha, or not


class PiecesOfPage:
    """Reads regions of a tifffile page; keeps what it decoded last.

    An uncompressed page of one strip is cut into pieces of rows. It is not memory-mapped: mapped pages
    count as the process's own, and workers are killed by that count.
    """

    def __init__(self, page: Any) -> None:
        self._page = page
        self._height, self._width = int(page.imagelength), int(page.imagewidth)
        self._samples = int(page.samplesperpixel)
        self._planes = self._samples if page.planarconfig == 2 else 1
        self._kept: OrderedDict[int, np.ndarray | None] = OrderedDict()
        self._raw = len(page.dataoffsets) == 1 and page.compression == 1 and not page.is_tiled and page.fillorder == 1
        if page.is_tiled:
            self._piece = int(page.tilelength), int(page.tilewidth)
        elif self._raw:
            self._piece = min(self._height, max(1, _RAW_BYTES // (self._width * self._samples))), self._width
        else:
            self._piece = min(self._height, int(page.rowsperstrip)), self._width

    def read(self, x: int, y: int, size_px: tuple[int, int]) -> np.ndarray:
        """`size_px` (width, height) pixels from (x, y) on -> (height, width, 3) uint8, white outside."""
        width, height = size_px
        region = np.full((height, width, self._samples), WHITE, np.uint8)
        if x >= self._width or y >= self._height:  # the last pieces reach over the edge, with no image there
            return region[..., :3]
        rows, cols = self._piece
        for row in range(max(y, 0) // rows, -(-min(y + height, self._height) // rows)):
            for col in range(max(x, 0) // cols, -(-min(x + width, self._width) // cols)):
                for plane in range(self._planes):
                    self._paste(region, (x, y), (row, col, plane))
        return self._on_white(region)

    def _paste(self, region: np.ndarray, origin: tuple[int, int], place: tuple[int, int, int]) -> None:
        """Copy what one piece and the region share."""
        row, col, plane = place
        piece = self._decoded(place)
        if piece is None:  # a piece that was never written
            return
        top, left = row * self._piece[0], col * self._piece[1]
        x0, y0 = max(origin[0], left), max(origin[1], top)
        x1 = min(origin[0] + region.shape[1], left + piece.shape[1], self._width)
        y1 = min(origin[1] + region.shape[0], top + piece.shape[0], self._height)
        samples = slice(plane, plane + 1) if self._planes > 1 else slice(None)
        region[y0 - origin[1] : y1 - origin[1], x0 - origin[0] : x1 - origin[0], samples] = piece[
            y0 - top : y1 - top, x0 - left : x1 - left
        ]

    def _decoded(self, place: tuple[int, int, int]) -> np.ndarray | None:
        """A piece (rows, cols, samples), from memory if it was read lately; None where the file has none."""
        row, col, plane = place
        down, across = (-(-side // by) for side, by in zip((self._height, self._width), self._piece, strict=True))
        index = (plane * down + row) * across + col
        if index in self._kept:
            self._kept.move_to_end(index)
            return self._kept[index]
        piece = self._raw_rows(row) if self._raw else self._segment(index)
        self._kept[index] = piece
        while len(self._kept) > 1 and sum(p.nbytes for p in self._kept.values() if p is not None) > _KEPT_BYTES:
            self._kept.popitem(last=False)
        return piece

    def _segment(self, index: int) -> np.ndarray | None:
        page = self._page
        count = page.databytecounts[index]
        if not count:
            return None
        options = {"jpegtables": page.jpegtables, "jpegheader": page.jpegheader} if page.compression in _JPEG else {}
        data = self._bytes(page.dataoffsets[index], count)
        piece, _, _ = page.decode(data, index, **options)
        return None if piece is None else np.asarray(piece)[0]

    def _raw_rows(self, row: int) -> np.ndarray:
        first = row * self._piece[0]
        count = min(self._piece[0], self._height - first)
        row_bytes = self._width * self._samples
        data = self._bytes(self._page.dataoffsets[0] + first * row_bytes, count * row_bytes)
        return np.frombuffer(data, np.uint8).reshape(count, self._width, self._samples)

    def _bytes(self, offset: int, count: int) -> bytes:
        file = self._page.parent.filehandle
        file.seek(offset)
        data: bytes = file.read(count)
        if len(data) != count:
            raise ValueError("the file ends too early")
        return data

    def _on_white(self, region: np.ndarray) -> np.ndarray:
        """RGB alone; a fourth channel is laid over white if it is alpha, and dropped if it is not."""
        kind = int(self._page.extrasamples[0]) if self._page.extrasamples else 0
        if kind == _STRAIGHT:
            return over_white(region)
        rgb = np.ascontiguousarray(region[..., :3])
        if kind == _ASSOCIATED:  # white adds what the colour leaves of 255, at most
            rgb += np.minimum(WHITE - region[..., 3:], WHITE - rgb)
        return rgb


def over_white(rgba: np.ndarray) -> np.ndarray:
    """(..., 4) uint8 with straight alpha -> (..., 3) on white; glass that was not scanned is white."""
    alpha = rgba[..., 3:]
    if alpha.min(initial=WHITE) == WHITE:
        return np.ascontiguousarray(rgba[..., :3])
    share = alpha.astype(np.float32) / WHITE
    return np.rint(rgba[..., :3] * share + WHITE * (1 - share)).astype(np.uint8)
