"""A mask TIFF, one value a class, at any whole downsample of its slide -> the Regions of that slide."""

import math
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import shapely
import tifffile
import zarr

from wsi_pipeline.errors import ConfigError
from wsi_pipeline.slide.files import reason, shown
from wsi_pipeline.slide.outline import outline
from wsi_pipeline.slide.regions import RegionDraft, Regions
from wsi_pipeline.slide.tiff import BAD_FILE

_MAX_DOWNSAMPLE = 4096
_BLOCK_PX = 1024  # side of what is in memory at once, where the file allows it
_MAX_PIECE_PX = 2**28  # of one tile or strip, decoded
_MAX_VALUES = 64


def read_mask(path: Path, size_l0: tuple[int, int]) -> Regions:
    """The pixels of each value but 0 as polygons along their edges, group "1", "2", ...; read block by block.

    The values count as they are stored, not as white or black: tifffile writes bool as MINISWHITE. `size_l0` is
    the slide's (width, height): the mask must be a whole downsample of it, rounded up or down.
    Raises ConfigError where it is not, or is no mask of one channel of integers.
    """
    with _told(path), tifffile.TiffFile(path) as tiff:
        page: Any = tiff.pages[0]
        _check_kind(path, page)
        cell = float(mask_downsample((page.imagewidth, page.imagelength), size_l0, name=shown(path)))
        shapes: defaultdict[int, list[shapely.Geometry]] = defaultdict(list)
        for (top, left), block in _blocks(path, page):
            for value in _values(path, block, shapes):
                origin = left * cell, top * cell
                shapes[value] += outline(block == value, cell_l0=(cell, cell), origin_l0=origin).geoms
    draft = RegionDraft()
    for value, parts in sorted(shapes.items()):
        for part in shapely.get_parts(shapely.union_all(parts)):  # what was cut at the blocks' borders
            draft.add_shape(part, str(value))
    return draft.regions()


def mask_downsample(size: tuple[int, int], size_l0: tuple[int, int], *, name: str) -> int:
    """Level-0 pixels along the side of a pixel of a mask of `size` (width, height).

    Sizes may be rounded up or down; where several downsamples would give them a power of two is taken, else
    the nearest. ConfigError where none does.
    """
    by = np.arange(1, _MAX_DOWNSAMPLE + 1)
    fits = np.ones(len(by), dtype=bool)
    for side, side_l0 in zip(size, size_l0, strict=True):
        fits &= (side_l0 // by == side) | (-(-side_l0 // by) == side)
    found = by[fits]
    if not len(found):
        raise ConfigError(f"{name}: {size[0]} x {size[1]} px is no whole downsample of a slide of "
                          f"{size_l0[0]} x {size_l0[1]} px; give the mask of this slide, not cropped")  # fmt: skip
    powers = found[(found & (found - 1)) == 0]
    return int(powers[0] if len(powers) else found[np.abs(found * size[0] - size_l0[0]).argmin()])


def _check_kind(path: Path, page: Any) -> None:
    if page.dtype is None or page.dtype.kind not in "bui" or page.samplesperpixel != 1:
        kind = f"{page.samplesperpixel} channel(s) of {page.dtype}"
        raise ConfigError(f"{shown(path)}: {kind}, not one channel of whole numbers; save it as a grey mask")
    ends = [start + count for start, count in zip(page.dataoffsets, page.databytecounts, strict=False)]
    if len(ends) < math.prod(page.chunked) or max(ends) > page.parent.filehandle.size:
        raise ConfigError(f"{shown(path)}: cut short; get a fresh copy")  # what is lost would read as background


def _blocks(path: Path, page: Any) -> Iterator[tuple[tuple[int, int], np.ndarray]]:
    """((top, left), values) of blocks of whole tiles or strips; pieces that were never written are 0."""
    array: Any = zarr.open_array(page.aszarr(fillvalue=0), mode="r")
    piece = array.chunks
    if piece[0] * piece[1] > _MAX_PIECE_PX:
        raise ConfigError(f"{shown(path)}: compressed in pieces of {piece[1]} x {piece[0]} px; save it in tiles")
    step = [side * max(1, _BLOCK_PX // side) for side in piece]
    for top in range(0, array.shape[0], step[0]):
        for left in range(0, array.shape[1], step[1]):
            yield (top, left), np.asarray(array[top : top + step[0], left : left + step[1]])


def _values(path: Path, block: np.ndarray, known: dict[int, list[shapely.Geometry]]) -> list[int]:
    """The values of a block but 0; many are no mask of classes."""
    if not block.any():
        return []
    values = [int(value) for value in np.unique(block) if value]
    if len({*known, *values}) > _MAX_VALUES:
        raise ConfigError(f"{shown(path)}: more than {_MAX_VALUES} values; give a mask of classes, not of objects")
    return values


@contextmanager
def _told(path: Path) -> Iterator[None]:
    """Turn what a damaged file raises into a ConfigError that names it."""
    try:
        yield
    except ConfigError:
        raise
    except BAD_FILE as error:
        raise ConfigError(f"{shown(path)}: cannot be read as a mask ({reason(error, path)}); save it anew") from None
