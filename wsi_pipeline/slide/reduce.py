"""Pixels of a level -> fewer of them, antialiased, in pieces of bounded memory."""

import math
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Any

import numpy as np
from PIL import Image

from wsi_pipeline.stall import life_sign

WHITE = 255
PART_PX = 256  # side of the smallest part that is tried alone, about a tile of the slide's own
MAX_READ_PX = 12 * 2**20  # pixels of one read: 48 MiB as RGBA, about 150 MiB with its copies

# (left, top, (width, height)) in a level's own pixels -> (height, width, 3) uint8
Read = Callable[[int, int, tuple[int, int]], np.ndarray]
Box = tuple[float, float, float, float]


@lru_cache(maxsize=64)
def coarsest_below(downsamples: tuple[float, ...], zoom: float) -> int | None:
    """The coarsest level of at most `zoom` level-0 px a pixel; None where all are coarser."""
    finer = [level for level, by in enumerate(downsamples) if by <= zoom]
    return max(finer, key=lambda level: downsamples[level]) if finer else None


def reduce_box(read: Read, box: Box, size_px: tuple[int, int]) -> np.ndarray:
    """A box (x, y, width, height) of a level at `size_px` (width, height) -> (height, width, 3) uint8.

    Lanczos windowed to the output's pixel: it keeps sub-pixel place, is the sharpest that does not alias,
    and is what Pillow's own thumbnails use. Nothing beyond the box is read for it: a rim of three output
    pixels would make each tile touch up to four times the slide's own tiles. Beyond a reduction of 6,
    whole blocks of pixels are averaged first, strip by strip, which no eye tells from Lanczos alone.
    """
    x, y, width, height = box
    left, top = math.floor(x), math.floor(y)
    block = max(1, int(min(width / size_px[0], height / size_px[1]) / 3))
    across = math.ceil((x + width - left) / block)
    down = math.ceil((y + height - top) / block)
    strip = max(1, MAX_READ_PX // (across * block * block))
    strips = [
        _averaged(read(left, top + row * block, (across * block, min(strip, down - row) * block)), block)
        for row in range(0, down, strip)
    ]
    inner = ((x - left) / block, (y - top) / block, (x - left + width) / block, (y - top + height) / block)
    whole = Image.fromarray(np.concatenate(strips))
    return np.asarray(whole.resize(size_px, Image.Resampling.LANCZOS, box=inner))


def reduce_whole(read: Read, level_size: tuple[float, float], size_px: tuple[int, int]) -> np.ndarray:
    """A whole level at `size_px` (width, height), each pixel the mean of those it covers.

    Read in blocks that end at pixels of the output: the mean looks at nothing outside its pixel, so that
    blocks meet without a seam and memory does not grow with the slide.
    """
    zoom = level_size[0] / size_px[0], level_size[1] / size_px[1]
    whole, alive = np.empty((size_px[1], size_px[0], 3), np.uint8), life_sign()
    for cols, rows in _blocks(size_px, zoom):
        alive()  # a level of 100,000 px takes minutes
        box = (cols.start * zoom[0], rows.start * zoom[1], cols.stop * zoom[0], rows.stop * zoom[1])
        left, top = math.floor(box[0]), math.floor(box[1])
        size = math.ceil(box[2]) - left, math.ceil(box[3]) - top
        inner = (box[0] - left, box[1] - top, min(box[2] - left, size[0]), min(box[3] - top, size[1]))
        piece = Image.fromarray(read(left, top, size))
        out = cols.stop - cols.start, rows.stop - rows.start
        whole[rows, cols] = np.asarray(piece.resize(out, Image.Resampling.BOX, box=inner))
    return whole


def read_around(read: Read, fault: type[Exception], left_white: Callable[[Any, int], None]) -> Read:
    """The same reader, but what raises `fault` is read in halves, and halves of these, down to a part of PART_PX.

    A part that still raises comes white; `left_white` is told of it with its pixels, and may raise instead.
    """

    def halves(left: int, top: int, size_px: tuple[int, int]) -> np.ndarray:
        try:
            return read(left, top, size_px)
        except fault as error:
            width, height = size_px
            if max(size_px) <= PART_PX:
                left_white(error, width * height)
                return np.full((height, width, 3), WHITE, np.uint8)
        if width >= height:
            half = _half(left, width)
            parts = halves(left, top, (half, height)), halves(left + half, top, (width - half, height))
            return np.concatenate(parts, axis=1)
        half = _half(top, height)
        return np.concatenate([halves(left, top, (width, half)), halves(left, top + half, (width, height - half))])

    return halves


def _half(start: int, length: int) -> int:
    """About half of `length`, up to a multiple of PART_PX if there is one: many slides have their tiles there."""
    half = round((start + length / 2) / PART_PX) * PART_PX - start
    return half if 0 < half < length else length // 2


def _blocks(size_px: tuple[int, int], zoom: tuple[float, float]) -> Iterator[tuple[slice, slice]]:
    """Columns and rows of the output, whose source is at most MAX_READ_PX pixels each."""
    cols = min(size_px[0], max(1, int(MAX_READ_PX / math.ceil(zoom[1]) / zoom[0])))
    rows = min(size_px[1], max(1, int(MAX_READ_PX / (cols * zoom[0]) / zoom[1])))
    for top in range(0, size_px[1], rows):
        for left in range(0, size_px[0], cols):
            yield slice(left, min(left + cols, size_px[0])), slice(top, min(top + rows, size_px[1]))


def _averaged(pixels: np.ndarray, block: int) -> np.ndarray:
    return pixels if block == 1 else np.asarray(Image.fromarray(pixels).reduce(block))
