"""Percentile intervals from whole groups (patients) drawn with replacement; fast for ranks and for sums.

All functions draw the same groups for the same seed, whatever the order of rows: their rounds are paired.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from wsi_pipeline.errors import ConfigError
from wsi_pipeline.learn.evaluation.metrics import known_pairs

Statistic = Callable[[np.ndarray, np.ndarray], float | np.ndarray]


@dataclass(frozen=True, eq=False)
class RankedIntervals:
    """Each row (value, low, high): (C, 3) by class, (3,) the mean over the classes that have both labels."""

    auroc: np.ndarray
    average_precision: np.ndarray
    mean_auroc: np.ndarray
    mean_average_precision: np.ndarray


def bootstrap(
    statistic: Statistic,
    labels: ArrayLike,
    scores: ArrayLike,
    groups: ArrayLike | None,
    *,
    rounds: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> tuple:
    """(value, low, high) of statistic(labels, scores), each like what it returns: a float or an array of floats.

    labels, scores: (N,) or (N, C), rows are drawn together; groups: (N,) ids (None: each row its own). Low and
    high are percentiles over `rounds` draws of as many groups as there are; a round in which the statistic is
    NaN (a class was not drawn) is left out. Raises ConfigError on no rows, or not equally many.
    """
    y, s = np.asarray(labels), np.asarray(scores)
    check_level(level)
    if len(y) != len(s):
        raise ConfigError(f"bootstrap: labels {y.shape}, scores {s.shape}; give equally many rows")
    drawn_groups = _Groups(groups, len(y))
    value = statistic(y, s)
    drawn = [statistic(y[rows], s[rows]) for rows in map(drawn_groups.rows, drawn_groups.draws(rounds, seed))]
    low, high = percentile_interval(np.asarray(drawn, dtype=np.float64), level)
    if np.ndim(value) == 0:
        return float(value), float(low), float(high)
    return np.asarray(value), low, high


def bootstrap_ranked(
    labels: ArrayLike,
    scores: ArrayLike,
    groups: ArrayLike | None,
    *,
    rounds: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> RankedIntervals:
    """AUROC and average precision of every class, and their means, with intervals: as `bootstrap`, but fast.

    labels, scores: (N, C), labels 0, 1 or NaN; groups: (N,) or None. A class with one label only is NaN and
    left out of the means; a class whose positives were not drawn is left out of the mean of that round.
    """
    check_level(level)
    found = []
    for values in ranked_rounds(labels, scores, groups, rounds=rounds, seed=seed):
        found.append(np.column_stack([values[0], *percentile_interval(values[1:], level)]))
        means = _nan_mean(values)
        found.append(np.array([means[0], *percentile_interval(means[1:], level)]))
    auroc, mean_auroc, precision, mean_precision = found
    return RankedIntervals(auroc, precision, mean_auroc, mean_precision)


def ranked_rounds(
    labels: ArrayLike, scores: ArrayLike, groups: ArrayLike | None, *, rounds: int, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """(AUROC, average precision), each (1 + rounds, C): row 0 of the sample itself, then one a draw of groups.

    Two models on the same images with the same groups and seed meet the same draws: subtract row by row.
    """
    y, s = np.asarray(labels), np.asarray(scores)
    if y.ndim != 2 or y.shape != s.shape:
        raise ConfigError(f"labels {y.shape}, scores {s.shape}: give twice (N, C)")
    drawn_groups = _Groups(groups, len(y))
    ranked = [_Ranked(y[:, c], s[:, c]) for c in range(y.shape[1])]
    areas = np.empty((1 + rounds, y.shape[1], 2))
    areas[0] = [one.areas(np.ones(len(y), dtype=np.int64)) for one in ranked]
    for k, draw in enumerate(drawn_groups.draws(rounds, seed), start=1):
        times = drawn_groups.times(draw)
        areas[k] = [one.areas(times) for one in ranked]
    return areas[..., 0], areas[..., 1]


def bootstrap_totals(
    statistic: Callable[[np.ndarray], np.ndarray],
    parts: ArrayLike,
    groups: ArrayLike | None,
    *,
    rounds: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(value, low, high) of a statistic of sums over rows: shares, kappa, balanced accuracy, Brier; fast.

    parts: (N, K), what each row adds to K sums (say tp, fp, tn, fn of each class, or a one-hot cell of a
    confusion matrix). statistic: sums (R, K) -> (R, ...), one row a round, NaN where it does not exist.
    """
    check_level(level)
    added = np.asarray(parts, dtype=np.float64)
    if added.ndim != 2:
        raise ConfigError(f"bootstrap_totals: parts {added.shape}; give (N, K)")
    drawn_groups = _Groups(groups, len(added))
    by_group = drawn_groups.sums(added)
    counts = (np.bincount(draw, minlength=len(by_group)) for draw in drawn_groups.draws(rounds, seed))
    totals = np.stack([by_group.sum(axis=0), *(count @ by_group for count in counts)])
    values = np.asarray(statistic(totals), dtype=np.float64)
    return values[0], *percentile_interval(values[1:], level)


