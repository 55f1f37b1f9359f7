"""A slide file -> what it is (Slide) and its pixels (SlideReader), white wherever nothing was scanned.

The only file that imports openslide. What OpenSlide refuses and tifffile can read goes through the
same interface, see tiff.py. Label and macro images are never read, and of the properties only those
that hold no identity: vendor, scale, objective, level geometry, bounds, quickhash.
"""

import hashlib
import math
import os
import threading
from collections import OrderedDict
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import openslide
from PIL import Image, ImageCms

from wsi_pipeline.errors import ScaleError, SlideError
from wsi_pipeline.geometry import Mpp
from wsi_pipeline.slide.scale import contradicts_objective, resolve_mpp
from wsi_pipeline.slide.tiff import TiffFacts, TiffPixels, over_white, tiff_facts

Pair = tuple[float, float]

SAME_SCALE = 0.02  # scales that differ by less are one: pixels are taken as they are, not resampled
_MAX_READ_PX = 16 * 2**20  # pixels of one read for a thumbnail: 64 MiB as RGBA
_OPEN_HANDLES = 4  # a thread


@dataclass(frozen=True)
class Slide:
    """What a slide file is, without an open handle.

    Attributes:
        size_l0: (width, height) of level 0.
        mpp_l0: um/px of level 0, x and y apart, with its source.
        level_sizes, level_downsamples: (width, height) and level-0 px per px of each level, finest first.
        bounds_l0: (x, y, width, height) of the scanned part, where the file tells it.
        fingerprint: quickhash-1 of OpenSlide, or a hash of the file's ends, with its size in bytes.
    """

    id: str
    path: str
    size_l0: tuple[int, int]
    mpp_l0: Mpp
    level_sizes: tuple[tuple[int, int], ...]
    level_downsamples: tuple[float, ...]
    bounds_l0: tuple[int, int, int, int] | None
    fingerprint: str
    vendor: str
    backend: str
    codec: str
    objective_power: float | None
    warnings: tuple[str, ...] = ()


def open_slide(
    path: str | Path, *, slide_id: str | None = None, mpp: Pair | None = None, mpp_default: float | None = None
) -> Slide:
    """Open the file, see what it is, close it. `mpp` is the manifest's (x, y), `mpp_default` for files without.

    Raises SlideError where it cannot be read or is no RGB brightfield slide, ScaleError where its scale is
    missing or implausible.
    """
    path = Path(path)
    _check_file(path)
    handle, facts = _identify(path)
    if handle is None:
        assert facts is not None
        return _from_tiff(path, facts, slide_id or path.stem, mpp, mpp_default)
    with handle:
        return _from_openslide(path, handle, facts, slide_id or path.stem, mpp, mpp_default)


def slide_identity(path: str | Path) -> str | None:
    """The quickhash of what OpenSlide opens here; files of one DICOM series share it. None where it opens nothing."""
    try:
        with openslide.OpenSlide(path) as handle:
            return handle.properties.get(openslide.PROPERTY_NAME_QUICKHASH1)
    except (openslide.OpenSlideError, OSError):
        return None


def working_mpp(slide: Slide, mpp: float, *, tolerance: float = SAME_SCALE) -> Mpp:
    """The scale that tiles are really cut at: a level's own within `tolerance` of `mpp`, else `mpp` itself.

    Raises ScaleError where the slide has nothing as fine as `mpp`: pixels are never invented.
    """
    own = [Mpp(slide.mpp_l0.x * by, slide.mpp_l0.y * by, "level") for by in slide.level_downsamples]
    near = [scale for scale in own if abs(scale.mean / mpp - 1) <= tolerance]
    if near:
        return min(near, key=lambda scale: abs(scale.mean / mpp - 1))
    if max(own[0].x, own[0].y) > mpp * (1 + tolerance):
        raise ScaleError(
            f"{Path(slide.path).name}: {mpp:g} um/px asked for, its finest is {max(own[0].x, own[0].y):.4g}; "
            f"use --set tiles.mpp={max(own[0].x, own[0].y):.4g} or coarser"
        )
    return Mpp(mpp, mpp, "resampled")


