"""Weights that only torch can read -> arrays: `.pth` and `.pt` as far as no code is run, and bfloat16."""

import pickle
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from torch import Tensor

from wsi_pipeline.errors import ModelError

# What torch's reader raises on bytes that are no weights: it steps through them as if they were.
_NO_WEIGHTS = (RuntimeError, OSError, EOFError, ValueError, TypeError, AttributeError, LookupError)
_WRAPPERS = ("state_dict", "model_state_dict", "model")  # where training loops put the weights


def read_torch(path: Path) -> dict[str, np.ndarray]:
    """The weights of a `.pth` or `.pt` file; ModelError where it would have to be unpickled, or holds others."""
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise ModelError(
            f"{path}: holds more than weights; unpickling it can run any code, so it is refused. "
            f"Where it was made, save model.state_dict() with safetensors.torch.save_file"
        ) from None
    except _NO_WEIGHTS as error:
        reason = (str(error).splitlines() or ["empty"])[0]
        raise ModelError(f"{path}: cannot be read as weights ({reason}); save a state_dict") from None
    for wrapper in _WRAPPERS:
        if isinstance(found, Mapping) and isinstance(found.get(wrapper), Mapping):
            found = found[wrapper]
    if not isinstance(found, Mapping) or not all(isinstance(value, Tensor) for value in found.values()):
        raise ModelError(f"{path}: holds no plain dictionary of weights; save model.state_dict()")
    return {str(name): as_array(tensor) for name, tensor in found.items()}


def read_bfloat16(path: Path) -> dict[str, np.ndarray]:
    """The weights of a safetensors file with types that numpy does not have."""
    with safe_open(path, framework="pt") as file:
        return {name: as_array(file.get_tensor(name)) for name in file.keys()}  # noqa: SIM118 (no iterator)


def as_array(tensor: Tensor) -> np.ndarray:
    """A tensor of any device and type as an array; bfloat16 becomes float32, which holds all its values."""
    tensor = tensor.detach().cpu().contiguous()
    return np.asarray((tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy())


def as_arrays(state: Mapping[str, Tensor]) -> dict[str, np.ndarray]:
    """A model's state as arrays."""
    return {name: as_array(tensor) for name, tensor in state.items()}
