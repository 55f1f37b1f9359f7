"""Scores of every tile of a store by one checkpoint, in batches on a CPU or a GPU, in the store's order."""

import logging
import os
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache
from time import perf_counter
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, interpolate

from wsi_pipeline.errors import ConfigError, ModelError
from wsi_pipeline.learn.calibrate import probabilities
from wsi_pipeline.learn.checkpoint import Checkpoint, build_model
from wsi_pipeline.learn.models import MIN_INPUT_PX
from wsi_pipeline.scores.store import Scores
from wsi_pipeline.tiles.grid import TileGrid
from wsi_pipeline.tiles.store import TileStore

MPP_TOLERANCE = 0.05  # objectives called 20x and 40x differ by about as much between scanners
_CPU_PIECE = 4  # most tiles in one forward pass on a CPU: more would fault fresh memory in page by page
_READERS = {"cpu": 1, "cuda": 4}  # threads reading ahead: on a CPU the network needs the cores
_AHEAD = 2  # batches in the queue for each reader

log = logging.getLogger(__name__)


def pick_device(name: str) -> torch.device:
    """The device named auto (the first GPU, else the CPU), cpu, cuda or cuda:N.

    Raises ModelError at once when it is unknown, or asked for and absent, telling what there is.
    """
    present = [f"cuda:{i}" for i in range(torch.cuda.device_count())]
    if name == "auto":
        return torch.device(present[0] if present else "cpu")
    wanted = "cuda:0" if name == "cuda" else name
    if wanted not in ("cpu", *present):
        raise ModelError(f"device {name!r} is not here; this machine has {', '.join(['cpu', *present])}, or use auto")
    return torch.device(wanted)


def check_fit(grid: TileGrid, checkpoint: Checkpoint, *, resample: bool = False) -> int:
    """Side in px at which the model gets the tiles: `tile_px`, or less when they are to be reduced.

    Within 5 % of the model's um/px (x and y each), tiles of the model's input size go in as they are.
    With `resample`, two things more are done knowingly; pixels are never enlarged:

    - the scale fits, the size does not: the tile goes in whole and unchanged, at its own size. A DenseNet
      takes any from 32 px on; the model then sees another field of view than it was trained on.
    - tiles are finer than the model: the tile is reduced to round(tile_px * mpp / model mpp) px, which brings
      its pixels to the model's scale, by exact means of blocks when that is a whole fraction (512 px at
      0.25 um/px -> 256 px at 0.5), else by an antialiased triangle filter. The field of view is the tile's.

    Raises ModelError with both numbers and the knob to set when they do not agree, and for a model that
    cannot score slides: no positive class, grey input, or no scale.
    """
    mpp = _slide_mpp(checkpoint)
    have = f"tiles are {grid.tile_px} px at {grid.mpp.x:.4g} x {grid.mpp.y:.4g} um/px"
    want = f"model {checkpoint.id} wants {checkpoint.input_px} px at {mpp:.4g} um/px"
    cut_anew = f"--set tiles.mpp={mpp:.4g} --set tiles.tile_px={checkpoint.input_px}"
    fits = _fits(grid, mpp, grid.tile_px)
    px = grid.tile_px if fits else round(grid.tile_px * grid.mpp.mean / mpp)
    if not fits and (px >= grid.tile_px or not _fits(grid, mpp, px)):
        raise ModelError(f"{have}, {want}, and reducing cannot bring them together; use {cut_anew}")
    if (px != grid.tile_px or px != checkpoint.input_px) and not resample:
        raise ModelError(f"{have}, {want}; use {cut_anew}, or allow it with --set model.resample=true")
    if px < MIN_INPUT_PX:
        raise ModelError(f"{have}, {want}: {px} px at its scale are too few, {MIN_INPUT_PX} needed; use {cut_anew}")
    return px


