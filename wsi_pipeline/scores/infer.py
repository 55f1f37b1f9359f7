"""Scores of every tile of a store by one checkpoint, in batches on a CPU or a GPU, in the store's order."""

import logging
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from time import perf_counter

import numpy as np

from wsi_pipeline.errors import ConfigError, ModelError
from wsi_pipeline.learn.model.checkpoint import Checkpoint
from wsi_pipeline.learn.model.probabilities import probabilities
from wsi_pipeline.scores.adaptive import Adaptive, lattice_step, score_where_open
from wsi_pipeline.scores.ahead import Pixels, read_ahead, reading
from wsi_pipeline.scores.dense import CELL_PX, lay_windows, window_logits
from wsi_pipeline.scores.engines import EngineName, Precision, open_decoder, open_engine
from wsi_pipeline.scores.fit import check_fit, slide_mpp
from wsi_pipeline.scores.store import Scores, p_cancer
from wsi_pipeline.scores.unfinished import Unfinished, keep_logits
from wsi_pipeline.tiles.store import TileStore

BATCH = {"cpu": 16, "cuda": 256}  # tiles read at a time and, on a GPU, scored at once
_READERS = {"cpu": 1, "cuda": 4}  # threads reading ahead: on a CPU the network needs the cores
_DECODING_READERS = 2  # on the scoring device: one reads while the other decodes, and batches wait in its memory

Part = tuple[np.ndarray, float]  # logits (n, C) float32 and the seconds they took in their lane

log = logging.getLogger(__name__)


def kind_of(device: str) -> str:
    """cpu or cuda."""
    return device.partition(":")[0]


class Scorer:
    """A model loaded once on a device, for any number of slides: an engine and the threads that are its lanes."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        device: str,
        engine: EngineName = "auto",
        *,
        precision: Precision = "auto",
        compiled: bool = False,
        cells: bool = False,
        jpegs: bool = False,
    ) -> None:
        """Loads the weights; `device` is cpu or cuda:N, see `open_engine`.

        With `jpegs`, tiles are taken from the store as JPEGs and decoded on the device, see scores/gpu_jpeg.py.
        """
        self.checkpoint = checkpoint
        self.device = device
        self.cells = cells
        self.decoder = open_decoder(device, engine) if jpegs else None
        self.engine = open_engine(
            checkpoint, device, "torch" if jpegs else engine, precision=precision, compiled=compiled, cells=cells
        )
        self._lanes = ThreadPoolExecutor(self.engine.lanes, "score-tiles", self.engine.enter_lane)

    def submit(self, tiles: Pixels, px: int) -> list["Future[Part]"]:
        """Start on tiles (n, H, W, 3) uint8 RGB, reduced to px x px first, divided among the lanes in order."""
        piece = max(1, self.engine.piece(px, len(tiles)))
        parts = (tiles[start : start + piece] for start in range(0, len(tiles), piece))
        return [self._lanes.submit(self._timed, part, px) for part in parts]

    def logits(self, tiles: Pixels, px: int) -> np.ndarray:
        """What `Engine.forward` gives for tiles (n, H, W, 3) uint8 RGB, reduced to px x px first."""
        parts = [part.result()[0] for part in self.submit(tiles, px)]
        return np.concatenate([np.empty((0, *self.shape(px)), np.float32), *parts])

    def shape(self, px: int) -> tuple[int, ...]:
        """Of what the engine says of one tile of px x px."""
        side = px // CELL_PX
        return (len(self.checkpoint.class_names), *((side, side) if self.cells else ()))

    def _timed(self, tiles: Pixels, px: int) -> Part:
        began = perf_counter()
        return self.engine.forward(tiles, px), perf_counter() - began


def score_tiles(
    store: TileStore,
    scorer: Scorer,
    *,
    batch: int,
    resample: bool = False,
    adaptive: Adaptive | None = None,
    min_tissue: float = 0.0,
    key: str = "",
    stall_s: float | None = None,
    progress: Callable[[int], None] | None = None,
) -> Scores:
    """Probabilities of every tile, row k for tile k; NaN in rows that the store could not read.

    `batch` tiles are read at a time, ahead of the model; it changes the speed and no result. With `adaptive`
    only the tiles that decide are scored, see `score_where_open`. A scorer of cells gives a dense map: rows are its
    windows with a tissue share of `min_tissue`, see scores/dense.py. Under `key` logits are kept in the store as
    they come, and those that an interrupted scoring left there are not computed again, see scores/unfinished.py.
    `progress` is told the number of tiles just done. Raises ModelError when tiles and model do not agree
    (`check_fit`) or the output is not finite, StoreError when the disk is full or JPEGs are asked for and not there,
    StalledError when a batch could not be read within `stall_s` seconds.
    """
    if batch < 1:
        raise ConfigError(f"batch: got {batch}; give at least 1 tile")
    checkpoint, began = scorer.checkpoint, perf_counter()
    px = check_fit(store.grid, checkpoint, resample=resample, dense=scorer.cells)
    windows = lay_windows(store.grid, store.mask(), checkpoint.input_px, min_tissue) if scorer.cells else None
    step = 1 if adaptive is None or scorer.cells else lattice_step(store.grid.tile_px, store.grid.stride_px)
    with _kept(store, scorer, px, key) as kept:
        passes = _Passes(store, scorer, px, batch, kept, progress, stall_s)
        if step > 1 and adaptive is not None:
            probs = _where_open(passes, checkpoint, step, adaptive)
        else:
            logits = passes.logits(np.arange(store.n_tiles))
            logits = logits if windows is None else window_logits(store.grid, logits, windows)
            probs = _probabilities(logits, checkpoint)
    scores = Scores(
        rowcol=store.grid.rowcol if windows is None else windows.rowcol,
        class_names=checkpoint.class_names,
        positive=checkpoint.positive,
        exclusive=checkpoint.exclusive,
        probs=probs,
        checkpoint_id=checkpoint.id,
        threshold=checkpoint.threshold,
        model_mpp=slide_mpp(checkpoint),
        note=checkpoint.note,
        seconds=perf_counter() - began,
        model_seconds=passes.lane_s / scorer.engine.lanes,
        filled=0 if windows is not None else len(probs) - kept.resumed - kept.fresh,
        resumed=kept.resumed,
        step=step,
        tried=None if windows is None else store.n_tiles,
        missed=None if windows is None else kept.unreadable,
        windows=windows,
    )
    log.info("%.0f tiles/s, %.0f %% of it in the model", scores.tiles_per_s, 100 * scores.busy_share)
    return scores


def _kept(store: TileStore, scorer: Scorer, px: int, key: str) -> AbstractContextManager[Unfinished]:
    """Logits of the store's tiles from before and now; of another engine or precision they would differ by rounding."""
    by = f"{scorer.engine.name} {kind_of(scorer.device)} {scorer.engine.precision}"
    path, key = (store.path, f"{key} {by}") if key else ("", "")
    return keep_logits(path, key, n_tiles=store.n_tiles, shape=scorer.shape(px))


