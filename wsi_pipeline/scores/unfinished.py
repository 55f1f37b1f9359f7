"""Logits of the tiles scored so far -> an array in the tile store, from which an interrupted scoring goes on.

It is `scores/unfinished`, (N, D + 1) float32: a row a tile, the D numbers that the engine gave for it, NaN where it
could not be read, then 1; all 0 where it is not done. Flag and numbers lie in one chunk, which is written whole or not
at all and has a checksum, so there is none without the other. It goes once the scores are complete. No torch here.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from math import prod
from pathlib import Path
from time import monotonic
from typing import Any

import numpy as np
import zarr
from zarr.codecs import Crc32cCodec

from wsi_pipeline.scores.store import ATTRIBUTES, GROUP
from wsi_pipeline.tiles.places import place_of

NAME = f"{GROUP}/unfinished"
FLUSH_TILES, FLUSH_S = 2048, 30.0  # what a kill costs at most, whichever comes first
_CHUNK_ROWS = 2048  # a chunk is written again with each flush that touches it: 24 KiB with two classes


class Unfinished:
    """Logits of a slide's N tiles while they are being scored; made by `keep_logits`.

    Attributes:
        resumed: tiles that were done before; those that could not be read are tried again.
        fresh: tiles done now.
    """

    def __init__(self, place: str, key: str, shape: tuple[int, ...], size: tuple[int, int]) -> None:
        """`shape` is of one tile's logits, `size` of all rows; with no `key` the store at `place` is left alone."""
        self._place, self._key, self._shape = place, key, shape
        self._array = _found(place, key, size) if key else None  # made with the first flush: most slides need none
        self._rows = rows = np.zeros(size, np.float32) if self._array is None else np.asarray(self._array[:])
        rows[np.isnan(rows).any(axis=1)] = 0  # unreadable then: the file may have been replaced by a whole one
        self._waiting: list[np.ndarray] = []
        self._flushed = monotonic()
        self.resumed, self.fresh = int((rows[:, -1] == 1).sum()), 0

    def done(self, rows: np.ndarray) -> np.ndarray:
        """(n,) bool of these tiles."""
        return self._rows[rows, -1] == 1

    @property
    def unreadable(self) -> tuple[int, ...]:
        """The tiles that are done and could not be read, ascending."""
        return tuple(np.flatnonzero(np.isnan(self._rows[:, :-1]).any(axis=1)).tolist())

    def logits(self, rows: np.ndarray) -> np.ndarray:
        """(n, ...) float32 of tiles that are done, NaN where unreadable."""
        return self._rows[rows, :-1].reshape(len(rows), *self._shape)

    def add(self, rows: np.ndarray, logits: np.ndarray) -> None:
        """Keep the logits (n, ...) of these tiles, NaN where unreadable. Raises StoreError where the disk is full."""
        self._rows[rows, :-1], self._rows[rows, -1] = logits.reshape(len(rows), -1), 1
        self.fresh += len(rows)
        self._waiting.append(rows)
        if sum(map(len, self._waiting)) >= FLUSH_TILES or monotonic() - self._flushed >= FLUSH_S:
            self.flush()

    def flush(self) -> None:
        """Write the chunks that hold what was added since the last time."""
        if self._key and self._waiting:
            with place_of(self._place).writing(self._rows.nbytes):
                if self._array is None:
                    self._array = _laid(self._place, self._key, self._rows.shape)
                for chunk in np.unique(np.concatenate(self._waiting) // _CHUNK_ROWS).tolist():
                    part = slice(chunk * _CHUNK_ROWS, (chunk + 1) * _CHUNK_ROWS)
                    self._array[part] = self._rows[part]
        self._waiting, self._flushed = [], monotonic()


@contextmanager
def keep_logits(store_path: str | Path, key: str, *, n_tiles: int, shape: tuple[int, ...]) -> Iterator[Unfinished]:
    """What was kept under `key` of a slide's logits, for the block to add to; kept again where an error ends it.

    What lies there of another key, of other shapes, or damaged is done anew. With no `key` nothing is kept.
    """
    unfinished = Unfinished(str(store_path), key, shape, (n_tiles, prod(shape) + 1))
    try:
        yield unfinished
    except BaseException:
        unfinished.flush()
        raise


def drop_logits(store_path: str | Path) -> None:
    """Remove what was kept, after the scores are complete."""
    place = place_of(store_path)
    with place.writing():
        group = zarr.open_group(place.zarr, mode="r+", zarr_format=3)
        del group[NAME]  # also what a kill left of it; none there is no error


def _found(store_path: str, key: str, size: tuple[int, ...]) -> Any:
    """The array of that key and size; None where it is not there, or not whole."""
    try:
        array: Any = zarr.open_group(place_of(store_path).zarr, mode="r+", zarr_format=3)[NAME]
        return array if array.attrs[ATTRIBUTES]["key"] == key and array[:].shape == size else None
    except (KeyError, TypeError, ValueError, AttributeError):  # the last where a group lies there
        return None


def _laid(store_path: str, key: str, size: tuple[int, ...]) -> Any:
    """The array, empty, in place of what lay there."""
    scores: Any = zarr.open_group(place_of(store_path).zarr, mode="r+", zarr_format=3).require_group(GROUP)
    return scores.create_array(
        NAME.removeprefix(f"{GROUP}/"),
        shape=size,
        chunks=(_CHUNK_ROWS, size[1]),
        dtype="float32",
        compressors=Crc32cCodec(),
        attributes={ATTRIBUTES: {"key": key}},
        overwrite=True,
    )