class Scorer:
    """A model loaded once on a device, for any number of slides; on a GPU in bfloat16 or float16.

    On a CPU, batches are shared among threads that compute alone: torch's own threads wait for each other
    after every layer, and came down from 45 to 5 tiles/s where other processes were using the cores.
    """

    def __init__(self, checkpoint: Checkpoint, device: torch.device) -> None:
        """Loads the weights onto `device`, channels last, in eval mode."""
        self.checkpoint = checkpoint
        self.device = device
        self.piece = 1 << 30  # most tiles in one forward pass on a GPU; less once its memory was full
        self._threads = _cores()
        self._pool: ThreadPoolExecutor | None = None
        if device.type == "cpu":
            self._pool = ThreadPoolExecutor(self._threads, "score-tiles", torch.set_num_threads, (1,))
        self._model = build_model(checkpoint).to(memory_format=torch.channels_last).to(device)
        self._half = torch.float16 if device.type == "cuda" and not torch.cuda.is_bf16_supported() else torch.bfloat16
        self._shift = 255 * torch.tensor(checkpoint.mean, device=device)[:, None, None]
        self._scale = 255 * torch.tensor(checkpoint.std, device=device)[:, None, None]

    def logits(self, tiles: np.ndarray, px: int) -> np.ndarray:
        """Raw output (n, C) float32 for tiles (n, H, W, 3) uint8 RGB, reduced to px x px first.

        When the GPU's memory does not hold them, fewer are taken at a time, from then on; ModelError when
        it does not hold one.
        """
        parts = self._by_turns(tiles, px) if self._pool is None else self._by_threads(self._pool, tiles, px)
        return np.concatenate([np.empty((0, len(self.checkpoint.class_names)), np.float32), *parts])

    def _by_threads(self, pool: ThreadPoolExecutor, tiles: np.ndarray, px: int) -> list[np.ndarray]:
        piece = min(_CPU_PIECE, max(1, -(-len(tiles) // self._threads)))
        parts = [tiles[start : start + piece] for start in range(0, len(tiles), piece)]
        return list(pool.map(self._forward, parts, [px] * len(parts)))

    def _by_turns(self, tiles: np.ndarray, px: int) -> list[np.ndarray]:
        out: list[np.ndarray] = []
        start = 0
        while start < len(tiles):
            part = tiles[start : start + self.piece]
            try:
                out.append(self._forward(part, px))
                start += len(part)
                continue
            except torch.cuda.OutOfMemoryError:
                pass  # recovered from below: here the traceback still holds the memory
            self._take_less(len(part), px)
        return out

    def _forward(self, tiles: np.ndarray, px: int) -> np.ndarray:
        """Output (n, C) float32 of one pass."""
        mixed = torch.autocast(self.device.type, dtype=self._half, enabled=self.device.type == "cuda")
        with torch.inference_mode(), mixed:
            pixels = torch.from_numpy(np.require(tiles, np.uint8, ["C", "W"])).to(self.device)
            planes = _reduced(pixels.permute(0, 3, 1, 2).float(), px)  # NHWC in memory: channels last
            return self._model((planes - self._shift) / self._scale).float().cpu().numpy()

    def _take_less(self, tried: int, px: int) -> None:
        torch.cuda.empty_cache()
        if tried == 1:
            raise ModelError(f"{self.device} has no memory for one tile of {px} px; use smaller tiles or --device cpu")
        self.piece = tried // 2
        log.warning("%s is out of memory with %d tiles; going on with %d", self.device, tried, self.piece)


def score_tiles(
    store: TileStore,
    scorer: Scorer,
    *,
    batch: int,
    resample: bool = False,
    progress: Callable[[int], None] | None = None,
) -> Scores:
    """Probabilities of every tile, row k for tile k; NaN in rows that the store could not read.

    `batch` tiles are read at a time, ahead of the model; it changes the speed and no result. `progress` is
    told the number of tiles just done. Raises ModelError when tiles and model do not agree (`check_fit`) or
    the output is not finite.
    """
    if batch < 1:
        raise ConfigError(f"batch: got {batch}; give at least 1 tile")
    checkpoint, began, inside = scorer.checkpoint, perf_counter(), 0.0
    px = check_fit(store.grid, checkpoint, resample=resample)
    logits = np.full((store.n_tiles, len(checkpoint.class_names)), np.nan, np.float32)
    for start, tiles, readable in _read_ahead(store, batch, readers=_READERS.get(scorer.device.type, 1)):
        entered = perf_counter()
        found = scorer.logits(tiles, px)
        inside += perf_counter() - entered
        _refuse_broken(found, readable, start)
        logits[start : start + len(tiles)][readable] = found[readable]
        if progress is not None:
            progress(len(tiles))
    scores = Scores(
        rowcol=store.grid.rowcol,
        class_names=checkpoint.class_names,
        positive=checkpoint.positive,
        exclusive=checkpoint.exclusive,
        probs=_probabilities(logits, checkpoint),
        checkpoint_id=checkpoint.id,
        threshold=checkpoint.threshold,
        model_mpp=_slide_mpp(checkpoint),
        note=checkpoint.note,
        seconds=perf_counter() - began,
        model_seconds=inside,
    )
    log.info("%.0f tiles/s, %.0f %% of it in the model", scores.tiles_per_s, 100 * scores.busy_share)
    return scores


def _read_ahead(store: TileStore, batch: int, *, readers: int) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """(first tile, tiles, readable) of each batch in order, read by threads `_AHEAD` batches ahead."""
    starts = iter(range(0, store.n_tiles, batch))
    queue: deque[tuple[int, Future[Any]]] = deque()
    with ThreadPoolExecutor(readers, thread_name_prefix="read-tiles") as pool:
        try:
            while True:
                while len(queue) < _AHEAD * readers and (start := next(starts, None)) is not None:
                    queue.append((start, pool.submit(store.read, start, min(start + batch, store.n_tiles))))
                if not queue:
                    return
                start, coming = queue.popleft()
                yield start, *coming.result()
        finally:
            pool.shutdown(cancel_futures=True)


def _probabilities(logits: np.ndarray, checkpoint: Checkpoint) -> np.ndarray:
    return probabilities(
        logits,
        exclusive=checkpoint.exclusive,
        prior=checkpoint.prior,
        temperature=checkpoint.temperature,
    )


def _refuse_broken(logits: np.ndarray, readable: np.ndarray, start: int) -> None:
    broken = readable & ~np.isfinite(logits).all(axis=1)
    if broken.any():
        raise ModelError(
            f"output of {broken.sum()} tiles is not finite, the first is tile {start + broken.argmax()}; "
            f"on a GPU use --device cpu, which computes in float32"
        )


def _reduced(planes: Tensor, px: int) -> Tensor:
    """Planes (n, 3, H, W) float to px x px: as they are, exact means of blocks, or antialiased."""
    height, width = planes.shape[-2:]
    if height == width == px:
        return planes
    if height % px == 0 and width % px == 0:
        return avg_pool2d(planes, (height // px, width // px))
    return interpolate(planes, size=(px, px), mode="bilinear", antialias=True)


def _slide_mpp(checkpoint: Checkpoint) -> float:
    """um/px of a model that can score slides; ModelError tells why it cannot."""
    if not checkpoint.positive:
        lack = "counts no class as cancer"
    elif checkpoint.in_channels != 3:
        lack = "takes grey images"
    elif checkpoint.mpp is None:
        lack = "knows no um/px: its images had no scale"
    else:
        return checkpoint.mpp
    raise ModelError(f"model {checkpoint.id} {lack}; use one made for slides, such as demo")


def _fits(grid: TileGrid, mpp: float, px: int) -> bool:
    """Whether the tile, given as `px` pixels a side, has `mpp` um/px within the tolerance, along x and y."""
    factor = grid.tile_px / max(px, 1) / mpp
    return all(abs(axis * factor - 1) <= MPP_TOLERANCE for axis in (grid.mpp.x, grid.mpp.y))


@cache
def _cores() -> int:
    """Cores this process may use; asked once, since a Scorer's threads change torch's own answer."""
    mine = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(torch.get_num_threads(), mine))
