"""Objective: the loss of the settings with weights from the training labels, and the prior it leaves to be undone."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from wsi_pipeline.errors import ConfigError
from wsi_pipeline.learn.data.labels import LabelledImages
from wsi_pipeline.learn.training import losses
from wsi_pipeline.learn.training.settings import LossKnobs

Loss = Callable[[Tensor, Tensor], Tensor]

_EXCLUSIVE = ("weighted", "cross_entropy", "plain")


@dataclass(frozen=True)
class Objective:
    """A loss of (logits (N, C), labels (N, C)) -> scalar.

    `prior` is what `probabilities` undoes, one a class; None where nothing is to be undone. Where rare classes are
    made up for it is their share in training; the weight of an exclusive class divides it. `weights` is for the
    checkpoint. `warnings` name the tasks that will not be trained.
    """

    loss: Loss
    prior: tuple[float, ...] | None
    weights: dict[str, Any]
    warnings: list[str]


def make_objective(images: LabelledImages, knobs: LossKnobs) -> Objective:
    """The objective for these *training* images.

    A task with one class only is named; the default loss weighs it 0. Raises ConfigError when every
    task is so or weighted 0 by the settings, when one of several exclusive classes has no image or no weight, or for
    a loss that is not for such classes.
    """
    names, labels = images.class_names, images.labels
    if unknown := sorted(set(knobs.task_weights) - set(names)):
        raise ConfigError(f"loss.task_weights: {unknown[0]!r} is no class; the classes are {', '.join(names)}")
    if images.exclusive:
        return _exclusive(images, knobs)
    if knobs.name == "cross_entropy":
        raise ConfigError(f"loss.name=cross_entropy is for exclusive classes, {images.name} has tasks; use weighted")
    one_sided = [not {0.0, 1.0} <= set(column[~np.isnan(column)].tolist()) for column in labels.T]
    if all(one_sided):
        raise ConfigError(f"{images.name}: no class has both present and absent images in training: {', '.join(names)}")
    tasks = _task_weights(names, knobs)
    if not tasks[~np.array(one_sided)].any():
        left = ", ".join(name for name, one in zip(names, one_sided, strict=True) if not one)
        raise ConfigError(f"loss.task_weights: got 0 for all that can be trained ({left}); give one of them more")
    w_p, w_n = losses.class_weights(labels)
    return Objective(
        loss=_by_task(_SIGMOID[knobs.name](knobs, w_p, w_n), tasks),
        prior=_prior(images, knobs, w_n),
        weights={"name": knobs.name, "w_p": w_p.tolist(), "w_n": w_n.tolist(), "tasks": tasks.tolist()},
        warnings=losses.check_trainable(labels, list(names), weighted=knobs.name == "weighted"),
    )


def draw_weights(images: LabelledImages) -> np.ndarray:
    """Chance (N,) of each image to be drawn, sum 1, that makes up for rare classes.

    Exclusive classes, and both classes of a single task, are drawn alike often. Of several tasks an image
    counts as its rarest label that is present, or as "none present".
    """
    present = np.nan_to_num(images.labels)
    if not images.exclusive:
        present = np.column_stack([present, present.sum(axis=1) == 0])
    counts = np.maximum(present.sum(axis=0), 1)
    weights = (present / counts).max(axis=1)
    return weights / weights.sum()


def _exclusive(images: LabelledImages, knobs: LossKnobs) -> Objective:
    if knobs.name not in _EXCLUSIVE:
        raise ConfigError(f"loss.name={knobs.name} is for tasks, {images.name} has exclusive classes; use weighted")
    counts = np.nansum(images.labels, axis=0)
    if not counts.all():
        absent = [name for name, count in zip(images.class_names, counts, strict=True) if not count]
        raise ConfigError(f"{images.name}: class {', '.join(absent)} has no image in training; add some, leave it out, "
                          f"or split with another split.seed")  # fmt: skip
    tasks = _task_weights(images.class_names, knobs)
    if not tasks.all():
        left = [name for name, weight in zip(images.class_names, tasks, strict=True) if not weight]
        raise ConfigError(f"loss.task_weights: got 0 for {', '.join(left)}, one of several exclusive classes; give "
                          f"a weight above 0, or leave its images out")  # fmt: skip
    weights = tasks if knobs.name == "plain" else tasks * losses.inverse_frequency(images.labels)
    balanced = knobs.name != "plain" or knobs.sampler == "balanced"
    return Objective(
        loss=partial(_cross_entropy, weights=torch.as_tensor(weights, dtype=torch.float32)),
        prior=_exclusive_prior(counts if balanced else np.ones(len(counts)), tasks),
        weights={"name": "cross_entropy", "weights": weights.tolist()},
        warnings=[],
    )


def _exclusive_prior(shares: np.ndarray, tasks: np.ndarray) -> tuple[float, ...] | None:
    """What undoes weights t / n: class c is learned as if it were t / n times as frequent, so n / t, of sum 1.

    `shares` is the n that was made up for, ones where nothing was. None where all classes were weighed alike.
    """
    prior = shares / tasks
    return None if (prior == prior[0]).all() else tuple((prior / prior.sum()).tolist())


def _task_weights(names: Sequence[str], knobs: LossKnobs) -> np.ndarray:
    """(C,) float64: 1 where nothing is said."""
    return np.array([knobs.task_weights.get(name, 1.0) for name in names])


def _cross_entropy(logits: Tensor, labels: Tensor, *, weights: Tensor) -> Tensor:
    return losses.cross_entropy(logits, labels, weights.to(logits.device))


def _by_task(loss: Callable[..., Tensor], tasks: np.ndarray) -> Loss:
    """The loss with weights of the tasks: each loss is a sum over tasks, so the parts can be weighed one by one."""
    if (tasks == 1).all():
        return partial(loss, columns=slice(None))
    picks = [(float(weight), slice(c, c + 1)) for c, weight in enumerate(tasks) if weight]

    def weighed(logits: Tensor, labels: Tensor) -> Tensor:
        parts = [weight * loss(logits[:, c], labels[:, c], columns=c) for weight, c in picks]
        return torch.stack(parts).sum()

    return weighed


def _weighted(knobs: LossKnobs, w_p: np.ndarray, w_n: np.ndarray) -> Callable[..., Tensor]:
    def loss(logits: Tensor, labels: Tensor, *, columns: slice) -> Tensor:
        return losses.weighted_bce(logits, labels, w_p[columns], w_n[columns])

    return loss


def _pos_weight(knobs: LossKnobs, w_p: np.ndarray, w_n: np.ndarray) -> Callable[..., Tensor]:
    ratio = np.divide(w_p, w_n, out=np.ones_like(w_p), where=w_n > 0)

    def loss(logits: Tensor, labels: Tensor, *, columns: slice) -> Tensor:
        return losses.pos_weight_bce(logits, labels, ratio[columns])

    return loss


def _plain(knobs: LossKnobs, w_p: np.ndarray, w_n: np.ndarray) -> Callable[..., Tensor]:
    return lambda logits, labels, columns: losses.weighted_bce(logits, labels, np.ones(1), np.ones(1))


def _wang(knobs: LossKnobs, w_p: np.ndarray, w_n: np.ndarray) -> Callable[..., Tensor]:
    return lambda logits, labels, columns: losses.wang_balanced_bce(logits, labels)


def _focal(knobs: LossKnobs, w_p: np.ndarray, w_n: np.ndarray) -> Callable[..., Tensor]:
    return lambda logits, labels, columns: losses.focal_bce(logits, labels, knobs.gamma, knobs.alpha)


def _asymmetric(knobs: LossKnobs, w_p: np.ndarray, w_n: np.ndarray) -> Callable[..., Tensor]:
    gammas = (knobs.gamma_neg, knobs.gamma_pos)
    return lambda logits, labels, columns: losses.asymmetric_bce(logits, labels, *gammas, knobs.clip)


_SIGMOID = {
    "weighted": _weighted,
    "pos_weight": _pos_weight,
    "plain": _plain,
    "wang": _wang,
    "focal": _focal,
    "asymmetric": _asymmetric,
}


def _prior(images: LabelledImages, knobs: LossKnobs, share: np.ndarray) -> tuple[float, ...] | None:
    """What the best constant answer is off by: our weights and pos_weight answer 0.5 at any prevalence.

    Wang's weights do so for all labels taken together. A balancing sampler moves each task's share of
    positives from pi to pi'; undone by odds(pi) / odds(pi'). Focal and asymmetric have no closed form:
    the temperature must do.
    """
    known = (~np.isnan(images.labels)).sum(axis=0)
    least = 0.5 / np.maximum(known, 1)
    share = np.clip(share, least, 1 - least)  # a task of one class: not 0 or 1, which nothing could move
    if knobs.name == "wang":
        return (float(np.nansum(images.labels) / known.sum()),) * len(share)
    if knobs.name in ("weighted", "pos_weight"):
        return tuple(share.tolist())
    if knobs.sampler == "none":
        return None
    drawn = draw_weights(images)[:, None] * ~np.isnan(images.labels)
    positive, total = (drawn * np.nan_to_num(images.labels)).sum(axis=0), drawn.sum(axis=0)
    drawn_share = np.divide(positive, total, out=share.copy(), where=total > 0)  # none known: as it is
    drawn_share = np.clip(drawn_share, least, 1 - least)
    odds = share / (1 - share) * (1 - drawn_share) / drawn_share
    return tuple((odds / (1 + odds)).tolist())
