"""One label's counts at a threshold, and what has an interval by formula: DeLong's and Wilson's."""

import numpy as np

from wsi_pipeline.learn.evaluation.figures import Estimate
from wsi_pipeline.learn.evaluation.intervals import delong, wilson

SHARES = ("sensitivity", "specificity", "ppv", "npv")
Counts = tuple[int, int, int, int]


def counts_at(labels: np.ndarray, probs: np.ndarray, threshold: float) -> Counts:
    """(true positive, false positive, false negative, true negative) of labels, probs (N,); NaN labels are in none."""
    called = probs >= probs.dtype.type(threshold)
    yes, no = labels == 1, labels == 0
    return int((yes & called).sum()), int((no & called).sum()), int((yes & ~called).sum()), int((no & ~called).sum())


def shares_by_formula(labels: np.ndarray, probs: np.ndarray, counts: Counts, *, level: float) -> dict[str, Estimate]:
    """AUROC with DeLong's interval, the SHARES with Wilson's: images as independent; NaN where not defined."""
    tp, fp, fn, tn = counts
    area, _, low, high = delong(labels, probs, level)
    found = {"auroc": Estimate(area, low, high)}
    shares = (tp, tp + fn), (tn, tn + fp), (tp, tp + fp), (tn, tn + fn)
    for name, (k, n) in zip(SHARES, shares, strict=True):
        defined = n > 0 and (name in SHARES[:2] or not np.isnan(area))
        found[name] = Estimate(k / n, *wilson(k, n, level)) if defined else Estimate()
    return found


def f1_by_formula(hits: int, misses: int, *, level: float) -> Estimate:
    """F1 with the interval of J = hits / (hits + misses), a share: F1 = 2 J / (1 + J) rises with it."""
    low, high = wilson(hits, hits + misses, level)
    return Estimate(2 * hits / (2 * hits + misses), 2 * low / (1 + low), 2 * high / (1 + high))
