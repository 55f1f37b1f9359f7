"""The network of the settings, what of it is trained, its optimiser, its moving average, and its learning rate."""

import copy
import math
from collections.abc import Callable

import torch
from torch import nn
from torch.optim import Optimizer

from wsi_pipeline.learn.model.densenet import build_densenet
from wsi_pipeline.learn.model.transfer import first_free, parameter_groups, pretrained
from wsi_pipeline.learn.training.settings import ModelKnobs, OptimiserKnobs, ScheduleKnobs

_FLOOR = 0.01  # of the highest rate: where the cosine ends
_LONGEST_WARMUP = 0.3  # of all steps, so that a short trial is not all warm-up


def make_network(knobs: ModelKnobs, classes: int, device: torch.device) -> nn.Module:
    """A network on the device with the settings' weights, or random ones from torch's seed; nothing frozen yet.

    Raises ModelError where the weights do not fit the architecture.
    """
    model = build_densenet(knobs.arch, classes, in_channels=knobs.channels)
    if knobs.weights != "none":
        model = pretrained(model, knobs.weights)
    return model.to(device, memory_format=torch.channels_last)


def frozen_at(knobs: ModelKnobs, epoch: int) -> str:
    """What `freeze` is in this epoch (from 1): the last entry of `thaw` that has come, else `freeze`."""
    come = [start for start in knobs.thaw if start <= epoch]
    return knobs.thaw[max(come)] if come else knobs.freeze


def check_blocks(knobs: ModelKnobs) -> None:
    """Raises ConfigError where `freeze`, or what `thaw` says for any epoch, is no block."""
    for until in (knobs.freeze, *knobs.thaw.values()):
        first_free(until)


def make_optimiser(model: nn.Module, knobs: OptimiserKnobs, block_decay: float, before: Optimizer | None) -> Optimizer:
    """An optimiser of what is not frozen; parameters that `before` moved already keep their running values."""
    groups = parameter_groups(model, knobs.rate, block_decay=block_decay, weight_decay=knobs.weight_decay)
    for group in groups:
        group["highest"] = group["lr"]
    optimiser = _OPTIMISERS[knobs.name](groups, knobs)
    if before is not None:
        for parameter in (p for group in groups for p in group["params"] if p in before.state):
            optimiser.state[parameter] = before.state[parameter]
    return optimiser


def set_rate(optimiser: Optimizer, knobs: ScheduleKnobs, step: int, epochs: int, per_epoch: int, lowered: int) -> float:
    """Set every group's learning rate for this step (see `rate_share`); returns the highest of them."""
    share = rate_share(knobs, step, epochs=epochs, per_epoch=per_epoch, lowered=lowered)
    for group in optimiser.param_groups:
        group["lr"] = group["highest"] * share
    return max(group["lr"] for group in optimiser.param_groups)


def rate_share(knobs: ScheduleKnobs, step: int, *, epochs: int, per_epoch: int, lowered: int) -> float:
    """Share 0-1 of the highest rate at a step (from 0); `lowered`: how often the plateau stepped down.

    A function of the step alone: nothing of a schedule has to be saved but how often it was lowered.
    """
    steps = epochs * per_epoch
    warm = min(knobs.warmup * per_epoch, _LONGEST_WARMUP * steps)
    if step < warm:
        return (step + 1) / (warm + 1)
    if knobs.name == "plateau":
        return knobs.factor**lowered
    if knobs.name == "constant":
        return 1.0
    done = (step - warm) / max(steps - warm, 1)
    return _FLOOR + (1 - _FLOOR) * 0.5 * (1 + math.cos(math.pi * min(done, 1.0)))


def make_average(model: nn.Module, decay: float | None) -> nn.Module | None:
    """A copy of the model to hold its exponential moving average, or None."""
    return copy.deepcopy(model).eval().requires_grad_(False) if decay else None


@torch.no_grad()
def follow(average: nn.Module, model: nn.Module, *, decay: float, step: int) -> None:
    """Move the average towards the model, weights and BatchNorm statistics alike; counts are copied.

    The decay starts low, (1 + step) / (10 + step), so that the random start is soon forgotten.
    """
    share = 1 - min(decay, (1 + step) / (10 + step))
    for mine, its in zip(average.state_dict().values(), model.state_dict().values(), strict=True):
        if mine.is_floating_point():
            mine.lerp_(its, share)
        else:
            mine.copy_(its)


def _adamw(groups: list[dict], knobs: OptimiserKnobs) -> Optimizer:
    return torch.optim.AdamW(groups, lr=knobs.rate)


def _sgd(groups: list[dict], knobs: OptimiserKnobs) -> Optimizer:
    return torch.optim.SGD(groups, lr=knobs.rate, momentum=knobs.momentum, nesterov=knobs.momentum > 0)


_OPTIMISERS: dict[str, Callable[[list[dict], OptimiserKnobs], Optimizer]] = {"adamw": _adamw, "sgd": _sgd}
