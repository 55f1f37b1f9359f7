"""Wilson and DeLong against their formulas written out, and where a sample has no spread."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import norm

from wsi_pipeline.errors import ConfigError
from wsi_pipeline.learn.evaluation.intervals import delong, delong_paired, wilson
from wsi_pipeline.learn.evaluation.metrics import auroc

NAN = float("nan")


def wins(labels: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """(positives, negatives): 1 where the positive leads, a half where they tie."""
    lead = scores[labels == 1][:, None] - scores[labels == 0][None, :]
    return (lead > 0) + 0.5 * (lead == 0)


def drawn(seed: int, rows: int = 60) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    labels = (np.arange(rows) % 3 == 0).astype(float)
    return labels, (labels + random.normal(size=rows)).round(1), (labels + random.normal(size=rows)).round(1)


def test_eighty_of_a_hundred() -> None:
    assert wilson(80, 100, 0.95) == pytest.approx((0.711171, 0.866633), abs=1e-6)


def test_none_and_all_reach_the_end_of_the_scale() -> None:
    z2 = norm.ppf(0.95) ** 2
    assert wilson(0, 10, 0.9) == (0.0, pytest.approx(z2 / (10 + z2)))
    assert wilson(10, 10, 0.9) == (pytest.approx(10 / (10 + z2)), 1.0)
    assert np.isnan(wilson(0, 0, 0.95)).all()


@given(st.integers(1, 400), st.floats(0, 1), st.floats(0.01, 0.999))
def test_wilson_holds_the_share_and_stays_in_zero_to_one(n: int, part: float, level: float) -> None:
    k = round(part * n)
    low, high = wilson(k, n, level)
    assert 0 <= low <= k / n + 1e-12 and k / n - 1e-12 <= high <= 1


@pytest.mark.parametrize(("k", "n", "level"), [(3, 2, 0.95), (-1, 2, 0.95), (1, 2, 95.0), (1, 2, 1.0), (NAN, 2, 0.9)])
def test_counts_and_levels_out_of_range_are_refused(k: float, n: float, level: float) -> None:
    with pytest.raises(ConfigError, match="give"):
        wilson(k, n, level)


def test_delong_is_the_variance_of_the_means_over_either_class() -> None:
    labels, scores, _ = drawn(0)
    table = wins(labels, scores)
    by_positive, by_negative = table.mean(axis=1), table.mean(axis=0)
    variance = by_positive.var(ddof=1) / len(by_positive) + by_negative.var(ddof=1) / len(by_negative)
    area, se, low, high = delong(labels, scores, 0.9)
    assert (area, se) == pytest.approx((table.mean(), np.sqrt(variance)), abs=1e-12)
    middle, half = np.log(area / (1 - area)), norm.ppf(0.95) * se / (area * (1 - area))
    assert (low, high) == pytest.approx([1 / (1 + np.exp(-(middle + side * half))) for side in (-1, 1)], abs=1e-12)


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 3)), min_size=2, max_size=12))
def test_delong_is_ordered_within_zero_to_one_and_never_certain(pairs: list[tuple[bool, int]]) -> None:
    y, s = np.array(pairs, dtype=float).T
    found = delong(y, s, 0.95)
    if not 0 < y.sum() < len(y):
        assert np.isnan(found).all()
        return
    area, se, low, high = found
    assert area == pytest.approx(auroc(y, s))
    assert 0 <= low <= area <= high <= 1 and low < high and 0 < se < 1


@pytest.mark.parametrize(("images", "most"), [(5, 0.6), (50, 0.93), (5000, 0.9993)])
def test_perfect_separation_leaves_room_that_shrinks_with_the_smaller_class(images: int, most: float) -> None:
    y = np.r_[np.ones(images), np.zeros(10 * images)]
    area, se, low, high = delong(y, y, 0.95)
    assert (area, high) == (1.0, 1.0) and se > 0
    assert low == pytest.approx(images / (images + norm.ppf(0.975) ** 2)) and low < most
    assert delong(1 - y, y, 0.95)[2:] == pytest.approx((0, 1 - low))


def test_scores_that_are_all_equal_tell_nothing() -> None:
    area, se, low, high = delong([0, 0, 0, 1, 1], [7.0] * 5, 0.95)
    assert (area, se) == (0.5, pytest.approx(np.sqrt(0.25 / 2)))
    assert 0 < low < 0.1 and 0.9 < high < 1


def test_a_single_positive_has_a_wide_interval() -> None:
    _, se, low, high = delong(np.r_[1, np.zeros(99)], np.r_[0.9, np.linspace(0, 1, 99)], 0.95)
    assert se > 0.25 and high - low > 0.6


def test_unknown_labels_are_left_out_of_delong() -> None:
    labels, scores, other = drawn(1)
    more = np.r_[labels, [NAN, NAN]], np.r_[scores, [NAN, 3.0]], np.r_[other, [5.0, NAN]]
    assert delong(more[0], more[1].astype(np.float16), 0.95) == delong(labels, scores.astype(np.float16), 0.95)
    assert delong_paired(*more, 0.95) == delong_paired(labels, scores, other, 0.95)


def test_the_paired_difference_has_the_variance_of_the_differences() -> None:
    labels, a, b = drawn(2)
    table = wins(labels, a) - wins(labels, b)
    variance = sum(table.mean(axis=k).var(ddof=1) / table.shape[1 - k] for k in (0, 1))
    difference, se, low, high, p = delong_paired(labels, a, b, 0.95)
    assert (difference, se) == pytest.approx((table.mean(), np.sqrt(variance)), abs=1e-12)
    assert (low, high) == pytest.approx((difference - 1.959964 * se, difference + 1.959964 * se), abs=1e-6)
    assert p == pytest.approx(2 * norm.cdf(-abs(difference) / se))
    assert delong_paired(labels, b, a, 0.95) == pytest.approx((-difference, se, -high, -low, p))


def test_scores_that_rank_alike_do_not_differ() -> None:
    labels, a, _ = drawn(3)
    assert delong_paired(labels, a, 2 * a + 1, 0.95) == (0.0, 0.0, 0.0, 0.0, 1.0)


def test_a_perfect_and_a_useless_score_differ_as_two_samples_would() -> None:
    y = np.r_[np.ones(20), np.zeros(20)]
    difference, se, low, high, p = delong_paired(y, y, np.zeros(40), 0.95)
    assert difference == 0.5 and se == pytest.approx(np.hypot(delong(y, y)[1], delong(y, np.zeros(40))[1]))
    assert 0 < low < high < 1 and p < 0.01
    assert np.isnan(delong_paired(np.ones(3), np.arange(3), np.arange(3), 0.95)).all()


def test_half_of_the_intervals_of_a_half_hold_the_truth() -> None:
    truth = norm.cdf(1 / np.sqrt(2))  # P(N(1, 1) > N(0, 1))
    held = [low <= truth <= high for *_, low, high in (delong(*drawn(seed)[:2], 0.5) for seed in range(400))]
    assert np.mean(held) == pytest.approx(0.5, abs=0.08)  # three standard errors of 400 draws
