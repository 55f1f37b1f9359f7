"""The networks that are scored with in benchmarks: random weights, and the operations that one image takes."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from wsi_pipeline.learn.model.checkpoint import Checkpoint, save_checkpoint
from wsi_pipeline.learn.model.densenet import build_densenet

MEAN, STD = (0.7, 0.55, 0.7), (0.2, 0.25, 0.2)


def random_checkpoint(arch: str, px: int) -> Checkpoint:
    """A network with the same random weights each time."""
    torch.manual_seed(0)
    return Checkpoint(
        arch=arch, class_names=("tumour",), positive=("tumour",), exclusive=False, input_px=px, mpp=0.5,
        mean=MEAN, std=STD, state=build_densenet(arch, 1).state_dict(), note="random weights, for benchmarks",
    )  # fmt: skip


def save_random(folder: Path, arch: str, px: int) -> Path:
    """The same as a folder of ours."""
    save_checkpoint(random_checkpoint(arch, px), folder)
    return folder


def operations(model: nn.Module, px: int) -> float:
    """Floating point operations of the convolutions and linear layers on one image, a multiply-add being two."""
    return 2 * sum(size["macs"] for size in layer_sizes(model, px))


def layer_sizes(model: nn.Module, px: int) -> list[dict[str, Any]]:
    """Of each layer in order, for one image: its kind, multiply-adds, values read, written, and of weights."""
    found: list[dict[str, Any]] = []

    def note(layer: nn.Module, given: tuple[Tensor, ...], out: Tensor) -> None:
        weights = sum(parameter.numel() for parameter in layer.parameters())
        macs = 0
        if isinstance(layer, nn.Conv2d):
            macs = out[0].numel() * layer.weight[0].numel()
        elif isinstance(layer, nn.Linear):
            macs = layer.weight.numel()
        kind = type(layer).__name__
        found.append(
            {"kind": kind, "macs": macs, "read": given[0][0].numel(), "written": out[0].numel(), "weights": weights}
        )

    hooks = [layer.register_forward_hook(note) for layer in model.modules() if not list(layer.children())]
    with torch.inference_mode():
        model.eval()(torch.zeros(1, 3, px, px))
    for hook in hooks:
        hook.remove()
    return found
