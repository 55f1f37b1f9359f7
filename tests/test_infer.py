"""Scoring a store: order, batches, unreadable rows, fit of tiles and model, devices."""

import threading
import time
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch

from wsi_pipeline.errors import ConfigError, ModelError, SlideError, StalledError
from wsi_pipeline.geometry import Mpp
from wsi_pipeline.learn.model.checkpoint import Checkpoint
from wsi_pipeline.learn.model.densenet import build_densenet, build_model
from wsi_pipeline.scores.ahead import AHEAD, read_ahead, reading
from wsi_pipeline.scores.fit import check_fit
from wsi_pipeline.scores.infer import Scorer, score_tiles
from wsi_pipeline.scores.torch_engine import reduced

CPU = "cpu"


@dataclass(frozen=True)
class FakeGrid:
    """As much of a TileGrid as scoring looks at."""

    tile_px: int
    mpp: Mpp
    rowcol: np.ndarray = field(default_factory=lambda: np.empty((0, 2), np.int32))
    stride_px: int = 64


@dataclass(frozen=True)
class FakeStore:
    """Tiles in memory behind TileStore's interface; remembers what was read by which threads."""

    tiles: np.ndarray
    readable: np.ndarray
    grid: FakeGrid
    reads: list[tuple[int, int]] = field(default_factory=list)
    threads: set[str] = field(default_factory=set)

    @property
    def n_tiles(self) -> int:
        return len(self.tiles)

    @property
    def pixels(self) -> bool:
        return True

    def flags(self, start: int, stop: int) -> np.ndarray:
        return self.readable[start:stop]

    def read(self, start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
        self.reads.append((start, stop))
        self.threads.add(threading.current_thread().name)
        return self.tiles[start:stop], self.readable[start:stop]


def a_store(n: int, *, px: int = 64, mpp: float = 0.5, unreadable: tuple[int, ...] = ()) -> Any:
    """n tiles of noise, each of its own brightness."""
    rng = np.random.default_rng(0)
    tiles = rng.integers(0, 256, (n, px, px, 3)) * np.linspace(0.2, 1, n)[:, None, None, None]
    readable = ~np.isin(np.arange(n), unreadable)
    rowcol = np.stack([np.arange(n) // 4, np.arange(n) % 4], axis=1).astype(np.int32)
    return FakeStore(tiles.astype(np.uint8), readable, FakeGrid(px, Mpp(mpp, mpp), rowcol))


def a_checkpoint(**fields: Any) -> Checkpoint:
    """Random weights with running statistics that make the output differ from tile to tile."""
    torch.manual_seed(1)
    known: dict[str, Any] = {
        "arch": "densenet_demo",
        "class_names": ("tumour", "necrosis"),
        "positive": ("tumour",),
        "exclusive": False,
        "input_px": 64,
        "mpp": 0.5,
        "mean": (0.6, 0.5, 0.7),
        "std": (0.2, 0.3, 0.1),
        "state": build_densenet("densenet_demo", 2).state_dict(),
    }
    return Checkpoint(**known | fields)


def a_grid(px: int, x: float, y: float | None = None) -> Any:
    return FakeGrid(px, Mpp(x, x if y is None else y))


def test_each_row_is_the_networks_answer_for_its_tile() -> None:
    store, checkpoint = a_store(5), a_checkpoint(prior=(0.2, 0.5), temperature=2.0)
    scores = score_tiles(store, Scorer(checkpoint, CPU), batch=2)
    planes = torch.from_numpy(store.tiles).permute(0, 3, 1, 2) / 255
    planes = (planes - torch.tensor([0.6, 0.5, 0.7])[:, None, None]) / torch.tensor([0.2, 0.3, 0.1])[:, None, None]
    with torch.inference_mode():
        z = build_model(checkpoint)(planes)
    expected = torch.sigmoid((z + torch.logit(torch.tensor([0.2, 0.5]))) / 2)
    np.testing.assert_allclose(scores.probs, expected.numpy(), atol=1e-5)
    np.testing.assert_array_equal(scores.rowcol, store.grid.rowcol)
    assert len(np.unique(scores.probs[:, 0])) == 5


@pytest.mark.parametrize("batch", [1, 3, 8, 21, 100])
def test_the_batch_changes_no_score(batch: int) -> None:
    store, scorer = a_store(21), Scorer(a_checkpoint(), CPU)
    whole = score_tiles(store, scorer, batch=7)
    found = score_tiles(store, scorer, batch=batch)
    np.testing.assert_allclose(found.probs, whole.probs, atol=1e-5)


def test_tiles_are_read_once_each_in_order_by_another_thread() -> None:
    store, told = a_store(10), []
    score_tiles(store, Scorer(a_checkpoint(), CPU), batch=4, progress=told.append)
    assert store.reads == [(0, 4), (4, 8), (8, 10)]
    assert told == [4, 4, 2]
    assert threading.current_thread().name not in store.threads


def test_reading_stays_a_few_batches_ahead() -> None:
    store = a_store(40)
    batches = read_ahead(reading(store), np.arange(40), 2, readers=1)
    next(batches)
    assert len(store.reads) <= 1 + AHEAD
    batches.close()


def test_a_read_that_gives_no_answer_ends_the_scoring_of_its_slide(monkeypatch: pytest.MonkeyPatch) -> None:
    store, go_on = a_store(8), threading.Event()
    monkeypatch.setattr(type(store), "read", lambda self, *rows: go_on.wait())
    try:
        with pytest.raises(StalledError, match=r"no answer for 0\.2 s from read_tiles: .* or raise run\.stall_s"):
            score_tiles(store, Scorer(a_checkpoint(), CPU), batch=4, stall_s=0.2)
    finally:
        go_on.set()


def test_after_a_read_without_an_answer_the_next_is_not_waited_for() -> None:
    asked, go_on = [], threading.Event()

    def stalling(rows: np.ndarray) -> Any:
        asked.append(len(rows))
        go_on.wait()

    try:
        with pytest.raises(StalledError):
            list(read_ahead(stalling, np.arange(40), 4, readers=1, stall_s=0.2))
        assert len(asked) == 1
    finally:
        go_on.set()


def test_a_read_that_stalls_holds_up_nobody_who_ends_the_reading() -> None:
    release, began = threading.Event(), time.monotonic()

    def read(rows: np.ndarray) -> Any:
        return (rows, rows) if 0 in rows else release.wait(120)

    batches = read_ahead(read, np.arange(8), 4, readers=1, stall_s=60)
    next(batches)
    batches.close()  # as an interrupt does
    assert time.monotonic() - began < 30
    release.set()


def test_unreadable_tiles_are_nan_in_every_column() -> None:
    scores = score_tiles(a_store(6, unreadable=(0, 4)), Scorer(a_checkpoint(), CPU), batch=4)
    np.testing.assert_array_equal(np.isnan(scores.probs).all(axis=1), [True, False, False, False, True, False])
    assert np.isnan(scores.probs).sum() == 4


def test_no_tiles_give_no_rows() -> None:
    scores = score_tiles(a_store(0), Scorer(a_checkpoint(), CPU), batch=4)
    assert scores.probs.shape == (0, 2) and scores.rowcol.shape == (0, 2)


def test_exclusive_classes_add_up_to_one() -> None:
    scores = score_tiles(a_store(3), Scorer(a_checkpoint(exclusive=True), CPU), batch=4)
    np.testing.assert_allclose(scores.probs.sum(axis=1), 1, atol=1e-6)


def test_scores_carry_the_meaning_and_the_speed() -> None:
    checkpoint = a_checkpoint(threshold=0.3, note="knows little")
    scores = score_tiles(a_store(3), Scorer(checkpoint, CPU), batch=4)
    told = scores.checkpoint_id, scores.threshold, scores.note, scores.model_mpp, scores.positive
    assert told == (checkpoint.id, 0.3, "knows little", 0.5, ("tumour",))
    assert scores.tiles_per_s > 0 and 0 < scores.busy_share <= 1


def test_an_error_while_reading_comes_out_as_it_is() -> None:
    class Broken(FakeStore):
        def read(self, start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
            raise SlideError("the slide is gone")

    good = a_store(3)
    with pytest.raises(SlideError, match="the slide is gone"):
        score_tiles(Broken(good.tiles, good.readable, good.grid), Scorer(a_checkpoint(), CPU), batch=2)  # type: ignore[arg-type]


def test_read_only_tiles_are_scored_without_a_warning() -> None:
    store = a_store(3)
    store.tiles.flags.writeable = False
    assert np.isfinite(score_tiles(store, Scorer(a_checkpoint(), CPU), batch=2).probs).all()


def test_output_that_is_not_finite_names_the_tile(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(tiles: np.ndarray, px: int) -> np.ndarray:
        second = (tiles == store.tiles[1]).all(axis=(1, 2, 3))
        return np.where(second[:, None], [np.inf, 0.0], 0.0).astype(np.float32)

    store, scorer = a_store(4), Scorer(a_checkpoint(), CPU)
    monkeypatch.setattr(scorer.engine, "forward", broken)
    with pytest.raises(ModelError, match="1 tiles is not finite, the first is tile 1"):
        score_tiles(store, scorer, batch=2)


def test_a_batch_of_none_is_refused() -> None:
    with pytest.raises(ConfigError, match="batch: got 0"):
        score_tiles(a_store(1), Scorer(a_checkpoint(), CPU), batch=0)


@pytest.mark.parametrize(
    ("px", "mpp", "resample", "expected"),
    [
        (64, 0.5, False, 64),
        (64, 0.479, False, 64),
        (64, 0.521, True, 64),
        (128, 0.25, True, 64),
        (128, 0.2431, True, 62),
        (96, 0.5, True, 96),
        (32, 0.5, True, 32),
        (256, 0.25, True, 128),
    ],
    ids=["same", "4 % finer", "4 % coarser", "half", "odd", "wider", "narrower", "finer and wider"],
)
def test_tiles_that_fit_tell_the_size_the_model_gets(px: int, mpp: float, resample: bool, expected: int) -> None:
    assert check_fit(a_grid(px, mpp), a_checkpoint(), resample=resample) == expected


@pytest.mark.parametrize(
    ("grid", "resample", "words"),
    [
        (a_grid(64, 0.25), False, r"64 px at 0.25 x 0.25 um/px, model \w+ wants 64 px at 0.5 .*model.resample=true"),
        (a_grid(64, 0.25), True, None),
        (a_grid(128, 0.5), False, r"128 px at 0.5 x 0.5 um/px, .* wants 64 px at 0.5 um/px; .*tiles.tile_px=64"),
        (a_grid(64, 1.0), False, r"reducing cannot bring them together; use --set tiles.mpp=0.5"),
        (a_grid(64, 1.0), True, r"reducing cannot bring them together"),
        (a_grid(64, 0.53), True, r"reducing cannot bring them together"),
        (a_grid(128, 0.5, 0.25), True, r"128 px at 0.5 x 0.25 um/px.* reducing cannot"),
        (a_grid(40, 0.25), True, r"20 px at its scale are too few, 32 needed"),
    ],
    ids=["finer", "finer, 32 left", "wider", "coarser", "no enlarging", "6 % coarser", "oblong", "too small"],
)
def test_tiles_that_do_not_fit_are_refused_with_both_numbers(grid: Any, resample: bool, words: str | None) -> None:
    if words is None:
        assert check_fit(grid, a_checkpoint(), resample=resample) == 32
        return
    with pytest.raises(ModelError, match=words):
        check_fit(grid, a_checkpoint(), resample=resample)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"positive": ()}, "counts no class as cancer"),
        ({"in_channels": 1, "mean": (0.5,), "std": (0.2,)}, "takes grey images"),
        ({"mpp": None}, "knows no um/px: its images had no scale"),
    ],
    ids=["no cancer", "grey", "no scale"],
)
def test_models_that_score_no_slides_are_refused(fields: dict[str, Any], words: str) -> None:
    channels = fields.get("in_channels", 3)
    state = build_densenet("densenet_demo", 2, in_channels=channels).state_dict()
    with pytest.raises(ModelError, match=words):
        check_fit(a_grid(64, 0.5), a_checkpoint(state=state, **fields))


def test_reducing_by_a_whole_number_is_the_exact_mean_of_blocks() -> None:
    store = a_store(2, px=128, mpp=0.25)
    small = store.tiles.reshape(2, 64, 2, 64, 2, 3).mean(axis=(2, 4))
    planes = torch.from_numpy(store.tiles).permute(0, 3, 1, 2).float()
    np.testing.assert_allclose(reduced(planes, 64).numpy(), np.moveaxis(small, 3, 1), atol=1e-4)
    scores = score_tiles(store, Scorer(a_checkpoint(), CPU), batch=2, resample=True)
    assert np.isfinite(scores.probs).all()


def test_reducing_by_another_factor_does_not_alias() -> None:
    stripes = torch.zeros(1, 3, 66, 66)
    stripes[..., ::2] = 255
    found = reduced(stripes, 48)[..., 4:-4]
    assert found.min() > 60 and found.max() < 195  # a nearest pixel would be 0 or 255
