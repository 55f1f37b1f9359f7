"""A network's operations with their ranges -> the same in int8: integers in the convolutions, floats between them.

8 bits an activation, one range a layer; 7 bits a weight, a scale a channel. Where a processor has no VNNI, two
products of 8 x 8 bits are added in 16 and can overflow, 8 x 7 bits cannot: so the sums are exact on any. The first
convolution, the norms, what is joined and the classifier stay in float32. By ONNX Runtime's own tool, which rounds
these too, single probabilities moved by up to 0.35, so by 0.011 (`workflows/int8_loss.py`).
"""

from collections.abc import Mapping

import numpy as np

from wsi_pipeline.scores.nodes import Nodes, Weights

_MOST = 64  # of a weight: 2 * 255 * 64 fits in 16 bits
_LEVELS = 255  # steps of an activation


class Int8Nodes(Nodes):
    """QuantizeLinear and DequantizeLinear about the convolutions, which ONNX Runtime makes integer ones of."""

    def __init__(self, state: dict[str, np.ndarray], ranges: Mapping[str, tuple[float, float]]) -> None:
        """`ranges`: least and most value that each layer gives, by its name."""
        super().__init__(state)
        self._ranges = ranges
        self._steps: dict[str, np.float32] = {}  # of values that are integers

    def kept(self, x: str, name: str) -> str:
        """x rounded to 8 bits in its range, which is made to hold 0; what lies outside is cut off."""
        low, high = self._ranges[name]
        low, high = min(low, 0.0), max(high, 0.0)
        step = np.float32((high - low) / _LEVELS or 1)  # of a layer that gives nothing but 0: any
        parts = self.constant(np.array(step)), self.constant(np.rint(-low / step), np.uint8)
        rounded = self.add("DequantizeLinear", self.add("QuantizeLinear", x, *parts), *parts)
        self._steps[rounded] = step
        return rounded

    def weights(self, x: str, weights: Weights) -> list[str]:
        """Integers where x is made of such, else as they are."""
        if x not in self._steps:
            return super().weights(x, weights)
        kernel, bias = weights
        steps = np.abs(kernel).max(axis=(1, 2, 3)) / _MOST
        if bias is not None:  # of a channel that is all but 0, so that its bias fits in 32 bits
            steps = np.maximum(steps, np.abs(bias) / self._steps[x] / 2**30)
        steps = np.where(steps > 0, steps, 1).astype(np.float32)
        made = [self._integers(kernel, steps, np.int8)]
        return made if bias is None else [*made, self._integers(bias, steps * self._steps[x], np.int32)]

    def _integers(self, values: np.ndarray, steps: np.ndarray, kind: type[np.generic]) -> str:
        """values (out, ...) in whole steps (out,)."""
        whole = np.rint(values / steps.reshape(-1, *[1] * (values.ndim - 1)))
        parts = self.constant(whole, kind), self.constant(steps), self.constant(np.zeros(len(steps)), kind)
        return self.add("DequantizeLinear", *parts, axis=0)
