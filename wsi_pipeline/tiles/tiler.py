"""The tiles of a slide: a store without pixels -> the same store with its pixels, one task some whole shards."""

import math
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import lru_cache, partial
from time import perf_counter

import numpy as np

from wsi_pipeline.cluster import Cluster
from wsi_pipeline.errors import SlideError, StoreError
from wsi_pipeline.slide.handles import drop_reader
from wsi_pipeline.slide.reader import Slide
from wsi_pipeline.stall import life_sign
from wsi_pipeline.tiles.making import mark_complete, missing_shards, write_jpegs, write_shard
from wsi_pipeline.tiles.pixels import read_jpegs, read_tiles
from wsi_pipeline.tiles.place import ABOUT
from wsi_pipeline.tiles.places import place_of
from wsi_pipeline.tiles.room import Room
from wsi_pipeline.tiles.store import TileStore, open_store

_TILES = Room()  # of the shard that is cut
_SHARDS = 16  # of one task at most: a second of a worker at the default size, and a stop waits for it
MAX_UNREADABLE = 0.05  # share of a slide's tiles; beyond it the file is damaged and no map should be drawn


@dataclass(frozen=True)
class ShardDone:
    """What a worker tells of a shard that it wrote; a few numbers, whatever the size of the tiles."""

    shard: int
    n_tiles: int
    unreadable: int
    seconds: float
    reading_s: float  # of them until the pixels were there


@dataclass(frozen=True)
class CutResult:
    """A finished store: its tiles, how many of them are unreadable, and what this call did for it.

    Attributes:
        reading_s, store_s: seconds of all workers for reading and decoding, and for encoding and writing.
    """

    tiles: int
    unreadable: int
    shards_written: int
    seconds: float
    reading_s: float
    store_s: float


def cut_shard(store_path: str, shard: int, *, anew: bool = False, key: str | None = None) -> ShardDone:
    """Read the tiles of one shard from the slide and write them to the store.

    Opens both by path; the slide's handle stays open for the thread's next shard. `anew`: it is there, with tiles
    that could not be read; then JPEGs are looked at, not copied unseen. Raises SlideError where the slide cannot be
    opened, StoreError where the disk is full, or where the store is of another `key` than given.
    """
    started = perf_counter()
    store = _opened(store_path, key)
    start, stop = store.shards[shard]
    if store.codec == "jpeg":
        jpegs, readable = read_jpegs(store.grid, start, stop, store.reading, quality=store.quality, checked=anew)
        write: Callable[[np.ndarray], None] = partial(write_jpegs, store, shard, jpegs)
    else:
        shape = stop - start, store.grid.tile_px, store.grid.tile_px, 3
        room = np.frombuffer(_TILES.of(math.prod(shape)), np.uint8).reshape(shape)
        tiles, readable = read_tiles(store.grid, start, stop, store.reading, out=room)
        write = partial(write_shard, store, shard, tiles)
    reading_s = perf_counter() - started
    if anew:
        write(np.zeros_like(readable))  # killed between flags and pixels, it would keep white tiles that count as read
    write(readable)
    return ShardDone(shard, stop - start, int((~readable).sum()), perf_counter() - started, reading_s)


def cut_shards(
    store_path: str, shards: Sequence[int], anew: Collection[int] = (), key: str | None = None
) -> list[ShardDone]:
    """Cut shards one after the other, as `cut_shard` does, those of `anew` anew: the task of a worker.

    Others that are there already are left: a worker that died at this task cut them.
    """
    done, alive = [], life_sign()
    for shard in shards:
        before = None if shard in anew else _cut_before(store_path, shard, key)
        done.append(before or cut_shard(store_path, shard, anew=shard in anew, key=key))
        alive()
    return done


def _cut_before(store_path: str, shard: int, key: str | None) -> ShardDone | None:
    """What is known of a shard that is there; None of one to be cut."""
    store = _opened(store_path, key)
    if not all(map(store.place.has, store.shard_files(shard))):
        return None
    start, stop = store.shards[shard]
    readable = store.flags(start, stop)
    return ShardDone(shard, stop - start, int((~readable).sum()), seconds=0.0, reading_s=0.0)


