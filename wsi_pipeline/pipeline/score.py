"""A tile store -> its scores in the store, by one model that stays loaded over the slides."""

from collections.abc import Callable
from pathlib import Path

from wsi_pipeline.errors import ModelError, StoreError
from wsi_pipeline.geometry import Mpp
from wsi_pipeline.learn.model.checkpoint import load_checkpoint
from wsi_pipeline.scores.adaptive import Adaptive
from wsi_pipeline.scores.engines import Decoding, EngineName, Precision, pick_device
from wsi_pipeline.scores.fit import input_px
from wsi_pipeline.scores.infer import BATCH, Scorer, kind_of, score_tiles
from wsi_pipeline.scores.store import Scores, read_scores, write_scores
from wsi_pipeline.scores.unfinished import drop_logits
from wsi_pipeline.tiles.store import open_store


class Classifier:
    """A checkpoint on a device, with how it is to be run; torch is loaded for a GPU alone.

    Attributes:
        id, note, name: of the checkpoint; the note is for the user.
        device, engine, precision: where, by what and in what it is run.
    """

    def __init__(
        self, where: str, *, device: str, batch: int | None, resample: bool,
        engine: EngineName = "auto", compiled: bool = False, adaptive: Adaptive | None = None,
        dense: bool = False, min_tissue: float = 0.0, decode: Decoding = "cpu", precision: Precision = "auto",
        stall_s: float | None = None,
    ) -> None:  # fmt: skip
        checkpoint = load_checkpoint(where)
        self.id = checkpoint.id
        self.name = Path(where).name
        self.note = checkpoint.note
        self.positive = checkpoint.positive
        self.threshold = checkpoint.threshold
        self.device = pick_device(device)
        if decode == "gpu" and self.device == "cpu":
            raise ModelError("model.decode=gpu: the device is cpu; set model.decode=cpu, or score on a GPU")
        jpegs = decode == "gpu"
        self._scorer = Scorer(
            checkpoint, self.device, engine, precision=precision, compiled=compiled, cells=dense, jpegs=jpegs
        )
        self.engine, self.precision = self._scorer.engine.name, self._scorer.engine.precision
        self._batch = batch or BATCH[kind_of(self.device)]
        self._resample = resample
        self._adaptive = adaptive
        self._min_tissue = min_tissue
        self._stall_s = stall_s

    def score(self, store_path: str, key: str, progress: Callable[[int], None] | None = None) -> Scores:
        """Score every tile of a complete store, or read the scores of the same `key` that are there already.

        A scoring that was interrupted goes on where it stopped.
        """
        try:
            scores = read_scores(store_path, self.id, key=key)
        except StoreError:
            scores = self._scored(store_path, key, progress)
        drop_logits(store_path)
        return scores

    def check_tiles(self, tile_px: int, mpp: float) -> None:
        """Raise ModelError where it is none for tiles of `tile_px` px at `mpp` um/px, see `check_fit`."""
        dense = self._scorer.cells
        input_px(self._scorer.checkpoint, tile_px, Mpp(mpp, mpp), resample=self._resample, dense=dense)

    def rest(self) -> None:
        """Give back memory that can be had again; maps are drawn with it."""
        self._scorer.engine.rest()

    def _scored(self, store_path: str, key: str, progress: Callable[[int], None] | None) -> Scores:
        store = open_store(store_path)
        scores = score_tiles(
            store,
            self._scorer,
            batch=self._batch,
            resample=self._resample,
            adaptive=self._adaptive,
            min_tissue=self._min_tissue,
            key=key,
            stall_s=self._stall_s,
            progress=progress,
        )
        write_scores(store_path, scores, key=key)
        return scores