def percentile_interval(draws: np.ndarray, level: float = 0.95) -> tuple[np.ndarray, np.ndarray]:
    """(low, high), each (...), of draws (R, ...): the middle `level` of those that are not NaN; NaN if none is."""
    outside = (1 - check_level(level)) / 2
    values = np.asarray(draws, dtype=np.float64)
    some = ~np.isnan(values).all(axis=0) if len(values) else np.zeros(values.shape[1:], dtype=bool)
    filled = np.where(some, values, 0.0) if len(values) else np.zeros((1, *values.shape[1:]))
    low, high = np.nanquantile(filled, [outside, 1 - outside], axis=0)
    return np.where(some, low, np.nan), np.where(some, high, np.nan)


def check_level(level: float) -> float:
    """The level of an interval as it is; ConfigError unless it lies between 0 and 1."""
    if not 0 < level < 1:
        raise ConfigError(f"level: got {level}; give a share between 0 and 1, usually 0.95")
    return level


class _Groups:
    """N rows in groups, drawn with replacement. Groups stand in the order of their ids, so rows may come in any."""

    def __init__(self, groups: ArrayLike | None, rows: int) -> None:
        if not rows:
            raise ConfigError("bootstrap: no rows; give at least one")
        ids = np.arange(rows) if groups is None else np.asarray(groups)
        if ids.shape != (rows,):
            raise ConfigError(f"bootstrap: groups {ids.shape} for {rows} rows; give (N,)")
        ids = ids.astype(str) if ids.dtype == object else ids
        _, self._of_row, self._sizes = np.unique(ids, return_inverse=True, return_counts=True)
        self._by_group = np.argsort(self._of_row, kind="stable")
        self._starts = np.cumsum(self._sizes) - self._sizes

    def draws(self, rounds: int, seed: int) -> Iterator[np.ndarray]:
        """Each draw: as many group numbers as there are groups."""
        if rounds < 1:
            raise ConfigError(f"rounds: got {rounds}; give 1 or more, usually 1000")
        random = np.random.default_rng(seed)
        for _ in range(rounds):
            yield random.integers(len(self._sizes), size=len(self._sizes))

    def times(self, draw: np.ndarray) -> np.ndarray:
        """How often each row comes in a draw: (N,) int64."""
        return np.bincount(draw, minlength=len(self._sizes))[self._of_row]

    def rows(self, draw: np.ndarray) -> np.ndarray:
        """The rows of the drawn groups, repeated as often as they were drawn."""
        sizes = self._sizes[draw]
        shifts = np.repeat(self._starts[draw] - (np.cumsum(sizes) - sizes), sizes)
        return self._by_group[shifts + np.arange(len(shifts))]

    def sums(self, values: np.ndarray) -> np.ndarray:
        """(N, K) added up by group: (G, K)."""
        return np.add.reduceat(values[self._by_group], self._starts, axis=0)


class _Ranked:
    """One class sorted once by falling score, so that a round costs one cumulative sum.

    Only the runs of equal scores that hold a positive matter: with the weight of all that ranks down to the end
    of such a run, and of the positives in it, both areas are sums over these runs.
    """

    def __init__(self, labels: np.ndarray, scores: np.ndarray) -> None:
        y, s = known_pairs(labels, scores)
        order = np.argsort(-s, kind="stable")
        self._rows = np.flatnonzero(~np.isnan(np.asarray(labels, dtype=np.float64)))[order]
        sorted_s, places = s[order], np.flatnonzero(y[order])
        run = np.cumsum(np.r_[False, sorted_s[1:] != sorted_s[:-1]]) if len(s) else np.zeros(0, dtype=np.intp)
        ends = np.r_[np.flatnonzero(np.diff(run)), len(s) - 1]
        self._positive_rows = self._rows[places]
        runs, self._first = np.unique(run[places], return_index=True)
        self._end, self._before = ends[runs] + 1, np.where(runs > 0, ends[runs - 1] + 1, 0)

    def areas(self, times: np.ndarray) -> tuple[float, float]:
        """(AUROC, average precision) with row k counted times[k] (N,); NaN unless both classes are there."""
        down_to = np.concatenate([[0], np.cumsum(times[self._rows])])
        if not len(self._first):
            return np.nan, np.nan
        found = np.add.reduceat(times[self._positive_rows], self._first)
        true, called = np.cumsum(found), down_to[self._end]
        positives, negatives = true[-1], down_to[-1] - true[-1]
        if not positives or not negatives:
            return np.nan, np.nan
        tied = called - down_to[self._before] - found
        beaten = negatives - (called - true) + tied / 2
        precision = true / np.maximum(called, 1)
        return float(found @ beaten / (positives * negatives)), float(found @ precision / positives)


def _nan_mean(values: np.ndarray) -> np.ndarray:
    """Mean over the last axis of what is not NaN; NaN where nothing is."""
    known = ~np.isnan(values)
    count = known.sum(axis=-1)
    total = np.where(known, values, 0.0).sum(axis=-1)
    return np.divide(total, count, out=np.full(count.shape, np.nan), where=count > 0)
