"""Tiles <-> the bytes of their chunks: zstd of the raw pixels, or one JPEG a tile.

zstd loses nothing and is what every Zarr reader knows. JPEG is an eighth of the size; it is kept as plain bytes
under `jpegs`, since Zarr v3 has no codec of that name: stock zarr opens the store and gives the bytes of a JPEG.
"""

from collections.abc import Sequence
from typing import Literal

import imagecodecs
import numpy as np
from numcodecs.zstd import Zstd  # imagecodecs takes negative levels as its default

from wsi_pipeline.slide.jpeg import decode_into, encode

Codec = Literal["zstd", "jpeg"]

# Of a real H&E slide level 1 keeps 0.80 in 418 us a tile, -8 0.83 in 134 us, and is read back in 61 us, not 204.
ZSTD_LEVEL = -8
WHITE = 255

_H_AND_E_AS_JPEG = 1 / 3  # of the raw pixels; at quality 90 it takes a sixth, at 95 a quarter

_ZSTD = Zstd(level=ZSTD_LEVEL, checksum=True)  # without it a hole in a tile is mostly decoded to other pixels
_ONE_ITEM = (1).to_bytes(4, "little")  # Zarr's vlen-bytes: number of items, then each with its length before it


def encode_zstd(tiles: np.ndarray) -> list[bytes]:
    """(n, tile_px, tile_px, 3) uint8 -> a chunk a tile."""
    return [bytes(_ZSTD.encode(np.ascontiguousarray(tile))) for tile in tiles]


def encode_flags(flags: np.ndarray, slots: int) -> bytes:
    """(n,) bool -> one chunk of `slots`, False where there is no tile."""
    return bytes(_ZSTD.encode(flags.tobytes().ljust(slots, b"\0")))


def decode_zstd(chunks: Sequence[bytes], tile_px: int) -> np.ndarray:
    """Chunks -> (n, tile_px, tile_px, 3) uint8. Raises ValueError where one is not of that size."""
    tiles = np.empty((len(chunks), tile_px, tile_px, 3), np.uint8)
    for tile, chunk in zip(tiles.reshape(len(chunks), -1), chunks, strict=True):
        if len(imagecodecs.zstd_decode(chunk, out=tile.data)) != tile.size:
            raise ValueError(f"a tile is not of {tile.size} bytes")
    return tiles


def encode_jpeg(tiles: np.ndarray, quality: int) -> list[bytes]:
    """(n, tile_px, tile_px, 3) uint8 -> a JPEG a tile, of that quality (1-100)."""
    return [encode(tile, quality) for tile in tiles]


def jpeg_chunks(jpegs: Sequence[bytes]) -> list[bytes]:
    """JPEGs -> chunks of Zarr's variable-length bytes, one in each."""
    return [_ONE_ITEM + len(jpeg).to_bytes(4, "little") + jpeg for jpeg in jpegs]


def jpegs_of(chunks: Sequence[bytes]) -> list[bytes]:
    """The JPEGs of `jpeg_chunks`; what is no such chunk gives no JPEG."""
    return [chunk[8:] for chunk in chunks]


def decode_jpeg(jpegs: Sequence[bytes], tile_px: int) -> tuple[np.ndarray, np.ndarray]:
    """JPEGs -> (n, tile_px, tile_px, 3) uint8, and (n,) bool, False and white where one cannot be decoded.

    A slide's own JPEG was copied unseen, so this is where its damage shows.
    """
    tiles = np.full((len(jpegs), tile_px, tile_px, 3), WHITE, np.uint8)
    readable = np.ones(len(jpegs), bool)
    for index, jpeg in enumerate(jpegs):
        try:
            decode_into(jpeg, tiles[index])
        except ValueError:
            readable[index], tiles[index] = False, WHITE
    return tiles, readable


def store_bytes(n_tiles: int, tile_px: int, codec: Codec = "zstd") -> int:
    """Disk that the pixels of a store take at most; without loss H&E keeps about 0.9 of it.

    As JPEG it is what H&E takes at most; noise would take more.
    """
    pixels = tile_px * tile_px * 3
    return n_tiles * ((round(pixels * _H_AND_E_AS_JPEG) if codec == "jpeg" else pixels) + 64)
