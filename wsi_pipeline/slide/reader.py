"""A slide file -> what it is (Slide) and its pixels (SlideReader), white wherever nothing was scanned.

The only file that imports openslide. What OpenSlide refuses and tifffile can read goes through the
same interface, see tiff.py. Label and macro images are never read, and of the properties only those
that hold no identity: vendor, scale, objective, level geometry, bounds, quickhash.
"""

import os
import threading
from collections import OrderedDict
from collections.abc import Mapping
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import openslide
from PIL import Image, ImageCms

from wsi_pipeline.errors import ScaleError, SlideError
from wsi_pipeline.slide.describe import SAME_SCALE, Facts, describe
from wsi_pipeline.slide.describe import Slide as Slide  # at home here for all who read slides
from wsi_pipeline.slide.describe import working_mpp as working_mpp
from wsi_pipeline.slide.files import check_file, is_tiff, real_target, reason, shown
from wsi_pipeline.slide.pieces import over_white
from wsi_pipeline.slide.reduce import coarsest_below, reduce_box, reduce_whole
from wsi_pipeline.slide.tiff import TiffPixels, TiffTags, facts_of_tiff, tiff_tags

Pair = tuple[float, float]

_GENERIC = "generic-tiff"  # what OpenSlide calls a tiled TIFF of no known vendor
_IN_FOLDERS = (".mrxs", ".vms", ".vmu")
_OPEN_HANDLES = 4  # a thread
_FAILED = (openslide.OpenSlideError, OSError)


def open_slide(
    path: str | Path,
    *,
    slide_id: str | None = None,
    mpp: Pair | None = None,
    mpp_default: float | None = None,
) -> Slide:
    """Open the file, see what it is, close it.

    `mpp` is the manifest's (x, y), `mpp_default` is for files that tell none. Raises SlideError where the
    file cannot be read or is no RGB brightfield slide, ScaleError where its scale is missing or implausible.
    """
    path = Path(os.path.abspath(path))
    check_file(path)
    return describe(path, _facts(path), slide_id=slide_id, mpp=mpp, mpp_default=mpp_default)


def slide_identity(path: str | Path) -> str | None:
    """The quickhash of what OpenSlide opens here, None where it opens nothing.

    The files of one DICOM slide share it.
    """
    try:
        with openslide.OpenSlide(real_target(Path(path))) as handle:
            return handle.properties.get(openslide.PROPERTY_NAME_QUICKHASH1)
    except _FAILED:
        return None


