"""Operations of a network with their constants -> an ONNX model, in float32."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

OPSET, IR_VERSION = 17, 8  # old enough for every ONNX Runtime that the project allows
_EPSILON = 1e-5  # of torchvision's norms

Weights = tuple[np.ndarray, np.ndarray | None]  # of a convolution, with its bias


class Nodes:
    """Nodes and constants as they are added; each operation returns the name of its output."""

    def __init__(self, state: dict[str, np.ndarray]) -> None:
        self.state = state
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[TensorProto] = []
        self.outputs = ["logits"]

    def array(self, name: str) -> np.ndarray:
        """Weights by their name, float64."""
        return self.state[name].astype(np.float64)

    def folded(self, conv: str, norm: str) -> Weights:
        """A convolution without bias, and the norm behind it, as one convolution."""
        scale = self.array(f"{norm}.weight") / np.sqrt(self.array(f"{norm}.running_var") + _EPSILON)
        bias = self.array(f"{norm}.bias") - self.array(f"{norm}.running_mean") * scale
        return self.array(f"{conv}.weight") * scale[:, None, None, None], bias

    def add(self, kind: str, *inputs: str, name: str = "", **attributes: Any) -> str:
        output = name or f"x{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [output], **attributes))
        return output

    def constant(self, values: np.ndarray, kind: type[np.generic] = np.float32) -> str:
        name = f"c{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(values, kind, order="C"), name))
        return name

    def shape(self, *sides: int) -> str:
        """For a Reshape: 0 keeps a side, -1 is what is left."""
        return self.constant(np.array(sides), np.int64)

    def kept(self, x: str, name: str) -> str:
        """What comes out of the layer of that name, in the network's own precision."""
        return x

    def relu(self, x: str) -> str:
        return self.add("Relu", x)

    def norm(self, x: str, name: str) -> str:
        parts = (self.constant(self.array(f"{name}.{p}")) for p in ("weight", "bias", "running_mean", "running_var"))
        return self.add("BatchNormalization", x, *parts, epsilon=_EPSILON)

    def conv(self, x: str, weights: Weights, *, stride: int = 1, pad: int = 0, name: str = "") -> str:
        """A convolution; `weights` (out, in, height, width) and a bias (out,) or None."""
        window: Any = {"kernel_shape": list(weights[0].shape[2:]), "strides": [stride] * 2, "pads": [pad] * 4}
        return self.add("Conv", x, *self.weights(x, weights), name=name, **window)

    def weights(self, x: str, weights: Weights) -> list[str]:
        """Of a convolution of x, as constants."""
        return [self.constant(values) for values in weights if values is not None]

    def model(self, given: tuple[str, int, Sequence[str | int]]) -> bytes:
        inputs = [helper.make_tensor_value_info(*given)]
        outputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in self.outputs]
        graph = helper.make_graph(self.nodes, "densenet", inputs, outputs, self.constants)
        made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
        return bytes(made.SerializeToString())
