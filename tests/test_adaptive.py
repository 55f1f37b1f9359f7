"""Adaptive scoring: few tiles are scored, the outcome is that of all of them, and what may be missed is said."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from test_engines import CPU, a_checkpoint
from test_infer import a_store

from wsi_pipeline.cli.model import load
from wsi_pipeline.config import load_config
from wsi_pipeline.keys import scoring_key
from wsi_pipeline.scores.adaptive import Adaptive, lattice_step, score_where_open
from wsi_pipeline.scores.infer import Scorer, score_tiles


def cells(rows: int, cols: int) -> np.ndarray:
    """(N, 2) every cell of a raster."""
    return np.argwhere(np.ones((rows, cols), bool)).astype(np.int32)


def adaptively(rowcol: np.ndarray, truth: np.ndarray, step: int = 4, tolerance: float = 0.1) -> tuple[Any, ...]:
    """Values and scored of tiles whose score would be `truth` (N,)."""
    values, scored = score_where_open(
        rowcol, lambda rows: truth[rows, None].astype(np.float32), lambda values: values[:, 0],
        step=step, threshold=0.5, tolerance=tolerance,
    )  # fmt: skip
    return values[:, 0], scored


@pytest.mark.parametrize(("stride", "step"), [(256, 1), (128, 2), (100, 2), (64, 4), (32, 8), (300, 1)])
def test_the_first_lattice_leaves_no_gap_between_its_tiles(stride: int, step: int) -> None:
    assert lattice_step(256, stride) == step


def test_even_tissue_is_scored_at_every_fourth_tile_each_way() -> None:
    values, scored = adaptively(cells(17, 17), np.full(17 * 17, 0.2))
    assert scored.sum() == 5 * 5
    np.testing.assert_allclose(values, 0.2, rtol=1e-6)


def test_a_disc_has_the_same_cells_of_cancer_from_a_quarter_of_the_tiles() -> None:
    rowcol = cells(65, 65)
    truth = 1 / (1 + np.exp(3 * (np.hypot(*(rowcol - 30).T) - 18.3)))
    values, scored = adaptively(rowcol, truth)
    np.testing.assert_array_equal(values >= 0.5, truth >= 0.5)
    np.testing.assert_array_equal(values[scored], truth[scored].astype(np.float32))
    assert scored.sum() < len(rowcol) / 4
    assert np.abs(values - truth).max() < 0.1  # the tolerance


def test_a_speck_between_the_lattices_tiles_is_missed() -> None:
    rowcol = cells(9, 9)
    values, _ = adaptively(rowcol, (rowcol == 2).all(axis=1) * 1.0)
    assert values.max() == 0


def test_tiles_off_the_lattice_with_no_corner_are_scored() -> None:
    rowcol = np.array([[1, 1], [1, 2], [11, 2]], np.int32)
    truth = np.array([0.1, 0.9, 0.4])
    values, scored = adaptively(rowcol, truth)
    np.testing.assert_allclose(values[scored], truth[scored], rtol=1e-6)
    assert not np.isnan(values).any()


def test_unreadable_tiles_stay_without_a_score_and_settle_nothing() -> None:
    truth = np.full(25, 0.3)
    truth[0] = np.nan
    values, scored = adaptively(cells(5, 5), truth)
    assert np.isnan(values[0]) and scored[0] and not np.isnan(values[1:]).any()
    np.testing.assert_allclose(values[1:], 0.3, rtol=1e-6)


@pytest.mark.parametrize("corner", [(0, 0), (3, 5), (6, 6), (9, 10)], ids=str)
def test_damage_larger_than_the_lattice_is_found_to_the_tile_and_filled_nowhere(corner: tuple[int, int]) -> None:
    rowcol = cells(17, 17)
    dead = ((rowcol >= corner) & (rowcol < np.add(corner, 5))).all(axis=1)
    values, _ = adaptively(rowcol, np.where(dead, np.nan, 0.9))
    np.testing.assert_array_equal(np.isnan(values), dead)


def test_tiles_that_the_store_could_not_read_are_not_filled_in() -> None:
    store, scorer = a_store(25, unreadable=(7, 12)), Scorer(a_checkpoint(), CPU)  # inside the one square
    store = replace(store, grid=replace(store.grid, stride_px=16, rowcol=cells(5, 5)))
    found = score_tiles(store, scorer, batch=4, adaptive=Adaptive(tolerance=1, threshold=0.0))
    assert np.flatnonzero(np.isnan(found.probs).any(axis=1)).tolist() == [7, 12]
    assert (found.tiles, found.unreadable, found.filled) == (25, 2, 21)


def test_no_tiles_give_no_values() -> None:
    values, scored = adaptively(np.empty((0, 2), np.int32), np.empty(0))
    assert len(values) == len(scored) == 0


def test_scores_tell_how_many_were_filled_in() -> None:
    store, scorer = a_store(16), Scorer(a_checkpoint(), CPU)
    store = replace(store, grid=replace(store.grid, stride_px=16))  # a raster of 4 x 4, the lattice of 1
    whole = score_tiles(store, scorer, batch=4)
    found = score_tiles(store, scorer, batch=4, adaptive=Adaptive(tolerance=1, threshold=0.0))
    assert (whole.filled, whole.step, whole.remarks) == (0, 1, ())
    assert (found.filled, found.step) == (15, 4)
    assert found.remarks[0].startswith("adaptive: 1 of 16 tiles were scored")
    assert len(np.unique(found.probs[:, 0])) == 1
    np.testing.assert_allclose(found.probs[0], whole.probs[0], atol=1e-6)


def test_open_everywhere_it_is_the_full_run() -> None:
    store, scorer = a_store(25), Scorer(a_checkpoint(), CPU)
    store = replace(store, grid=replace(store.grid, stride_px=16, rowcol=cells(5, 5)))
    found = score_tiles(store, scorer, batch=3, adaptive=Adaptive(tolerance=0))
    np.testing.assert_array_equal(found.probs, score_tiles(store, scorer, batch=25).probs)
    assert found.filled == 0


def test_without_overlap_every_tile_is_scored() -> None:
    found = score_tiles(a_store(9), Scorer(a_checkpoint(), CPU), batch=4, adaptive=Adaptive())
    assert (found.filled, found.remarks) == (0, ())


@pytest.mark.parametrize(
    ("more", "told"), [([], True), (["tiles.stride_px=64"], False), (["model.adaptive=false"], False)]
)
def test_it_is_told_before_a_run_that_nothing_can_be_saved(more: list[str], told: bool, capsys: Any) -> None:
    load(load_config(None, ["model.adaptive=true", "model.device=cpu", *more]))
    said = (
        "note: model.adaptive: tiles of 256 px every 256 px are all scored, which saves nothing; overlap them, as by "
    )
    assert (f"{said}--set tiles.stride_px=64" in capsys.readouterr().err) == told


def test_scores_that_were_filled_in_have_a_key_of_their_own() -> None:
    plain, adaptive = (load_config(None, [f"model.adaptive={value}"]) for value in ("false", "true"))
    keys = {scoring_key(config, "tiles", "model") for config in (plain, adaptive)}
    assert len(keys) == 2
    assert scoring_key(load_config(None, ["model.adaptive_tolerance=0.3"]), "tiles", "model") in keys
