"""Thresholds (C,) from labels and probabilities of the validation split; never from those of the test split."""

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike

from wsi_pipeline.errors import ConfigError
from wsi_pipeline.learn.evaluation.metrics import known_pairs

UNTOLD = 0.5  # the threshold of a class that validation has only one label of
_CHOICES = 'give "youden", "f1", "sensitivity=0.9", "specificity=0.9" or a probability'


def choose_thresholds(labels: ArrayLike, probs: ArrayLike, how: str = "youden") -> np.ndarray:
    """The threshold of each class, (C,) float64; positive is p >= threshold.

    labels (N, C) of 0, 1, NaN; probs (N, C). `how`: "youden" (most sensitivity + specificity), "f1",
    "sensitivity=0.9" (the highest threshold with at least that sensitivity), "specificity=0.9" (the lowest with
    at least that specificity), or a probability, the same for all. Of equally good ones the most sensitive. It
    lies half-way between two probabilities that occur, so that an image near it is not on it. A class without
    both labels gets 0.5. Raises ConfigError on another `how`, other shapes, or logits.
    """
    y, p = np.asarray(labels), np.asarray(probs)
    if y.ndim != 2 or y.shape != p.shape:
        raise ConfigError(f"choose_thresholds: labels {y.shape}, probabilities {p.shape}; give twice (N, C)")
    name, _, text = how.partition("=")
    if name not in _RULES:
        return np.full(y.shape[1], _share(how, how))
    if bool(text) != (name in ("sensitivity", "specificity")):
        raise ConfigError(f"thresholds: got {how!r}; {_CHOICES}")
    wanted = _share(text, how) if text else 0.0
    return np.array([_best_cut(y[:, c], p[:, c], _RULES[name], wanted) for c in range(y.shape[1])])


def _best_cut(labels: np.ndarray, probs: np.ndarray, rule: "Rule", wanted: float) -> float:
    """The most sensitive of the best cuts between the probabilities of one class."""
    y, p = known_pairs(labels, probs)
    if len(p) and not (p.min() >= 0 and p.max() <= 1):
        raise ConfigError(f"choose_thresholds: probabilities of {p.min():g} to {p.max():g}; give 0 to 1, not logits")
    if not 0 < y.sum() < len(y):
        return UNTOLD
    values, place = np.unique(p, return_inverse=True)
    tp, fp = (_counts_above(place[side], len(values)) for side in (y, ~y))
    return float(_cuts(values)[np.argmax(rule(tp, fp, wanted))])


def _counts_above(place: np.ndarray, values: int) -> np.ndarray:
    """How many of `place` are k or more, for k = 0 ... values: (values + 1,), from all down to none."""
    return np.append(np.bincount(place, minlength=values)[::-1].cumsum()[::-1], 0)


def _cuts(values: np.ndarray) -> np.ndarray:
    """At the lowest of K rising values, between each two, above the highest: (K + 1,), in their own precision."""
    lower, upper = values[:-1], values[1:]
    middle = (lower + upper) / 2
    last = max(np.nextafter(values[-1], values.dtype.type(2)), (values[-1] + 1) / 2)
    return np.concatenate([values[:1], np.where(middle > lower, middle, upper), [last]])


def _share(text: str, how: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = np.nan
    if not 0 <= value <= 1:
        raise ConfigError(f"thresholds: got {how!r}; {_CHOICES}")
    return value


def _youden(tp: np.ndarray, fp: np.ndarray, _: float) -> np.ndarray:
    return tp * fp[0] - fp * tp[0]  # in whole numbers, so that ties are ties


def _f1(tp: np.ndarray, fp: np.ndarray, _: float) -> np.ndarray:
    return 2 * tp / (tp + fp + tp[0])


def _least_sensitivity(tp: np.ndarray, _: np.ndarray, wanted: float) -> np.ndarray:
    enough = tp >= wanted * tp[0] - 1e-9
    return np.where(enough, np.arange(len(tp)), -1)


def _least_specificity(_: np.ndarray, fp: np.ndarray, wanted: float) -> np.ndarray:
    return fp[0] - fp >= wanted * fp[0] - 1e-9


# true and false positives (K + 1,) of falling calls, the wanted share -> how good each cut is (K + 1,)
Rule = Callable[[np.ndarray, np.ndarray, float], np.ndarray]
_RULES: dict[str, Rule] = {
    "youden": _youden,
    "f1": _f1,
    "sensitivity": _least_sensitivity,
    "specificity": _least_specificity,
}
