"""What a training starts from, or goes on from: material, objective, network, optimiser and how far it was."""

import random
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler
from torch.optim import Optimizer

from wsi_pipeline.errors import ConfigError, ModelError
from wsi_pipeline.learn.data.batches import Batch
from wsi_pipeline.learn.data.labels import LabelledImages
from wsi_pipeline.learn.data.splits import labels_digest, missing_classes, split_digest
from wsi_pipeline.learn.evaluation.thresholds import choose_thresholds
from wsi_pipeline.learn.model.transfer import freeze
from wsi_pipeline.learn.training import ranks
from wsi_pipeline.learn.training.material import Material, gather_material
from wsi_pipeline.learn.training.network import check_blocks, frozen_at, make_average, make_network, make_optimiser
from wsi_pipeline.learn.training.objective import Objective, make_objective
from wsi_pipeline.learn.training.resume import Saved, Weights, restore, save_state
from wsi_pipeline.learn.training.settings import TrainSettings, as_json, changed_knobs

_NAMED = 16  # images of a batch named in a message
Listen = Callable[[str, dict[str, Any]], None]


@dataclass
class Progress:
    """How far a training is."""

    epoch: int = 0  # done
    step: int = 0  # of the optimiser
    best: float | None = None  # the metric; larger is better
    best_epoch: int = 0
    waited: int = 0  # epochs since
    lowered: int = 0  # times the plateau stepped the rate down
    seconds: float = 0.0  # of all sittings


@dataclass
class Training:
    """All that the loop works on. `spread` is the model; of several processes, with its gradients averaged."""

    settings: TrainSettings
    device: torch.device
    material: Material
    digest: str  # of which image is in which part
    labels: str  # digest of which image has which labels
    objective: Objective
    model: nn.Module
    average: nn.Module | None
    optimiser: Optimizer
    scaler: GradScaler
    amp: Callable[[], AbstractContextManager]
    spread: nn.Module
    frozen: str
    best: Weights
    progress: Progress = field(default_factory=Progress)
    rows: list[dict[str, Any]] = field(default_factory=list)  # of history.csv

    @property
    def judged(self) -> nn.Module:
        """The network that is validated and kept: the moving average where there is one."""
        return self.model if self.average is None else self.average


def start(
    images: LabelledImages, parts: np.ndarray, settings: TrainSettings, *, saved: Saved | None, device: torch.device,
    listen: Listen,
) -> Training:  # fmt: skip
    """A training at its first epoch, or where `saved` left it.

    Raises ConfigError for settings, parts and labels that changed since, leaks, classes that cannot be trained, a
    metric that validation cannot give, and for what is used only later: blocks to thaw, the choice of thresholds.
    """
    _check_ahead(settings)
    digest, labels = split_digest(images.ids, parts), labels_digest(images.ids, images.labels)
    if saved is not None:
        _refuse_changes(saved, digest, labels, images, settings)
    _seed(settings.run.seed)
    material = gather_material(images, parts, settings, lambda done, of: listen("read", {"done": done, "of": of}))
    _check_metric(material.part("val"), settings.stop.metric)
    objective = make_objective(material.part("train"), settings.loss)
    for line in [*objective.warnings, *missing_classes(images.labels, parts, images.class_names)]:
        listen("note", {"text": f"warning: {line}"})
    progress = Progress(**saved.facts["progress"]) if saved else Progress()
    model = make_network(settings.model, len(images.class_names), device)
    average = make_average(model, settings.model.ema)
    frozen = frozen_at(settings.model, max(progress.epoch, 1))
    freeze(model, frozen)
    optimiser = make_optimiser(model, settings.optimiser, settings.model.block_decay, None)
    amp, scaler = precision(settings.run.precision, device)
    if saved is not None:
        restore(saved, model=model, ema=average, optimiser=optimiser, scaler=scaler)
    return Training(
        settings, device, material, digest, labels, objective, model, average, optimiser, scaler, amp,
        spread=ranks.spread(model, device),
        frozen=frozen,
        best=saved.tensors["best"] if saved else {},
        progress=progress,
        rows=saved.facts["history"] if saved else [],
    )  # fmt: skip


def thaw(training: Training, epoch: int) -> None:
    """Freeze and unfreeze for this epoch; what moved already keeps its running values in the optimiser."""
    frozen = frozen_at(training.settings.model, epoch)
    if frozen == training.frozen:
        return
    training.frozen = frozen
    freeze(training.model, frozen)
    knobs = training.settings
    training.optimiser = make_optimiser(training.model, knobs.optimiser, knobs.model.block_decay, training.optimiser)
    training.spread = ranks.spread(training.model, training.device)


def keep(training: Training, folder: Path) -> None:
    """Save all that `start` goes on from."""
    save_state(
        folder,
        model=training.model,
        ema=training.average,
        best=training.best,
        optimiser=training.optimiser,
        scaler=training.scaler,
        facts={
            "settings": as_json(training.settings),
            "classes": list(training.material.images.class_names),
            "split": training.digest,
            "labels": training.labels,
            "progress": vars(training.progress),
            "history": training.rows,
        },
    )


