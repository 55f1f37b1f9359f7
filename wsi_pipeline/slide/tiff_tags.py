"""The tags of a TIFF -> its levels, scale and codec, and whether it is one whole RGB image; no pixels are read."""

import html
import re
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import tifffile

from wsi_pipeline.errors import SlideError
from wsi_pipeline.slide.describe import MAX_SIDE_PX, Facts
from wsi_pipeline.slide.scale import tiff_resolution_mpp
from wsi_pipeline.slide.tiff import TiffPixels, levels_of, main_series, size_of, told_as_slide_error

Pair = tuple[float, float]

_UM = {"µm": 1.0, "μm": 1.0, "um": 1.0, "mm": 1e3, "nm": 1e-3, "cm": 1e4, "m": 1e6}
_JPEG_2000 = (33003, 33004, 33005, 34712)
_CODECS = {
    1: "none",
    5: "LZW",
    6: "JPEG",
    7: "JPEG",
    8: "deflate",
    32946: "deflate",
    50000: "zstd",
    50001: "WebP",
}
_CODECS |= dict.fromkeys(_JPEG_2000, "JPEG 2000")
_TO_RGB = (6, 7, *_JPEG_2000)  # codecs that turn YCbCr into RGB while decoding
_RGB, _YCBCR = 2, 6
_ONE_PIECE_PX = 2**24
_MAX_TILE_PX = 2**14
_MAX_RATIO = 10_000  # of pixels to bytes in strips: ten times what deflate makes of nothing
_PAGES = 100  # looked at; slides have a dozen


@dataclass(frozen=True)
class TiffTags:
    """What the tags of a TIFF say.

    Attributes:
        level_sizes: (width, height) of each level, finest first.
        stated_mpp: (x, y) um/px that OME-XML gives; `resolution_mpp`: that of the resolution tags.
        not_rgb: why its pixels are no 8-bit RGB, or nothing.
        not_whole: why it is more than one RGB image, or less than the file should hold, or nothing.
        turned: whether an Orientation tag asks viewers to turn or mirror what is stored.
    """

    level_sizes: tuple[tuple[int, int], ...]
    stated_mpp: Pair | None
    resolution_mpp: Pair | None
    codec: str
    not_rgb: str
    not_whole: str
    turned: bool = False
    warnings: tuple[str, ...] = ()


def tiff_tags(path: Path) -> TiffTags:
    """Read the tags of a TIFF, no pixels. Raises SlideError where it is none."""
    with told_as_slide_error(path), tifffile.TiffFile(path) as tiff:
        index, series = main_series(tiff)
        page: Any = series.keyframe
        sizes = tuple(size_of(level) for level in levels_of(series))
        return TiffTags(
            level_sizes=sizes,
            stated_mpp=_ome_mpp(tiff.ome_metadata, index, sizes[0]) if tiff.is_ome else None,
            resolution_mpp=_resolution(page),
            codec=_CODECS.get(int(page.compression), f"TIFF {int(page.compression)}"),
            not_rgb=_not_rgb(page),
            not_whole=_not_plane(series) or _cut_short(tiff, series),
            turned=page.tags.valueof("Orientation", 1) != 1,
            warnings=_one_piece(page, sizes[0]),
        )


def impossible(path: Path) -> str:
    """Why no decoder should be let loose on a TIFF, or nothing: by damaged tags it would take all memory.

    Sizes for which the file has not enough tiles or bytes, or that no slide has.
    """
    try:
        with told_as_slide_error(path), tifffile.TiffFile(path) as tiff:
            pages = [page for page in islice(tiff.pages, _PAGES) if isinstance(page, tifffile.TiffPage)]
            return next(filter(None, map(_page_impossible, pages)), "")
    except SlideError:
        return ""  # whoever reads it will tell what is wrong with it


