"""The tile store of a slide: a Zarr v3 group that holds its grid, its tissue and, if wanted, its tile pixels.

A shard that is absent would read as black without an error, so nothing but the status "complete", see making.py, says
that a store can be used. It lies on a disk or in an object store, see places.py.
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from wsi_pipeline.errors import StoreError
from wsi_pipeline.slide.reader import PLAIN, Reading
from wsi_pipeline.slide.tissue import TissueMask
from wsi_pipeline.tiles.codecs import (
    Codec,
    decode_jpeg,
    decode_zstd,
    jpegs_of,
)
from wsi_pipeline.tiles.grid import TileGrid, too_little
from wsi_pipeline.tiles.layout import (
    SCHEMA,
    check_arrays,
    read_attributes,
    read_grid,
    read_tissue,
)
from wsi_pipeline.tiles.pixels import read_tiles
from wsi_pipeline.tiles.place import ABOUT, Place
from wsi_pipeline.tiles.places import place_of
from wsi_pipeline.tiles.shards import damaged_shard, read_shard

JPEG_QUALITY = 90
_ABOUT_BYTES = 1 << 20  # more than any array's metadata


@dataclass(frozen=True, eq=False)
class TileStore:
    """What a tile store holds, without an open handle; made by `create_store` and `open_store`.

    Attributes:
        path: absolute path or URL of the Zarr group.
        grid: the tiles; row k of every array is tile k of the grid.
        pixels: whether it holds pixels; else `read` takes them from the slide again.
        shard_tiles: tiles in one shard, which is one file, one task, and the step of a resume.
        codec: "zstd" (no loss), or "jpeg": the slide's own bytes where a tile is one of the slide's, else encoded
            at `quality` (1-100).
        reading: how pixels are read from the slide.
        key: what it was made from (config and slide fingerprint); another key is another store.
        status: "writing" or "complete".
        tissue_mm2: tissue on the glass.
        warnings: those of the slide and of its tissue, without repeats.
        settings: what the caller wanted recorded with it.
    """

    path: str
    grid: TileGrid
    pixels: bool
    shard_tiles: int
    key: str
    status: str
    tissue_mm2: float
    codec: Codec = "zstd"
    quality: int = JPEG_QUALITY
    reading: Reading = PLAIN
    warnings: tuple[str, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def n_tiles(self) -> int:
        """Tiles kept, N."""
        return len(self.grid)

    @property
    def shards(self) -> list[tuple[int, int]]:
        """First tile and the one after the last of every shard."""
        starts = range(0, self.n_tiles, self.shard_tiles)
        return [(start, min(start + self.shard_tiles, self.n_tiles)) for start in starts]

    def mask(self) -> TissueMask:
        """The tissue mask and the thumbnail that the grid was laid on."""
        with _reading(self.place):
            return read_tissue(zarr.open_group(self.place.zarr, mode="r", zarr_format=3))

    def is_whole(self) -> bool:
        """Whether grid, mask and thumbnail are as they were laid, and all arrays known by their metadata.

        A power cut can take parts of them.
        """
        try:
            with self.place.reading():
                check_arrays(zarr.open_group(self.place.zarr, mode="r", zarr_format=3))
            return not self.pixels or all(map(self._is_known, ("readable", self.shard_name(0).partition("/")[0])))
        except (ValueError, KeyError, TypeError, RuntimeError):  # the last by decompressors
            return False

    def _is_known(self, array: str) -> bool:
        """Whether there is metadata of an array; ValueError where it is cut off."""
        about = f"{array}/{ABOUT}"
        if not self.place.has(about):
            return False
        with self.place.reading():
            return "shape" in json.loads(b"".join(self.place.read(about, 0, lambda tail: [(0, _ABOUT_BYTES)])))

    def flags(self, start: int, stop: int) -> np.ndarray:
        """(n,) bool of tiles start to stop, False where unreadable; of shards that are there alone."""
        return self._all_flags[start:stop] if self.status == "complete" else self._read_flags(start, stop)

    @cached_property
    def _all_flags(self) -> np.ndarray:
        """Read once of a complete store: in an object store each look costs as much as a tile."""
        return self._read_flags(0, self.n_tiles)

    def _read_flags(self, start: int, stop: int) -> np.ndarray:
        with _reading(self.place):
            return np.asarray(zarr.open_array(self.place.zarr, path="readable", mode="r", zarr_format=3)[start:stop])

    def read(self, start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
        """Tiles start to stop: (n, tile_px, tile_px, 3) uint8 RGB, and (n,) bool, False where unreadable.

        From the store, or from the slide where the store holds coordinates alone: the same pixels.
        """
        if not self.pixels:
            return read_tiles(self.grid, start, stop, self.reading)
        parts = [self._read_shard(shard, start, stop) for shard in self._touched(start, stop)]
        if len(parts) == 1:
            return parts[0]
        none = np.empty((0, self.grid.tile_px, self.grid.tile_px, 3), np.uint8), np.empty(0, bool)
        tiles, readable = zip(none, *parts, strict=True)
        return np.concatenate(tiles), np.concatenate(readable)

    def read_jpegs(self, start: int, stop: int) -> tuple[list[bytes], np.ndarray]:
        """Tiles start to stop as the JPEGs that they are kept as, and (n,) bool, False where unreadable.

        They are not decoded, so their damage does not show here. Raises StoreError where they are not kept so.
        """
        if not self.pixels or self.codec != "jpeg":
            kept = f"pixels in {self.codec}" if self.pixels else "coordinates"
            raise StoreError(
                f"{self.path}: holds {kept}, no JPEGs; cut tiles with tiles.store=jpeg, or set model.decode=cpu"
            )
        parts = [self._chunks(shard, start, stop) for shard in self._touched(start, stop)]
        jpegs = [jpeg for chunks, _ in parts for jpeg in jpegs_of(chunks)]
        return jpegs, np.concatenate([np.empty(0, bool), *(readable for _, readable in parts)])

    @property
    def place(self) -> Place:
        """Where its files lie."""
        return place_of(self.path)

    def shard_name(self, shard: int) -> str:
        """The file of a shard's pixels, in the store's place."""
        return f"tiles/c/{shard}/0/0/0" if self.codec == "zstd" else f"jpegs/c/{shard}"

    def shard_files(self, shard: int) -> tuple[str, str]:
        """The files of a shard, its pixels and its flags: it is there when both are."""
        return self.shard_name(shard), f"readable/c/{shard}"

    def _touched(self, start: int, stop: int) -> range:
        """The shards that tiles start to stop lie in."""
        return range(start // self.shard_tiles, -(-min(stop, self.n_tiles) // self.shard_tiles) if stop > start else 0)

    def _read_shard(self, shard: int, start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
        """Those of tiles start to stop that lie in one shard."""
        chunks, readable = self._chunks(shard, start, stop)
        try:
            if self.codec == "zstd":
                return decode_zstd(chunks, self.grid.tile_px), readable
            tiles, decoded = decode_jpeg(jpegs_of(chunks), self.grid.tile_px)
        except (ValueError, RuntimeError) as error:
            raise damaged_shard(f"{self.place.where}/{self.shard_name(shard)}") from error
        return tiles, readable & decoded

    def _chunks(self, shard: int, start: int, stop: int) -> tuple[list[bytes], np.ndarray]:
        """The same as they are encoded."""
        first, last = self.shards[shard]
        start, stop = max(start, first), min(stop, last)
        slots, name = self.shard_tiles, self.shard_name(shard)
        with self.place.reading():
            chunks = read_shard(self.place, name, slots=slots, start=start - first, stop=stop - first)
        return chunks, self.flags(start, stop)


def open_store(path: str | Path, *, complete: bool = True) -> TileStore:
    """Open the store at `path`; with `complete`, StoreError unless it was finished."""
    place = place_of(path)
    group, found = open_group(place)
    if found.get("schema") != SCHEMA:
        raise StoreError(
            f"{place.where}: tile store of schema {found.get('schema')}, this version reads {SCHEMA}; "
            "make it again with --overwrite"
        )
    if complete and found["status"] != "complete":
        raise StoreError(f"{place.where}: tile store is {found['status']!r}, not complete; run again with --resume")
    with _reading(place):
        grid = read_grid(group)
    about = found["tissue"]
    tissue_mm2 = about["tissue_mm2"]
    return TileStore(
        path=place.where,
        grid=grid,
        key=found["key"],
        status=found["status"],
        tissue_mm2=tissue_mm2,
        warnings=tuple(dict.fromkeys((*grid.slide.warnings, *about["warnings"], *too_little(grid, tissue_mm2)))),
        settings=found["settings"],
        **found["store"] | {"reading": Reading(**found["store"]["reading"])},
    )


def open_group(place: Place) -> tuple[zarr.Group, dict[str, Any]]:
    """The Zarr group at a place and our attributes in it."""
    if not place.has(ABOUT):
        raise StoreError(f"{place.where}: no tile store here; remove what lies there, and run again with --resume")
    with _reading(place):
        group = zarr.open_group(place.zarr, mode="r", zarr_format=3)
        return group, read_attributes(group)


@contextmanager
def _reading(place: Place) -> Iterator[None]:
    """Turn what a foreign or damaged group raises into a StoreError that says so."""
    try:
        with place.reading():
            yield
    except (ValueError, KeyError, TypeError, OSError, RuntimeError) as error:  # the last by decompressors
        raise StoreError(
            f"{place.where}: no tile store of this package, or damaged ({error!r}); remove it, or use another --out"
        ) from error
