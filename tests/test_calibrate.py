"""Prior and temperature against values worked by hand."""

import numpy as np
import pytest
from scipy.special import expit, softmax

from wsi_pipeline.errors import ConfigError
from wsi_pipeline.learn.evaluation.calibrate import fit_temperature
from wsi_pipeline.learn.evaluation.metrics import auroc, expected_calibration_error
from wsi_pipeline.learn.model.probabilities import correct_prior, probabilities


def test_a_half_becomes_the_prevalence() -> None:
    np.testing.assert_allclose(correct_prior(np.array([[0.5, 0.5]]), np.array([0.1, 0.7])), [[0.1, 0.7]])


def test_the_prior_keeps_certainty_and_rank() -> None:
    p = np.linspace(0, 1, 11)
    q = correct_prior(p, 0.02)
    assert (q[0], q[-1]) == (0.0, 1.0)
    assert (np.diff(q) > 0).all()


@pytest.mark.parametrize("prevalence", [0.0, 1.0, float("nan")])
def test_a_prevalence_without_both_classes_is_refused(prevalence: float) -> None:
    with pytest.raises(ConfigError, match="above 0 and below 1"):
        correct_prior(np.array([0.5]), prevalence)


def test_sigmoid_probabilities_are_the_corrected_ones() -> None:
    z = np.array([[0.0, 2.0], [-3.0, 40.0]])
    p = 1 / (1 + np.exp(-z))
    found = probabilities(z, exclusive=False, prior=(0.2, 0.6))
    np.testing.assert_allclose(found, correct_prior(p, [0.2, 0.6]), atol=1e-7)
    assert found.dtype == np.float32


def test_the_temperature_divides_the_logit_after_the_prior() -> None:
    found = probabilities(np.array([[np.log(4.0)]]), exclusive=False, prior=(0.8,), temperature=2.0)
    assert found.item() == pytest.approx(0.8)  # odds 4 x 4 = 16, to the power 1/2: 4


def test_exclusive_probabilities_add_up_to_one_at_the_prior() -> None:
    found = probabilities(np.zeros((1, 3)), exclusive=True, prior=(0.2, 0.3, 0.5))
    np.testing.assert_allclose(found, [[0.2, 0.3, 0.5]], atol=1e-7)
    two = probabilities(np.log([[1.0, 3.0]]), exclusive=True)
    np.testing.assert_allclose(two, [[0.25, 0.75]], atol=1e-7)


def test_the_formulas_are_those_of_scipy_far_out_too() -> None:
    z = np.random.default_rng(0).normal(scale=300.0, size=(500, 4))
    np.testing.assert_allclose(probabilities(z, exclusive=False), expit(z).astype(np.float32), rtol=1e-6)
    np.testing.assert_allclose(probabilities(z, exclusive=True), softmax(z, axis=1).astype(np.float32), rtol=1e-6)


@pytest.mark.parametrize("exclusive", [False, True])
def test_unreadable_rows_stay_nan_and_alone(exclusive: bool) -> None:
    found = probabilities(np.array([[np.nan, np.nan], [1.0, 2.0]]), exclusive=exclusive)
    assert np.isnan(found[0]).all() and np.isfinite(found[1]).all()


def test_the_temperature_undoes_overconfidence() -> None:
    # Logit 3 that is right three times of four is log(3) in truth: T = 3 / log 3.
    z, y = np.full((4, 1), 3.0), np.array([[1.0], [1], [1], [0]])
    assert fit_temperature(z, y) == pytest.approx(3 / np.log(3), rel=1e-3)


def test_the_temperature_leaves_unknown_labels_out() -> None:
    z, y = np.array([[3.0, 9], [3, 9], [3, 9], [3, 9]]), np.array([[1, np.nan]] * 3 + [[0, np.nan]])
    assert fit_temperature(z, y) == pytest.approx(3 / np.log(3), rel=1e-3)
    with pytest.raises(ConfigError, match="no label is known"):
        fit_temperature(z, np.full((4, 2), np.nan))


