"""Logits kept while a slide is scored: what an interruption leaves is not computed again, and changes no bit."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from small_slide import a_grid, a_slide, all_tissue
from test_engines import CPU, a_checkpoint

from wsi_pipeline.errors import StoreError
from wsi_pipeline.pipeline.damage import missed_tiles
from wsi_pipeline.scores import unfinished
from wsi_pipeline.scores.adaptive import Adaptive
from wsi_pipeline.scores.infer import Scorer, score_tiles
from wsi_pipeline.scores.store import Scores, read_scores, write_scores
from wsi_pipeline.scores.unfinished import NAME, drop_logits, keep_logits
from wsi_pipeline.tiles.making import create_store, write_shard
from wsi_pipeline.tiles.store import TileStore, open_store

TILE, TILES = 64, 20
UNREADABLE = (1, 17)


@pytest.fixture
def store(tmp_path: Path) -> TileStore:
    """5 x 4 tiles of 64 px in one shard, two of them unreadable."""
    slide, _ = a_slide(tmp_path)
    grid = a_grid(slide, tile=TILE, stride_px=TILE)
    made = create_store(tmp_path / "a.zarr", grid, all_tissue(slide), pixels=True, shard_tiles=32, key="k", settings={})
    tiles = np.random.default_rng(0).integers(0, 256, (TILES, TILE, TILE, 3), dtype=np.uint8)
    write_shard(made, 0, tiles, ~np.isin(np.arange(TILES), UNREADABLE))
    return open_store(tmp_path / "a.zarr", complete=False)


class Counting(Scorer):
    """A scorer that counts the tiles that really go through its engine."""

    def submit(self, tiles: np.ndarray, px: int) -> Any:
        self.seen = getattr(self, "seen", 0) + len(tiles)
        return super().submit(tiles, px)


def interrupted(store: TileStore, scorer: Scorer, after: int, **how: Any) -> None:
    """Score until `after` tiles are done, then Ctrl-C."""
    done = 0

    def stop(tiles: int) -> None:
        nonlocal done
        done += tiles
        if done >= after:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        score_tiles(store, scorer, batch=2, key="scoring", progress=stop, **how)


def same(one: Scores, other: Scores) -> None:
    np.testing.assert_array_equal(one.probs, other.probs)
    assert (one.filled, one.step, one.remarks) == (other.filled, other.step, other.remarks)


@pytest.mark.parametrize("way", ["plain", "adaptive", "dense"])
def test_only_the_rest_is_scored_and_every_bit_is_the_same(store: TileStore, way: str) -> None:
    checkpoint = a_checkpoint()
    how = {"adaptive": Adaptive(tolerance=0, threshold=0.0)} if way == "adaptive" else {}
    if way == "adaptive":  # tiles of 64 px every 32, from the slide itself
        slide, _ = a_slide(Path(store.path).parent)
        grid = a_grid(slide, tile=TILE, stride_px=32)
        place = Path(store.path).with_name("b.zarr")
        store = create_store(place, grid, all_tissue(slide), pixels=False, shard_tiles=32, key="k", settings={})
    whole = score_tiles(store, Scorer(checkpoint, CPU, cells=way == "dense"), batch=3, **how)
    interrupted(store, Scorer(checkpoint, CPU, cells=way == "dense"), 8, **how)
    again = Counting(checkpoint, CPU, cells=way == "dense")
    found = score_tiles(store, again, batch=3, key="scoring", **how)
    same(found, whole)
    kept = 8 if way == "adaptive" else 7  # of the others one could not be read, and is tried again
    assert found.resumed == kept and again.seen == whole.tiles - whole.filled - kept
    assert found.tiles_per_s == pytest.approx(again.seen / found.seconds)


def test_what_was_kept_goes_with_the_complete_scores(store: TileStore) -> None:
    scorer = Scorer(a_checkpoint(), CPU)
    interrupted(store, scorer, 4)
    assert NAME in zarr.open_group(store.path)
    write_scores(store.path, score_tiles(store, scorer, batch=8, key="scoring"), key="scoring")
    drop_logits(store.path)
    assert NAME not in zarr.open_group(store.path)
    assert not (Path(store.path) / NAME).exists()
    drop_logits(store.path)  # nothing there is no error


def test_an_unreadable_tile_is_done_and_a_tile_not_reached_is_not(store: TileStore) -> None:
    interrupted(store, Scorer(a_checkpoint(), CPU), 4)
    rows = np.asarray(zarr.open_array(store.path, path=NAME, mode="r")[:])
    np.testing.assert_array_equal(rows[:, -1], [1] * 4 + [0] * 16)
    np.testing.assert_array_equal(np.isnan(rows[:, :-1]).all(axis=1), np.arange(TILES) == UNREADABLE[0])


@pytest.mark.parametrize("dense", [False, True])
def test_what_could_not_be_read_is_counted_in_tiles_whatever_the_rows_are(store: TileStore, dense: bool) -> None:
    scores = score_tiles(store, Scorer(a_checkpoint(), CPU, cells=dense), batch=8)
    assert (scores.tiles, scores.unreadable, scores.missed) == (TILES, 2, UNREADABLE if dense else None)
    assert (scores.rows > TILES) == dense
    write_scores(store.path, scores, key="k")
    found = read_scores(store.path, scores.checkpoint_id, key="k")
    assert (found.tiles, found.unreadable, found.missed) == (TILES, 2, scores.missed)
    missed = missed_tiles(replace(store, status="complete"), scores.checkpoint_id, "k")
    assert tuple(missed.tolist()) == UNREADABLE


def test_a_tile_that_could_not_be_read_is_tried_again(store: TileStore) -> None:
    scorer = Counting(a_checkpoint(), CPU)
    interrupted(store, scorer, 4)
    tiles = np.random.default_rng(0).integers(0, 256, (TILES, TILE, TILE, 3), dtype=np.uint8)
    write_shard(store, 0, tiles, np.ones(TILES, bool))  # a whole copy of the file was cut
    found = score_tiles(open_store(store.path, complete=False), scorer, batch=2, key="scoring")
    assert (found.resumed, found.unreadable) == (3, 0) and np.isfinite(found.probs).all()


@pytest.mark.parametrize("change", ["key", "shape", "damage", "emptied", "metadata"])
def test_what_was_kept_of_other_settings_or_is_damaged_is_done_anew(store: TileStore, change: str) -> None:
    interrupted(store, Scorer(a_checkpoint(), CPU), 4)
    known = zarr.open_array(store.path, path=NAME, mode="r").attrs["wsi_pipeline"]["key"]
    with keep_logits(store.path, known, n_tiles=TILES, shape=(2,)) as kept:
        assert kept.resumed == 3  # and one that could not be read
    (chunk,) = (path for path in (Path(store.path) / NAME / "c").rglob("*") if path.is_file())
    if change == "damage":
        chunk.write_bytes(chunk.read_bytes()[:-9] + b"123456789")
    elif change in ("emptied", "metadata"):  # by a power cut
        (chunk if change == "emptied" else Path(store.path) / NAME / "zarr.json").write_bytes(b"")
    key, shape = "other" if change == "key" else known, (3,) if change == "shape" else (2,)
    with keep_logits(store.path, key, n_tiles=TILES, shape=shape) as kept:
        assert kept.resumed == 0 and not kept.done(np.arange(TILES)).any()


def test_logits_are_written_every_so_many_tiles_or_seconds(store: TileStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unfinished, "FLUSH_TILES", 3)
    with keep_logits(store.path, "k", n_tiles=TILES, shape=(2,)) as kept:
        for row, written in ((0, 0), (1, 0), (2, 3), (3, 3)):
            kept.add(np.array([row]), np.zeros((1, 2), np.float32))
            assert rows_written(store) == written
        monkeypatch.setattr(unfinished, "FLUSH_S", 0.0)
        kept.add(np.array([4]), np.zeros((1, 2), np.float32))
        assert rows_written(store) == 5


def rows_written(store: TileStore) -> int:
    found = zarr.open_group(store.path, mode="r").get(NAME)
    return 0 if found is None else int(found[:, -1].sum())


def test_a_disk_that_refuses_is_told_with_the_place(store: TileStore) -> None:
    (Path(store.path) / "scores").write_bytes(b"in the way")
    with (
        pytest.raises(StoreError, match=r"a\.zarr: cannot be written"),
        keep_logits(store.path, "k", n_tiles=TILES, shape=(2,)) as kept,
    ):
        kept.add(np.array([0]), np.zeros((1, 2), np.float32))
        kept.flush()


def test_a_short_scoring_that_ends_well_writes_nothing(store: TileStore) -> None:
    score_tiles(store, Scorer(a_checkpoint(), "cpu"), batch=8, key="scoring")
    assert not (Path(store.path) / "scores").exists()
