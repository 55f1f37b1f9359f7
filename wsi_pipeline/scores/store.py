"""Scores: what a classifier says of every tile of a slide, kept inside the slide's tile store. No torch here.

They lie in `scores/<checkpoint id>` of the Zarr group, (N, C) float32, row k for tile k. The marker `complete` is
written last, so an interrupted write is never taken for scores. With it stand checksums of the arrays: where a chunk is
gone, as after a power cut, zarr reads NaN without an error.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import zarr

from wsi_pipeline.errors import StoreError
from wsi_pipeline.tiles.grid import TileGrid
from wsi_pipeline.tiles.layout import checksum, read_array, read_grid
from wsi_pipeline.tiles.places import place_of

GROUP = "scores"
ATTRIBUTES = "wsi_pipeline"
_CHUNK_ROWS = 65_536  # 256 KiB a class: one file for nearly every slide
_GRID, _WINDOWS = ("tile_px", "stride_px", "rows", "cols"), ("rowcol", "tissue")  # of a dense map's windows
_LATER = {"filled": 0, "resumed": 0, "step": 1, "tried": None, "missed": None}  # not told by older stores
_TOLD = (
    *("class_names", "positive", "exclusive", "threshold", "model_mpp", "note", "seconds", "model_seconds"),
    *_LATER,
)


@dataclass(frozen=True)
class Scores:
    """Probabilities of every tile of one slide by one model.

    Attributes:
        rowcol: (N, 2) int32 grid cell [row, col] of each tile, in the store's order.
        class_names: C names, the columns of `probs`.
        positive: the classes counted as cancer, one or more of `class_names`.
        exclusive: True when the classes exclude each other (each row sums to 1).
        probs: (N, C) float32 in 0-1, calibrated; NaN in every column where a tile could not be read.
        checkpoint_id: 12 hex digits of the model.
        threshold: probability from which a tile is cancer, chosen when the model was made.
        model_mpp: um/px of the pixels that the model was trained on.
        note: one line for the user on what the model can and cannot do.
        seconds: wall time of the scoring; 0 when not measured.
        model_seconds: the part of it that the engine was busy, its lanes averaged.
        filled: rows without a forward pass of their own, as they have the values of their neighbours; 0 in a dense map.
        resumed: rows scored before this scoring was interrupted; `seconds` are of the rest.
        step: cells between tiles of the first lattice, 1 where every tile was scored.
        tried: of a dense map, the tiles of the store; None: as many as rows.
        missed: of these, by their rows in the store, those that could not be read; None: rows without a probability.
        windows: of a dense map, the grid that the rows are of; None where they are the store's tiles.
    """

    rowcol: np.ndarray
    class_names: tuple[str, ...]
    positive: tuple[str, ...]
    exclusive: bool
    probs: np.ndarray
    checkpoint_id: str
    threshold: float
    model_mpp: float
    note: str = ""
    seconds: float = 0.0
    model_seconds: float = 0.0
    filled: int = 0
    resumed: int = 0
    step: int = 1
    tried: int | None = None
    missed: tuple[int, ...] | None = None
    windows: TileGrid | None = None

    @property
    def rows(self) -> int:
        """N."""
        return len(self.probs)

    @property
    def tiles(self) -> int:
        """Tiles of the slide: fewer than rows where these are a dense map's."""
        return self.rows if self.tried is None else self.tried

    @property
    def unreadable(self) -> int:
        """Of these, those that could not be read."""
        return int(np.isnan(self.probs).any(axis=1).sum()) if self.missed is None else len(self.missed)

    def positive_prob(self) -> np.ndarray:
        """(N,) float32 P(cancer), see `p_cancer`."""
        return p_cancer(self.probs, self.class_names, self.positive, exclusive=self.exclusive)

    def grid_over(self, tiles: TileGrid) -> TileGrid:
        """The grid that the rows are of: the store's, or that of a dense map's windows."""
        return tiles if self.windows is None else self.windows

    @property
    def remarks(self) -> tuple[str, ...]:
        """What the reader of a map must know of how it was scored."""
        if self.windows is not None:
            return (f"dense: {self.rows:,} windows from {self.tiles:,} tiles scored once; see scores/dense.py",)
        if self.step == 1:
            return ()
        scored = len(self.probs) - self.filled
        return (
            f"adaptive: {scored:,} of {len(self.probs):,} tiles were scored, the others have their neighbours' values; "
            "cancer narrower than a tile can be missed",
        )

    @property
    def tiles_per_s(self) -> float:
        """Tiles scored per second of wall time, those taken over from before left out; 0 when not measured."""
        return max(0, self.tiles - self.filled - self.resumed) / self.seconds if self.seconds > 0 else 0.0

    @property
    def busy_share(self) -> float:
        """Share 0-1 of the wall time spent inside the model; the rest waited for tiles."""
        return min(self.model_seconds / self.seconds, 1.0) if self.seconds > 0 else 0.0


def p_cancer(
    probs: np.ndarray, class_names: tuple[str, ...], positive: tuple[str, ...], *, exclusive: bool
) -> np.ndarray:
    """(N,) P(cancer) of probabilities (N, C): the sum of the positive classes if exclusive, else their highest."""
    columns = probs[:, [class_names.index(name) for name in positive]]
    return np.minimum(columns.sum(axis=1), 1.0) if exclusive else columns.max(axis=1)