def copied(model: nn.Module) -> Weights:
    """The model's weights on the CPU, copied: further steps do not change them."""
    return {name: tensor.detach().cpu().clone() for name, tensor in model.state_dict().items()}


def precision(name: str, device: torch.device) -> tuple[Callable[[], AbstractContextManager], GradScaler]:
    """(context of the forward pass, scaler of the loss): float16 alone needs it scaled, to keep small gradients."""
    if name == "auto":
        name = _half() if device.type == "cuda" else "float32"
    scaler = GradScaler(device.type, enabled=name == "float16")
    if name == "float32":
        return nullcontext, scaler
    return partial(torch.autocast, device.type, getattr(torch, name)), scaler


def validation_logits(training: Training, batches: Iterable[Batch], *, exact: bool = False) -> np.ndarray:
    """(n, C) float32 of the validation part by the network that is judged; each process does its share once.

    With `exact` they are computed in float32 too, as `predict` does: what calibrates its output is fitted on them.
    Raises ModelError naming images where an output is not finite.
    """
    rows = training.material.rows["val"]
    ranks.agree(training.judged)  # as the first process keeps it
    training.judged.eval()
    found: list[Tensor] = []
    with torch.inference_mode(), nullcontext() if exact else training.amp():
        for batch in batches:
            found.append(training.judged(training.material.to_input(batch.pixels, training.device)).float())
    mine = torch.cat(found) if found else torch.empty((0, len(training.material.images.class_names)))
    logits = ranks.gather_rows(mine.to(training.device), len(rows)).cpu().numpy()
    if len(broken := np.flatnonzero(~np.isfinite(logits).all(axis=1))):
        raise not_finite("output", training, rows[broken])
    return logits


def not_finite(what: str, training: Training, rows: np.ndarray) -> ModelError:
    """The error that says where the loss or an output left the finite numbers, and on which images."""
    ids, progress = training.material.images.ids[rows], training.progress
    named = ", ".join(ids[:_NAMED]) + (f" and {len(ids) - _NAMED} more" if len(ids) > _NAMED else "")
    return ModelError(
        f"{what} is not finite in epoch {progress.epoch + 1}, step {progress.step + 1}, images {named}; look at them, "
        f"or lower optimiser.rate. The best so far (epoch {progress.best_epoch}; 0: none yet) is kept"
    )


def _half() -> str:
    """bfloat16 where this GPU computes in it, else float16: older ones take bfloat16 and are slow with it."""
    return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float16"


def _check_ahead(settings: TrainSettings) -> None:
    """ConfigError now for what would otherwise be refused epochs later."""
    check_blocks(settings.model)
    nothing = np.zeros((0, 1))
    choose_thresholds(nothing, nothing, settings.calibration.thresholds)


def _seed(seed: int) -> None:
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def _refuse_changes(saved: Saved, digest: str, labels: str, images: LabelledImages, settings: TrainSettings) -> None:
    lines = changed_knobs(saved.facts["settings"], settings)
    if saved.facts["classes"] != list(images.class_names):
        lines.append(f"classes: were {saved.facts['classes']}, are {list(images.class_names)}")
    if saved.facts["split"] != digest:
        lines.append(f"images and their parts: were {saved.facts['split']}, are {digest}")
    elif saved.facts.get("labels", labels) != labels:  # older states have none
        lines.append(f"labels of the images: were {saved.facts['labels']}, are {labels}")
    if lines:
        raise ConfigError(f"--resume with other settings: {'; '.join(lines)}; set them back, or train anew elsewhere")


def _check_metric(val: LabelledImages, metric: str) -> None:
    if not len(val):
        raise ConfigError(f"{val.name}: no image of validation has a known label; give it some, or split otherwise")
    both = [{0.0, 1.0} <= set(column.tolist()) for column in val.labels.T]
    if metric == "auroc" and not any(both):
        raise ConfigError(f"stop.metric=auroc: no class has both present and absent among the {len(val)} images "
                          f"of validation; give it more, or use stop.metric=loss")  # fmt: skip
    if (metric == "kappa" and not val.ordinal) or (metric == "accuracy" and not val.exclusive):
        wants = "grades" if metric == "kappa" else "classes that exclude each other"
        raise ConfigError(f"stop.metric={metric}: {val.name} has no {wants}; use auroc or loss")
    if metric in ("kappa", "accuracy") and (found := _occurring(val)) < 2:
        what = "grades" if metric == "kappa" else "classes"
        raise ConfigError(f"stop.metric={metric}: needs two {what}, the {len(val)} images of validation have {found}; "
                          f"give it more, or use stop.metric=loss")  # fmt: skip


def _occurring(val: LabelledImages) -> int:
    """How many grades, or classes that exclude each other, there are among the images."""
    if val.ordinal:
        known = ~np.isnan(val.labels).any(axis=1)
        return len(np.unique(val.labels[known].sum(axis=1)))
    return int((val.labels == 1).any(axis=0).sum())