class _Passes:
    """Tiles of a store through a scorer, with the account of it: seconds of all lanes."""

    def __init__(
        self,
        store: TileStore,
        scorer: Scorer,
        px: int,
        batch: int,
        kept: Unfinished,
        progress: Callable[[int], None] | None,
        stall_s: float | None,
    ) -> None:
        self.store, self.scorer, self.px, self.batch, self.kept = store, scorer, px, batch, kept
        self.progress = progress or (lambda tiles: None)
        self.read = reading(store, scorer.decoder)
        self.stall_s = stall_s
        self.readers = _READERS[kind_of(scorer.device)] if scorer.decoder is None else _DECODING_READERS
        self.lane_s = 0.0

    def logits(self, rows: np.ndarray) -> np.ndarray:
        """Of these tiles, (n, ...) float32 as the scorer's engine gives them; NaN where unreadable."""
        missing = rows[~self.kept.done(rows)]
        batches = read_ahead(self.read, missing, self.batch, readers=self.readers, stall_s=self.stall_s)
        for start, readable, found, seconds in _score_ahead(self.scorer, batches, self.px):
            here = missing[start : start + len(found)]
            _refuse_broken(found, readable, here)
            found[~readable] = np.nan
            self.kept.add(here, found)
            self.lane_s += seconds
            self.progress(len(found))
        return self.kept.logits(rows)


def _where_open(passes: _Passes, checkpoint: Checkpoint, step: int, adaptive: Adaptive) -> np.ndarray:
    """Probabilities (N, C) of all tiles, from those of few; NaN also where the store knows that none could be read."""
    names, positive, exclusive = checkpoint.class_names, checkpoint.positive, checkpoint.exclusive
    probs, _ = score_where_open(
        passes.store.grid.rowcol,
        lambda rows: _probabilities(passes.logits(rows), checkpoint),
        lambda probs: p_cancer(probs, names, positive, exclusive=exclusive),
        step=step,
        threshold=checkpoint.threshold if adaptive.threshold is None else adaptive.threshold,
        tolerance=adaptive.tolerance,
    )
    if passes.store.pixels:
        probs[~passes.store.flags(0, passes.store.n_tiles)] = np.nan
    return probs


def _score_ahead(
    scorer: Scorer, batches: Iterator[tuple[int, Pixels, np.ndarray]], px: int
) -> Iterator[tuple[int, np.ndarray, np.ndarray, float]]:
    """(first of the rows, readable, logits, seconds of all lanes) of each batch in order.

    A batch is waited for only while every lane has work from later ones, so none idles between two.
    """
    waiting: deque[tuple[int, np.ndarray, list[Future[Part]]]] = deque()
    for start, tiles, readable in batches:
        waiting.append((start, readable, scorer.submit(tiles, px)))
        while sum(len(parts) for _, _, parts in waiting) - len(waiting[0][2]) >= scorer.engine.lanes:
            yield _joined(*waiting.popleft())
    while waiting:
        yield _joined(*waiting.popleft())


def _joined(start: int, readable: np.ndarray, parts: list["Future[Part]"]) -> tuple[int, np.ndarray, np.ndarray, float]:
    done = [part.result() for part in parts]
    return start, readable, np.concatenate([logits for logits, _ in done]), sum(seconds for _, seconds in done)


def _probabilities(logits: np.ndarray, checkpoint: Checkpoint) -> np.ndarray:
    return probabilities(
        logits,
        exclusive=checkpoint.exclusive,
        prior=checkpoint.prior,
        temperature=checkpoint.temperature,
    )


def _refuse_broken(logits: np.ndarray, readable: np.ndarray, rows: np.ndarray) -> None:
    broken = readable & ~np.isfinite(logits).reshape(len(logits), -1).all(axis=1)
    if broken.any():
        raise ModelError(
            f"output of {broken.sum()} tiles is not finite, the first is tile {rows[broken.argmax()]}; "
            f"on a GPU use --set model.precision=float32, or --device cpu"
        )