def cut_tiles(
    store: TileStore,
    cluster: Cluster,
    *,
    progress: Callable[[int], None] | None = None,
    max_unreadable: float = MAX_UNREADABLE,
) -> CutResult:
    """Cut the shards that `store` misses, and those with unreadable tiles once more, then mark it complete.

    Other shards written before are kept, so a slide that was interrupted goes on where it stopped, and one whose file
    was replaced by a whole one comes out whole; a store of coordinates has nothing to cut. `progress` is called with
    the number of tiles newly done. Raises SlideError, and leaves the store as it is, once more than `max_unreadable`
    (0-1) of all tiles could not be read.
    """
    started = perf_counter()
    missing = missing_shards(store)
    damaged = _damaged_shards(store, missing)
    shards = sorted({*missing, *damaged})
    unreadable, reading_s, store_s = 0, 0.0, 0.0
    work = ((store.path, run, damaged.intersection(run), store.key) for run in _runs(shards, cluster.workers_a_slide))
    with closing(cluster.map(cut_shards, work)) as runs:
        for done in (shard for _, run in runs for shard in run):
            unreadable += done.unreadable
            reading_s += done.reading_s
            store_s += done.seconds - done.reading_s
            check_readable(store.grid.slide, unreadable, store.n_tiles, max_unreadable)
            if progress is not None:
                progress(done.n_tiles)
    if store.status != "complete":
        mark_complete(store)
    return CutResult(store.n_tiles, unreadable, len(shards), perf_counter() - started, reading_s, store_s)


def check_readable(slide: Slide, unreadable: int, tiles: int, max_unreadable: float) -> None:
    """SlideError once more than `max_unreadable` (0-1) of a slide's tiles cannot be read."""
    if unreadable > max_unreadable * tiles:
        raise SlideError(
            f"{slide.path}: {unreadable:,} of {tiles:,} tiles cannot be read, more than {max_unreadable:.0%}; "
            "the file is damaged, get a fresh copy"
        )


def any_readable(store_path: str, tiles: Sequence[int]) -> bool:
    """Whether the slide has one of these tiles to read; the task of a worker. Raises SlideError where it is gone."""
    store, alive = open_store(store_path, complete=False), life_sign()
    for tile in tiles:
        if read_tiles(store.grid, tile, tile + 1, store.reading)[1].all():
            return True
        alive()
    return False


def let_go(slide: Slide) -> None:
    """Close what this thread kept open for the slide's next shard, and leave the memory of its tiles to the system."""
    drop_reader(slide)
    _TILES.give_back()


def _runs(shards: Sequence[int], workers: int) -> Iterator[Sequence[int]]:
    """Shards in runs, one a task, each a worker's share of what is left: so all end together.

    Where tiles do not lie on the slide's own, a shard has a row of those in common with the next and with the one
    below it. A worker that goes on where it was has them decoded; were shards dealt one by one, each would be
    decoded by two workers. One worker alone goes on in any case.
    """
    at = 0
    while at < len(shards):
        size = 1 if workers == 1 else max(1, min(_SHARDS, (len(shards) - at) // workers))
        yield shards[at : at + size]
        at += size


def _opened(store_path: str, key: str | None) -> TileStore:
    """The store of that key, if one is given, opened once for all its shards: that takes 5 ms, a tenth of a shard.

    Raises StoreError where another lies there.
    """
    try:
        version = place_of(store_path).version(ABOUT)
    except (OSError, StoreError):
        return open_store(store_path, complete=False)  # tells what is wrong
    return _open_once(store_path, version, key)


@lru_cache(maxsize=2)
def _open_once(store_path: str, _version: tuple[object, ...], key: str | None) -> TileStore:
    """A network disk may tell an old version for a minute: so the key counts, too."""
    store = open_store(store_path, complete=False)
    if key not in (None, store.key):
        raise StoreError(f"{store_path}: made anew meanwhile (key {store.key}, not {key}); run again with --resume")
    return store


def _damaged_shards(store: TileStore, missing: Collection[int]) -> set[int]:
    """Shards that are there with unreadable tiles; the flags of a missing one mean nothing yet."""
    if not store.pixels:
        return set()
    unreadable = np.flatnonzero(~store.flags(0, store.n_tiles))
    return set((unreadable // store.shard_tiles).tolist()).difference(missing)
