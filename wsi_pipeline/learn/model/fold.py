"""A DenseNet for scoring only -> the same function in fewer operations: norms folded, pooling before convolving."""

from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import fuse_conv_bn_eval


def folded(model: nn.Module) -> nn.Module:
    """A copy of a DenseNet in eval mode that computes the same, up to float32 rounding; it cannot be trained.

    - A norm that follows a convolution (norm0, norm2 of each layer) becomes part of its weights. The norms
      that come before a ReLU and a convolution (norm1, the transitions' and norm5) stay as they are.
    - A transition's 2 x 2 mean and its 1 x 1 convolution are linear and commute: pooled first, the
      convolution has a quarter of the pixels; 8 % fewer operations in a DenseNet-121.

    The folding itself is done in float64. Names of layers are kept, a folded norm is an Identity.
    """
    model = deepcopy(model).eval()
    features: Any = model.features
    _fold(features, "conv0", "norm0")
    for name, block in features.named_children():
        if name.startswith("denseblock"):
            for layer in block.children():
                _fold(layer, "conv1", "norm2")
        elif name.startswith("transition"):
            setattr(features, name, nn.Sequential(block.norm, block.relu, block.pool, block.conv))
    return model.requires_grad_(False)


def in_half(model: nn.Module, half: torch.dtype) -> nn.Module:
    """The same `folded` model, changed to compute in `half`; norms keep float32 weights, the classifier is float32."""
    for part in model.modules():
        if isinstance(part, nn.Conv2d):
            part.to(half)
    classifier = model.classifier
    assert isinstance(classifier, nn.Linear)
    model.classifier = nn.Sequential(_InFloat32(), classifier)
    return model


class FromPixels(nn.Module):
    """A model whose input is RGB (n, 3, H, W) float32 of 0-255 instead of the normalised one, given to it in `half`."""

    shift: Tensor
    scale: Tensor

    def __init__(
        self,
        model: nn.Module,
        mean: tuple[float, ...],
        std: tuple[float, ...],
        half: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.model = model
        self.half_type = half
        self.register_buffer("shift", 255 * torch.tensor(mean)[:, None, None])
        self.register_buffer("scale", 255 * torch.tensor(std)[:, None, None])

    def forward(self, planes: Tensor) -> Tensor:
        normalised = (planes - self.shift) / self.scale
        out: Tensor = self.model(normalised if self.half_type is None else normalised.to(self.half_type))
        return out


class PerCell(nn.Module):
    """A DenseNet that answers for each cell of 32 x 32 px: (n, 3, H, W) -> logits (n, C, H // 32, W // 32).

    The network's own answer is their mean, as the mean over the image and the classifier commute.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        whole: Any = model
        self.features: nn.Module = whole.features
        self.classifier: nn.Module = whole.classifier

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.classifier(torch.relu(self.features(x)).permute(0, 2, 3, 1))
        return found.permute(0, 3, 1, 2)


class _InFloat32(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.float()


def _fold(parent: nn.Module, conv: str, norm: str) -> None:
    """Put a norm into the convolution before it."""
    fused = fuse_conv_bn_eval(getattr(parent, conv).double(), getattr(parent, norm).double())
    setattr(parent, conv, fused.float())
    setattr(parent, norm, nn.Identity())
