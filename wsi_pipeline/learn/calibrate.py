"""From logits to probabilities that mean something: training's weights undone, then a temperature."""

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import minimize_scalar
from scipy.special import expit, logit, softmax

from wsi_pipeline.errors import ConfigError


def correct_prior(p: ArrayLike, prevalence: ArrayLike) -> np.ndarray:
    """Probabilities of a network trained with both classes costing the same, at the true prevalence.

    q = p pi / (p pi + (1 - p)(1 - pi)): p (..., C) in 0-1, pi (C,) or a scalar in (0, 1), the share of
    positives in training. Rank is kept. Raises ConfigError on a prevalence outside (0, 1).
    """
    pi = np.asarray(prevalence, dtype=np.float64)
    if not np.all((pi > 0) & (pi < 1)):
        raise ConfigError(f"prevalence: got {pi.tolist()}; give shares above 0 and below 1")
    present, absent = np.asarray(p) * pi, (1 - np.asarray(p)) * (1 - pi)
    return present / (present + absent)


def probabilities(
    logits: np.ndarray, *, exclusive: bool, prior: tuple[float, ...] | None = None, temperature: float = 1.0
) -> np.ndarray:
    """Calibrated probabilities (N, C) float32 of logits (N, C); NaN stays NaN.

    First the prior: with it, the logit moves by logit(pi), which is `correct_prior` in logit space (for
    exclusive classes by log(pi): the same for a loss weighted by inverse frequency). Then the
    temperature: sigmoid, or softmax when `exclusive`, of the moved logit / temperature.
    """
    z = np.asarray(logits, dtype=np.float64)
    if prior is not None:
        z = z + (np.log(prior) if exclusive else logit(prior))
    z = z / temperature
    return (softmax(z, axis=1) if exclusive else expit(z)).astype(np.float32)


def fit_temperature(logits: np.ndarray, labels: np.ndarray) -> float:
    """The temperature T > 0 with which sigmoid(logits / T) has the least log loss on known labels.

    logits, labels: (N, C), labels 0, 1 or NaN, of the validation split; the prior is already in the
    logits. Between 0.05 and 20. Raises ConfigError when no label is known.
    """
    z, y = np.asarray(logits, dtype=np.float64), np.asarray(labels, dtype=np.float64)
    known = ~np.isnan(y)
    if not known.any():
        raise ConfigError("fit_temperature: no label is known; give a validation split with labels")
    signed = np.where(y[known] > 0.5, -z[known], z[known])

    def log_loss(log_t: float) -> float:
        return float(np.logaddexp(0.0, signed / np.exp(log_t)).mean())

    fitted = minimize_scalar(log_loss, bounds=(np.log(0.05), np.log(20.0)), method="bounded")
    return float(np.exp(fitted.x))
