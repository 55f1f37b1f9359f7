"""The bootstrap by patient: the fast ways give what drawing rows one by one gives."""

from time import perf_counter

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, roc_auc_score

from wsi_pipeline.errors import ConfigError
from wsi_pipeline.learn.evaluation.intervals import (
    bootstrap,
    bootstrap_ranked,
    bootstrap_totals,
    percentile_interval,
    ranked_rounds,
)
from wsi_pipeline.learn.evaluation.metrics import auroc, average_precision

NAN = float("nan")


def mean_score(labels: np.ndarray, scores: np.ndarray) -> float:
    return float(scores.mean())


def a_table(rows: int = 200, classes: int = 3, patients: int = 60, seed: int = 0) -> tuple:
    """(labels, scores with ties, patients)."""
    random = np.random.default_rng(seed)
    labels = (random.random((rows, classes)) < 0.2).astype(np.float32)
    return labels, (labels + random.normal(size=labels.shape)).round(1), random.integers(patients, size=rows)


def by_hand(metric, labels: np.ndarray, scores: np.ndarray, groups: np.ndarray, *, rounds: int) -> list[float]:
    """The metric of each draw, the rows of the drawn patients gathered one patient at a time."""
    ids, random, values = np.unique(groups), np.random.default_rng(0), []
    for _ in range(rounds):
        rows = np.concatenate([np.flatnonzero(groups == ids[k]) for k in random.integers(len(ids), size=len(ids))])
        values.append(metric(labels[rows], scores[rows]))
    return values


def test_the_interval_of_a_mean_is_that_of_its_normal_law() -> None:
    scores = np.random.default_rng(1).normal(size=400)
    value, low, high = bootstrap(mean_score, scores, scores, None, rounds=2000, level=0.95, seed=0)
    half = 1.96 * scores.std() / np.sqrt(400)
    assert value == scores.mean()
    assert (low, high) == pytest.approx((value - half, value + half), abs=0.1 * half)


def test_copies_of_a_patients_image_add_nothing() -> None:
    labels, scores, _ = a_table()
    rows = labels[:, 0], scores[:, 0], np.arange(200)
    once = bootstrap(auroc, *rows, rounds=50, level=0.9, seed=4)
    copies = bootstrap(auroc, *(np.tile(column, 3) for column in rows), rounds=50, level=0.9, seed=4)
    assert copies == pytest.approx(once)


def test_whole_patients_are_drawn() -> None:
    seen = []
    groups = np.array(["a", "b", "b", "c", "c", "c"])

    def note(labels: np.ndarray, scores: np.ndarray) -> float:
        seen.append(np.bincount(scores.astype(int), minlength=6))
        return 0.0

    bootstrap(note, np.zeros(6), np.arange(6), groups, rounds=30, level=0.9, seed=0)
    times = np.array(seen[1:])
    assert (times[:, 1] == times[:, 2]).all() and (times[:, 3] == times[:, 5]).all()
    assert (times[:, [0, 1, 3]].sum(axis=1) == 3).all()


def test_the_same_seed_draws_the_same_whatever_the_order_of_rows() -> None:
    labels, scores, groups = a_table()
    turn = np.random.default_rng(5).permutation(200)
    first = bootstrap_ranked(labels, scores, groups, rounds=20, seed=3)
    second = bootstrap_ranked(labels[turn], scores[turn], groups[turn], rounds=20, seed=3)
    np.testing.assert_allclose(first.auroc, second.auroc, atol=1e-12)
    assert not np.allclose(first.auroc, bootstrap_ranked(labels, scores, groups, rounds=20, seed=4).auroc)


@pytest.mark.parametrize(
    ("column", "metric"), [(0, roc_auc_score), (1, average_precision_score)], ids=["auroc", "average precision"]
)
def test_fast_rounds_are_those_of_scikit_learn_on_the_drawn_rows(column: int, metric) -> None:
    labels, scores, groups = a_table()
    found = ranked_rounds(labels, scores, groups, rounds=10, seed=0)[column]
    for c in range(3):
        assert found[0, c] == pytest.approx(metric(labels[:, c], scores[:, c]), abs=1e-12)
        expected = by_hand(metric, labels[:, c], scores[:, c], groups, rounds=10)
        np.testing.assert_allclose(found[1:, c], expected, atol=1e-12)


@settings(max_examples=50)
@given(st.lists(st.tuples(st.sampled_from([0, 1, NAN]), st.integers(0, 3), st.integers(0, 4)), min_size=1, max_size=20))
def test_the_fast_way_is_the_plain_one_with_ties_unknown_labels_and_empty_classes(rows: list) -> None:
    labels, scores, groups = np.array(rows, dtype=float).T
    found = ranked_rounds(labels[:, None], scores[:, None], groups, rounds=5, seed=0)
    for areas, metric in zip(found, (auroc, average_precision), strict=True):
        expected = [metric(labels, scores), *by_hand(metric, labels, scores, groups, rounds=5)]
        np.testing.assert_allclose(areas[:, 0], expected, atol=1e-12)