class SlideReader:
    """An open slide; for one thread at a time. Regions are (height, width, 3) uint8 RGB, white outside.

    Attributes:
        failed: a read went wrong; OpenSlide then refuses all else on this handle, so open another.
        warnings: what could not be done as asked, such as colours without a profile.
    """

    def __init__(self, slide: Slide, *, icc: bool = False) -> None:
        self.slide = slide
        self.failed = False
        self._path = Path(slide.path)
        self._tiff = TiffPixels(slide.path) if slide.backend == "tifffile" else None
        self._openslide = None if self._tiff else _open(self._path)
        self._to_srgb: Any = None
        self.warnings: tuple[str, ...] = ()
        if icc:
            self._to_srgb, self.warnings = self._colours()

    def __enter__(self) -> "SlideReader":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file; the reader cannot be used after it."""
        if self._tiff:
            self._tiff.close()
        if self._openslide:
            self._openslide.close()

    def read(self, x_l0: int, y_l0: int, level: int, size_px: tuple[int, int]) -> np.ndarray:
        """`size_px` (width, height) pixels of a level from level-0 (x_l0, y_l0) on.

        Raises SlideError where they cannot be decoded.
        """
        try:
            rgb = self._pixels(x_l0, y_l0, level, size_px)
        except (SlideError, *_FAILED) as error:
            self.failed = True
            if isinstance(error, SlideError):
                raise
            raise SlideError(
                f"{shown(self._path)}: level {level} at ({x_l0}, {y_l0}) cannot be read "
                f"({reason(error, self._path)}); get a fresh copy"
            ) from error
        if self._to_srgb is None:
            return rgb
        return np.asarray(ImageCms.applyTransform(Image.fromarray(rgb), self._to_srgb))

    def read_box(self, box_l0: tuple[float, float, float, float], size_px: tuple[int, int]) -> np.ndarray:
        """A level-0 box (x, y, width, height), over the edges or not, at `size_px` (width, height) pixels.

        Read from the nearest finer level. Within 2 % of that level's scale its pixels come as they are, else
        they are reduced without aliasing. Raises ScaleError where they would have to be enlarged.
        """
        x, y, width, height = box_l0
        zoom = width / size_px[0], height / size_px[1]
        level = self._level_for(min(zoom))
        by = self.slide.level_downsamples[level]
        if all(abs(ratio / by - 1) <= SAME_SCALE for ratio in zoom):
            return self._read_level(level, round(x / by), round(y / by), size_px)
        box = (x / by, y / by, width / by, height / by)
        return reduce_box(partial(self._read_level, level), box, size_px)

    def read_thumbnail(self, size_px: tuple[int, int]) -> np.ndarray:
        """The whole slide at `size_px` (width, height), each pixel the mean of what it covers.

        Memory is bounded whatever the slide's size. Raises ScaleError where it would have to be enlarged.
        """
        width, height = self.slide.size_l0
        level = self._level_for(min(width / size_px[0], height / size_px[1]))
        by = self.slide.level_downsamples[level]
        return reduce_whole(partial(self._read_level, level), (width / by, height / by), size_px)

    def _level_for(self, zoom: float) -> int:
        level = coarsest_below(self.slide.level_downsamples, zoom * (1 + SAME_SCALE))
        if level is None:
            raise ScaleError(
                f"{shown(self._path)}: would have to be enlarged by {1 / zoom:.3g}; "
                f"ask for {self.slide.mpp_l0.mean:.4g} um/px or coarser"
            )
        return level

    def _read_level(self, level: int, left: int, top: int, size_px: tuple[int, int]) -> np.ndarray:
        """A region from (left, top) of the level's own pixels on."""
        by = self.slide.level_downsamples[level]
        return self.read(round(left * by), round(top * by), level, size_px)

    def _pixels(self, x_l0: int, y_l0: int, level: int, size_px: tuple[int, int]) -> np.ndarray:
        if self._tiff:
            by = self.slide.level_downsamples[level]
            return self._tiff.read(round(x_l0 / by), round(y_l0 / by), level, size_px)
        assert self._openslide is not None
        return over_white(np.asarray(self._openslide.read_region((x_l0, y_l0), level, size_px)))

    def _colours(self) -> tuple[Any, tuple[str, ...]]:
        """The transform of the slide's ICC profile to sRGB, or none and why."""
        try:
            profile = self._tiff.icc_profile if self._tiff else _profile(self._openslide)
            if profile is None:
                return None, ("no colour profile in the file: its colours are taken as they are",)
            source, target = ImageCms.ImageCmsProfile(BytesIO(profile)), ImageCms.createProfile("sRGB")
            return ImageCms.buildTransform(source, target, "RGB", "RGB"), ()
        except (ImageCms.PyCMSError, *_FAILED):
            return None, ("its colour profile cannot be used: its colours are taken as they are",)


class _Handles(threading.local):
    """The open readers of one thread, least recently used first."""

    def __init__(self) -> None:
        self.readers: OrderedDict[tuple[str, str, bool], SlideReader] = OrderedDict()


_handles = _Handles()


def reader_for(slide: Slide, *, icc: bool = False) -> SlideReader:
    """This thread's open reader of a slide, a fresh one after an error; a few stay open, the oldest are closed."""
    key = (slide.path, slide.fingerprint, icc)
    readers = _handles.readers
    if key in readers and readers[key].failed:
        readers.pop(key).close()
    if key not in readers:
        while len(readers) >= _OPEN_HANDLES:
            readers.popitem(last=False)[1].close()
        readers[key] = SlideReader(slide, icc=icc)
    readers.move_to_end(key)
    return readers[key]


