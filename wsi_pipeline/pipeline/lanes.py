"""Slides scored elsewhere: a store's path -> its scores in the store, by the GPU workers of a Dask cluster.

What travels is the store's path, the checkpoint's, and how it is to be run; back comes a line of numbers. A worker
keeps the model that it used last.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from threading import Lock

from wsi_pipeline.errors import ClusterError, ModelError
from wsi_pipeline.geometry import Mpp
from wsi_pipeline.gpus import Gpus, still_wanted
from wsi_pipeline.learn.model.checkpoint import load_checkpoint
from wsi_pipeline.pipeline.heard import heard
from wsi_pipeline.pipeline.score import Classifier
from wsi_pipeline.scores.adaptive import Adaptive
from wsi_pipeline.scores.engines import Decoding, EngineName, Precision
from wsi_pipeline.scores.fit import input_px

_opening = Lock()
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Recipe:
    """How a classifier is made: the arguments of `Classifier`."""

    where: str
    device: str
    batch: int | None
    resample: bool
    engine: EngineName = "auto"
    compiled: bool = False
    adaptive: Adaptive | None = None
    dense: bool = False
    min_tissue: float = 0.0
    decode: Decoding = "cpu"
    precision: Precision = "auto"
    stall_s: float | None = None

    def open(self) -> Classifier:
        """The classifier, loaded."""
        return Classifier(**vars(self))


@dataclass(frozen=True)
class Scored:
    """What a lane tells of a slide that it scored; see `Scores` for the fields of the same names.

    Attributes:
        fresh: tiles that went through the model now.
        notes: what was warned of meanwhile, such as a GPU whose memory was full.
    """

    tiles: int
    unreadable: int
    fresh: int
    tiles_per_s: float
    busy_share: float
    seconds: float
    filled: int
    resumed: int
    notes: tuple[str, ...] = ()


class RemoteClassifier:
    """A checkpoint for a run on a Dask cluster: what scores with it is known once the workers are.

    Attributes:
        id, note, name, positive, threshold: of the checkpoint.
    """

    device, engine, precision = "the cluster", "its workers", ""

    def __init__(self, recipe: Recipe) -> None:
        checkpoint = load_checkpoint(recipe.where)
        self.id = checkpoint.id
        self.name = Path(recipe.where).name
        self.note = checkpoint.note
        self.positive = checkpoint.positive
        self.threshold = checkpoint.threshold
        self._recipe = recipe

    def check_tiles(self, tile_px: int, mpp: float) -> None:
        """As `Classifier.check_tiles`."""
        resample, dense = self._recipe.resample, self._recipe.dense
        input_px(load_checkpoint(self._recipe.where), tile_px, Mpp(mpp, mpp), resample=resample, dense=dense)

    def place(self, gpus: Gpus | None) -> "Classifier | LaneClassifier":
        """What scores: the workers with a GPU, where there are any, else this process.

        Raises ModelError or ConfigError at once where a worker that is there cannot run the model.
        """
        if gpus is None:
            return self._recipe.open()
        if gpus.here():
            gpus.run(make_ready, self._recipe, self.id)
        return LaneClassifier(self.id, self._recipe, gpus)

    def score(self, store_path: str, key: str, progress: Callable[[int], None] | None = None) -> Scored:
        """Not before it is placed."""
        raise ClusterError(f"{store_path}: place the classifier before it scores")

    def rest(self) -> None:
        """Nothing to do: it has only the weights."""


@dataclass(frozen=True)
class LaneClassifier:
    """Scores on the GPUs of a Dask cluster, a slide a GPU; several threads may call it."""

    id: str
    recipe: Recipe
    gpus: Gpus

    def score(self, store_path: str, key: str, progress: Callable[[int], None] = lambda tiles: None) -> Scored:
        """As `Classifier.score`. `progress` hears 0 while it waits; what it raises ends the scoring."""
        scored: Scored = self.gpus.run(
            score_store, self.recipe, self.id, store_path, key, meanwhile=lambda: progress(0)
        )
        for note in scored.notes:
            log.warning("%s: %s", Path(store_path).stem, note)
        progress(scored.fresh)
        return scored

    def rest(self) -> None:
        """Nothing to do here: the weights are where the GPUs are."""


def make_ready(recipe: Recipe, checkpoint_id: str) -> None:
    """Load the model where this runs; the task of a worker. Raises ModelError where it is another one there."""
    _ready(recipe, checkpoint_id)


def score_store(recipe: Recipe, checkpoint_id: str, store_path: str, key: str) -> Scored:
    """Score one slide; the task of a worker with a GPU. Ends early, with ClusterError, when nobody waits for it."""
    wanted, fresh = still_wanted(), 0
    notes: list[str] = []

    def count(tiles: int) -> None:
        nonlocal fresh
        fresh += tiles
        if not wanted():
            raise ClusterError(f"{store_path}: nobody waits for the scores any more")

    with heard(notes.append):
        scores = _ready(recipe, checkpoint_id).score(store_path, key, count)
    return Scored(
        tiles=scores.tiles,
        unreadable=scores.unreadable,
        fresh=fresh,
        tiles_per_s=scores.tiles_per_s,
        busy_share=scores.busy_share,
        seconds=scores.seconds,
        filled=scores.filled,
        resumed=scores.resumed,
        notes=tuple(notes),
    )


def _ready(recipe: Recipe, checkpoint_id: str) -> Classifier:
    with _opening:  # one thread loads, the others wait
        return _opened(recipe, checkpoint_id)


@lru_cache(maxsize=1)
def _opened(recipe: Recipe, checkpoint_id: str) -> Classifier:
    """One for each process: the last that was asked for, by its path and what it must be; another is not kept."""
    classifier = recipe.open()
    if classifier.id != checkpoint_id:
        raise ModelError(
            f"{recipe.where}: is model {classifier.id} on a worker and {checkpoint_id} here; give all the same file"
        )
    return classifier