def _page_impossible(page: Any) -> str:
    width, height = page.imagewidth, page.imagelength
    pieces, tile = len(page.dataoffsets), (page.tilewidth, page.tilelength)
    if page.is_tiled:
        wanted = -(-width // max(tile[0], 1)) * -(-height // max(tile[1], 1))
        largest = max(page.databytecounts, default=0)
        wrong = max(tile) > _MAX_TILE_PX or pieces < wanted or largest > page.parent.filehandle.size
    else:
        wrong = width * height > _MAX_RATIO * sum(page.databytecounts)
    if not wrong and max(width, height) <= MAX_SIDE_PX:
        return ""
    tiles = f"{pieces:,} tiles of {tile[0]:,} x {tile[1]:,} px" if page.is_tiled else f"{pieces:,} strips"
    return f"cut short or damaged: it cannot hold {width:,} x {height:,} px in {tiles}; get a fresh copy"


def facts_of_tiff(path: Path, tags: TiffTags) -> Facts:
    """Tags -> Facts, one pixel decoded first: an unknown codec is told now, not at every tile. Raises SlideError."""
    pixels = TiffPixels(path)
    try:
        pixels.read(0, 0, len(tags.level_sizes) - 1, (1, 1))
    finally:
        pixels.close()
    width, height = tags.level_sizes[0]
    return Facts(
        vendor="tiff",
        backend="tifffile",
        codec=tags.codec,
        level_sizes=tags.level_sizes,
        level_downsamples=tuple((width / w + height / h) / 2 for w, h in tags.level_sizes),
        stated_mpp=tags.stated_mpp,
        resolution_mpp=tags.resolution_mpp,
        warnings=tags.warnings,
    )


def _not_rgb(page: Any) -> str:
    if page.dtype is None or page.dtype != np.uint8:
        return f"its pixels are {page.dtype}, not 8-bit RGB; fluorescence and raw data are not tiled"
    if page.samplesperpixel not in (3, 4) or page.photometric not in (_RGB, _YCBCR):
        kind = getattr(page.photometric, "name", page.photometric)
        return f"{page.samplesperpixel} channel(s) of kind {kind}, not RGB; only brightfield slides are tiled"
    if page.photometric == _YCBCR and page.compression not in _TO_RGB:
        return "YCbCr pixels that are no JPEG; convert it to RGB"
    return ""


def _not_plane(series: Any) -> str:
    if set("XY") <= set(series.axes) <= set("SXY"):  # grey is one plane too: _not_rgb tells of it
        return ""
    return f"an image of axes {series.axes} {series.shape}, not one RGB plane; stacks are not tiled"


def _cut_short(tiff: tifffile.TiffFile, series: Any) -> str:
    """Interrupted copies: the chain of pages or the pixels reach beyond the end of the file."""
    file, size = tiff.filehandle, tiff.filehandle.size
    ends = [
        max(
            (start + count for start, count in zip(page.dataoffsets, page.databytecounts, strict=False)),
            default=0,
        )
        for page in (level.keyframe for level in levels_of(series))
    ]
    file.seek(tiff.pages.next_page_offset or 0)
    next_page = int.from_bytes(file.read(tiff.tiff.offsetsize), "big" if tiff.byteorder == ">" else "little")
    if max(*ends, next_page) <= size and (next_page == 0 or next_page == tiff.pages[0].offset):
        return ""
    return f"cut short: it has {size:,} bytes and should have more; get a fresh copy"


def _one_piece(page: Any, size: tuple[int, int]) -> tuple[str, ...]:
    """A warning where the format leaves no choice but to decode a big image whole."""
    if len(page.dataoffsets) > 1 or page.compression == 1 or size[0] * size[1] < _ONE_PIECE_PX:
        return ()
    gib = size[0] * size[1] * page.samplesperpixel / 2**30
    return (f"compressed in one piece: each worker decodes it whole, {gib:.1f} GiB; better save it in tiles",)


def _resolution(page: Any) -> Pair | None:
    def ratio(name: str) -> float | None:
        tag = page.tags.get(name)
        return tag.value[0] / tag.value[1] if tag is not None and tag.value[1] else None

    unit = page.tags.get("ResolutionUnit")
    return tiff_resolution_mpp(ratio("XResolution"), ratio("YResolution"), int(unit.value) if unit else None)


def _ome_mpp(xml: str | None, index: int, size: tuple[int, int]) -> Pair | None:
    """um/px of the image at `index`, if it has the (width, height) of the one that is read.

    tifffile does not count images without data, so another may stand there. A few attributes are looked up, so the
    foreign XML is never parsed.
    """
    images = re.split(r"<(?:\w+:)?Image[\s>]", xml or "")[1:]
    pixels = re.search(r"<(?:\w+:)?Pixels\s[^>]*>", images[index]) if index < len(images) else None
    said = dict(re.findall(r'\b((?:Physical)?Size\w+)="([^"]*)"', pixels.group() if pixels else ""))
    if any(said.get(f"Size{axis}") not in (None, str(px)) for axis, px in zip("XY", size, strict=True)):
        return None

    def side(axis: str) -> float | None:
        factor = _UM.get(html.unescape(said.get(f"PhysicalSize{axis}Unit", "µm")))
        length = said.get(f"PhysicalSize{axis}")
        return float(length) * factor if length and factor else None

    x, y = side("X"), side("Y")
    return (x, y or x) if x else None
