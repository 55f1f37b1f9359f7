"""Losses of labels (N, C) against logits (N, C): a scalar, the sum over tasks of the mean over known labels.

Labels are 1 present, 0 absent, NaN unknown. Everything stays in logit space: log(p + eps) would cap a
confident error at 16.1 and break in half precision, softplus(z) does neither.
"""

from collections.abc import Sequence
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import softplus

from wsi_pipeline.errors import ConfigError

Labels = TypeVar("Labels", np.ndarray, Tensor)
Weights = np.ndarray | Tensor


def class_weights(labels: Labels) -> tuple[Labels, Labels]:
    """Weights (w_p, w_n), each (C,), with which both classes of a task cost the same.

    w_p = share of negatives, w_n = share of positives, among the known labels of the *training* split.
    A task with one class only has weight 0 on it, one without known labels has 0 twice: neither is
    trained, which is the caller's to say. An array gives arrays (float64), a tensor gives tensors.

    Raises ConfigError when `labels` is not (N, C) of 0, 1 and NaN.
    """
    if isinstance(labels, Tensor):
        w_p, w_n = class_weights(labels.detach().cpu().double().numpy())
        kind = torch.float64 if labels.dtype == torch.float64 else torch.float32
        return torch.as_tensor(w_p).to(labels.device, kind), torch.as_tensor(w_n).to(labels.device, kind)
    values = np.asarray(labels, dtype=np.float64)
    known = ~np.isnan(values)
    if values.ndim != 2 or not np.isin(values[known], (0.0, 1.0)).all():
        wrong = np.setdiff1d(values[known], (0.0, 1.0))[:3].tolist()
        raise ConfigError(f"labels: got shape {values.shape} with {wrong}; give (N, C) of 0, 1 and NaN")
    n_known = known.sum(axis=0)
    share = np.nansum(values, axis=0) / np.maximum(n_known, 1)
    return np.where(n_known > 0, 1.0 - share, 0.0), share


def weighted_bce(logits: Tensor, labels: Tensor, w_p: Weights, w_n: Weights) -> Tensor:
    """Sum over tasks of the mean over known labels of w_p y softplus(-z) + w_n (1 - y) softplus(z).

    logits, labels: (N, C); labels may also be shares in 0-1. w_p, w_n: (C,) or scalar, from `class_weights`.
    Unknown (NaN) labels add 0 to the loss and to the gradient. Computed in float32 at least.
    """
    z, y, known = masked(logits, labels)
    positive, negative = torch.as_tensor(w_p).to(z), torch.as_tensor(w_n).to(z)
    losses = positive * y * softplus(-z) + negative * (1 - y) * softplus(z)
    return mean_over_known(losses, known)


def pos_weight_bce(logits: Tensor, labels: Tensor, pos_weight: Weights) -> Tensor:
    """`weighted_bce` with positives times `pos_weight` (C,), negatives times 1; see `positive_weight`."""
    return weighted_bce(logits, labels, pos_weight, torch.ones(()))


def wang_balanced_bce(logits: Tensor, labels: Tensor) -> Tensor:
    """Wang et al. 2017 (ChestX-ray8), eq. 1: summed over the whole batch and all labels together, no mean.

    Positives cost (P + N) / P, negatives (P + N) / N, with P and N their counts in this batch; a batch of
    one class costs that class alone. Shapes and unknown labels as in `weighted_bce`.
    """
    z, y, known = masked(logits, labels)
    positives, negatives = y.sum(), (known - y).sum()
    total = positives + negatives
    on_positives = total / positives.clamp(min=1) * (y * softplus(-z)).sum()
    return on_positives + total / negatives.clamp(min=1) * ((known - y) * softplus(z)).sum()


def focal_bce(logits: Tensor, labels: Tensor, gamma: float, alpha: Weights | float | None = None) -> Tensor:
    """Lin et al. 2017: each cost times (1 - p of the true class)^gamma, and alpha on positives, 1 - alpha on negatives.

    gamma >= 0 (0 is the plain loss); alpha in 0-1, a number or (C,); None weighs both with 1. Shapes and
    unknown labels as in `weighted_bce`. The power is taken as exp(-gamma softplus): finite at any logit.
    """
    _refuse_negative(gamma=gamma)
    z, y, known = masked(logits, labels)
    w_p, w_n = (1.0, 1.0) if alpha is None else (torch.as_tensor(alpha).to(z), 1 - torch.as_tensor(alpha).to(z))
    positive = w_p * torch.exp(-gamma * softplus(z)) * softplus(-z)
    negative = w_n * torch.exp(-gamma * softplus(-z)) * softplus(z)
    return mean_over_known(y * positive + (1 - y) * negative, known)


