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


def at_ends(
    labels: np.ndarray, probs: np.ndarray, groups: np.ndarray, threshold: float, figures: dict[str, Estimate],
    *, level: float,
) -> dict[str, Estimate]:  # fmt: skip
    """Of one label's figures those of exactly 0 or 1, which no draw moves: Wilson's interval with patients as images.

    Images of a patient are alike, so a thousand of ten patients that are all called rightly tell what ten tell. F1 is
    2 J / (1 + J) of the share J of hits among hits and misses, and rises with it. An AUROC counts as a share of the
    class with fewer patients, see `delong`.
    """
    called = probs >= probs.dtype.type(threshold)
    yes, no = labels == 1, labels == 0
    rows = yes, no, called & (yes | no), ~called & (yes | no), yes | (called & no)
    counts = {name: len(np.unique(groups[chosen])) for name, chosen in zip((*SHARES, "f1"), rows, strict=True)}
    counts["auroc"] = min(counts["sensitivity"], counts["specificity"])
    found = {}
    for name, n in counts.items():
        value = figures[name].value
        if figures[name].at_end:
            low, high = wilson(value * n, n, level)
            found[name] = Estimate(value, *((2 * j / (1 + j) for j in (low, high)) if name == "f1" else (low, high)))
    return found
