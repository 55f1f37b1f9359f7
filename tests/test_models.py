"""DenseNets by name: their size, their head, their input."""

import pytest
import torch

from wsi_pipeline.errors import ModelError
from wsi_pipeline.learn.model.architectures import ARCHITECTURES, tensor_shapes
from wsi_pipeline.learn.model.densenet import build_densenet


def parameters(arch: str, classes: int, *, in_channels: int = 3) -> int:
    with torch.device("meta"):
        model = build_densenet(arch, classes, in_channels=in_channels)
    return sum(weight.numel() for weight in model.parameters())


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_the_numbers_tell_every_tensor_in_its_order(arch: str) -> None:
    with torch.device("meta"):
        state = build_densenet(arch, 3, in_channels=1).state_dict()
    shapes = tensor_shapes(arch, 3, in_channels=1)
    assert [(name, tuple(tensor.shape)) for name, tensor in state.items()] == list(shapes.items())


def test_densenet121_has_the_published_number_of_parameters() -> None:
    assert parameters("densenet121", 1000) == 7_978_856
    assert parameters("densenet121", 14) == 6_968_206


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_one_channel_takes_two_thirds_of_the_first_layer_away(arch: str) -> None:
    width = {"densenet161": 96, "densenet_small": 32, "densenet_demo": 16}.get(arch, 64)
    assert parameters(arch, 2) - parameters(arch, 2, in_channels=1) == 2 * 7 * 7 * width


@pytest.mark.parametrize("channels", [1, 3])
def test_the_head_gives_one_logit_a_class_at_any_size_from_32_px(channels: int) -> None:
    model = build_densenet("densenet_demo", 5, in_channels=channels).eval()
    with torch.inference_mode():
        for size in (32, 100, 256):
            assert model(torch.zeros(2, channels, size, size)).shape == (2, 5)


def test_the_demo_network_is_under_2_mib_in_float32() -> None:
    assert parameters("densenet_demo", 3) * 4 < 2 * 2**20


def test_the_small_network_has_about_half_a_million_weights() -> None:
    assert 0.3e6 < parameters("densenet_small", 14) < 0.6e6


@pytest.mark.parametrize(
    ("arch", "classes", "channels", "words"),
    [
        ("resnet50", 1, 3, "arch 'resnet50' is unknown; use one of densenet121"),
        ("densenet121", 0, 3, "got 0 classes"),
        ("densenet121", 1, 4, "got 4 input channels"),
    ],
    ids=["architecture", "classes", "channels"],
)
def test_what_cannot_be_built_is_refused(arch: str, classes: int, channels: int, words: str) -> None:
    with pytest.raises(ModelError, match=words):
        build_densenet(arch, classes, in_channels=channels)
