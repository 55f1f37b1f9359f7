"""A drawn scene -> a pyramidal, tiled JPEG TIFF, tile by tile: memory does not grow with the slide."""

from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path

import imagecodecs
import numpy as np
import tifffile

from wsi_pipeline.slide.scene import Layer, paint
from wsi_pipeline.slide.texture import reduce_blocks, tiled_out

TILE_PX = 256
JPEG_QUALITY = 85
SMALLEST_LEVEL_PX = 1024
SAMPLES = 9  # of a layer's field along a tile's side: enough to tell whole tiles from cut ones


def write_pyramid(
    path: str | Path,
    layers: Sequence[Layer],
    textures: dict[str, np.ndarray],
    *,
    base_texture: str,
    size_px: tuple[int, int],
    mpp: float,
    with_mpp: bool = True,
) -> None:
    """Write layers over `base_texture` as levels by factor 2, down to SMALLEST_LEVEL_PX.

    size_px is (width, height) at `mpp` um/px. Textures are periodic (side, side, 3) uint8, side a power of
    two; those of a level are the 2 x 2 means of the finer level's, so no level is ever read back. Resolution
    tags are in pixels a cm, as exact fractions.
    """
    level = 0
    with tifffile.TiffWriter(path, bigtiff=size_px[0] * size_px[1] > 3e9) as writer:
        while True:
            width, height = max(1, size_px[0] >> level), max(1, size_px[1] >> level)
            per_cm = Fraction(10000) / (Fraction(str(mpp)) * 2**level)
            writer.write(
                _encoded_tiles(layers, textures, base_texture, size_px=(width, height), mpp=mpp * 2**level),
                shape=(height, width, 3),
                dtype=np.uint8,
                tile=(TILE_PX, TILE_PX),
                photometric="ycbcr",
                subsampling=(2, 2),
                compression="jpeg",
                subfiletype=1 if level else 0,
                resolution=((per_cm.numerator, per_cm.denominator),) * 2 if with_mpp else None,
                resolutionunit="CENTIMETER" if with_mpp else "NONE",
                metadata=None,
                software=False,
            )
            if max(width, height) <= SMALLEST_LEVEL_PX:
                return
            level += 1
            textures = {name: _halved(texture) for name, texture in textures.items()}


def through_jpeg(rgb: np.ndarray) -> np.ndarray:
    """The pixels (H, W, 3) uint8 as they come back from a drawn slide."""
    return imagecodecs.jpeg8_decode(_encode(rgb))


def _encode(rgb: np.ndarray) -> bytes:
    return bytes(
        imagecodecs.jpeg8_encode(rgb, level=JPEG_QUALITY, colorspace="RGB", outcolorspace="YCBCR", subsampling="420")
    )


def _halved(texture: np.ndarray) -> np.ndarray:
    return reduce_blocks(texture, 2) if texture.shape[0] > 1 else texture


def _encoded_tiles(
    layers: Sequence[Layer],
    textures: dict[str, np.ndarray],
    base_texture: str,
    *,
    size_px: tuple[int, int],
    mpp: float,
) -> Iterator[bytes]:
    """JPEG bytes of each tile of a level, row by row; a tile of one texture is encoded once a period."""
    cols, rows = (-(-side // TILE_PX) for side in size_px)
    side = max(TILE_PX, max(texture.shape[0] for texture in textures.values()))
    laid_out = {name: tiled_out(texture, side) for name, texture in textures.items()}
    whole_tiles: dict[tuple[str, int, int], bytes] = {}
    along = (np.arange(TILE_PX) + 0.5) * mpp
    for row in range(rows):
        inside, outside = _sides(layers, row, cols, mpp)
        for col in range(cols):
            start = row * TILE_PX % side, col * TILE_PX % side
            bottom = max(
                (i for i in range(len(layers)) if inside[i, col]), default=-1
            )  # nothing below a whole layer is seen
            cut = [layers[i] for i in range(bottom + 1, len(layers)) if not outside[i, col]]
            name = layers[bottom].texture if bottom >= 0 else base_texture
            if (name, *start) not in whole_tiles or cut:
                crops = {k: t[start[0] :, start[1] :][:TILE_PX, :TILE_PX] for k, t in laid_out.items()}
            if cut:
                x_um, y_um = (along + col * TILE_PX * mpp)[None], (along + row * TILE_PX * mpp)[:, None]
                yield _encode(paint(cut, crops, base=crops[name], x_um=x_um, y_um=y_um))
                continue
            if (name, *start) not in whole_tiles:
                whole_tiles[name, *start] = _encode(np.ascontiguousarray(crops[name]))
            yield whole_tiles[name, *start]


def _sides(layers: Sequence[Layer], row: int, cols: int, mpp: float) -> tuple[np.ndarray, np.ndarray]:
    """Whether each tile of a row lies wholly inside, wholly outside each layer: two (layers, cols) bool.

    A field is never farther from 0 than the border is, so a tile whose every sample is farther than the
    samples are apart cannot hold a border.
    """
    steps = np.linspace(0, TILE_PX * mpp, SAMPLES)
    margin = steps[1] * np.sqrt(0.5) + mpp
    x_um = (np.arange(cols)[:, None] * TILE_PX * mpp + steps).reshape(1, -1)
    y_um = row * TILE_PX * mpp + steps[:, None]
    fields = np.stack([layer.shape.field(x_um, y_um) for layer in layers]).reshape(len(layers), SAMPLES, cols, SAMPLES)
    return fields.max(axis=(1, 3)) < -margin, fields.min(axis=(1, 3)) > margin