class SlideReader:
    """An open slide; for one thread at a time. Regions come as (height, width, 3) uint8 RGB, white outside."""

    def __init__(self, slide: Slide, *, icc: bool = False) -> None:
        self.slide = slide
        self._name = Path(slide.path).name
        self._tiff = TiffPixels(slide.path) if slide.backend == "tifffile" else None
        self._openslide = None if self._tiff else _open(Path(slide.path))
        self._to_srgb = _srgb_transform(self._openslide) if icc and self._openslide else None

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

        Raises SlideError where they cannot be decoded; OpenSlide then refuses all else on this handle too.
        """
        if self._tiff:
            by = self.slide.level_downsamples[level]
            return self._tiff.read(round(x_l0 / by), round(y_l0 / by), level, size_px)
        assert self._openslide is not None
        try:
            rgba = self._openslide.read_region((x_l0, y_l0), level, size_px)
        except (openslide.OpenSlideError, OSError) as error:
            where = f"level {level} at ({x_l0}, {y_l0})"
            raise SlideError(f"{self._name}: {where} cannot be read ({error}); get a fresh copy") from error
        rgb = over_white(np.asarray(rgba))
        return np.asarray(ImageCms.applyTransform(Image.fromarray(rgb), self._to_srgb)) if self._to_srgb else rgb

    def read_box(self, box_l0: tuple[float, float, float, float], size_px: tuple[int, int]) -> np.ndarray:
        """A level-0 box (x, y, width, height), over the edges or not, at `size_px` (width, height) pixels.

        Read from the nearest finer level. Within 2 % of a level's scale its pixels are given as they are;
        else they are reduced by Lanczos windowed to the output's pixel, which keeps sub-pixel place and
        does not alias. Raises ScaleError where it would have to enlarge.
        """
        x, y, width, height = box_l0
        zoom = width / size_px[0], height / size_px[1]
        level = self._level_for(min(zoom))
        by = self.slide.level_downsamples[level]
        if all(abs(ratio / by - 1) < SAME_SCALE for ratio in zoom):
            return self.read(round(round(x / by) * by), round(round(y / by) * by), level, size_px)
        return self._reduce((x / by, y / by, width / by, height / by), level, size_px, Image.Resampling.LANCZOS)

    def read_thumbnail(self, size_px: tuple[int, int]) -> np.ndarray:
        """The whole slide at `size_px` (width, height), each pixel the mean of what it covers.

        Read in strips, so that memory stays bounded for a single-level giant. Never enlarges: a size above
        level 0 is a ScaleError.
        """
        width, height = self.slide.size_l0
        level = self._level_for(min(width / size_px[0], height / size_px[1]))
        by = self.slide.level_downsamples[level]
        zoom = width / by / size_px[0], height / by / size_px[1]
        rows = max(1, int(_MAX_READ_PX / (width / by) / zoom[1]))
        strips = [
            self._reduce(
                (0.0, top * zoom[1], width / by, (min(top + rows, size_px[1]) - top) * zoom[1]),
                level,
                (size_px[0], min(top + rows, size_px[1]) - top),
                Image.Resampling.BOX,
            )
            for top in range(0, size_px[1], rows)
        ]
        return np.concatenate(strips)

    def _level_for(self, zoom: float) -> int:
        """The coarsest level that is no coarser than `zoom` level-0 px a pixel."""
        finer = [k for k, by in enumerate(self.slide.level_downsamples) if by <= zoom * (1 + SAME_SCALE)]
        if not finer:
            raise ScaleError(
                f"{self._name}: would have to be enlarged by {1 / zoom:.3g}; ask for "
                f"{self.slide.mpp_l0.mean:.4g} um/px or coarser"
            )
        return max(finer, key=lambda k: self.slide.level_downsamples[k])

    def _reduce(
        self, box: tuple[float, float, float, float], level: int, size_px: tuple[int, int], how: Image.Resampling
    ) -> np.ndarray:
        """A box in the level's own pixels, reduced to `size_px`."""
        x, y, width, height = box
        left, top = math.floor(x), math.floor(y)
        right, bottom = math.ceil(x + width), math.ceil(y + height)
        by = self.slide.level_downsamples[level]
        region = self.read(round(left * by), round(top * by), level, (right - left, bottom - top))
        inner = (x - left, y - top, x - left + width, y - top + height)
        return np.asarray(Image.fromarray(region).resize(size_px, how, box=inner))


