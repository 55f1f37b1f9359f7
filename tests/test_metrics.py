"""Metrics of one class against values worked by hand and against scikit-learn."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, roc_auc_score

from wsi_pipeline.errors import ConfigError
from wsi_pipeline.learn.evaluation.metrics import (
    auroc,
    average_precision,
    balanced_accuracy,
    brier,
    confusion,
    expected_calibration_error,
    grade_of,
    npv_at,
    ppv_at,
    quadratic_kappa,
    reliability,
)

NAN = float("nan")
LABELS = [1, 1] + [0] * 7 + [1] * 5
SCORES = [0.8, 0.7, 0.4, 0.3, 0.2, 0.5, 0.6, 0.7, 0.8, 0.1, 0.2, 0.3, 0.4, 0]


def test_the_table_of_fourteen_comes_out_as_counted_by_hand() -> None:
    assert confusion(LABELS, SCORES, 0.5) == (2, 3, 4, 5)
    assert auroc(LABELS, SCORES) == pytest.approx(16.5 / 49, abs=1e-12)  # of 7 x 7 pairs
    assert auroc(LABELS, SCORES) == pytest.approx(0.3367347, abs=1e-6)


def test_average_precision_is_the_mean_precision_at_each_positive() -> None:
    assert average_precision([1, 0, 1, 0], [0.9, 0.8, 0.7, 0.1]) == pytest.approx((1 / 1 + 2 / 3) / 2)


def test_tied_scores_count_half_in_auroc_and_together_in_average_precision() -> None:
    assert auroc([1, 0, 0, 1], [0.5] * 4) == 0.5
    assert average_precision([1, 0, 0, 0], [0.5] * 4) == 0.25


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 6)), min_size=2, max_size=40))
def test_areas_are_scikit_learns_with_ties(pairs: list[tuple[bool, int]]) -> None:
    y, s = np.array(pairs, dtype=float).T
    if 0 < y.sum() < len(y):
        assert auroc(y, s) == pytest.approx(roc_auc_score(y, s))
        assert average_precision(y, s) == pytest.approx(average_precision_score(y, s))
    else:
        assert np.isnan(auroc(y, s)) and np.isnan(average_precision(y, s))


@pytest.mark.parametrize("metric", [auroc, average_precision])
@pytest.mark.parametrize("labels", [[], [1, 1], [0, 0], [NAN, NAN], [1, NAN]], ids=str)
def test_one_class_has_no_area(metric, labels: list) -> None:
    assert np.isnan(metric(labels, np.linspace(0, 1, len(labels))))


@pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64])
def test_unknown_labels_and_infinite_scores_are_ranked_in_any_precision(kind: type) -> None:
    s = np.array([-np.inf, np.inf, 0.5, 60000, np.nan], dtype=kind)
    assert auroc([0, 1, 0, 1, NAN], s) == 1.0
    assert average_precision(np.array([0, 1, 0, 1, NAN], dtype=np.float16), s) == 1.0


@pytest.mark.parametrize(
    ("labels", "scores", "message"),
    [
        ([0, 1], [0.5], "give one class at a time"),
        ([[0], [1]], [[0.5], [0.6]], "give one class at a time"),
        ([0, 2], [0.5, 0.6], r"got \[2.0\]; give 0, 1 and NaN"),
        ([0, 1], [NAN, 0.6], "1 of 2 are NaN"),
    ],
    ids=["length", "two axes", "label 2", "nan score"],
)
@pytest.mark.parametrize("metric", [auroc, average_precision, brier, lambda y, s: confusion(y, s, 0.5)])
def test_what_is_no_table_of_one_class_is_refused(metric, labels, scores, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        metric(labels, scores)


def test_a_score_at_the_threshold_is_positive_in_its_own_precision() -> None:
    assert confusion([1, 0], np.array([0.7, 0.6], dtype=np.float32), 0.7) == (1, 1, 0, 0)
    assert confusion([1, 0], np.array([0.7, 0.6], dtype=np.float16), 0.7) == (1, 1, 0, 0)
    assert confusion([], [], 0.5) == (0, 0, 0, 0)


def test_kappa_is_one_minus_squared_disagreement_over_that_of_chance() -> None:
    # Observed (1 - 2)^2 = 1 of 4 pairs; by chance mean over all 16 pairs of truth and guess.
    truth, guess = np.array([0, 1, 2, 4]), np.array([0, 2, 2, 4])
    chance = np.mean((truth[:, None] - guess[None, :]) ** 2)
    assert quadratic_kappa(truth, guess) == pytest.approx(1 - (1 / 4) / chance)


def test_kappa_keeps_the_distance_over_grades_that_nobody_has() -> None:
    truth, guess = np.array([0, 0, 1, 4]), np.array([0, 1, 1, 1])
    chance = np.mean((truth[:, None] - guess[None, :]) ** 2)
    assert quadratic_kappa(truth, guess) == pytest.approx(1 - np.mean((truth - guess) ** 2) / chance)


def test_kappa_of_agreement_is_one_of_opposites_minus_one_and_of_one_grade_not_defined() -> None:
    assert quadratic_kappa([0, 4, NAN], [0.0, 4.0, 1.0]) == 1.0
    assert quadratic_kappa([0, 1], [1, 0]) == -1.0
    assert np.isnan(quadratic_kappa([2, 2], [2, 2])) and np.isnan(quadratic_kappa([], []))
    assert quadratic_kappa([0, 0], [1, 1]) == 0.0


@pytest.mark.parametrize("truth", [[0.5, 1.0], ["mild", "none"]], ids=["half a grade", "names"])
def test_kappa_refuses_what_has_no_distance(truth: list) -> None:
    with pytest.raises(ConfigError, match="give whole numbers"):
        quadratic_kappa(truth, truth)


def test_balanced_accuracy_is_the_mean_share_found_of_each_class() -> None:
    assert balanced_accuracy([0, 0, 0, 1], [0, 0, 2, 0]) == pytest.approx((2 / 3 + 0) / 2)
    assert balanced_accuracy(["nv", "mel", "nv"], ["nv", "mel", "mel"]) == pytest.approx((1 / 2 + 1) / 2)
    assert np.isnan(balanced_accuracy([1, 1], [1, 0])) and np.isnan(balanced_accuracy([], []))


def test_classes_without_a_prediction_are_refused() -> None:
    with pytest.raises(ConfigError, match="1 are NaN"):
        balanced_accuracy([0.0, 1.0], [NAN, 1.0])
    with pytest.raises(ConfigError, match="twice"):
        balanced_accuracy([0, 1], [1])


def test_calibration_error_weighs_each_bin_by_its_images() -> None:
    y, p = [1, 0, 1, NAN], [0.1, 0.1, 0.9, 0.9]  # two bins: |0.1 - 0.5| of 2 images, |0.9 - 1| of 1
    assert expected_calibration_error(y, p, 2) == pytest.approx((2 * 0.4 + 0.1) / 3)
    assert expected_calibration_error([1, 1], [1.0, 1.0], 15) == 0.0


def test_reliability_has_a_row_a_bin_with_the_upper_edge_in_the_last() -> None:
    mean_p, share, count = reliability([0, 1, 1], [0.0, 0.5, 1.0], 4)
    assert count.tolist() == [1, 0, 1, 1]
    np.testing.assert_array_equal(mean_p, [0.0, NAN, 0.5, 1.0])
    np.testing.assert_array_equal(share, [0.0, NAN, 1.0, 1.0])


def test_half_precision_is_averaged_in_double() -> None:
    p = np.full(100_000, 0.1, dtype=np.float16)
    assert brier(np.zeros(100_000), p) == pytest.approx(float(p[0]) ** 2, rel=1e-9)
    assert expected_calibration_error(np.zeros(100_000), p, 15) == pytest.approx(float(p[0]), rel=1e-9)


def test_brier_is_the_mean_squared_error_and_nan_of_nothing() -> None:
    assert brier([1, 0, NAN], [0.8, 0.4, 0.1]) == pytest.approx((0.04 + 0.16) / 2)
    assert np.isnan(brier([NAN], [0.5])) and np.isnan(expected_calibration_error([], [], 15))


@pytest.mark.parametrize("metric", [brier, expected_calibration_error])
def test_logits_are_no_probabilities(metric) -> None:
    with pytest.raises(ConfigError, match=r"got -2 to 3; give 0 to 1"):
        metric([0, 1], [-2.0, 3.0])
    with pytest.raises(ConfigError, match="bins: got 0"):
        reliability([0, 1], [0.2, 0.3], 0)


def test_predictive_values_follow_the_prevalence() -> None:
    # Of 1000 with prevalence 10 %: 90 true of 90 + 180 called; 720 true of 720 + 10 not called.
    assert ppv_at(0.9, 0.8, 0.1) == pytest.approx(90 / 270)
    assert npv_at(0.9, 0.8, 0.1) == pytest.approx(720 / 730)
    assert np.isnan(ppv_at(0.0, 1.0, 0.1))


def test_a_grade_is_how_many_cumulative_tasks_are_reached() -> None:
    p = [[0.1, 0.0, 0.0, 0.0], [0.9, 0.5, 0.2, 0.1], [1, 1, 1, 1]]
    assert grade_of(p).tolist() == [0, 2, 4]
    assert grade_of(np.array(p, dtype=np.float32), [0.1, 0.6, 0.1, 0.1]).tolist() == [1, 3, 4]
    assert grade_of([[1, 0, 0]]).tolist() == [1]
    with pytest.raises(ConfigError, match="1 NaN"):
        grade_of([[0.2, NAN]])
