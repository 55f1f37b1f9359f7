"""A TIFF -> where the JPEG tiles of its levels lie, of those levels that can be read directly (direct.py)."""

import operator
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import tifffile

from wsi_pipeline.errors import SlideError
from wsi_pipeline.slide.describe import Slide
from wsi_pipeline.slide.jpeg import REDUCTIONS
from wsi_pipeline.slide.tiff import told_as_slide_error

_VENDORS = ("aperio", "generic-tiff", "philips")  # whose tiles OpenSlide lays edge to edge, with nothing in between
_PADDED = ("philips",)  # whose pages are larger than the levels, to whole tiles: they go by their order
_FILLED_IN = ("aperio",)  # where OpenSlide draws a missing tile, and those over it, from the next finer level
_JPEG, _RGB, _YCBCR = 7, 2, 6


@dataclass(frozen=True, eq=False)
class JpegLevel:
    """Where the tiles of one level lie in the file.

    Attributes:
        size, tile: (width, height) of the level, and of each of its tiles, in its own pixels.
        across: tiles in a row; of a padded page some may lie beyond the level.
        offsets, counts: (tiles,) int64, first byte and length of each, row by row; length 0 is no tile.
        tables: the JPEG tables that its tiles share, if they share any.
        ycbcr: whether the tiles are YCbCr, else RGB.
    """

    size: tuple[int, int]
    tile: tuple[int, int]
    across: int
    offsets: np.ndarray
    counts: np.ndarray
    tables: bytes | None
    ycbcr: bool

    @cached_property
    def gaps(self) -> bool:
        """Whether tiles are missing."""
        return not self.counts.all()


def jpeg_levels(slide: Slide) -> tuple[JpegLevel | None, ...]:
    """Each level of a slide as tiles to be read directly, None where OpenSlide must read it."""
    none: tuple[JpegLevel | None, ...] = (None,) * len(slide.level_sizes)
    if slide.backend != "openslide" or slide.vendor not in _VENDORS or slide.codec != "JPEG":
        return none
    try:
        with told_as_slide_error(Path(slide.path)), tifffile.TiffFile(slide.path) as tiff:
            pages = [page for page in tiff.pages if isinstance(page, tifffile.TiffPage) and page.is_tiled]
            found = _padded(slide, pages) if slide.vendor in _PADDED else _exact(slide, pages)
    except SlideError:
        return none
    return _before_gaps(found) if slide.vendor in _FILLED_IN else tuple(found)


def _exact(slide: Slide, pages: list[Any]) -> list[JpegLevel | None]:
    """Of each level the one page of its size."""
    same = [[page for page in pages if (page.imagewidth, page.imagelength) == size] for size in slide.level_sizes]
    return [
        _level(size, *found) if len(found) == 1 else None for size, found in zip(slide.level_sizes, same, strict=True)
    ]


def _padded(slide: Slide, pages: list[Any]) -> list[JpegLevel | None]:
    """Of each level the page in its place, which may be larger."""
    if len(pages) != len(slide.level_sizes):
        return [None] * len(slide.level_sizes)
    return [_level(size, page) for size, page in zip(slide.level_sizes, pages, strict=True)]


def _before_gaps(found: list[JpegLevel | None]) -> tuple[JpegLevel | None, ...]:
    """The finest level, and those up to the first with missing tiles: coarser ones may be broken over them."""
    whole = list(accumulate((level is not None and not level.gaps for level in found), operator.and_))
    return tuple(level if whole[number] or not number else None for number, level in enumerate(found))


def _level(size: tuple[int, int], page: Any) -> JpegLevel | None:
    """A page of plain JPEG tiles that covers a level of this size, else None."""
    if not _is_plain(page) or page.imagewidth < size[0] or page.imagelength < size[1]:
        return None
    across, down = -(-page.imagewidth // page.tilewidth), -(-page.imagelength // page.tilelength)
    level = JpegLevel(
        size=size,
        tile=(int(page.tilewidth), int(page.tilelength)),
        across=int(across),
        offsets=np.array(page.dataoffsets, np.int64),
        counts=np.array(page.databytecounts, np.int64),
        tables=page.jpegtables,
        ycbcr=page.photometric == _YCBCR,
    )
    return level if len(level.offsets) == len(level.counts) == across * down else None


def _is_plain(page: Any) -> bool:
    """Eight bits, three channels side by side, JPEG: what OpenSlide decodes itself and not through libtiff."""
    return bool(
        page.compression == _JPEG
        and page.photometric in (_RGB, _YCBCR)
        and (page.samplesperpixel, page.bitspersample, page.planarconfig) == (3, 8, 1)
        and page.tilewidth % max(REDUCTIONS) == page.tilelength % max(REDUCTIONS) == 0
    )
