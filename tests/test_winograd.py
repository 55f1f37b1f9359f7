"""Winograd's convolution: the same numbers as the plain one, and only where it can be and is worth it."""

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto
from test_engines import a_checkpoint

from wsi_pipeline.scores.graph import densenet_graph
from wsi_pipeline.scores.nodes import Nodes
from wsi_pipeline.scores.onnx_engine import onnx_session
from wsi_pipeline.scores.winograd import is_faster, winograd


@pytest.mark.parametrize("side", [4, 16, 20, 28, 64])
@pytest.mark.parametrize(("inner", "out"), [(32, 16), (33, 5)])
def test_it_is_the_plain_convolution(side: int, inner: int, out: int) -> None:
    random = np.random.default_rng(side)
    x = random.normal(size=(3, inner, side, side)).astype(np.float32)
    kernel = random.normal(size=(out, inner, 3, 3)) / np.sqrt(9 * inner)
    nodes = Nodes({})
    nodes.outputs = [winograd(nodes, "x", kernel, side)]
    (found,) = onnx_session(nodes.model(("x", TensorProto.FLOAT, ["n", inner, side, side]))).run(None, {"x": x})
    expected = torch.conv2d(torch.from_numpy(x).double(), torch.from_numpy(kernel), padding=1).numpy()
    np.testing.assert_allclose(found, expected, atol=2e-5)  # the results are of size 1


def test_it_is_taken_for_large_images_of_many_channels_in_whole_rows_of_four() -> None:
    many, few = np.zeros((32, 128, 3, 3)), np.zeros((8, 16, 3, 3))
    assert [side for side in (0, 8, 16, 28, 30, 64, 65) if is_faster(many, side)] == [16, 28, 64]
    assert not is_faster(few, 64)


@pytest.mark.parametrize(("px", "expected"), [(0, 0), (256, 6 + 12 + 24), (224, 6 + 12), (64, 6), (100, 0), (48, 0)])
def test_a_networks_graph_has_it_where_the_size_is_known(px: int, expected: int) -> None:
    made = onnx.load_model_from_string(densenet_graph(a_checkpoint("densenet121"), tiles=True, px=px))
    assert sum(node.op_type == "MatMul" for node in made.graph.node) == expected
