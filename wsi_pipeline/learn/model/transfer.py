"""Transfer: a DenseNet that starts from known weights and keeps its early blocks as they are."""

import hashlib
import logging
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.error import URLError

import torch
from torch import Tensor, nn
from torch.hub import load_state_dict_from_url
from torchvision import models as zoo

from wsi_pipeline.errors import ConfigError, ModelError
from wsi_pipeline.learn.model.checkpoint import find_weights, read_weights

# From input to output; norm0 belongs to conv0. 4 dense blocks with transitions between them.
BLOCKS = (
    "conv0", "denseblock1", "transition1", "denseblock2", "transition2", "denseblock3", "transition3", "denseblock4",
    "norm5", "classifier",
)  # fmt: skip
HEAD = "classifier"
# Files from before torchvision 0.3 put a dot before the number of a layer inside a dense layer.
_OLD_NAME = re.compile(r"(denselayer\d+\.(?:norm|conv))\.([12]\.)")
_DEPTHS = {
    (6, 12, 24, 16): "densenet121",
    (6, 12, 36, 24): "densenet161",
    (6, 12, 32, 32): "densenet169",
    (6, 12, 48, 32): "densenet201",
}

log = logging.getLogger(__name__)


class FrozenBatchNorm2d(nn.BatchNorm2d):
    """A BatchNorm2d that stays in eval mode, so that its running statistics never move.

    A class of its own, since model.train() switches every module and would set them moving again.
    """

    def train(self, mode: bool = True) -> "FrozenBatchNorm2d":
        """Stays in eval mode, whatever `mode` says."""
        return super().train(False)


def freeze(model: nn.Module, until: str) -> nn.Module:
    """The model with every block before `until` frozen and the others free; can be called again to thaw.

    `until` is a name of BLOCKS ("denseblock4": frozen through transition3), "head" (all but the classifier
    is frozen) or "none". Frozen: no gradient, BatchNorm in eval mode also after `model.train()`, and in no
    group of `parameter_groups`, so no weight decay. Raises ConfigError on another name.
    """
    free_from = first_free(until)
    for name, module in model.named_modules():
        if isinstance(module, nn.BatchNorm2d):
            frozen = BLOCKS.index(block_of(name)) < free_from
            module.__class__ = FrozenBatchNorm2d if frozen else nn.BatchNorm2d
            module.train(model.training)
    for name, weight in model.named_parameters():
        weight.requires_grad_(BLOCKS.index(block_of(name)) >= free_from)
        if not weight.requires_grad:
            weight.grad = None  # an optimiser that knows the weight would go on with the last gradient
    return model


def first_free(until: str) -> int:
    """Place in BLOCKS of the first block that `freeze` leaves free. Raises ConfigError on a name it does not know."""
    names = {"none": 0, "head": BLOCKS.index(HEAD)} | {block: place for place, block in enumerate(BLOCKS)}
    if until not in names:
        raise ConfigError(f"freeze {until!r}: no such block; use one of {', '.join(names)}")
    return names[until]


def freeze_at(epoch: int, schedule: Mapping[int, str]) -> str:
    """The `until` in force at an epoch of gradual unfreezing: that of the last entry not after `epoch`.

    {0: "head", 3: "denseblock4", 6: "none"} trains the head alone for epochs 0 to 2, and all from 6 on.
    Raises ConfigError when nothing is said for the epoch, or a later entry freezes more than one before.
    """
    steps = sorted(schedule)
    free = [first_free(schedule[step]) for step in steps]
    if free != sorted(free, reverse=True):
        raise ConfigError(f"unfreezing {dict(schedule)}: blocks may only thaw from epoch to epoch")
    past = [step for step in steps if step <= epoch]
    if not past:
        raise ConfigError(f"unfreezing {dict(schedule)} says nothing for epoch {epoch}; begin with epoch 0")
    return schedule[past[-1]]