class _Handles(threading.local):
    """The open readers of one thread, least recently used first."""

    def __init__(self) -> None:
        self.readers: OrderedDict[tuple[str, str, bool], SlideReader] = OrderedDict()


_handles = _Handles()


def reader_for(slide: Slide, *, icc: bool = False) -> SlideReader:
    """This thread's open reader of a slide; a few stay open, the oldest are closed."""
    key = (slide.path, slide.fingerprint, icc)
    readers = _handles.readers
    if key not in readers:
        while len(readers) >= _OPEN_HANDLES:
            readers.popitem(last=False)[1].close()
        readers[key] = SlideReader(slide, icc=icc)
    readers.move_to_end(key)
    return readers[key]


def drop_reader(slide: Slide) -> None:
    """Close this thread's readers of a slide: after an error OpenSlide refuses everything on a handle."""
    for key in [key for key in _handles.readers if key[:2] == (slide.path, slide.fingerprint)]:
        _handles.readers.pop(key).close()


def _check_file(path: Path) -> None:
    name = path.name
    if path.is_symlink() and not path.exists():
        raise SlideError(f"{name}: a broken link; mend or remove it")
    if not path.exists():
        raise SlideError(f"{name}: no such file; check the path")
    if path.is_dir():
        raise SlideError(f"{name}: a folder, not a slide file; rename it or take it out of the cohort")
    if not path.is_file():
        raise SlideError(f"{name}: no regular file; take it out of the cohort")
    if not os.access(path, os.R_OK):
        raise SlideError(f"{name}: no permission to read it; change its mode or owner")
    if path.stat().st_size == 0:
        raise SlideError(f"{name}: empty file (0 bytes); get a fresh copy")


def _open(path: Path) -> openslide.OpenSlide:
    try:
        return openslide.OpenSlide(path)
    except (openslide.OpenSlideError, OSError) as error:
        raise SlideError(f"{path.name}: OpenSlide cannot open it ({error}); get a fresh copy") from error


def _identify(path: Path) -> tuple[openslide.OpenSlide | None, TiffFacts | None]:
    """An OpenSlide handle, if it can be had, and the TIFF's facts, if it is one; SlideError if neither."""
    with path.open("rb") as file:
        is_tiff = file.read(4) in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
    refused = "" if is_tiff else "in no slide format known to OpenSlide"
    handle = None
    if openslide.OpenSlide.detect_format(path) is not None:
        try:
            handle = _open(path)
        except SlideError as error:
            if not is_tiff:
                raise
            refused = str(error)
    if not is_tiff:
        if handle is None:
            raise SlideError(f"{path.name}: {refused}; convert it, or take it out of the cohort")
        return handle, None
    try:
        facts = tiff_facts(path)
    except SlideError as error:
        if handle is None:
            raise SlideError(refused or str(error)) from error
        return handle, None  # OpenSlide reads what tifffile does not
    if facts.refusal:
        if handle is not None:
            handle.close()
        raise SlideError(f"{path.name}: {facts.refusal}")
    if handle is None:
        _check_decodes(path, refused)
    return handle, facts


def _check_decodes(path: Path, refused: str) -> None:
    """Decode one pixel, so that an unknown codec is told now and not at every tile."""
    try:
        pixels = TiffPixels(path)
        pixels.read(0, 0, 0, (1, 1))
        pixels.close()
    except SlideError as error:
        raise SlideError(refused or str(error)) from error


