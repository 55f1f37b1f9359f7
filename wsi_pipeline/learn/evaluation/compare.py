"""Two models on the same images -> differences in AUROC and average precision, paired, with intervals."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from wsi_pipeline.errors import ConfigError
from wsi_pipeline.learn.evaluation.figures import Estimate
from wsi_pipeline.learn.evaluation.intervals import delong_paired, percentile_interval, ranked_rounds
from wsi_pipeline.learn.evaluation.sums import mean_of_known


@dataclass(frozen=True)
class Compared:
    """One label, or the mean: this model, the other, and this minus the other.

    `auroc`, `average_precision` have the paired bootstrap by patient; `by_formula` is DeLong's interval and
    `p` its two-sided p, images as independent; `p_holm` is `p` made up for the number of labels (Holm 1979).
    NaN where there is only one class; the mean has no formula.
    """

    name: str
    this_auroc: float
    other_auroc: float
    auroc: Estimate
    average_precision: Estimate
    by_formula: Estimate
    p: float
    p_holm: float


@dataclass(frozen=True)
class Comparison:
    """All labels, then their mean; `images` are those of which both models said something of a known label."""

    this: str
    other: str
    images: int
    labels: tuple[Compared, ...]
    mean: Compared


def compare(
    labels: np.ndarray,
    probs: np.ndarray,
    other: np.ndarray,
    *,
    class_names: Sequence[str],
    patients: np.ndarray | None = None,
    names: tuple[str, str] = ("this", "other"),
    level: float = 0.95,
    rounds: int = 1000,
    seed: int = 0,
) -> Comparison:
    """`probs` against `other`, each (N, C), on labels (N, C) of 1, 0 and NaN; patients (N,) are resampled.

    Both models meet the same draws of patients, so what makes some draws easy cancels out. A label is left
    out where either model gave no probability. Raises ConfigError when the shapes differ.
    """
    y, a, b = (np.asarray(values, np.float64) for values in (labels, probs, other))
    if not y.shape == a.shape == b.shape or y.shape[1] != len(class_names):
        raise ConfigError(f"compare: labels {y.shape}, models {a.shape} and {b.shape}; give all as (N, C)")
    y = np.where(np.isnan(a) | np.isnan(b), np.nan, y)
    a, b = (np.where(np.isnan(y), 0, values) for values in (a, b))
    of_a, of_b = (ranked_rounds(y, scores, patients, rounds=rounds, seed=seed) for scores in (a, b))
    areas = [_with_mean(values) for values in (of_a[0], of_b[0])]
    differences = [_estimates(_with_mean(u) - _with_mean(v), level) for u, v in zip(of_a, of_b, strict=True)]
    formula = [delong_paired(y[:, c], a[:, c], b[:, c], level) for c in range(y.shape[1])]
    p = np.array([row[4] for row in formula] + [np.nan])
    adjusted = np.append(_holm(p[:-1]), np.nan)
    spans = [Estimate(row[0], row[2], row[3]) for row in formula] + [Estimate()]
    found = [
        Compared(name, float(areas[0][0, k]), float(areas[1][0, k]), differences[0][k], differences[1][k],
                 spans[k], float(p[k]), float(adjusted[k]))
        for k, name in enumerate([*class_names, "mean"])
    ]  # fmt: skip
    return Comparison(*names, images=int((~np.isnan(y)).any(axis=1).sum()), labels=tuple(found[:-1]), mean=found[-1])


def _with_mean(values: np.ndarray) -> np.ndarray:
    """(R, C) with the mean over the classes as one more column."""
    return np.column_stack([values, mean_of_known(values, axis=1)])


def _estimates(rounds: np.ndarray, level: float) -> list[Estimate]:
    """Estimates of columns whose row 0 is the sample itself."""
    low, high = percentile_interval(rounds[1:], level)
    return [Estimate(*map(float, row)) for row in zip(rounds[0], low, high, strict=True)]


def _holm(p: np.ndarray) -> np.ndarray:
    """p values (C,) made up for their number, by Holm's step-down; NaN stays NaN and is not counted."""
    known = np.flatnonzero(~np.isnan(p))
    order = known[np.argsort(p[known], kind="stable")]
    out = np.full(len(p), np.nan)
    out[order] = np.minimum(1, np.maximum.accumulate(p[order] * np.arange(len(order), 0, -1)))
    return out