def parameter_groups(
    model: nn.Module, rate: float, *, block_decay: float = 1.0, weight_decay: float = 0.0
) -> list[dict[str, Any]]:
    """Groups for an optimiser of all weights that are not frozen, two a block: matrices, and norm and bias.

    The head learns at `rate`, each earlier block of BLOCKS at `block_decay` times the rate of the next one.
    `weight_decay` holds for matrices alone. Each group has a "name". Raises ConfigError when all is frozen.
    """
    groups: dict[str, dict[str, Any]] = {}
    for name, weight in model.named_parameters():
        if not weight.requires_grad:
            continue
        block, decays = block_of(name), weight.ndim > 1
        group = groups.setdefault(
            block if decays else f"{block} norm and bias",
            {
                "params": [],
                "lr": rate * block_decay ** (len(BLOCKS) - 1 - BLOCKS.index(block)),
                "weight_decay": weight_decay if decays else 0.0,
            },
        )
        group["params"].append(weight)
    if not groups:
        raise ConfigError("every weight is frozen: nothing to train; freeze less")
    return [{"name": name} | group for name, group in groups.items()]


def missing_groups(optimiser: torch.optim.Optimizer, groups: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Those of `groups` whose weights the optimiser does not know yet: what has thawed since it was made."""
    known = {id(weight) for group in optimiser.param_groups for weight in group["params"]}
    return [group for group in groups if not known & {id(weight) for weight in group["params"]}]


def block_of(name: str) -> str:
    """The name in BLOCKS of a layer or weight such as "features.denseblock1.denselayer1.conv1.weight"."""
    part = name.removeprefix("features.").split(".")[0].replace("norm0", "conv0")
    if part not in BLOCKS:
        raise ModelError(f"{name} is in no block of a DenseNet ({', '.join(BLOCKS)})")
    return part


def load_weights(model: nn.Module, path: str | Path, *, sha256: str | None = None) -> nn.Module:
    """The model with the weights of a `.safetensors`, `.pth` or `.pt` file, or of a checkpoint of ours.

    Layers may have old names (norm.1) or a prefix (module.). A head of another shape is left as it is, all
    else must be there and fit; the first layer's weights are summed for a model with one input channel.
    `sha256`: hex digits, or the first eight or more, that the file must have. Raises ModelError otherwise
    and changes nothing then; also for a file that needs unpickling.
    """
    file = find_weights(path)
    if sha256 is not None:
        _check_digest(file, sha256.lower())
    weights = {name: torch.tensor(array) for name, array in read_weights(file)[0].items()}
    return _put(model, weights, source=str(path))


def pretrained(model: nn.Module, name_or_path: str | Path) -> nn.Module:
    """The model with weights to start from: "none", "imagenet" (torchvision's), a path, or a model in the box.

    ImageNet's are downloaded once into torch's cache, their hash checked, and are normalised with
    mean (0.485, 0.456, 0.406), std (0.229, 0.224, 0.225). Raises ModelError offline, and as `load_weights`.
    """
    if str(name_or_path) == "none":
        return model
    if str(name_or_path) != "imagenet":
        return load_weights(model, name_or_path)
    url = zoo.get_model_weights(_known_arch(model)).DEFAULT.url
    try:
        state = load_state_dict_from_url(url, map_location="cpu", progress=False, check_hash=True, weights_only=True)
    except (URLError, OSError, RuntimeError) as error:
        raise ModelError(
            f"imagenet: {url} cannot be had ({error}); where there is a network download it, and give its path"
        ) from None
    return _put(model, state, source=url)


def _known_arch(model: nn.Module) -> str:
    """torchvision's name for a DenseNet, by the number of layers in its blocks."""
    blocks = [getattr(getattr(model, "features", None), f"denseblock{k}", ()) for k in (1, 2, 3, 4)]
    depths = tuple(len(block) for block in blocks)
    if depths not in _DEPTHS:
        raise ModelError(f"imagenet: no such weights for blocks of {depths} layers; use {', '.join(_DEPTHS.values())}")
    return _DEPTHS[depths]


def _check_digest(file: Path, wanted: str) -> None:
    with file.open("rb") as opened:
        found = hashlib.file_digest(opened, "sha256").hexdigest()
    if len(wanted) < 8 or not found.startswith(wanted):
        raise ModelError(f"{file}: sha256 is {found}, not {wanted}; get the file again, or give the digest of this one")


def _put(model: nn.Module, found: Mapping[str, Tensor], *, source: str) -> nn.Module:
    """Copy what fits into the model; ModelError, before anything is copied, when more than the head is left."""
    own, state = model.state_dict(), _renamed(found, source)
    first = "features.conv0.weight"
    if first in state and own[first].shape[1] == 1 and state[first].shape[1] == 3:
        state[first] = state[first].float().sum(dim=1, keepdim=True)  # grey as RGB would give the same response
    fitting = {name: tensor for name, tensor in state.items() if name in own and tensor.shape == own[name].shape}
    _check_body(own, state, fitting, source=source)
    if not {f"{HEAD}.weight", f"{HEAD}.bias"} <= fitting.keys():
        fitting = {name: tensor for name, tensor in fitting.items() if not name.startswith(HEAD)}
    model.load_state_dict(own | fitting)
    head = "too" if f"{HEAD}.weight" in fitting else "starts from random weights"
    log.info("%s: %d of %d tensors, the head %s", source, len(fitting), len(own), head)
    return model


def _check_body(
    own: Mapping[str, Tensor], state: Mapping[str, Tensor], fitting: Mapping[str, Tensor], *, source: str
) -> None:
    """ModelError unless all weights outside the head are there, have the model's shape and are finite."""
    body = {name for name in own if not name.startswith(HEAD)}
    if not body & state.keys():
        raise ModelError(f"{source}: matches nothing: {_some(state)} for {_some(own)}; give weights of a DenseNet")
    # Counters of batches are younger than many files, and change no output.
    missing = {name for name in body - state.keys() if not name.endswith("num_batches_tracked")}
    extra = {name for name in state.keys() - body if name.startswith("features.")}
    if missing or extra:
        raise ModelError(
            f"{source}: of another architecture: {len(missing)} weights missing ({_some(missing) or 'none'}), "
            f"{len(extra)} too many ({_some(extra) or 'none'})"
        )
    if wrong := sorted(name for name in body & state.keys() if name not in fitting):
        shapes = f"{tuple(state[wrong[0]].shape)} for {tuple(own[wrong[0]].shape)}"
        raise ModelError(f"{source}: {len(wrong)} weights have another shape, the first is {wrong[0]}: {shapes}")
    if broken := [name for name, tensor in fitting.items() if not torch.isfinite(tensor).all()]:
        raise ModelError(f"{source}: {_some(broken)} has values that are not finite; get the file again")


def _renamed(found: Mapping[str, Tensor], source: str) -> dict[str, Tensor]:
    """The weights by their present names; ModelError for two networks in one file: one would do for the other."""
    names: dict[str, str] = {}
    for name in found:
        first = names.setdefault(_current_name(name), name)
        if first != name and _current_name(name).startswith("features."):
            raise ModelError(f"{source}: holds several networks, such as of {first} and {name}; save one of them alone")
    return {present: found[name] for present, name in names.items()}


def _current_name(name: str) -> str:
    """torchvision's present name of a weight, without what wrappers put before it."""
    for start in ("features.", f"{HEAD}."):
        if (place := name.find(start)) > 0 and name[place - 1] == ".":
            name = name[place:]
    return _OLD_NAME.sub(r"\1\2", name)


def _some(names: Iterable[str]) -> str:
    listed = sorted(names)
    return ", ".join(listed[:3]) + (", ..." if len(listed) > 3 else "")
