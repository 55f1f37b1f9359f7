"""Tiles of a store, batch by batch and in order, read ahead of what scores them."""

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from threading import Event
from typing import Any, Protocol

import numpy as np

from wsi_pipeline.errors import StalledError
from wsi_pipeline.stall import answer_within
from wsi_pipeline.tiles.store import TileStore

AHEAD = 2  # batches in the queue for each reader

Pixels = Any  # tiles (n, H, W, 3) uint8 RGB: a numpy array, or a tensor of torch on the device that scores them
Read = Callable[[np.ndarray], tuple[Pixels, np.ndarray]]  # rows, ascending -> their pixels, and (n,) bool: readable


class Decoder(Protocol):
    """What makes pixels of JPEGs, see scores/gpu_jpeg.py."""

    def decode(self, jpegs: list[bytes], px: int) -> tuple[Pixels, np.ndarray]:
        """JPEGs of px x px -> their pixels, and (n,) bool, False where one is none."""
        ...


def reading(store: TileStore, decoder: Decoder | None = None) -> Read:
    """How rows of a store are read: their pixels, or, with a decoder, the JPEGs that it decodes."""

    def read_tiles(rows: np.ndarray) -> tuple[Pixels, np.ndarray]:
        parts = [store.read(*run) for run in _runs(rows)]
        if len(parts) == 1:
            return parts[0]
        return np.concatenate([tiles for tiles, _ in parts]), np.concatenate([readable for _, readable in parts])

    def read_jpegs(rows: np.ndarray) -> tuple[Pixels, np.ndarray]:
        assert decoder is not None
        parts = [store.read_jpegs(*run) for run in _runs(rows)]
        tiles, intact = decoder.decode([jpeg for jpegs, _ in parts for jpeg in jpegs], store.grid.tile_px)
        return tiles, intact & np.concatenate([readable for _, readable in parts])

    return read_tiles if decoder is None else read_jpegs


def read_ahead(
    read: Read, rows: np.ndarray, batch: int, *, readers: int, stall_s: float | None = None
) -> Iterator[tuple[int, Pixels, np.ndarray]]:
    """(first of the rows, tiles, readable) of each batch in order, read by threads `AHEAD` batches ahead.

    Raises StalledError when a batch took longer than `stall_s`. Whoever ends it early, as Ctrl-C does, waits a second
    for reads under way.
    """

    stalled, ended = Event(), Event()

    def in_time(rows: np.ndarray) -> tuple[Pixels, np.ndarray]:
        if stalled.is_set():
            raise CancelledError
        try:
            if stall_s is None:
                return read(rows)
            found: tuple[Pixels, np.ndarray] = answer_within(stall_s, read, rows, given_up=ended.is_set)
        except StalledError:
            stalled.set()  # else the next batch is waited for as long, before this error is told
            raise
        return found

    starts = iter(range(0, len(rows), batch))
    queue: deque[tuple[int, Future[Any]]] = deque()
    with ThreadPoolExecutor(readers, thread_name_prefix="read-tiles") as pool:
        try:
            while True:
                while len(queue) < AHEAD * readers and (start := next(starts, None)) is not None:
                    queue.append((start, pool.submit(in_time, rows[start : start + batch])))
                if not queue:
                    return
                start, coming = queue.popleft()
                yield start, *coming.result()
        finally:
            ended.set()
            pool.shutdown(cancel_futures=True)


def _runs(rows: np.ndarray) -> list[tuple[int, int]]:
    """The first and the one after the last of each run of neighbours among ascending rows."""
    runs = np.split(rows, np.flatnonzero(np.diff(rows) != 1) + 1)
    return [(int(run[0]), int(run[-1]) + 1) for run in runs]
