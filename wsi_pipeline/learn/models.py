"""The networks: DenseNets by name, with a head for the given number of classes."""

from collections.abc import Callable
from functools import partial

from torch import nn
from torchvision import models as zoo

from wsi_pipeline.errors import ModelError

MIN_INPUT_PX = 32  # five halvings: less leaves no pixel for the last block

# For small data on a CPU: 0.47 M weights, about 100 images/s in training at 128 px on two cores.
_small = partial(zoo.DenseNet, growth_rate=16, block_config=(4, 6, 8, 8), num_init_features=32)
# For the model in the box: 0.03 M weights, hundreds of tiles a second on two cores.
_demo = partial(zoo.DenseNet, growth_rate=8, block_config=(3, 3, 3, 3), num_init_features=16, bn_size=2)

ARCHITECTURES: dict[str, Callable[..., zoo.DenseNet]] = {
    "densenet121": zoo.densenet121,
    "densenet161": zoo.densenet161,
    "densenet169": zoo.densenet169,
    "densenet201": zoo.densenet201,
    "densenet_small": _small,
    "densenet_demo": _demo,
}


def build_densenet(arch: str, classes: int, *, in_channels: int = 3) -> zoo.DenseNet:
    """A DenseNet with random weights: (N, in_channels, H, W) float -> logits (N, classes), H and W >= 32 px.

    Names of layers are torchvision's. Nothing is downloaded. Raises ModelError on an unknown
    architecture, fewer than one class, or channels other than 1 and 3.
    """
    if arch not in ARCHITECTURES:
        raise ModelError(f"arch {arch!r} is unknown; use one of {', '.join(ARCHITECTURES)}")
    if classes < 1:
        raise ModelError(f"{arch}: got {classes} classes; at least 1 is needed")
    if in_channels not in (1, 3):
        raise ModelError(f"{arch}: got {in_channels} input channels; use 3 (RGB) or 1 (grey)")
    model = ARCHITECTURES[arch](num_classes=classes)
    if in_channels == 1:
        first = model.features.conv0
        model.features.conv0 = nn.Conv2d(1, first.out_channels, 7, stride=2, padding=3, bias=False)
        nn.init.kaiming_normal_(model.features.conv0.weight)
    return model
