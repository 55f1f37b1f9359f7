"""TIFFs that OpenSlide refuses and tifffile reads (OME-TIFF, strips): which image is the slide, and its pixels."""

import logging
import math
import re
import struct
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import tifffile

from wsi_pipeline.errors import SlideError
from wsi_pipeline.slide.describe import MAX_SIDE_PX
from wsi_pipeline.slide.files import reason, shown
from wsi_pipeline.slide.pieces import PiecesOfPage

BAD_FILE = (
    tifffile.TiffFileError,
    ArithmeticError,
    AttributeError,
    LookupError,
    MemoryError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
    struct.error,
)  # all that tifffile and its codecs were seen to raise on damaged files
_QUOTED = re.compile("['\"].*")  # tifffile quotes a description that it cannot parse: what patient, what day
_MAX_OME, _MAX_PLANES = 2**26, 10**6  # characters, images: far beyond any slide


class TiffPixels:
    """An open TIFF; decodes only the tiles or strips that a region touches."""

    def __init__(self, path: str | Path) -> None:
        self._path = Path(path)
        with told_as_slide_error(self._path):
            self._file = tifffile.TiffFile(self._path)
            self._close = weakref.finalize(self, self._file.close)  # also where a thread ends with it open
            try:
                _, series = main_series(self._file)
                self._levels = [PiecesOfPage(level.keyframe) for level in levels_of(series)]
                self.icc_profile: bytes | None = series.keyframe.iccprofile
            except BAD_FILE:
                self._close()
                raise

    def read(self, x: int, y: int, level: int, size_px: tuple[int, int]) -> np.ndarray:
        """Region at (x, y) of the level's own pixels -> (height, width, 3) uint8 RGB, white outside.

        Raises SlideError where a piece cannot be decoded.
        """
        with told_as_slide_error(self._path):
            return self._levels[level].read(x, y, size_px)

    def close(self) -> None:
        """Close the file and forget what was decoded."""
        self._levels = []
        self._close()


def main_series(tiff: tifffile.TiffFile) -> tuple[int, Any]:
    """The largest image of the file and its place: label and macro may come first."""
    if tiff.is_ome:
        _check_ome(tiff.ome_metadata or "")
    found = list(enumerate(tiff.series))
    index, series = max(found, key=lambda item: (math.prod(size_of(item[1])), -item[0]), default=(0, None))
    if series is None or not math.prod(size_of(series)):
        raise ValueError("no image in it")
    return index, series


def _check_ome(xml: str) -> None:
    """ValueError for an OME-XML by which a small file would take hours or all memory, before tifffile parses it."""
    if len(xml) > _MAX_OME or "<!DOCTYPE" in xml or "<!ENTITY" in xml:
        raise ValueError(f"its OME-XML has more than {_MAX_OME:,} characters, or entities")
    for pixels in re.findall(r"<(?:\w+:)?Pixels\s[^>]*>", xml):
        size = {axis: int(number) for axis, number in re.findall(r"Size([XYZCT])\s*=\s*.(\d+)", pixels)}
        planes = math.prod(size.get(axis, 1) for axis in "ZCT")
        side = max(size.get("X", 1), size.get("Y", 1))
        if side > MAX_SIDE_PX or planes > _MAX_PLANES:
            raise ValueError(f"its OME-XML tells of {side:,} px a side and {planes:,} planes")
    if any(int(number) > _MAX_PLANES for number in re.findall(r"(?:IFD|PlaneCount)\s*=\s*.(\d+)", xml)):
        raise ValueError(f"its OME-XML tells of more than {_MAX_PLANES:,} planes")


def levels_of(series: Any) -> list[Any]:
    """Its levels, finest first, without those of another kind of pixel or of another shape."""
    first, finest = series.levels[0], size_of(series.levels[0])
    kept = [first]
    for level in series.levels[1:]:
        w, h = size_of(level)
        same = level.keyframe.samplesperpixel == first.keyframe.samplesperpixel and level.dtype == first.dtype
        smaller = 0 < w < size_of(kept[-1])[0]
        if same and smaller and fits((w, h), finest):
            kept.append(level)
    return kept


def fits(size: tuple[int, int], finest: tuple[int, int]) -> bool:
    """Whether a level of this (width, height) is the finest one reduced: both sides by one factor, but for rounding."""
    w, h = max(size[0], 1), max(size[1], 1)
    across, down = finest[0] / w, finest[1] / h
    return abs(across - down) < max(2 / w, 2 / h) * across


def size_of(level: Any) -> tuple[int, int]:
    """Width and height."""
    shape = dict(zip(level.axes, level.shape, strict=True))
    return int(shape.get("X", 0)), int(shape.get("Y", 0))


@contextmanager
def told_as_slide_error(path: Path) -> Iterator[None]:
    """Turn what a bad TIFF raises into one SlideError; tifffile's own log lines stay out."""
    log = logging.getLogger("tifffile")

    def silent(_: logging.LogRecord) -> bool:  # one function a call: threads do not undo each other's
        return False

    log.addFilter(silent)
    try:
        yield
    except BAD_FILE as error:
        if isinstance(error, SlideError):
            raise
        said = _QUOTED.sub("...", reason(error, path))
        raise SlideError(f"{shown(path)}: cannot be read as TIFF ({said}); get a fresh copy") from error
    finally:
        log.removeFilter(silent)
