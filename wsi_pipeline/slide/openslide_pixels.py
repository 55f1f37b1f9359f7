"""What OpenSlide makes of a file: its facts, its identity, and its pixels, white wherever nothing was scanned.

The only file that imports openslide. Of the properties only those are read that hold no identity: vendor,
scale, objective, level geometry, bounds, quickhash.
"""

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import openslide

from wsi_pipeline.errors import SlideError
from wsi_pipeline.slide.describe import Facts
from wsi_pipeline.slide.files import check_file, real_target, reason, shown
from wsi_pipeline.slide.pieces import over_white
from wsi_pipeline.slide.tiff import fits
from wsi_pipeline.slide.tiff_tags import TiffTags

GENERIC = "generic-tiff"  # what OpenSlide calls a tiled TIFF of no known vendor
_MAY_BE_PADDED = (GENERIC, "dicom")  # slides of Philips come as these, with pages larger than their levels

_FAILED = (openslide.OpenSlideError, OSError)


def format_of(path: Path) -> str | None:
    """The vendor that OpenSlide sees in a file, None where it sees none."""
    kind: str | None = openslide.OpenSlide.detect_format(real_target(path))
    return kind


def slide_identity(path: str | Path) -> str | None:
    """The quickhash of what OpenSlide opens here, None where it opens nothing.

    The files of one DICOM slide share it.
    """
    try:
        with openslide.OpenSlide(real_target(Path(path))) as handle:
            return handle.properties.get(openslide.PROPERTY_NAME_QUICKHASH1)
    except _FAILED:
        return None


def facts_of_openslide(path: Path, tiff: TiffTags | None) -> Facts:
    """What OpenSlide and, of a TIFF, its tags say of a file. Raises SlideError where it cannot be opened."""
    with _open(path) as handle:
        properties = handle.properties
        vendor = properties.get(openslide.PROPERTY_NAME_VENDOR, "?")
        both = _numbers(properties, openslide.PROPERTY_NAME_MPP_X, openslide.PROPERTY_NAME_MPP_Y)
        stated = (both[0], both[1]) if both else None
        power = _numbers(properties, openslide.PROPERTY_NAME_OBJECTIVE_POWER)
        bounds = _numbers(properties, *(f"openslide.bounds-{part}" for part in ("x", "y", "width", "height")))
        resolution = tiff.resolution_mpp if tiff else None
        if vendor == GENERIC:  # OpenSlide takes this one from the resolution tags
            stated, resolution = (tiff.stated_mpp, resolution) if tiff else (None, stated)
        sizes = tuple(handle.level_dimensions)
        used = _fitting(sizes) if vendor in _MAY_BE_PADDED else len(sizes)
        return Facts(
            vendor=vendor,
            backend="openslide",
            codec=tiff.codec if tiff else "?",
            level_sizes=sizes[:used],
            level_downsamples=tuple(handle.level_downsamples)[:used],
            stated_mpp=stated,
            resolution_mpp=resolution,
            objective_power=power[0] if power else None,
            bounds_l0=(int(bounds[0]), int(bounds[1]), int(bounds[2]), int(bounds[3])) if bounds else None,
            quickhash=properties.get(openslide.PROPERTY_NAME_QUICKHASH1),
            warnings=_left_out(len(sizes) - used),
        )


class OpenSlidePixels:
    """A slide that OpenSlide has open; after one error it refuses all else, so `reopen` it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._handle = _open(path)

    def read(self, x_l0: int, y_l0: int, level: int, size_px: tuple[int, int]) -> np.ndarray:
        """Region from level-0 (x_l0, y_l0) on -> (height, width, 3) uint8 RGB, white outside.

        Where a level's downsample is no whole number, OpenSlide interpolates between the level's pixels.
        Raises SlideError where it cannot be decoded.
        """
        try:
            return over_white(np.asarray(self._handle.read_region((x_l0, y_l0), level, size_px)))
        except _FAILED as error:
            raise SlideError(
                f"{shown(self._path)}: level {level} at ({x_l0}, {y_l0}) cannot be read "
                f"({reason(error, self._path)}); get a fresh copy"
            ) from error

    def reopen(self) -> None:
        """A fresh handle, which knows of no error. Raises SlideError where the file cannot be opened again."""
        self._handle.close()
        self._handle = _open(self._path)

    @property
    def icc_profile(self) -> bytes | None:
        """The colour profile of its pixels; SlideError where that cannot be read."""
        try:
            profile = self._handle.color_profile
            return profile.tobytes() if profile else None
        except _FAILED as error:
            raise SlideError(f"{shown(self._path)}: its colour profile cannot be read") from error

    def close(self) -> None:
        """Close the file."""
        self._handle.close()


def _open(path: Path) -> openslide.OpenSlide:
    try:
        return openslide.OpenSlide(real_target(path))
    except _FAILED as error:
        check_file(path)  # it may be gone by now, and OpenSlide does not tell
        said = f"OpenSlide cannot open it ({reason(error, path)}); get a fresh copy"
        raise SlideError(f"{shown(path)}: {said}") from error


def _fitting(sizes: Sequence[tuple[int, int]]) -> int:
    """How many levels, from the finest on, are the finest one reduced.

    OpenSlide tells the scale of a level by its size, and a page padded to whole tiles is larger than its level: what is
    in it would seem to lie elsewhere. Both sides of a square are padded alike, so its levels must be halves of halves.
    """
    finest = sizes[0]
    square = finest[0] == finest[1]
    for number, (before, size) in enumerate(pairwise(sizes), start=1):
        if size[0] >= before[0] or not fits(size, finest) or (square and not _is_halved(size[0], finest[0])):
            return number
    return len(sizes)


def _is_halved(side: int, finest: int) -> bool:
    """Whether a side is the finest one's, divided by a power of two and rounded."""
    halvings = math.log2(finest / max(side, 1))
    return abs(halvings - round(halvings)) < 2 / max(side, 1)


def _left_out(levels: int) -> tuple[str, ...]:
    """A warning where levels cannot be used."""
    if not levels:
        return ()
    which = "1 coarser level does not fit the finest and is"
    if levels > 1:
        which = f"{levels} coarser levels do not fit the finest and are"
    return (f"{which} not used",)


def _numbers(properties: Mapping[str, str], *names: str) -> tuple[float, ...] | None:
    """The properties as numbers, or None where one is missing or no number."""
    try:
        return tuple(float(properties[name]) for name in names)
    except (KeyError, ValueError):
        return None
