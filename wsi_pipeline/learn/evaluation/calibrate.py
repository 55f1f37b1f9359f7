"""The temperature: by what logits are to be divided, that their probabilities mean what they say."""

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import minimize_scalar

from wsi_pipeline.errors import ConfigError

_FAR = 1e5  # logits beyond (half precision overflows to infinity) count as this far


def fit_temperature(logits: ArrayLike, labels: ArrayLike, *, exclusive: bool = False) -> float:
    """The temperature T > 0 with which sigmoid(logits / T), or softmax, has the least log loss on known labels.

    logits, labels: (N, C), or (N,) of one class, labels 0, 1 or NaN, of validation; the prior is already in the logits.
    With `exclusive`, labels are one-hot and a row without its class is left out; so are NaN logits (unreadable
    images). Where every answer is right, boundless confidence would cost least: then the truth is taken as only
    1 - 1 / (M + K) likely, M answers of K choices each, after Platt (1999). Between 0.05 and 20. Raises ConfigError
    on other shapes or labels, and when no label is known.
    """
    z, y = np.asarray(logits, dtype=np.float64), np.asarray(labels, dtype=np.float64)
    if z.shape != y.shape or z.ndim not in ((2,) if exclusive else (1, 2)):
        raise ConfigError(f"fit_temperature: logits {z.shape}, labels {y.shape}; give twice (N, C)")
    if not np.isin(y[~np.isnan(y)], (0.0, 1.0)).all():
        raise ConfigError("fit_temperature: labels other than 0, 1 and NaN; give the labels, not probabilities")
    margins = _margins_of_class(z, y) if exclusive else _margins_of_label(z, y)
    if not len(margins):
        raise ConfigError("fit_temperature: no label is known; give a validation split with labels")

    all_right = bool((margins.max(axis=1) <= 0).all())
    doubt = 1 / sum(margins.shape) if all_right else 0.0  # shared by the other answers

    def log_loss(log_t: float) -> float:
        leads = margins / np.exp(log_t)
        others = leads.sum(axis=1) / (margins.shape[1] - 1)  # the truth's own lead is 0
        return float((np.logaddexp.reduce(leads, axis=1) - doubt * others).mean())

    fitted = minimize_scalar(log_loss, bounds=(np.log(0.05), np.log(20.0)), method="bounded")
    return float(np.exp(fitted.x))


def _margins_of_label(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """(M, 2) of each known label: 0 for the truth, and by how much the other answer leads it."""
    known = ~np.isnan(labels) & ~np.isnan(logits)
    lead = np.where(labels[known] == 1, -logits[known], logits[known])
    return np.stack([np.zeros_like(lead), np.clip(lead, -_FAR, _FAR)], axis=1)


def _margins_of_class(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """(M, C) of each row with a known class: by how much each logit leads that of the true class."""
    rows = (np.nansum(labels, axis=1) > 0) & ~np.isnan(logits).any(axis=1)
    if (np.nansum(labels, axis=1) > 1).any():
        raise ConfigError("fit_temperature: a row has several classes; classes that exclude each other have one")
    near = np.clip(logits[rows], -_FAR, _FAR)
    return near - near[np.nan_to_num(labels[rows]) == 1][:, None]
