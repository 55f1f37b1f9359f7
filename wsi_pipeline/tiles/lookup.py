"""Any one tile of many stores, by number; a shard is read whole once two tiles of it are asked for in a row."""

import threading
from collections import OrderedDict
from dataclasses import dataclass

import numpy as np

from wsi_pipeline.errors import SlideError
from wsi_pipeline.tiles.store import TileStore

_KEPT_SHARDS = 2  # a thread; of 64 tiles of 256 px each 12 MiB


@dataclass(frozen=True, eq=False)
class TileLookup:
    """Tile k of a list of tiles in several stores; picklable, without an open handle of its own.

    Neighbours come from their shard, read whole and kept; tiles in random order one by one.

    Attributes:
        stores: tile stores, complete.
        store: (N,) int, which of the stores a tile is in.
        tile: (N,) int, its row there.
    """

    stores: tuple[TileStore, ...]
    store: np.ndarray
    tile: np.ndarray

    def __call__(self, index: int) -> np.ndarray:
        """(tile_px, tile_px, 3) uint8 RGB. Raises SlideError where it cannot be read."""
        store, tile = self.stores[int(self.store[index])], int(self.tile[index])
        try:
            pixels, readable = _read(store, tile)
        except (OSError, ValueError, KeyError, RuntimeError) as error:
            raise SlideError(f"{store.path}: tile {tile} cannot be read ({error}); cut the slide again") from error
        if not readable:
            raise SlideError(f"{store.grid.slide.path}: tile {tile} cannot be read from the slide; check the file")
        return pixels


class _Shards(threading.local):
    """The shards that a thread read last, and the shard of the tile it asked for last."""

    def __init__(self) -> None:
        self.kept: OrderedDict[tuple[str, int], tuple[np.ndarray, np.ndarray]] = OrderedDict()
        self.last: tuple[str, int] | None = None


_SHARDS = _Shards()


def _read(store: TileStore, tile: int) -> tuple[np.ndarray, bool]:
    """Pixels of a tile and whether it could be read."""
    if not store.pixels:
        tiles, readable = store.read(tile, tile + 1)
        return tiles[0], bool(readable[0])
    shard, offset = divmod(tile, store.shard_tiles)
    place = store.path, shard
    again, _SHARDS.last = place == _SHARDS.last, place
    if place in _SHARDS.kept:
        _SHARDS.kept.move_to_end(place)
    elif again:
        _SHARDS.kept[place] = store.read(*store.shards[shard])
        while len(_SHARDS.kept) > _KEPT_SHARDS:
            _SHARDS.kept.popitem(last=False)
    else:
        tiles, readable = store.read(tile, tile + 1)
        return tiles[0], bool(readable[0])
    tiles, readable = _SHARDS.kept[place]
    return tiles[offset].copy(), bool(readable[offset])
