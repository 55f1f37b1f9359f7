"""The DenseNets by name, as numbers: what a network of that name holds, tensor by tensor. No torch here."""

from collections.abc import Iterator
from dataclasses import dataclass

from wsi_pipeline.errors import ModelError

MIN_INPUT_PX = 32  # five halvings: less leaves no pixel for the last block


@dataclass(frozen=True)
class DenseNetSize:
    """A DenseNet-BC (Huang et al., 2017): channels of the first layer, layers of each block, channels a layer adds.

    `bottleneck` times `growth` channels lie between a layer's two convolutions.
    """

    growth: int
    blocks: tuple[int, ...]
    stem: int
    bottleneck: int = 4


ARCHITECTURES = {
    "densenet121": DenseNetSize(32, (6, 12, 24, 16), 64),
    "densenet161": DenseNetSize(48, (6, 12, 36, 24), 96),
    "densenet169": DenseNetSize(32, (6, 12, 32, 32), 64),
    "densenet201": DenseNetSize(32, (6, 12, 48, 32), 64),
    # For small data on a CPU: 0.47 M weights, about 100 images/s in training at 128 px on two cores.
    "densenet_small": DenseNetSize(16, (4, 6, 8, 8), 32),
    # For the model in the box: 0.03 M weights, hundreds of tiles a second on two cores.
    "densenet_demo": DenseNetSize(8, (3, 3, 3, 3), 16, bottleneck=2),
}


def densenet_size(arch: str, classes: int, *, in_channels: int = 3) -> DenseNetSize:
    """The numbers of an architecture; ModelError where it is unknown, or classes or channels cannot be."""
    if arch not in ARCHITECTURES:
        raise ModelError(f"arch {arch!r} is unknown; use one of {', '.join(ARCHITECTURES)}")
    if classes < 1:
        raise ModelError(f"{arch}: got {classes} classes; at least 1 is needed")
    if in_channels not in (1, 3):
        raise ModelError(f"{arch}: got {in_channels} input channels; use 3 (RGB) or 1 (grey)")
    return ARCHITECTURES[arch]


def tensor_shapes(arch: str, classes: int, *, in_channels: int = 3) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor of the network, as torchvision names them; ModelError as `densenet_size`."""
    size = densenet_size(arch, classes, in_channels=in_channels)
    return dict(_tensors(size, classes, in_channels))


def kept_layers(arch: str) -> tuple[str, ...]:
    """The layers whose output int8 scoring rounds to 8 bits: about the convolutions between the first and the mean."""
    names = [name.rpartition(".")[0] for name in tensor_shapes(arch, 1) if name.endswith(".weight")]
    return tuple(name for name in names if "transition" in name or ("block" in name and not name.endswith("conv1")))


def _tensors(size: DenseNetSize, classes: int, in_channels: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield "features.conv0.weight", (size.stem, in_channels, 7, 7)
    yield from _norm("features.norm0", size.stem)
    width, between = size.stem, size.bottleneck * size.growth
    for block, layers in enumerate(size.blocks, 1):
        for layer in range(1, layers + 1):
            name = f"features.denseblock{block}.denselayer{layer}"
            yield from _norm(f"{name}.norm1", width)
            yield f"{name}.conv1.weight", (between, width, 1, 1)
            yield from _norm(f"{name}.norm2", between)
            yield f"{name}.conv2.weight", (size.growth, between, 3, 3)
            width += size.growth
        if block < len(size.blocks):
            yield from _norm(f"features.transition{block}.norm", width)
            yield f"features.transition{block}.conv.weight", (width // 2, width, 1, 1)
            width //= 2
    yield from _norm("features.norm5", width)
    yield "classifier.weight", (classes, width)
    yield "classifier.bias", (classes,)


def _norm(name: str, width: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    for part in ("weight", "bias", "running_mean", "running_var"):
        yield f"{name}.{part}", (width,)
    yield f"{name}.num_batches_tracked", ()