def test_the_intervals_of_all_classes_are_those_of_each_alone() -> None:
    labels, scores, groups = a_table()
    labels[::7, 1] = NAN
    found = bootstrap_ranked(labels, scores.astype(np.float16), groups, rounds=40, level=0.8, seed=2)
    for c in range(3):
        plain = {"rounds": 40, "level": 0.8, "seed": 2}
        alone = labels[:, c], scores[:, c].astype(np.float16), groups
        assert tuple(found.auroc[c]) == pytest.approx(bootstrap(auroc, *alone, **plain))
        assert tuple(found.average_precision[c]) == pytest.approx(bootstrap(average_precision, *alone, **plain))


def test_a_class_without_both_labels_is_nan_and_left_out_of_the_mean() -> None:
    labels, scores, groups = a_table()
    labels[:, 1], labels[:, 2] = 0, NAN
    found = bootstrap_ranked(labels, scores, groups, rounds=20, seed=0)
    assert np.isnan(found.auroc[1:]).all() and np.isnan(found.average_precision[1:]).all()
    np.testing.assert_array_equal(found.mean_auroc, found.auroc[0])


def test_rounds_that_draw_no_positive_are_left_out() -> None:
    labels, scores = np.r_[1.0, np.zeros(9)], np.arange(10.0)[::-1]
    assert bootstrap(auroc, labels, scores, None, rounds=200, level=0.95, seed=0) == (1.0, 1.0, 1.0)
    value, low, high = bootstrap(auroc, np.zeros(4), np.arange(4.0), None, rounds=5, level=0.95, seed=0)
    assert np.isnan([value, low, high]).all()


def test_a_statistic_may_be_an_array() -> None:
    labels, scores, groups = a_table()
    value, low, high = bootstrap(lambda y, s: s.mean(axis=0), labels, scores, groups, rounds=20, level=0.5, seed=0)
    np.testing.assert_allclose(value, scores.mean(axis=0))
    assert low.shape == high.shape == (3,) and (low < high).all()


def test_sums_by_patient_are_those_of_the_drawn_rows() -> None:
    labels, scores, groups = a_table()
    called = scores[:, 0] >= 0.5
    parts = np.stack([called & (labels[:, 0] == 1), labels[:, 0] == 1], axis=1)
    found = bootstrap_totals(lambda sums: sums[:, 0] / sums[:, 1], parts, groups, rounds=30, level=0.9, seed=6)
    expected = bootstrap(
        lambda y, s: (s[y == 1] >= 0.5).mean(), labels[:, 0], scores[:, 0], groups, rounds=30, level=0.9, seed=6
    )
    assert tuple(map(float, found)) == pytest.approx(expected)


def test_percentiles_leave_nan_out_by_column() -> None:
    low, high = percentile_interval(np.array([[0.0, NAN], [1.0, NAN], [NAN, NAN]]), 0.5)
    np.testing.assert_allclose([low, high], [[0.25, NAN], [0.75, NAN]])
    assert np.isnan(percentile_interval(np.empty((0, 2)), 0.95)).all()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: bootstrap(auroc, [], [], None), "no rows"),
        (lambda: bootstrap(auroc, [0, 1], [0.5], None), "equally many rows"),
        (lambda: bootstrap(auroc, [0, 1], [0.5, 1], [1]), r"groups \(1,\) for 2 rows"),
        (lambda: bootstrap(auroc, [0, 1], [0.5, 1], None, level=95), "level: got 95"),
        (lambda: bootstrap(auroc, [0, 1], [0.5, 1], None, rounds=0), "rounds: got 0"),
        (lambda: bootstrap_ranked([0, 1], [0.5, 1], None), r"give twice \(N, C\)"),
        (lambda: bootstrap_totals(lambda sums: sums, [1, 2], None), r"give \(N, K\)"),
    ],
    ids=["empty", "rows", "groups", "level", "rounds", "one axis", "one axis of sums"],
)
def test_what_cannot_be_drawn_is_refused(call, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        call()


@pytest.mark.real
def test_chest_xrays_of_fourteen_findings_take_seconds_for_a_thousand_rounds(real_data) -> None:
    table = pd.read_csv(real_data / "xray" / "labels" / "Data_Entry_2017_v2020.csv.gz")[:22433]
    findings = table["Finding Labels"].str.get_dummies("|").drop(columns="No Finding")
    labels = findings.to_numpy(np.float32)
    scores = (labels + np.random.default_rng(0).normal(size=labels.shape)).astype(np.float32)
    began = perf_counter()
    found = bootstrap_ranked(labels, scores, table["Patient ID"].to_numpy(), rounds=1000, level=0.95, seed=0)
    assert perf_counter() - began < 30
    assert labels.shape == (22433, 14) and np.isfinite(found.auroc).all()
    assert found.mean_auroc[0] == pytest.approx(0.76, abs=0.01)  # P(N(1, 1) > N(0, 1))
