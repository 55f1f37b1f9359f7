"""A DenseNet's weights -> its ONNX graph for scoring: norms folded, pooling before convolving, pixels as they lie.

The same function in fewer operations, as learn/model/fold.py has it for torch. Built from the arrays of a checkpoint in
a tenth of a second, where torch's exporter takes 12 s, and without loading torch.
"""

from collections.abc import Sequence

import numpy as np
from onnx import TensorProto

from wsi_pipeline.learn.model.architectures import ARCHITECTURES
from wsi_pipeline.learn.model.checkpoint import Checkpoint
from wsi_pipeline.scores.int8 import Int8Nodes
from wsi_pipeline.scores.nodes import Nodes
from wsi_pipeline.scores.winograd import is_faster, winograd


def densenet_graph(
    checkpoint: Checkpoint, *, tiles: bool, cells: bool = False, px: int = 0, nodes: Nodes | None = None
) -> bytes:
    """The ONNX model of a checkpoint with its normalisation: 0-255 RGB in, logits (n, C) float32 out.

    With `tiles` the input is (n, H, W, 3) uint8 as tiles lie in a store, else (n, 3, H, W) float32. The
    normalisation costs one subtraction: its division is in the weights of the first convolution. The
    classifier is a 1 x 1 convolution, which computes each image by itself whatever the batch. With `cells` the
    logits are of each 32 x 32 px, (n, C, H // 32, W // 32); their mean is the network's own answer. With `px` it
    is for images of px x px alone. It is made with `nodes`, else with `nodes_of` it.

    - A norm that follows a convolution (norm0, norm2 of each layer) becomes part of its weights, in float64. The
      norms that come before a ReLU and a convolution (norm1, the transitions' and norm5) stay as they are.
    - A transition's 2 x 2 mean and its 1 x 1 convolution are linear and commute: pooled first, the
      convolution has a quarter of the pixels; 8 % fewer operations in a DenseNet-121.
    - Of images of known size the larger 3 x 3 convolutions are Winograd's, a tenth of the time of a
      DenseNet-121 less: scores/winograd.py. Not of an int8 checkpoint, whose products are other ones.
    - What goes into the convolutions between the first and the mean, and what comes out, passes `Nodes.kept`: of
      an int8 checkpoint that makes integers of it, see scores/int8.py.
    """
    graph = nodes or nodes_of(checkpoint)
    x = "pixels"
    if tiles:
        x = graph.add("Cast", graph.add("Transpose", x, perm=[0, 3, 1, 2]), to=TensorProto.FLOAT)
    x = graph.add("Sub", x, graph.constant(255 * np.array(checkpoint.mean)[:, None, None]))
    side = px if checkpoint.ranges is None else 0
    x = _features(graph, x, ARCHITECTURES[checkpoint.arch].blocks, 255 * np.array(checkpoint.std), side)
    head = graph.array("classifier.weight")[:, :, None, None], graph.array("classifier.bias")
    if cells:
        graph.conv(x, head, name="logits")
    else:
        graph.add("Flatten", graph.conv(graph.add("GlobalAveragePool", x), head), axis=1, name="logits")
    sides = [px, px] if px else ["height", "width"]
    return graph.model(
        ("pixels", TensorProto.UINT8, ["n", *sides, 3]) if tiles else ("pixels", TensorProto.FLOAT, ["n", 3, *sides])
    )


def nodes_of(checkpoint: Checkpoint) -> Nodes:
    """What its graph is made with: float32, or int8 where it has ranges."""
    return Nodes(checkpoint.state) if checkpoint.ranges is None else Int8Nodes(checkpoint.state, checkpoint.ranges)


def _features(graph: Nodes, x: str, blocks: Sequence[int], scale: np.ndarray, px: int) -> str:
    """All that comes before the mean over the image, of x / scale, `scale` (channels,); px its side, or 0."""
    kernel, bias = graph.folded("features.conv0", "features.norm0")
    x = graph.conv(x, (kernel / scale[None, :, None, None], bias), stride=2, pad=3)
    x = graph.add("MaxPool", graph.relu(x), kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4)
    for block, layers in enumerate(blocks, 1):
        for layer in range(1, layers + 1):
            x = _dense_layer(graph, x, f"features.denseblock{block}.denselayer{layer}", _halved(px, block + 1))
        if block < len(blocks):
            name = f"features.transition{block}"
            x = graph.relu(graph.norm(x, f"{name}.norm"))
            x = graph.add("AveragePool", x, kernel_shape=[2, 2], strides=[2, 2])
            x = graph.kept(x, f"{name}.norm")
            x = graph.kept(graph.conv(x, (graph.array(f"{name}.conv.weight"), None)), f"{name}.conv")
    return graph.relu(graph.norm(x, "features.norm5"))


def _halved(px: int, times: int) -> int:
    """px // 2**times where that is even, else 0: unknown."""
    return px >> times if px % 2**times == 0 else 0


def _dense_layer(graph: Nodes, x: str, name: str, side: int) -> str:
    """x with the channels behind it that the layer adds; `side` its height and width, 0 where unknown."""
    y = graph.kept(graph.relu(graph.norm(x, f"{name}.norm1")), f"{name}.norm1")
    y = graph.kept(graph.relu(graph.conv(y, graph.folded(f"{name}.conv1", f"{name}.norm2"))), f"{name}.norm2")
    kernel = graph.array(f"{name}.conv2.weight")
    y = winograd(graph, y, kernel, side) if is_faster(kernel, side) else graph.conv(y, (kernel, None), pad=1)
    y = graph.kept(y, f"{name}.conv2")
    return graph.add("Concat", x, y, axis=1)
