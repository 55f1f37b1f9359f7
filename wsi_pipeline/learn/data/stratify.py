"""Whole patients dealt to parts, from what each patient adds (P, F): every part like the whole, as far as it goes.

A greedy form of iterative stratification (Sechidis et al. 2011) with patients as units.
"""

import numpy as np


def deal(counts: np.ndarray, shares: np.ndarray) -> np.ndarray:
    """The part of each patient, (P,) int64.

    counts: (P, F) >= 0, what each patient adds to F sums (images, positives of each label, ...), the patients in
    the order that settles ties. shares: (K,) of each sum that each part should get, adding up to 1.
    """
    part = np.full(len(counts), -1, dtype=np.int64)
    sizes = np.log2(np.maximum(counts.max(axis=1), 1)).astype(np.int64)  # within a factor of two chance decides
    _fill(part, counts, shares, sizes)
    _balance(part, counts, shares, sizes)
    _leave_none_empty(part, counts, shares)
    return part


def _fill(part: np.ndarray, counts: np.ndarray, shares: np.ndarray, sizes: np.ndarray) -> None:
    """Gives each part one patient that adds to each sum, the rarest sums and largest parts first, small patients."""
    parts = [k for k in np.argsort(-shares, kind="stable") if shares[k] > 0]
    for column in np.argsort((counts > 0).sum(axis=0), kind="stable"):
        adds = counts[:, column] > 0
        for k in parts:
            free = np.flatnonzero(adds & (part < 0))
            if len(free) and not (adds & (part == k)).any():
                part[free[np.argmin(sizes[free])]] = k


def _balance(part: np.ndarray, counts: np.ndarray, shares: np.ndarray, sizes: np.ndarray) -> None:
    """Gives the rest, carriers of rare sums and large patients first, to the part that lacks most of what they add.

    That is the part where sum over parts of share x sum over F of (had / (share x total) - 1)^2 grows least.
    """
    totals = np.maximum(counts.sum(axis=0), 1e-12)
    relative = counts / totals
    had = np.stack([relative[part == k].sum(axis=0) for k in range(len(shares))])
    carriers = (counts > 0).sum(axis=0)
    rarest = np.where(counts > 0, carriers, len(counts) + 1).min(axis=1)
    usable = np.where(shares > 0, shares, np.nan)[:, None]
    for one in np.lexsort((-sizes, rarest)):
        if part[one] < 0:
            adds = relative[one]
            growth = (2 * adds * (had / usable - 1) + adds**2 / usable).sum(axis=1)
            part[one] = np.nanargmin(growth)
            had[part[one]] += adds


def _leave_none_empty(part: np.ndarray, counts: np.ndarray, shares: np.ndarray) -> None:
    """Gives a part without a patient the smallest one of the part with most: few patients, each with one class."""
    for k in np.flatnonzero(shares > 0):
        if not (part == k).any():
            held = np.bincount(part, minlength=len(shares))
            giver = np.flatnonzero(part == held.argmax()) if held.max() > 1 else np.array([], np.intp)
            if len(giver):
                part[giver[counts[giver].sum(axis=1).argmin()]] = k
