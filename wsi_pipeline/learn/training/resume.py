"""The state of a training, whole, in a folder of safetensors and JSON, from which it goes on bit for bit.

Nothing is pickled. The folder is written beside the old one and takes its place by renaming, so that one
whole state is there at any moment.
"""

import json
import os
import random
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from safetensors.torch import save as safetensors_bytes
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler
from torch.optim import Optimizer

from wsi_pipeline.disk import refusal
from wsi_pipeline.errors import StoreError

STATE = "state.json"
Weights = dict[str, Tensor]


@dataclass(frozen=True)
class Saved:
    """What a folder held: `tensors` by file (model, ema, best, optimiser, random), the rest in `facts`."""

    tensors: dict[str, Weights]
    facts: dict[str, Any]


def save_state(
    folder: Path,
    *,
    model: nn.Module,
    ema: nn.Module | None,
    best: Weights,
    optimiser: Optimizer,
    scaler: GradScaler,
    facts: Mapping[str, Any],
) -> None:
    """Write all that a training goes on from; `facts` is what else the loop knows, JSON-able.

    Raises StoreError when the disk refuses; the state before is then kept.
    """
    rng, random_facts = _random_state()
    tensors = {
        "model": model.state_dict(),
        "best": best,
        "optimiser": _optimiser_tensors(optimiser, model),
        "random": rng,
    }
    if ema is not None:
        tensors["ema"] = ema.state_dict()
    text = json.dumps({"files": sorted(tensors), "scaler": scaler.state_dict(), "random": random_facts, **facts})
    partial, old = folder.with_name(f"{folder.name}.partial"), folder.with_name(f"{folder.name}.old")
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        for name, weights in tensors.items():
            whole = {key: tensor.detach().cpu().contiguous() for key, tensor in weights.items()}
            _write(partial / f"{name}.safetensors", safetensors_bytes(whole))
        _write(partial / STATE, text.encode())
        if folder.exists():
            shutil.rmtree(old, ignore_errors=True)
            folder.rename(old)
        partial.rename(folder)
    except OSError as error:
        shutil.rmtree(partial, ignore_errors=True)
        why = refusal(error, folder, _bytes(tensors) + len(text))
        raise StoreError(
            f"{folder}: not saved ({why}); free the disk, then go on with --resume: "
            f"the best checkpoint and the state before are kept"
        ) from None
    shutil.rmtree(old, ignore_errors=True)


def read_state(folder: Path) -> Saved | None:
    """The state in a folder; None where there is none yet. Raises StoreError where it is damaged."""
    old = folder.with_name(f"{folder.name}.old")
    if not folder.exists() and old.exists():
        old.rename(folder)  # killed between the two renamings of `save_state`
    if not folder.exists():
        return None
    try:
        facts = json.loads((folder / STATE).read_text(encoding="utf-8"))
        return Saved({name: load_file(folder / f"{name}.safetensors") for name in facts["files"]}, facts)
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise StoreError(f"{folder}: is damaged ({error}); start again with --overwrite") from None


def restore(saved: Saved, *, model: nn.Module, ema: nn.Module | None, optimiser: Optimizer, scaler: GradScaler) -> None:
    """Put a saved state back into objects made from the same settings, and the random states with it."""
    model.load_state_dict(saved.tensors["model"])
    if ema is not None:
        ema.load_state_dict(saved.tensors["ema"])
    _fill_optimiser(optimiser, model, saved.tensors["optimiser"])
    if saved.facts["scaler"]:  # empty where it was trained so far without one, on another device
        scaler.load_state_dict(saved.facts["scaler"])
    _set_random_state(saved.tensors["random"], saved.facts["random"])


def _bytes(files: Mapping[str, Weights]) -> int:
    return sum(tensor.nbytes for weights in files.values() for tensor in weights.values())


def _write(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _optimiser_tensors(optimiser: Optimizer, model: nn.Module) -> Weights:
    """The optimiser's running values as "parameter|value"; by name, so that groups may be laid out anew."""
    return {
        f"{name}|{key}": torch.as_tensor(value)
        for name, parameter in model.named_parameters()
        for key, value in optimiser.state.get(parameter, {}).items()
        if value is not None
    }


def _fill_optimiser(optimiser: Optimizer, model: nn.Module, tensors: Weights) -> None:
    parameters = dict(model.named_parameters())
    for place, tensor in tensors.items():
        name, key = place.split("|")
        parameter = parameters[name]
        optimiser.state[parameter][key] = tensor if key == "step" else tensor.to(parameter.device)


def _random_state() -> tuple[Weights, dict[str, Any]]:
    tensors = {"torch": torch.get_rng_state()}
    if torch.cuda.is_available():
        tensors |= {f"cuda:{k}": state for k, state in enumerate(torch.cuda.get_rng_state_all())}
    kind, keys, *rest = np.random.get_state(legacy=True)
    return tensors, {"numpy": [kind, np.asarray(keys).tolist(), *rest], "python": random.getstate()}


def _set_random_state(tensors: Weights, facts: Mapping[str, Any]) -> None:
    torch.set_rng_state(tensors["torch"])
    for k in range(torch.cuda.device_count()):
        if f"cuda:{k}" in tensors:
            torch.cuda.set_rng_state(tensors[f"cuda:{k}"], k)
    kind, keys, *rest = facts["numpy"]
    np.random.set_state((kind, np.array(keys, np.uint32), *rest))
    version, numbers, gauss = facts["python"]
    random.setstate((version, tuple(numbers), gauss))
