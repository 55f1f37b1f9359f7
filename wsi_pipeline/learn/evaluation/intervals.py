"""Intervals in closed form: Wilson of a share, DeLong of an AUROC and of the difference of two; and the bootstrap.

The bootstrap itself lies in bootstrap.py. It is by patient and the one to quote; these assume independent images.
"""

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import expit, logit
from scipy.stats import norm, rankdata

from wsi_pipeline.errors import ConfigError
from wsi_pipeline.learn.evaluation.bootstrap import (
    RankedIntervals,
    bootstrap,
    bootstrap_ranked,
    bootstrap_totals,
    check_level,
    percentile_interval,
    ranked_rounds,
)
from wsi_pipeline.learn.evaluation.metrics import known_pairs

__all__ = [
    "RankedIntervals",
    "bootstrap",
    "bootstrap_ranked",
    "bootstrap_totals",
    "delong",
    "delong_paired",
    "percentile_interval",
    "ranked_rounds",
    "wilson",
]

_NONE = 1e-12  # a standard error not above this is rounding


def wilson(k: float, n: float, level: float = 0.95) -> tuple[float, float]:
    """(low, high) of the share k / n (Wilson 1927), within 0-1; NaN twice when n is 0.

    Raises ConfigError unless 0 <= k <= n and level is in (0, 1).
    """
    if not 0 <= k <= n:
        raise ConfigError(f"wilson: {k} of {n}; give 0 <= k <= n")
    z = _quantile(level)
    if n == 0:
        return np.nan, np.nan
    centre = (k + z**2 / 2) / (n + z**2)
    half = z / (n + z**2) * np.sqrt(k * (n - k) / n + z**2 / 4)
    return (0.0 if k == 0 else float(centre - half)), (1.0 if k == n else float(centre + half))


def delong(labels: ArrayLike, scores: ArrayLike, level: float = 0.95) -> tuple[float, float, float, float]:
    """(auroc, se, low, high): DeLong et al. 1988, by midranks (Sun and Xu 2014), the interval on the logit scale.

    labels: (N,) of 0, 1, NaN; scores: (N,). Four NaN when a class is absent. Where the sample has no spread to
    measure (perfect separation, scores all equal, one image of a class) DeLong's se is 0 or undefined; then it
    is the upper bound sqrt(A (1 - A) / M) of Birnbaum and Klose 1957, M the smaller class, with A moved from 0
    and 1 by half an image; and the interval of an AUROC of 0 or 1 is Wilson's of 0 or M of M.
    """
    z = _quantile(level)
    y, s = known_pairs(labels, scores)
    if not 0 < y.sum() < len(y):
        return (np.nan,) * 4
    area, by_positive, by_negative = _placements(y, s)
    smaller = int(min(len(by_positive), len(by_negative)))
    se = float(np.sqrt(_variance(by_positive, by_positive) + _variance(by_negative, by_negative)))
    if not se > _NONE:
        inside = np.clip(area, 0.5 / (smaller + 1), 1 - 0.5 / (smaller + 1))
        se = float(np.sqrt(inside * (1 - inside) / smaller))
    if area in (0.0, 1.0):
        return area, se, *wilson(area * smaller, smaller, level)
    half = z * se / (area * (1 - area))
    return area, se, float(expit(logit(area) - half)), float(expit(logit(area) + half))


def delong_paired(
    labels: ArrayLike, a: ArrayLike, b: ArrayLike, level: float = 0.95
) -> tuple[float, float, float, float, float]:
    """(difference, se, low, high, p) of auroc(a) - auroc(b) on the same images: DeLong et al. 1988, two-sided p.

    labels, a, b: (N,). Five NaN when a class is absent. Two scores that rank the images alike differ by 0 with
    se 0 and p 1. Where the pair has no spread to measure, se is that of two independent samples.
    """
    z = _quantile(level)
    y, first = known_pairs(labels, a)
    _, second = known_pairs(labels, b)
    if not 0 < y.sum() < len(y):
        return (np.nan,) * 5
    area_a, *parts_a = _placements(y, first)
    area_b, *parts_b = _placements(y, second)
    difference = area_a - area_b
    se = float(np.sqrt(sum(_variance(p - q, p - q) for p, q in zip(parts_a, parts_b, strict=True))))
    if not se > _NONE:
        if difference == 0 and all(np.array_equal(p, q) for p, q in zip(parts_a, parts_b, strict=True)):
            return 0.0, 0.0, 0.0, 0.0, 1.0
        se = float(np.hypot(delong(labels, a, level)[1], delong(labels, b, level)[1]))
    low, high = max(-1.0, difference - z * se), min(1.0, difference + z * se)
    return difference, se, low, high, float(2 * norm.sf(abs(difference) / se))


def _placements(labels: np.ndarray, scores: np.ndarray) -> tuple[float, np.ndarray, np.ndarray]:
    """AUROC; of each positive the share of negatives below it; of each negative the share of positives above it."""
    positive, negative = scores[labels], scores[~labels]
    ranks = rankdata(np.concatenate([positive, negative]))  # midranks: a tie counts half
    below = ranks[: len(positive)] - rankdata(positive)
    above = len(positive) - (ranks[len(positive) :] - rankdata(negative))
    return float(below.sum() / (len(positive) * len(negative))), below / len(negative), above / len(positive)


def _variance(a: np.ndarray, b: np.ndarray) -> float:
    """Covariance of the means of two (N,); NaN for a single one."""
    return float(np.cov(a, b)[0, 1] / len(a)) if len(a) > 1 else np.nan


def _quantile(level: float) -> float:
    return float(norm.ppf(0.5 + check_level(level) / 2))
