"""A folded DenseNet -> its ONNX graph, layer by layer: a tenth of a second where torch's exporter takes 12 s."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

OPSET, IR_VERSION = 17, 8  # old enough for every ONNX Runtime that the project allows


def densenet_graph(
    model: Any, mean: tuple[float, ...], std: tuple[float, ...], *, tiles: bool, cells: bool = False
) -> bytes:
    """The ONNX model of `folded(model)` with its normalisation: 0-255 RGB in, logits (n, C) float32 out.

    With `tiles` the input is (n, H, W, 3) uint8 as tiles lie in a store, else (n, 3, H, W) float32. The
    normalisation costs one subtraction: its division is in the weights of the first convolution. The
    classifier is a 1 x 1 convolution, which computes each image by itself whatever the batch. With `cells` the
    logits are those of `PerCell`, (n, C, H // 32, W // 32).
    """
    graph = _Graph()
    x = "pixels"
    if tiles:
        x = graph.add("Cast", graph.add("Transpose", x, perm=[0, 3, 1, 2]), to=TensorProto.FLOAT)
    x = graph.add("Sub", x, graph.constant(255 * _column(mean)))
    x = _features(graph, model.features, x, 255 * np.array(std, np.float64))
    if not cells:
        x = graph.add("GlobalAveragePool", x)
    head = model.classifier
    weight = head.weight.detach().numpy()[:, :, None, None]
    answer = (graph.constant(weight), graph.constant(_array(head.bias)))
    if cells:
        graph.add("Conv", x, *answer, name="logits")
    else:
        graph.add("Flatten", graph.add("Conv", x, *answer), axis=1, name="logits")
    return graph.model(
        ("pixels", TensorProto.UINT8, ["n", "height", "width", 3])
        if tiles
        else ("pixels", TensorProto.FLOAT, ["n", 3, "height", "width"])
    )


def _features(graph: "_Graph", features: Any, x: str, scale: np.ndarray) -> str:
    """All that comes before the mean over the image; the last norm is followed by a ReLU, as in torchvision."""
    for name, part in features.named_children():
        if name.startswith("denseblock"):
            for layer in part.children():
                y = graph.conv(graph.relu(graph.norm(x, layer.norm1)), layer.conv1)
                x = graph.add("Concat", x, graph.conv(graph.relu(y), layer.conv2), axis=1)
        elif name == "conv0":
            x = graph.conv(x, part, scale)
        else:
            for step in part.children() if isinstance(part, nn.Sequential) else (part,):
                x = graph.step(x, step)
    return graph.relu(x)


class _Graph:
    """Nodes and constants as they are added; each operation returns the name of its output."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[TensorProto] = []

    def add(self, kind: str, *inputs: str, name: str = "", **attributes: Any) -> str:
        output = name or f"x{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [output], **attributes))
        return output

    def constant(self, values: np.ndarray) -> str:
        name = f"c{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.ascontiguousarray(values, np.float32), name))
        return name

    def step(self, x: str, step: Any) -> str:
        """One layer, by its type."""
        if isinstance(step, nn.Identity):
            return x
        if isinstance(step, nn.ReLU):
            return self.relu(x)
        if isinstance(step, nn.BatchNorm2d):
            return self.norm(x, step)
        if isinstance(step, nn.Conv2d):
            return self.conv(x, step)
        kinds = {nn.MaxPool2d: "MaxPool", nn.AvgPool2d: "AveragePool"}
        return self.add(
            kinds[type(step)],
            x,
            kernel_shape=_pair(step.kernel_size),
            strides=_pair(step.stride),
            pads=_pair(step.padding) * 2,
        )

    def relu(self, x: str) -> str:
        return self.add("Relu", x)

    def norm(self, x: str, norm: Any) -> str:
        values = (norm.weight, norm.bias, norm.running_mean, norm.running_var)
        return self.add("BatchNormalization", x, *(self.constant(_array(v)) for v in values), epsilon=norm.eps)

    def conv(self, x: str, conv: Any, scale: np.ndarray | None = None) -> str:
        """A convolution of x / scale, `scale` (in_channels,)."""
        weight = _array(conv.weight).astype(np.float64)
        if scale is not None:
            weight = weight / scale[None, :, None, None]
        bias = () if conv.bias is None else (self.constant(_array(conv.bias)),)
        window: Any = {
            "kernel_shape": list(conv.kernel_size),
            "strides": list(conv.stride),
            "pads": [*conv.padding] * 2,
        }
        return self.add("Conv", x, self.constant(weight), *bias, **window)

    def model(self, given: tuple[str, int, Sequence[str | int]]) -> bytes:
        inputs = [helper.make_tensor_value_info(*given)]
        outputs = [helper.make_tensor_value_info("logits", TensorProto.FLOAT, None)]
        graph = helper.make_graph(self.nodes, "densenet", inputs, outputs, self.constants)
        made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
        return bytes(made.SerializeToString())


def _pair(value: int | tuple[int, int]) -> list[int]:
    return [value, value] if isinstance(value, int) else list(value)


def _array(tensor: Tensor | None) -> np.ndarray:
    assert tensor is not None
    return tensor.detach().numpy()


def _column(values: tuple[float, ...]) -> np.ndarray:
    return np.array(values, np.float64)[:, None, None]