def asymmetric_bce(logits: Tensor, labels: Tensor, gamma_neg: float, gamma_pos: float, clip: float) -> Tensor:
    """Ridnik et al. 2021: focal with a power of its own for each class, negatives below p = `clip` for nothing.

    Positives: (1 - p)^gamma_pos (-log p). Negatives: q^gamma_neg (-log(1 - q)) with q = max(p - clip, 0).
    Shapes and unknown labels as in `weighted_bce`; gammas >= 0, clip in [0, 1).
    """
    _refuse_negative(gamma_neg=gamma_neg, gamma_pos=gamma_pos, clip=clip)
    if clip >= 1:
        raise ConfigError(f"clip: got {clip}; give a probability below 1, usually 0.05")
    z, y, known = masked(logits, labels)
    positive = torch.exp(-gamma_pos * softplus(z)) * softplus(-z)
    if clip == 0:
        negative = torch.exp(-gamma_neg * softplus(-z)) * softplus(z)
    else:
        counts = torch.sigmoid(z) > clip  # elsewhere 0 by hand: 0^gamma has no finite slope for gamma < 1
        q = torch.where(counts, torch.sigmoid(z) - clip, 0.5)
        negative = torch.where(counts, -(q**gamma_neg) * torch.log1p(-q), 0.0)
    return mean_over_known(y * positive + (1 - y) * negative, known)


def cross_entropy(logits: Tensor, labels: Tensor, weights: Weights) -> Tensor:
    """Mean over images of the weighted cross-entropy of classes that exclude each other: a scalar.

    logits, labels: (N, C), labels one-hot (or shares that add up to 1); an image without any class known is
    left out. weights: (C,), from `inverse_frequency`. Computed in float32 at least.
    """
    z, y, _ = masked(logits, torch.nan_to_num(torch.as_tensor(labels, device=logits.device), nan=0.0))
    known = (y.sum(dim=1) > 0).to(z)
    rows = torch.where(known.bool()[:, None], z, 0.0)
    costs = -(torch.as_tensor(weights).to(z) * y * torch.log_softmax(rows, dim=1)).sum(dim=1)
    return (costs * known).sum() / known.sum().clamp(min=1)


def positive_weight(labels: Labels) -> Labels:
    """negatives / positives (C,) of known labels, the usual `pos_weight`; 1 where either class is absent."""
    w_p, w_n = class_weights(labels)
    if isinstance(w_p, Tensor):
        return torch.where((w_p > 0) & (w_n > 0), w_p / w_n.clamp(min=1e-12), 1.0)
    return np.divide(w_p, w_n, out=np.ones_like(w_p), where=(w_p > 0) & (w_n > 0))


def inverse_frequency(labels: np.ndarray) -> np.ndarray:
    """Weights (C,) float64 proportional to 1 / images of the class, of mean 1; 0 for a class without images.

    labels: (N, C) one-hot, of the training split. The mean is over the classes that have images.
    Raises ConfigError when `labels` is not (N, C) of 0, 1 and NaN, or none has any image.
    """
    class_weights(labels)
    counts = np.nansum(np.asarray(labels, dtype=np.float64), axis=0)
    if not counts.any():
        raise ConfigError(f"inverse_frequency: no class has an image among {len(labels)}; give the training split")
    rarity = np.divide(1.0, counts, out=np.zeros_like(counts), where=counts > 0)
    return rarity / rarity[counts > 0].mean()


def check_trainable(labels: np.ndarray, class_names: Sequence[str], *, weighted: bool = True) -> list[str]:
    """A line for each class that the training labels (N, C) cannot teach: no positives, or no negatives.

    The weighted loss leaves it as it started; others, not `weighted`, teach it the one answer there is.
    """
    w_p, w_n = class_weights(np.asarray(labels, dtype=np.float64))
    known = (~np.isnan(np.asarray(labels, dtype=np.float64))).sum(axis=0)
    lines = []
    for name, lacks_negatives, lacks_positives, count in zip(class_names, w_p == 0, w_n == 0, known, strict=True):
        if lacks_negatives or lacks_positives:
            lacking = "known labels" if not count else "positives" if lacks_positives else "negatives"
            becomes = (
                "its weight is 0, it is not trained" if weighted or not count else "it learns the other answer alone"
            )
            lines.append(f"{name}: no {lacking} among {count} training labels; {becomes}")
    return lines


def masked(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(z, y, known), all like `logits` in float32 at least; z and y are 0 where the label is unknown.

    Raises ConfigError when the shapes differ: broadcasting would pair each label with every logit.
    """
    labels = torch.as_tensor(labels, device=logits.device)
    if logits.shape != labels.shape:
        raise ConfigError(f"logits {tuple(logits.shape)}, labels {tuple(labels.shape)}: give equal shapes")
    kind = torch.promote_types(logits.dtype, torch.float32)
    known = ~torch.isnan(labels)
    return (
        torch.where(known, logits.to(kind), 0.0),
        torch.where(known, labels.to(kind), 0.0),
        known.to(kind),
    )


def mean_over_known(losses: Tensor, known: Tensor) -> Tensor:
    """Sum over tasks of the mean of `losses` (N, C) where `known` is 1; a task with none known adds 0."""
    return ((losses * known).sum(dim=0) / known.sum(dim=0).clamp(min=1)).sum()


def _refuse_negative(**values: float) -> None:
    for name, value in values.items():
        if not value >= 0:
            raise ConfigError(f"{name}: got {value}; give 0 or more")
