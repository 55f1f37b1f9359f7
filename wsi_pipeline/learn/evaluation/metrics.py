"""One number from labels and scores of one class: how well it ranks, decides, and means its probabilities.

Labels (N,) are 1 present, 0 absent, NaN unknown (left out). What cannot be told, because a class is absent, is
NaN: never 0, 1 or an exception. A score of NaN is refused: dropping unreadable images in silence would flatter.
"""

import numpy as np
from numpy.typing import ArrayLike
from sklearn.metrics import average_precision_score, cohen_kappa_score, roc_auc_score

from wsi_pipeline.errors import ConfigError


def auroc(labels: ArrayLike, scores: ArrayLike) -> float:
    """Area under the ROC curve, ties counted half; NaN unless both classes are there.

    labels: (N,) of 0, 1, NaN; scores: (N,) of any scale and precision, infinities included.
    """
    y, s = known_pairs(labels, scores)
    return float(roc_auc_score(y, _ranks(s))) if 0 < y.sum() < len(y) else np.nan


def average_precision(labels: ArrayLike, scores: ArrayLike) -> float:
    """Mean precision over the positives, by falling score; NaN unless both classes are there."""
    y, s = known_pairs(labels, scores)
    return float(average_precision_score(y, _ranks(s))) if 0 < y.sum() < len(y) else np.nan


def confusion(labels: ArrayLike, scores: ArrayLike, threshold: float) -> tuple[int, int, int, int]:
    """(tp, tn, fp, fn) over the known labels; positive is score >= threshold.

    The threshold is taken in the scores' own precision: a float32 score that prints as 0.7 is positive at 0.7.
    """
    y, s = known_pairs(labels, scores)
    called = s >= s.dtype.type(threshold)
    return int((called & y).sum()), int((~called & ~y).sum()), int((called & ~y).sum()), int((~called & y).sum())


def quadratic_kappa(truth: ArrayLike, predicted: ArrayLike) -> float:
    """Cohen's kappa of grades (N,), disagreement weighted by its square; NaN when all is one grade.

    Grades are whole numbers; all from the lowest to the highest count, also those that nobody has (scikit-learn
    alone would close the gaps, and take 0 and 4 as neighbours).
    """
    true, guess = _known_classes(truth, predicted)
    both = np.concatenate([true, guess])
    if not np.issubdtype(both.dtype, np.number) or (both % 1 != 0).any():
        raise ConfigError(f"quadratic_kappa: grades {np.unique(both)[:5].tolist()}; give whole numbers")
    if len(np.unique(both)) < 2:
        return np.nan
    grades = np.arange(both.min(), both.max() + 1, dtype=np.int64)
    return float(cohen_kappa_score(true.astype(np.int64), guess.astype(np.int64), labels=grades, weights="quadratic"))


def balanced_accuracy(truth: ArrayLike, predicted: ArrayLike) -> float:
    """Mean over the classes of `truth` (N,) of the share found; NaN unless there are two or more."""
    true, guess = _known_classes(truth, predicted)
    found = [float((guess[true == name] == name).mean()) for name in np.unique(true)]
    return float(np.mean(found)) if len(found) > 1 else np.nan


def brier(labels: ArrayLike, probabilities: ArrayLike) -> float:
    """Mean squared distance of probabilities (N,) from the known labels; NaN when none is known."""
    y, p = _known_probabilities(labels, probabilities)
    return float(np.mean((p - y) ** 2)) if len(y) else np.nan


def expected_calibration_error(labels: ArrayLike, probabilities: ArrayLike, bins: int = 15) -> float:
    """Mean over images of |mean probability - share positive| of their bin; NaN when no label is known.

    Bins of equal width over 0-1 (Guo et al. 2017).
    """
    mean_p, share, count = reliability(labels, probabilities, bins)
    full = count > 0
    return float(np.average(np.abs(mean_p - share)[full], weights=count[full])) if full.any() else np.nan


