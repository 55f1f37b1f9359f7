"""From logits to probabilities that mean something: training's weights undone, then a temperature.

Of numpy alone: scipy would be loaded for two formulas, 0.5 s and 50 MiB in every process that scores.
"""

import numpy as np
from numpy.typing import ArrayLike

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
        z = z + (np.log(prior) if exclusive else np.log(prior) - np.log1p(-np.asarray(prior)))
    z = z / temperature
    return (_softmax(z) if exclusive else _sigmoid(z)).astype(np.float32)


def _sigmoid(z: np.ndarray) -> np.ndarray:
    """1 / (1 + exp(-z)), of either sign without overflow."""
    small = np.exp(-np.abs(z))
    return np.asarray(np.where(z < 0, small, 1.0) / (1 + small))


def _softmax(z: np.ndarray) -> np.ndarray:
    """exp(z) / sum(exp(z)) of each row."""
    powers = np.exp(z - z.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True))
