"""A block of pixels, repeated -> a slide as large as wanted, in JPEG tiles; for benchmarks and tests.

Each tile of the block is encoded once, so a slide of 40,000 px is written in seconds. It reads like any other:
a decoder does not know that it has seen the tile before.
"""

from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path

import imagecodecs
import numpy as np
import tifffile
from PIL import Image


def write_mosaic(
    path: str | Path,
    block: np.ndarray,
    *,
    size_px: tuple[int, int],
    tile_px: int = 256,
    mpp: float = 0.5,
    downsamples: Sequence[int] = (1, 4),
    quality: int = 80,
    aperio: bool = False,
) -> None:
    """Write `block` (rows, columns, 3) uint8, repeated over (width, height) px at `mpp` um/px, colours halved (4:2:0).

    The sides of the block must be multiples of tile_px at every downsample. With `aperio` the file says so, and its
    mpp, as Aperio's do; else it is a generic TIFF with resolution tags. Raises ValueError for another block.
    """
    rows, cols = block.shape[:2]
    if any(side % (tile_px * by) for side in (rows, cols) for by in downsamples):
        raise ValueError(f"a block of {cols} x {rows} px is no multiple of {tile_px} px at downsamples {downsamples}")
    about = f"Aperio drawn |AppMag = {round(10 / mpp)}|MPP = {mpp:g}" if aperio else None
    with tifffile.TiffWriter(path, bigtiff=size_px[0] * size_px[1] > 3e9) as writer:
        for by in downsamples:
            width, height = size_px[0] // by, size_px[1] // by
            reduced = np.asarray(Image.fromarray(block).reduce(by)) if by > 1 else block
            per_cm = Fraction(10000) / (Fraction(str(mpp)) * by)
            writer.write(
                _tiles(reduced, (width, height), tile_px, quality),
                shape=(height, width, 3),
                dtype=np.uint8,
                tile=(tile_px, tile_px),
                photometric="ycbcr",
                subsampling=(2, 2),
                compression="jpeg",
                subfiletype=1 if by > 1 and not aperio else 0,
                description=about,
                resolution=None if aperio else ((per_cm.numerator, per_cm.denominator),) * 2,
                resolutionunit="NONE" if aperio else "CENTIMETER",
                metadata=None,
                software=False,
            )


def _tiles(block: np.ndarray, size_px: tuple[int, int], tile_px: int, quality: int) -> Iterator[bytes]:
    """The JPEG of each tile, row by row."""
    down, along = block.shape[0] // tile_px, block.shape[1] // tile_px
    encoded = [
        [_encode(block[r * tile_px :, c * tile_px :][:tile_px, :tile_px], quality) for c in range(along)]
        for r in range(down)
    ]
    for row in range(-(-size_px[1] // tile_px)):
        for col in range(-(-size_px[0] // tile_px)):
            yield encoded[row % down][col % along]


def _encode(rgb: np.ndarray, quality: int) -> bytes:
    rgb = np.ascontiguousarray(rgb)
    return bytes(
        imagecodecs.jpeg8_encode(rgb, level=quality, colorspace="RGB", outcolorspace="YCBCR", subsampling="420")
    )
