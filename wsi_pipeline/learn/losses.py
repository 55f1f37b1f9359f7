"""Losses of labels (N, C) against logits (N, C): a scalar, the sum over tasks of the mean over known labels.

Labels are 1 present, 0 absent, NaN unknown. Everything stays in logit space: log(p + eps) would cap a
confident error at 16.1 and break in half precision, softplus(z) does neither.
"""

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