def test_the_temperature_of_exclusive_classes_has_the_least_softmax_log_loss() -> None:
    # Lead 2 that is right 3 times of 4 among two classes is log(3) in truth: T = 2 / log 3.
    z, y = np.array([[2.0, 0.0]] * 4), np.array([[1.0, 0.0]] * 3 + [[0.0, 1.0]])
    assert fit_temperature(z, y, exclusive=True) == pytest.approx(2 / np.log(3), rel=1e-3)


def test_the_temperature_of_three_classes_comes_back() -> None:
    random = np.random.default_rng(0)
    z = random.normal(size=(20000, 3)) * 2
    p = np.exp(z) / np.exp(z).sum(axis=1, keepdims=True)
    y = np.eye(3)[(random.random(20000)[:, None] > p.cumsum(axis=1)[:, :2]).sum(axis=1)]
    assert fit_temperature(3 * z, y, exclusive=True) == pytest.approx(3, rel=0.05)


@pytest.mark.parametrize("exclusive", [False, True])
def test_unreadable_images_and_overflown_logits_do_not_stop_the_fit(exclusive: bool) -> None:
    z = np.array([[3.0, 0.0]] * 4 + [[np.nan, np.nan], [np.inf, -np.inf]], dtype=np.float16)
    y = np.array([[1.0, 0.0]] * 3 + [[0.0, 1.0], [1.0, 0.0], [1.0, 0.0]])
    alone = fit_temperature(np.r_[z[:4], [[900, -900]]], np.r_[y[:4], [[1, 0]]], exclusive=exclusive)
    assert fit_temperature(z, y, exclusive=exclusive) == pytest.approx(alone, rel=0.01)


def test_exclusive_rows_without_a_known_class_are_left_out_and_with_two_refused() -> None:
    z, y = np.array([[2.0, 0.0]] * 5), np.array([[1.0, 0.0]] * 3 + [[0.0, 1.0], [np.nan, np.nan]])
    assert fit_temperature(z, y, exclusive=True) == pytest.approx(2 / np.log(3), rel=1e-3)
    with pytest.raises(ConfigError, match="several classes"):
        fit_temperature(z, np.ones((5, 2)), exclusive=True)


@pytest.mark.parametrize(
    ("logits", "labels", "message"),
    [
        (np.zeros((2, 1)), np.zeros(2), r"give twice \(N, C\)"),
        (np.zeros((2, 1)), np.full((2, 1), 0.5), "labels other than 0, 1 and NaN"),
        (np.zeros((0, 2)), np.zeros((0, 2)), "no label is known"),
    ],
    ids=["shape", "share", "empty"],
)
def test_what_no_temperature_can_be_fitted_to_is_refused(logits, labels, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        fit_temperature(logits, labels)


def test_undoing_the_weights_takes_the_calibration_error_away_and_leaves_the_ranks() -> None:
    random = np.random.default_rng(0)
    prevalence, z = 0.05, random.normal(size=50_000) * 1.5
    weighted = 1 / (1 + np.exp(-z))  # what a network says that was trained with both classes costing the same
    y = (random.random(50_000) < correct_prior(weighted, prevalence)).astype(float)
    q = correct_prior(weighted, prevalence)
    assert expected_calibration_error(y, weighted, 15) > 0.25
    assert expected_calibration_error(y, q, 15) < 0.01
    assert auroc(y, weighted) == auroc(y, q)
    assert q.mean() == pytest.approx(y.mean(), abs=0.005)


@pytest.mark.parametrize("exclusive", [False, True])
def test_few_images_told_apart_perfectly_do_not_ask_for_boundless_confidence(exclusive: bool) -> None:
    logits = np.array([[3.0, -3.0]] * 10 + [[-3.0, 3.0]] * 10)
    labels = (logits > 0).astype(float)
    t = fit_temperature(logits, labels, exclusive=exclusive)
    lead, answers = (6.0, 20) if exclusive else (3.0, 40)  # the truth's, over the other of two answers
    assert 1 / (1 + np.exp(-lead / t)) == pytest.approx(1 - 1 / (answers + 2), abs=1e-4)