def reliability(
    labels: ArrayLike, probabilities: ArrayLike, bins: int = 15
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(mean probability, share positive, count) of each bin, each (bins,); NaN, NaN, 0 where it is empty.

    Bin k holds k / bins <= p < (k + 1) / bins, the last one also 1.
    """
    if bins < 1:
        raise ConfigError(f"bins: got {bins}; give 1 or more, usually 15")
    y, p = _known_probabilities(labels, probabilities)
    place = np.minimum((p * bins).astype(np.intp), bins - 1)
    count = np.bincount(place, minlength=bins)
    sums = np.stack([np.bincount(place, weights=values, minlength=bins) for values in (p, y)])
    mean_p, share = np.divide(sums, count, out=np.full(sums.shape, np.nan), where=count > 0)
    return mean_p, share, count


def ppv_at(sensitivity: float, specificity: float, prevalence: float) -> float:
    """Share of true among the called at another prevalence (Bayes), all 0-1; NaN when nothing is called."""
    true, false = sensitivity * prevalence, (1 - specificity) * (1 - prevalence)
    return float(true / (true + false)) if true + false > 0 else np.nan


def npv_at(sensitivity: float, specificity: float, prevalence: float) -> float:
    """Share of true among the not called at another prevalence (Bayes), all 0-1; NaN when all are called."""
    return ppv_at(specificity, sensitivity, 1 - prevalence)


def grade_of(cumulative_probs: ArrayLike, thresholds: ArrayLike = 0.5) -> np.ndarray:
    """Grades (N,) int64 in 0..C: how many of the tasks grade >= 1, ..., grade >= C (N, C) reach their threshold.

    thresholds: a number or (C,). Raises ConfigError on NaN, which has no grade.
    """
    p = _floating(cumulative_probs)
    if p.ndim != 2 or np.isnan(p).any():
        raise ConfigError(f"grade_of: shape {p.shape}, {int(np.isnan(p).sum())} NaN; give (N, C) without NaN")
    return (p >= np.asarray(thresholds, dtype=p.dtype)).sum(axis=1)


def known_pairs(labels: ArrayLike, scores: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """(labels (M,) bool, scores (M,)) of the known labels; scores keep a floating precision.

    Raises ConfigError on other shapes than twice (N,), on labels outside {0, 1, NaN} and on scores of NaN.
    """
    y, s = np.asarray(labels, dtype=np.float64), _floating(scores)
    if y.ndim != 1 or y.shape != s.shape:
        raise ConfigError(f"labels {y.shape}, scores {s.shape}: give one class at a time, twice (N,)")
    known = ~np.isnan(y)
    y, s = y[known], s[known]
    if not np.isin(y, (0.0, 1.0)).all():
        raise ConfigError(f"labels: got {np.setdiff1d(y, (0.0, 1.0))[:3].tolist()}; give 0, 1 and NaN")
    if np.isnan(s).any():
        raise ConfigError(f"scores: {np.isnan(s).sum()} of {len(s)} are NaN; leave unreadable images out and say so")
    return y == 1, s


def _floating(values: ArrayLike) -> np.ndarray:
    """As float64 what is not floating; half precision stays."""
    array = np.asarray(values)
    return array if np.issubdtype(array.dtype, np.floating) else array.astype(np.float64)


def _ranks(scores: np.ndarray) -> np.ndarray:
    """Dense ranks, equal for equal scores: scikit-learn refuses infinities."""
    return np.unique(scores, return_inverse=True)[1]


def _known_probabilities(labels: ArrayLike, probabilities: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    y, p = known_pairs(labels, probabilities)
    if len(p) and not (p.min() >= 0 and p.max() <= 1):
        raise ConfigError(f"probabilities: got {p.min():g} to {p.max():g}; give 0 to 1, not logits")
    return y.astype(np.float64), p.astype(np.float64)


def _known_classes(truth: ArrayLike, predicted: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Both (M,), where the truth is known; classes are numbers or names."""
    true, guess = np.asarray(truth), np.asarray(predicted)
    if true.ndim != 1 or true.shape != guess.shape:
        raise ConfigError(f"truth {true.shape}, predicted {guess.shape}: give one class an image, twice (N,)")
    if np.issubdtype(true.dtype, np.floating):
        true, guess = true[~np.isnan(true)], guess[~np.isnan(true)]
    if np.issubdtype(guess.dtype, np.floating) and np.isnan(guess).any():
        raise ConfigError(f"predicted: {int(np.isnan(guess).sum())} are NaN; leave unreadable images out and say so")
    return true, guess
