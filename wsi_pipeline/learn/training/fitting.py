"""From the validation part's logits: how good an epoch is, and at the end the temperature and the thresholds."""

from dataclasses import replace
from typing import Any

import numpy as np
import torch

from wsi_pipeline.learn.data.labels import LabelledImages
from wsi_pipeline.learn.evaluation.calibrate import fit_temperature
from wsi_pipeline.learn.evaluation.metrics import (
    auroc,
    balanced_accuracy,
    expected_calibration_error,
    grade_of,
    quadratic_kappa,
)
from wsi_pipeline.learn.evaluation.thresholds import choose_thresholds
from wsi_pipeline.learn.model.checkpoint import Checkpoint
from wsi_pipeline.learn.model.probabilities import probabilities
from wsi_pipeline.learn.training.objective import Objective
from wsi_pipeline.learn.training.settings import CalibrationKnobs

BINS = 15


def judge(logits: np.ndarray, val: LabelledImages, objective: Objective) -> tuple[dict[str, float], dict[str, float]]:
    """(numbers of history.csv, AUROC of each class) of logits (n, C); NaN where a class is absent.

    Kappa is of grades, read after the prior is undone. Accuracy is balanced, of exclusive classes, called by the
    largest logit before it is undone, as the loss weighs them: balanced_accuracy_before_calibration of `evaluate`,
    whose balanced_accuracy is called after.
    """
    loss = objective.loss(torch.from_numpy(logits), torch.from_numpy(val.labels)).item()
    probs = probabilities(logits, exclusive=val.exclusive, prior=objective.prior)
    by_class = {f"auroc/{name}": auroc(val.labels[:, c], probs[:, c]) for c, name in enumerate(val.class_names)}
    numbers = {"val_loss": loss, "val_auroc": _mean(list(by_class.values()))}
    if val.ordinal:
        known = ~np.isnan(val.labels).any(axis=1)
        numbers["val_kappa"] = quadratic_kappa(val.labels[known].sum(axis=1), grade_of(probs[known]))
    elif val.exclusive:
        truth, called = np.nan_to_num(val.labels).argmax(axis=1), logits.argmax(axis=1)
        numbers["val_accuracy"] = balanced_accuracy(truth, called)
    return numbers, by_class


def calibrated(checkpoint: Checkpoint, logits: np.ndarray, val: LabelledImages, knobs: CalibrationKnobs) -> Checkpoint:
    """The checkpoint with temperature and thresholds fitted on its logits (n, C) of the validation part.

    `about["calibration"]` tells the mean expected calibration error before (raw) and after.
    """
    raw = probabilities(logits, exclusive=checkpoint.exclusive)
    if knobs.temperature:
        moved = _moved(logits, checkpoint)
        checkpoint = replace(
            checkpoint, temperature=round(fit_temperature(moved, val.labels, exclusive=checkpoint.exclusive), 6)
        )
    probs = probabilities(
        logits, exclusive=checkpoint.exclusive, prior=checkpoint.prior, temperature=checkpoint.temperature
    )
    thresholds = choose_thresholds(val.labels, probs, knobs.thresholds)
    calibration = {
        "images": len(val),
        "temperature": checkpoint.temperature,
        "thresholds": knobs.thresholds,
        "ece_before": mean_ece(val.labels, raw),
        "ece_after": mean_ece(val.labels, probs),
    }
    return replace(
        checkpoint,
        thresholds=tuple(np.clip(thresholds, 0, 1).tolist()),
        threshold=_slide_threshold(checkpoint, val, probs, knobs.thresholds),
        about=checkpoint.about | {"calibration": calibration},
    )


def mean_ece(labels: np.ndarray, probs: np.ndarray) -> float:
    """Expected calibration error over 15 bins, the mean of the classes that have a known label."""
    return _mean([expected_calibration_error(labels[:, c], probs[:, c], BINS) for c in range(labels.shape[1])])


def _moved(logits: np.ndarray, checkpoint: Checkpoint) -> np.ndarray:
    """Logits with the prior undone."""
    if checkpoint.prior is None:
        return logits
    prior = np.asarray(checkpoint.prior)
    return logits + (np.log(prior) if checkpoint.exclusive else np.log(prior / (1 - prior)))


def _slide_threshold(checkpoint: Checkpoint, val: LabelledImages, probs: np.ndarray, how: str) -> float:
    """The threshold of the classes that count as cancer, taken together as scores of tiles are; 0.5 where none is."""
    columns = [checkpoint.class_names.index(name) for name in checkpoint.positive]
    if not columns:
        return 0.5
    labels, scores = val.labels[:, columns], probs[:, columns]
    together = np.minimum(scores.sum(axis=1), 1) if checkpoint.exclusive else scores.max(axis=1)
    truth = np.where(
        (labels == 1).any(axis=1), 1.0, labels.max(axis=1)
    )  # one is enough; unknown beside none is unknown
    (threshold,) = choose_thresholds(truth[:, None], together[:, None], how)
    return float(np.clip(threshold, 0, 1))


def _mean(values: list[float]) -> float:
    known: list[Any] = [value for value in values if not np.isnan(value)]
    return float(np.mean(known)) if known else float("nan")
