"""Prior and temperature against values worked by hand."""

import numpy as np
import pytest

from wsi_pipeline.errors import ConfigError
from wsi_pipeline.learn.calibrate import correct_prior, fit_temperature, probabilities


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
