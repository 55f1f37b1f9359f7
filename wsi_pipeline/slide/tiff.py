"""TIFFs that OpenSlide refuses and tifffile reads (OME-TIFF, untiled pages): their levels, scale and pixels."""

import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
import zarr

from wsi_pipeline.errors import SlideError
from wsi_pipeline.slide.scale import tiff_resolution_mpp

_BAD_FILE = (tifffile.TiffFileError, ValueError, KeyError, IndexError, TypeError, OSError, RuntimeError)
_UM = {"µm": 1.0, "μm": 1.0, "um": 1.0, "mm": 1e3, "nm": 1e-3, "cm": 1e4, "m": 1e6}
_CODECS = {1: "none", 5: "LZW", 6: "JPEG", 7: "JPEG", 8: "deflate", 32946: "deflate", 50000: "zstd"}
_JPEG_2000 = (33003, 33004, 33005, 34712)


@dataclass(frozen=True)
class TiffFacts:
    """What a TIFF says of itself: level sizes (width, height), um/px, codec, and whether it is RGB of 8 bit."""

    level_sizes: tuple[tuple[int, int], ...]
    mpp: tuple[float, float] | None
    codec: str
    refusal: str
    warnings: tuple[str, ...] = ()


def tiff_facts(path: str | Path) -> TiffFacts:
    """Read the tags of a TIFF, no pixels. Raises SlideError where it is none."""
    with _quiet(Path(path).name), tifffile.TiffFile(path) as tiff:
        series = tiff.series[0]
        page: Any = series.keyframe
        sizes = tuple(_size(level) for level in series.levels)
        single = len(page.dataoffsets) == 1 and page.compression != 1 and sizes[0][0] * sizes[0][1] > 2**24
        return TiffFacts(
            level_sizes=sizes,
            mpp=_ome_mpp(tiff.ome_metadata) if tiff.is_ome else _resolution(page),
            codec=codec_name(page.compression),
            refusal=_refusal(series, page),
            warnings=("one compressed piece: decoded whole, once, for each reader",) if single else (),
        )


def codec_name(compression: int) -> str:
    """The name of a TIFF compression."""
    return "JPEG 2000" if compression in _JPEG_2000 else _CODECS.get(int(compression), f"TIFF {int(compression)}")


class TiffPixels:
    """An open TIFF; decodes only the tiles or strips that a region touches."""

    def __init__(self, path: str | Path) -> None:
        self._name = Path(path).name
        with _quiet(self._name):
            self._file = tifffile.TiffFile(path)
            self._levels = [_open_level(self._file, index) for index in range(len(self._file.series[0].levels))]

    def read(self, x: int, y: int, level: int, size_px: tuple[int, int]) -> np.ndarray:
        """Region at (x, y) of the level's own pixels -> (height, width, 3) uint8, white outside."""
        array, axes = self._levels[level]
        rows, cols = (array.shape[axes.index(axis)] for axis in "YX")
        x0, y0 = max(x, 0), max(y, 0)
        x1, y1 = min(x + size_px[0], cols), min(y + size_px[1], rows)
        region = np.full((size_px[1], size_px[0], 3), 255, np.uint8)
        if x1 > x0 and y1 > y0:
            with _quiet(self._name):
                region[y0 - y : y1 - y, x0 - x : x1 - x] = _rgb(array, axes, slice(y0, y1), slice(x0, x1))
        return region

    def close(self) -> None:
        self._file.close()


def _open_level(file: tifffile.TiffFile, index: int) -> tuple[Any, str]:
    level = file.series[0].levels[index]
    page: Any = level.keyframe
    if len(page.dataoffsets) == 1:  # no pieces to choose from: map the file, or decode into a scratch file
        return level.asarray(out="memmap"), level.axes
    return zarr.open_array(level.aszarr(), mode="r"), level.axes


def _rgb(array: Any, axes: str, rows: slice, cols: slice) -> np.ndarray:
    parts = {"Y": rows, "X": cols}
    found = np.asarray(array[tuple(parts.get(axis, slice(None)) for axis in axes)])
    found = np.moveaxis(found, axes.index("S"), -1)
    return over_white(found) if found.shape[-1] == 4 else found[..., :3]


def over_white(rgba: np.ndarray) -> np.ndarray:
    """(..., 4) uint8 with straight alpha -> (..., 3) on white; glass that was not scanned is white."""
    alpha = rgba[..., 3:]
    if alpha.min(initial=255) == 255:
        return np.ascontiguousarray(rgba[..., :3])
    share = alpha.astype(np.float32) / 255
    return np.rint(rgba[..., :3] * share + 255 * (1 - share)).astype(np.uint8)


def _refusal(series: Any, page: Any) -> str:
    """Why this is no RGB brightfield image, or nothing."""
    if page.dtype is None or page.dtype != np.uint8:
        return f"pixels are {page.dtype}, not 8-bit RGB; fluorescence and raw data are not tiled"
    if page.photometric not in (2, 6) or page.samplesperpixel not in (3, 4):
        return f"{page.samplesperpixel} channel(s), not RGB; only brightfield slides are tiled"
    if sorted(series.axes) != ["S", "X", "Y"]:
        return f"an image of axes {series.axes} {series.shape}, not one RGB plane; stacks are not tiled"
    return ""


def _size(level: Any) -> tuple[int, int]:
    shape = dict(zip(level.axes, level.shape, strict=True))
    return int(shape.get("X", 0)), int(shape.get("Y", 0))


def _resolution(page: Any) -> tuple[float, float] | None:
    def ratio(name: str) -> float | None:
        tag = page.tags.get(name)
        return tag.value[0] / tag.value[1] if tag is not None and tag.value[1] else None

    unit = page.tags.get("ResolutionUnit")
    return tiff_resolution_mpp(ratio("XResolution"), ratio("YResolution"), unit and int(unit.value))


def _ome_mpp(xml: str | None) -> tuple[float, float] | None:
    """um/px of the first image; two attributes are looked up, so the foreign XML is not parsed."""

    def side(axis: str) -> float | None:
        size = re.search(rf'PhysicalSize{axis}="([0-9.eE+-]+)"', xml or "")
        unit = re.search(rf'PhysicalSize{axis}Unit="([^"]*)"', xml or "")
        factor = _UM.get(unit.group(1)) if unit else 1.0
        return float(size.group(1)) * factor if size and factor else None

    x, y = side("X"), side("Y")
    return (x, y or x) if x else None


@contextmanager
def _quiet(name: str) -> Iterator[None]:
    """Turn what a bad TIFF raises into one SlideError; tifffile's own log lines stay out."""
    log = logging.getLogger("tifffile")
    before, log.disabled = log.disabled, True
    try:
        yield
    except SlideError:
        raise
    except _BAD_FILE as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise SlideError(f"{name}: cannot be read as TIFF ({reason}); get a fresh copy") from error
    finally:
        log.disabled = before