def _from_openslide(
    path: Path,
    handle: openslide.OpenSlide,
    facts: TiffFacts | None,
    slide_id: str,
    manifest: Pair | None,
    default: float | None,
) -> Slide:
    properties = handle.properties
    vendor = properties.get(openslide.PROPERTY_NAME_VENDOR, "?")
    stated = _numbers(properties, openslide.PROPERTY_NAME_MPP_X, openslide.PROPERTY_NAME_MPP_Y)
    power = _numbers(properties, openslide.PROPERTY_NAME_OBJECTIVE_POWER)
    generic = vendor == "generic-tiff"  # OpenSlide computes its mpp from the resolution tags
    mpp = resolve_mpp(
        manifest=manifest,
        vendor=None if generic or not stated else (stated[0], stated[1]),
        tiff=(stated[0], stated[1]) if generic and stated else facts.mpp if facts else None,
        default=default,
        objective_power=power[0] if power else None,
        name=path.name,
    )
    bounds = _numbers(properties, *(f"openslide.bounds-{part}" for part in ("x", "y", "width", "height")))
    quickhash = properties.get(openslide.PROPERTY_NAME_QUICKHASH1)
    return Slide(
        id=slide_id,
        path=str(path),
        size_l0=handle.dimensions,
        mpp_l0=mpp,
        level_sizes=tuple(handle.level_dimensions),
        level_downsamples=tuple(handle.level_downsamples),
        bounds_l0=(int(bounds[0]), int(bounds[1]), int(bounds[2]), int(bounds[3])) if bounds else None,
        fingerprint=f"{quickhash or _hash_ends(path)}-{path.stat().st_size}",
        vendor=vendor,
        backend="openslide",
        codec=facts.codec if facts else "?",
        objective_power=power[0] if power else None,
        warnings=_warnings(mpp, power[0] if power else None, handle.level_dimensions),
    )


def _from_tiff(path: Path, facts: TiffFacts, slide_id: str, manifest: Pair | None, default: float | None) -> Slide:
    mpp = resolve_mpp(
        manifest=manifest, vendor=None, tiff=facts.mpp, default=default, objective_power=None, name=path.name
    )
    width, height = facts.level_sizes[0]
    return Slide(
        id=slide_id,
        path=str(path),
        size_l0=(width, height),
        mpp_l0=mpp,
        level_sizes=facts.level_sizes,
        level_downsamples=tuple((width / w + height / h) / 2 for w, h in facts.level_sizes),
        bounds_l0=None,
        fingerprint=f"{_hash_ends(path)}-{path.stat().st_size}",
        vendor="tiff",
        backend="tifffile",
        codec=facts.codec,
        objective_power=None,
        warnings=(*facts.warnings, *_warnings(mpp, None, facts.level_sizes)),
    )


def _warnings(mpp: Mpp, power: float | None, levels: Any) -> tuple[str, ...]:
    found = []
    if mpp.source == "manifest" and contradicts_objective(mpp, power):
        found.append(f"mpp {mpp.mean:.4g} of the manifest does not fit the objective of {power:g}x")
    if mpp.source == "default":
        found.append(f"no mpp in the file: the default of {mpp.x:g} um/px was taken")
    if len(levels) == 1 and levels[0][0] * levels[0][1] > 10**8:
        found.append("a single level: overviews are slow to read")
    return tuple(found)


def _numbers(properties: Any, *names: str) -> tuple[float, ...] | None:
    """The properties as numbers, or None where one is missing or no number."""
    try:
        return tuple(float(properties[name]) for name in names)
    except (KeyError, ValueError):
        return None


def _hash_ends(path: Path) -> str:
    """sha256 over the first and last MiB: enough to tell slides apart, quick on a network disk."""
    found, end = hashlib.sha256(), 1 << 20
    with path.open("rb") as file:
        found.update(file.read(end))
        file.seek(max(0, path.stat().st_size - end))
        found.update(file.read(end))
    return found.hexdigest()


def _srgb_transform(handle: openslide.OpenSlide) -> Any:
    """The colour transform of the slide's ICC profile to sRGB; None where it has no profile."""
    profile = handle.color_profile
    if profile is None:
        return None
    source = ImageCms.ImageCmsProfile(BytesIO(profile.tobytes()))
    return ImageCms.buildTransform(source, ImageCms.createProfile("sRGB"), "RGB", "RGB")
