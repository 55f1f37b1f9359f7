"""A 3 x 3 convolution in half the products: Winograd's F(4, 3) along the height, made of ordinary operations.

Four rows of the output come from six combinations of six rows of the input, each convolved with a 1 x 3 kernel, where
the plain convolution takes twelve (Winograd, 1980; Lavin and Gray, 2016, "Fast Algorithms for Convolutional Neural
Networks", whose matrices these are). Along one axis alone, because along both what is saved in products is lost
again in the operations around them. Float32 all through; a result moves by some 1e-6 of its size.
"""

import numpy as np

from wsi_pipeline.scores.nodes import Nodes

ROWS = 4  # of the output at a time
_LEAST_SIDE, _LEAST_CHANNELS = 16, 32  # of less the operations around the products cost what they save
_INPUT = np.array(
    [
        [4, 0, -5, 0, 1, 0],
        [0, -4, -4, 1, 1, 0],
        [0, 4, -4, -1, 1, 0],
        [0, -2, -1, 2, 1, 0],
        [0, 2, -1, -2, 1, 0],
        [0, 4, 0, -5, 0, 1],
    ]
)
_KERNEL = np.array([[6, 0, 0], [-4, -4, -4], [-4, 4, -4], [1, 2, 4], [1, -2, 4], [0, 0, 24]]) / 24
_OUTPUT = np.array([[1, 1, 1, 1, 1, 0], [0, 1, -1, 2, -2, 0], [0, 1, 1, 4, 4, 0], [0, 1, -1, 8, -8, 1]])


def is_faster(kernel: np.ndarray, side: int) -> bool:
    """Whether images of side x side px are convolved faster so with `kernel` (out, in, 3, 3), if they can be at all."""
    return side >= _LEAST_SIDE and side % ROWS == 0 and kernel.shape[1] >= _LEAST_CHANNELS


def winograd(graph: Nodes, x: str, kernel: np.ndarray, side: int) -> str:
    """x (n, in, side, side), a border of zeros about it, convolved with `kernel` (out, in, 3, 3)."""
    out, rows = len(kernel), side // ROWS
    kernels = np.einsum("kj,oijw->koiw", _KERNEL, kernel)[:, :, :, None]
    products = [
        graph.add("Conv", _combined(graph, x, row, kernel.shape[1], side), graph.constant(part), pads=[0, 1, 0, 1])
        for row, part in zip(_INPUT, kernels, strict=True)
    ]
    y = graph.add("Reshape", graph.add("Concat", *products, axis=1), graph.shape(0, len(_INPUT), -1))
    y = graph.add("Reshape", graph.add("MatMul", graph.constant(_OUTPUT), y), graph.shape(0, ROWS, out, rows, side))
    y = graph.add("Transpose", y, perm=[0, 2, 3, 1, 4])
    y = graph.add("Reshape", y, graph.shape(0, out, side, side))
    # A multiplication by one: what comes out lies again as ONNX Runtime's convolutions have it, else all it is
    # joined with is rearranged too.
    return graph.add("Conv", y, graph.constant(np.ones((out, 1, 1, 1))), group=out)


def _combined(graph: Nodes, x: str, factors: np.ndarray, channels: int, side: int) -> str:
    """Of each six rows of x that begin every fourth row, at -1 first, the sum by `factors`: (n, in, side / 4, side).

    Factors of 0 at the ends, and where every second is 0, are left out.
    """
    (used,) = np.nonzero(factors)
    step = int(used[1] - used[0])
    taps = np.tile(factors[used], (channels, 1))[:, None, :, None]
    above = 1 - int(used[0])
    below = max(0, side - ROWS + step * (len(used) - 1) + 1 - side - above)
    return graph.add(
        "Conv",
        x,
        graph.constant(taps),
        strides=[ROWS, 1],
        dilations=[step, 1],
        pads=[above, 0, below, 0],
        group=channels,
    )
