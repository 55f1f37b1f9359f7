"""A tile store from its making to its end: laid without pixels, filled shard by shard, complete, removed.

It is made whole or not at all: its metadata appear at once with status "writing", each shard of tiles by itself, and
the status "complete" is written last, once every shard is there.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from wsi_pipeline.errors import StoreError
from wsi_pipeline.slide.reader import PLAIN, Reading
from wsi_pipeline.slide.tissue import TissueMask
from wsi_pipeline.tiles.codecs import Codec, encode_flags, encode_jpeg, encode_zstd, jpeg_chunks, store_bytes
from wsi_pipeline.tiles.grid import TileGrid
from wsi_pipeline.tiles.layout import ATTRIBUTES, lay_pixels, read_attributes, write_arrays, write_attributes
from wsi_pipeline.tiles.place import ABOUT, Place
from wsi_pipeline.tiles.places import place_of
from wsi_pipeline.tiles.shards import write_shard as write_chunks
from wsi_pipeline.tiles.store import JPEG_QUALITY, TileStore, open_group, open_store

_OURS = ("rowcol", "tissue_mask")  # arrays that no other group has beside each other
_SHARDS = ("tiles/c/", "jpegs/c/", "readable/c/")  # where their files lie


def create_store(
    path: str | Path,
    grid: TileGrid,
    tissue: TissueMask,
    *,
    pixels: bool,
    shard_tiles: int,
    key: str,
    settings: Mapping[str, Any],
    codec: Codec = "zstd",
    quality: int = JPEG_QUALITY,
    reading: Reading = PLAIN,
) -> TileStore:
    """Make a store with everything but its pixels; an existing one of the same `key` is opened as it is.

    `settings` is written as it is (JSON): tissue method and parameters, target mpp, config hash. Raises
    StoreError where something else lies at `path`, or where the disk cannot hold the pixels.
    """
    place = place_of(path)
    if place.taken():
        return _same_store(place, key)
    with place.writing():
        if pixels:
            needed = store_bytes(len(grid), grid.tile_px, codec)
            _check_space(place, needed, f"{len(grid):,} tiles of {grid.tile_px} px")
        with place.draft() as draft:
            group = zarr.create_group(draft, zarr_format=3)
            kept = {"pixels": pixels, "shard_tiles": shard_tiles, "codec": codec, "quality": quality}
            told = {"store": kept | {"reading": asdict(reading)}, "settings": settings}
            write_attributes(group, grid, tissue, key=key, **told)
            write_arrays(group, grid, tissue)
            if pixels:
                lay_pixels(group, len(grid), grid.tile_px, shard_tiles, codec)
    return open_store(path, complete=False)


def write_shard(store: TileStore, shard: int, tiles: np.ndarray, readable: np.ndarray) -> None:
    """Write one whole shard: first its flags, then its pixels, whose file marks it done.

    `tiles` (n, tile_px, tile_px, 3) uint8 and `readable` (n,) bool hold all tiles of the shard. Raises
    StoreError where the disk is full.
    """
    start, stop = store.shards[shard]
    if len(tiles) != stop - start:
        raise ValueError(f"shard {shard} has {stop - start} tiles, got {len(tiles)}: write whole shards only")
    if store.codec == "zstd":
        _write(store, shard, encode_zstd(tiles), readable)
    else:
        _write(store, shard, jpeg_chunks(encode_jpeg(tiles, store.quality)), readable)


def write_jpegs(store: TileStore, shard: int, jpegs: Sequence[bytes], readable: np.ndarray) -> None:
    """The same for tiles that are JPEGs already, in a store of codec "jpeg"."""
    start, stop = store.shards[shard]
    if store.codec != "jpeg" or len(jpegs) != stop - start:
        raise ValueError(f"shard {shard} has {stop - start} tiles in {store.codec}, got {len(jpegs)} in jpeg")
    _write(store, shard, jpeg_chunks(jpegs), readable)


def missing_shards(store: TileStore) -> list[int]:
    """Shards whose pixels or flags are not there yet; what a killed writer or a power cut left of them is removed.

    Not to be called while shards are being written. A store of coordinates misses none.
    """
    there = store.place.files(_SHARDS)
    return [n for n in range(len(store.shards)) if not there.issuperset(store.shard_files(n))] if store.pixels else []


def mark_complete(store: TileStore) -> TileStore:
    """Write the status "complete", last of all; StoreError if a shard is absent."""
    absent = missing_shards(store)
    if absent:
        count = f"{len(absent)} of {len(store.shards)}"
        raise StoreError(f"{store.path}: {count} shards missing, first {absent[0]}; run again with --resume")
    with store.place.writing():
        group = zarr.open_group(store.place.zarr, mode="r+", zarr_format=3)
        group.attrs[ATTRIBUTES] = {**read_attributes(group), "status": "complete"}
    return replace(store, status="complete")


def delete_store(path: str | Path) -> None:
    """Remove a tile store, or what a power cut left of one; StoreError where something else lies at `path`."""
    place = place_of(path)
    if place.taken():
        try:
            open_group(place)
        except StoreError:
            if not all(place.has(f"{name}/{ABOUT}") for name in _OURS):
                raise
        place.remove()


def _same_store(place: Place, key: str) -> TileStore:
    """The store at a place, if it was made from the same `key`."""
    store = open_store(place.where, complete=False)
    if store.key != key:
        raise StoreError(
            f"{place.where}: made with other settings or another slide (key {store.key}, now {key}); "
            "use another --out, or --overwrite"
        )
    return store


def _check_space(place: Place, needed: int, what: str) -> None:
    free = place.free()
    if free is not None and needed > free:
        raise StoreError(
            f"{place.where}: {what} take up to {needed:,} bytes, {free:,} are free; "
            "free some, use another --out, or --tiles-store coordinates"
        )


def _write(store: TileStore, shard: int, chunks: Sequence[bytes | memoryview], readable: np.ndarray) -> None:
    pixels, flags = store.shard_files(shard)
    with store.place.writing(sum(map(len, chunks))):
        store.place.write(flags, [encode_flags(readable, store.shard_tiles)])
        write_chunks(store.place, pixels, chunks, slots=store.shard_tiles)