def write_scores(store_path: str | Path, scores: Scores, *, key: str = "") -> None:
    """Write the scores into the tile store, in place of older ones of the same model; marked complete last.

    `key` says what the scores were made from, for `read_scores`. Raises StoreError when there is no store,
    when the rows are not its tiles, or when the disk is full.
    """
    place = place_of(store_path)
    with place.reading():
        store = _open_group(store_path, mode="r+")
    windows = scores.windows
    if windows is None and not np.array_equal(scores.rowcol, store["rowcol"][:]):
        raise StoreError(f"{store_path}: {len(scores.rowcol)} scored tiles are not those of the store; score again")
    columns = scores.probs.shape[1]
    attributes = {name: getattr(scores, name) for name in _TOLD} | {"key": key, "complete": False}
    attributes["crc32c"] = _checksums(scores.probs, windows)
    attributes["windows"] = None if windows is None else {name: getattr(windows, name) for name in _GRID}
    with place.writing(scores.probs.nbytes):
        _drop_windows(store, scores.checkpoint_id)
        array = store.require_group(GROUP).create_array(
            scores.checkpoint_id,
            shape=scores.probs.shape,
            chunks=(_CHUNK_ROWS, columns),
            dtype="float32",
            fill_value=np.nan,
            config={"write_empty_chunks": True},  # NaN left out may come back as other bits
            dimension_names=(
                "tile" if windows is None else f"window_{scores.checkpoint_id}",
                f"class_{scores.checkpoint_id}",
            ),  # models differ in their number of classes
            attributes={ATTRIBUTES: attributes},
            overwrite=True,
        )
        array[:] = scores.probs
        if windows is not None:
            for name in _WINDOWS:
                _write_beside(array, store, name, getattr(windows, name))
        array.attrs[ATTRIBUTES] = attributes | {"complete": True}


def read_scores(store_path: str | Path, checkpoint_id: str, *, key: str | None = None) -> Scores:
    """The complete scores of a model; with `key`, only those written with that very key.

    Raises StoreError when absent, incomplete, damaged, made with another key, or of other tiles than the store's.
    """
    with place_of(store_path).reading():
        try:
            return _read(store_path, checkpoint_id, key)
        except (ValueError, KeyError, TypeError, RuntimeError) as error:  # the last by decompressors
            said = f"scores of model {checkpoint_id} are damaged ({error!r}); score again"
            raise StoreError(f"{store_path}: {said}") from error


def _read(store_path: str | Path, checkpoint_id: str, key: str | None) -> Scores:
    store = _open_group(store_path, mode="r")
    array = store.get(f"{GROUP}/{checkpoint_id}")
    if not isinstance(array, zarr.Array):
        raise StoreError(f"{store_path}: no scores of model {checkpoint_id}; score the slide first")
    told: Any = array.attrs.get(ATTRIBUTES, {})
    if not told.get("complete"):
        raise StoreError(f"{store_path}: scores of model {checkpoint_id} are incomplete; score again")
    if key is not None and told["key"] != key:
        raise StoreError(f"{store_path}: scores are of {told['key']}, not of {key}: settings changed; score again")
    windows = _read_windows(store, checkpoint_id, told.get("windows"))
    rowcol = read_array(store, "rowcol") if windows is None else windows.rowcol
    probs = np.asarray(array[:])
    if len(rowcol) != len(probs):
        raise StoreError(f"{store_path}: {len(probs)} scores for {len(rowcol)} tiles: cut anew since; score again")
    found = _checksums(probs, windows)
    if told.get("crc32c", found) != found:  # older scores have none
        raise StoreError(f"{store_path}: scores of model {checkpoint_id} are not as they were written; score again")
    names, positive = tuple(told["class_names"]), tuple(told["positive"])
    fields = {name: (_LATER | told)[name] for name in _TOLD} | {"class_names": names, "positive": positive}
    fields["missed"] = None if fields["missed"] is None else tuple(fields["missed"])
    return Scores(rowcol=rowcol, probs=probs, checkpoint_id=checkpoint_id, windows=windows, **fields)


def _checksums(probs: np.ndarray, windows: TileGrid | None) -> list[int]:
    """Of all arrays of the scores."""
    beside = () if windows is None else (windows.rowcol, windows.tissue)
    return [checksum(values) for values in (np.asarray(probs, np.float32), *beside)]


def _drop_windows(store: Any, checkpoint_id: str) -> None:
    """Remove the arrays of a dense map's windows: beside scores of the tiles they would tell where these lie."""
    for name in _WINDOWS:
        if (beside := f"{GROUP}/{checkpoint_id}_{name}") in store:
            del store[beside]


def _write_beside(array: zarr.Array, store: Any, name: str, values: np.ndarray) -> None:
    """An array of one row a window, in the group of the scores."""
    place = f"{array.basename}_{name}"
    rest = [f"{name}_{array.basename}"] * (values.ndim - 1)
    dimensions = (f"window_{array.basename}", *rest)
    chunks = (_CHUNK_ROWS, *values.shape[1:])
    store[GROUP].create_array(place, data=values, chunks=chunks, dimension_names=dimensions, overwrite=True)


def _read_windows(store: Any, checkpoint_id: str, numbers: dict[str, Any] | None) -> TileGrid | None:
    """The grid of a dense map's windows, over the store's own slide."""
    if numbers is None:
        return None
    arrays: dict[str, Any] = {name: np.asarray(store[f"{GROUP}/{checkpoint_id}_{name}"][:]) for name in _WINDOWS}
    return replace(read_grid(store), **numbers, **arrays)


def _open_group(path: str | Path, *, mode: Literal["r", "r+"]) -> Any:
    place = place_of(path)
    try:
        group = zarr.open_group(place.zarr, mode=mode, zarr_format=3)
    except FileNotFoundError:
        raise StoreError(f"{path}: no tile store there; cut the slide's tiles first") from None
    if "rowcol" not in group:
        raise StoreError(f"{path}: a Zarr group without tiles; name the slide's tile store")
    return group
