"""TrainSettings: every knob of a training, its unit and range beside it, from the same YAML and `--set` as a run's."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

from pydantic import model_validator

from wsi_pipeline.knobs import Section, knob, load_knobs

# What may differ on --resume: how long, on what machine and what is fitted at the end, not what is learned.
_MAY_CHANGE = {
    "data": {"cache_gib"},
    "stop": {"epochs"},
    "calibration": {"temperature", "thresholds"},
    "run": {"workers"},
}


class DataKnobs(Section):
    """Which images, and how they come to the network."""

    dataset: str = knob(..., "tiles, pcam, chest_xray, retina, skin or folder")
    options: dict[str, Any] = knob({}, "options of that dataset, such as its label file")
    px: int = knob(224, "side of the square input", unit="px", ge=32, le=4096)
    fit: Literal["pad", "crop", "circle"] = knob("pad", "how an image comes to a square; circle for retinas")
    augment: bool = knob(True, "vary the training images, as their kind allows without changing a label")
    normalise: Literal["auto", "training", "imagenet"] = knob(
        "auto",
        "mean and std of the training images or of ImageNet; auto: those the weights were trained with, by their card; "
        "ImageNet's where a file of weights has none",
    )
    limit: int | None = knob(None, "only so many images, spread over all of them; for a trial", unit="images", ge=8)
    cache_gib: float = knob(4.0, "decoded images are kept in memory up to this size", unit="GiB", ge=0)


class SplitKnobs(Section):
    """Which images train, validate and test; never two parts for one patient."""

    how: Literal["auto", "official", "patient", "file"] = knob(
        "auto", "the data set's own parts, by patient with the seed, or from a file; auto: its own if it has a test"
    )
    file: str | None = knob(None, "CSV with columns id, part (train, val, test), for `how: file`")
    shares: tuple[float, float, float] = knob((0.7, 0.15, 0.15), "of train, val, test", unit="share")
    folds: int | None = knob(None, "cross-validation: by patient into so many parts instead of `shares`", ge=2, le=100)
    fold: int = knob(0, "which of the folds is the test part", ge=0)
    seed: int = knob(0, "of the split", ge=0)
    join_identical: bool = knob(
        False, "images of the same square count as one patient when we split; reads every image once more before"
    )


class ModelKnobs(Section):
    """The network, where its weights come from, and which of them are trained."""

    arch: str = knob("densenet121", "densenet121, 161, 169, 201, densenet_small or densenet_demo")
    weights: str = knob("none", "none (random), imagenet, a file of weights, a folder of ours or a model in the box")
    freeze: str = knob("none", "none, head (all but the head is frozen), or a block: what lies before it is frozen")
    thaw: dict[int, str] = knob({}, "gradual unfreezing: `freeze` from an epoch on, such as {3: denseblock4}")
    channels: Literal[1, 3] = knob(3, "of the input: RGB, or grey (their mean); weights of RGB are summed to fit")
    block_decay: float = knob(1.0, "rate of a block over that of the next one; 1 trains all alike", gt=0, le=1)
    ema: float | None = knob(None, "decay of a moving average of the weights, which is then kept", gt=0, lt=1)


class LossKnobs(Section):
    """What is made small."""

    name: Literal["weighted", "pos_weight", "wang", "focal", "asymmetric", "plain", "cross_entropy"] = knob(
        "weighted", "weighted: both classes of a task cost the same; cross_entropy: of exclusive classes, weighted"
    )
    gamma: float = knob(2.0, "focal: how much less a sure answer costs", ge=0)
    alpha: float | None = knob(None, "focal: weight of the positives", gt=0, lt=1)
    gamma_neg: float = knob(4.0, "asymmetric: of the negatives", ge=0)
    gamma_pos: float = knob(1.0, "asymmetric: of the positives", ge=0)
    clip: float = knob(0.05, "asymmetric: negatives below this probability cost nothing", ge=0, lt=1)
    task_weights: dict[str, float] = knob({}, "weight of a task in the sum, by class name; 1 where not given")
    sampler: Literal["none", "balanced"] = knob("none", "balanced: draw images of rare classes more often")


class OptimiserKnobs(Section):
    """How the weights move."""

    name: Literal["adamw", "sgd"] = knob("adamw", "adamw, or sgd with Nesterov momentum")
    rate: float = knob(1e-3, "highest learning rate", gt=0)
    weight_decay: float = knob(1e-4, "not on biases and norms", ge=0)
    momentum: float = knob(0.9, "of sgd", ge=0, lt=1)
    clip_norm: float | None = knob(1.0, "longest gradient; not clipped when null", gt=0)


class ScheduleKnobs(Section):
    """How the rate changes."""

    name: Literal["cosine", "plateau", "constant"] = knob("cosine", "down to 1 % along a cosine, or by steps")
    warmup: float = knob(1.0, "linear start", unit="epochs", ge=0)
    patience: int = knob(3, "plateau: epochs without gain before a step down", unit="epochs", ge=1)
    factor: float = knob(0.3, "plateau: of a step down", gt=0, lt=1)


class StopKnobs(Section):
    """How long, and what is best."""

    epochs: int = knob(30, "at most", unit="epochs", ge=1)
    metric: Literal["auroc", "loss", "kappa", "accuracy"] = knob(
        "auroc",
        "of the validation part: mean AUROC, loss, kappa of grades, or balanced accuracy of exclusive classes, called "
        "by the largest logit before the prior is undone",
    )
    patience: int = knob(10, "stop after so many epochs without gain", unit="epochs", ge=1)


class CalibrationKnobs(Section):
    """What is fitted on the validation part at the end."""

    temperature: bool = knob(True, "fit a temperature once the prior is undone")
    thresholds: str = knob("youden", "youden, f1, sensitivity=0.9, specificity=0.9")


class RunKnobs(Section):
    """The machine and the seed."""

    seed: int = knob(0, "of weights, order and augmentation", ge=0)
    batch: int = knob(32, "over all processes", unit="images", ge=2, le=65536)
    workers: int | None = knob(None, "processes that prepare batches; none on a CPU, one a core up to 8 on a GPU", ge=0)
    precision: Literal["auto", "float32", "bfloat16", "float16"] = knob(
        "auto", "float32 on a CPU; on a GPU bfloat16 where it has it, else float16 with a scaled loss"
    )


class TrainSettings(Section):
    """All knobs of `train`."""

    data: DataKnobs
    split: SplitKnobs = SplitKnobs()
    model: ModelKnobs = ModelKnobs()
    loss: LossKnobs = LossKnobs()
    optimiser: OptimiserKnobs = OptimiserKnobs()
    schedule: ScheduleKnobs = ScheduleKnobs()
    stop: StopKnobs = StopKnobs()
    calibration: CalibrationKnobs = CalibrationKnobs()
    run: RunKnobs = RunKnobs()

    @model_validator(mode="after")
    def _agree(self) -> "TrainSettings":
        if self.loss.sampler == "balanced" and self.loss.name in ("weighted", "pos_weight", "wang", "cross_entropy"):
            raise ValueError(
                f"loss.sampler=balanced with loss.name={self.loss.name} makes up for rare classes twice; "
                f"use loss.name=plain with it, or loss.sampler=none"
            )
        if self.loss.name == "wang" and self.loss.task_weights:
            raise ValueError("loss.task_weights: wang weighs all tasks together; use loss.name=weighted")
        if any(weight < 0 for weight in self.loss.task_weights.values()):
            raise ValueError(f"loss.task_weights: got {self.loss.task_weights}; give weights of 0 or more")
        if min(self.split.shares) < 0 or abs(sum(self.split.shares) - 1) > 1e-6 or not all(self.split.shares[:2]):
            raise ValueError(f"split.shares: got {list(self.split.shares)}; give train, val, test that sum to 1")
        if self.split.folds is not None and self.split.fold >= self.split.folds:
            raise ValueError(f"split.fold: got {self.split.fold} of {self.split.folds} folds; they count from 0")
        if self.split.folds is None and self.split.fold:
            raise ValueError(f"split.fold: got {self.split.fold} and no split.folds; say how many folds there are")
        if self.split.folds is not None and self.split.how in ("official", "file"):
            raise ValueError(
                f"split.folds with split.how={self.split.how}: folds are parts of our own; give one of them"
            )
        if (self.split.how == "file") != (self.split.file is not None):
            raise ValueError("split.file and split.how=file go together; give both or neither")
        return self


def load_settings(path: str | Path | None = None, overrides: Iterable[str] = ()) -> TrainSettings:
    """The resolved settings: defaults, then the YAML file, then `section.knob=value` strings.

    Raises ConfigError naming the file, the knob, the value got and the nearest known knob.
    """
    return load_knobs(TrainSettings, path, overrides)


def changed_knobs(before: dict[str, Any], settings: TrainSettings) -> list[str]:
    """Knobs that differ from those a training began with and change what it learns, each as "name: was, is".

    `before` is `as_json(settings)` of then. Machines and calibration may change, and `stop.epochs` may grow.
    """
    now, lines = as_json(settings), []
    for section, values in now.items():
        for name, value in values.items():
            was = before.get(section, {}).get(name)
            if was != value and name not in _MAY_CHANGE.get(section, ()):
                lines.append(f"{section}.{name}: was {was!r}, is {value!r}")
    if now["stop"]["epochs"] < before.get("stop", {}).get("epochs", 0):
        lines.append(f"stop.epochs: was {before['stop']['epochs']}, is {now['stop']['epochs']}; it may only grow")
    return lines


def as_json(settings: TrainSettings) -> dict[str, Any]:
    """The settings as they come back from a JSON file, for `changed_knobs` and the checkpoint."""
    return json.loads(settings.model_dump_json())
