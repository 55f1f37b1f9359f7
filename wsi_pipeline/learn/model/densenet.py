"""The networks: DenseNets by name, with a head for the given number of classes; and that of a checkpoint."""

import torch
from torch import nn
from torchvision.models import DenseNet

from wsi_pipeline.errors import ModelError
from wsi_pipeline.learn.model.architectures import densenet_size
from wsi_pipeline.learn.model.checkpoint import Checkpoint


def build_densenet(arch: str, classes: int, *, in_channels: int = 3) -> DenseNet:
    """A DenseNet with random weights: (N, in_channels, H, W) float -> logits (N, classes), H and W >= 32 px.

    Names of layers are torchvision's. Nothing is downloaded. Raises ModelError on an unknown
    architecture, fewer than one class, or channels other than 1 and 3.
    """
    size = densenet_size(arch, classes, in_channels=in_channels)
    model = DenseNet(size.growth, size.blocks, size.stem, size.bottleneck, num_classes=classes)
    if in_channels == 1:
        first = model.features.conv0
        model.features.conv0 = nn.Conv2d(1, first.out_channels, 7, stride=2, padding=3, bias=False)
        nn.init.kaiming_normal_(model.features.conv0.weight)
    return model


def build_model(checkpoint: Checkpoint) -> DenseNet:
    """The network with its weights (copied, in float32), on the CPU, in eval mode, without gradients.

    Raises ModelError for an int8 checkpoint: torch would answer otherwise than its scores say.
    """
    if checkpoint.ranges is not None:
        raise ModelError(f"model {checkpoint.id} is int8, which only scores slides; give the float32 one it is made of")
    with torch.device("meta"):  # shapes alone, no time for random numbers
        model = build_densenet(checkpoint.arch, len(checkpoint.class_names), in_channels=checkpoint.in_channels)
    copies = {name: torch.tensor(array) for name, array in checkpoint.state.items()}
    float32 = {name: copy.float() if copy.is_floating_point() else copy for name, copy in copies.items()}
    model.load_state_dict(float32, strict=True, assign=True)
    return model.eval().requires_grad_(False)