def drop_reader(slide: Slide) -> None:
    """Close this thread's readers of a slide, if it has any."""
    for key in [key for key in _handles.readers if key[:2] == (slide.path, slide.fingerprint)]:
        _handles.readers.pop(key).close()


def _facts(path: Path) -> Facts:
    """What OpenSlide says of a file, or tifffile where OpenSlide cannot, or sees fewer levels."""
    kind = openslide.OpenSlide.detect_format(real_target(path))
    tiff = _tags(path, kind)
    if tiff is None:
        return _openslide_facts(path, None)
    if kind is None:
        return facts_of_tiff(path, tiff)
    try:
        found = _openslide_facts(path, tiff)
    except SlideError as refused:
        if kind != _GENERIC:
            raise
        try:
            return facts_of_tiff(path, tiff)  # a codec that OpenSlide has not
        except SlideError:
            raise refused from None
    fewer = kind == _GENERIC and len(found.level_sizes) < len(tiff.level_sizes)
    return facts_of_tiff(path, tiff) if fewer else found


def _tags(path: Path, kind: str | None) -> TiffTags | None:
    """What a TIFF's tags say; None where OpenSlide must do without. SlideError where it is no slide."""
    if not is_tiff(path):
        if kind is None:
            hint = "; the folder of its data must lie beside it" if path.suffix.lower() in _IN_FOLDERS else ""
            said = f"in no slide format known to OpenSlide{hint}; take it out or convert it"
            raise SlideError(f"{shown(path)}: {said}")
        return None
    try:
        tags = tiff_tags(path)
    except SlideError:
        if kind is None:
            raise
        return None  # OpenSlide reads some TIFFs that tifffile does not
    if tags.not_rgb or (kind in (None, _GENERIC) and tags.not_whole):
        raise SlideError(f"{shown(path)}: {tags.not_whole or tags.not_rgb}")
    return tags


def _openslide_facts(path: Path, tiff: TiffTags | None) -> Facts:
    with _open(path) as handle:
        properties = handle.properties
        vendor = properties.get(openslide.PROPERTY_NAME_VENDOR, "?")
        both = _numbers(properties, openslide.PROPERTY_NAME_MPP_X, openslide.PROPERTY_NAME_MPP_Y)
        stated = (both[0], both[1]) if both else None
        power = _numbers(properties, openslide.PROPERTY_NAME_OBJECTIVE_POWER)
        bounds = _numbers(properties, *(f"openslide.bounds-{part}" for part in ("x", "y", "width", "height")))
        resolution = tiff.resolution_mpp if tiff else None
        if vendor == _GENERIC:  # OpenSlide takes this one from the resolution tags
            stated, resolution = (tiff.stated_mpp, resolution) if tiff else (None, stated)
        return Facts(
            vendor=vendor,
            backend="openslide",
            codec=tiff.codec if tiff else "?",
            level_sizes=tuple(handle.level_dimensions),
            level_downsamples=tuple(handle.level_downsamples),
            stated_mpp=stated,
            resolution_mpp=resolution,
            objective_power=power[0] if power else None,
            bounds_l0=(int(bounds[0]), int(bounds[1]), int(bounds[2]), int(bounds[3])) if bounds else None,
            quickhash=properties.get(openslide.PROPERTY_NAME_QUICKHASH1),
        )


def _open(path: Path) -> openslide.OpenSlide:
    try:
        return openslide.OpenSlide(real_target(path))
    except _FAILED as error:
        said = f"OpenSlide cannot open it ({reason(error, path)}); get a fresh copy"
        raise SlideError(f"{shown(path)}: {said}") from error


def _profile(handle: openslide.OpenSlide | None) -> bytes | None:
    profile = handle.color_profile if handle else None
    return profile.tobytes() if profile else None


def _numbers(properties: Mapping[str, str], *names: str) -> tuple[float, ...] | None:
    """The properties as numbers, or None where one is missing or no number."""
    try:
        return tuple(float(properties[name]) for name in names)
    except (KeyError, ValueError):
        return None
