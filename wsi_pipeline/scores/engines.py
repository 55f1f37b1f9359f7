"""Engines: a checkpoint on a device -> logits of tiles, by torch (a GPU, or a CPU) or by ONNX Runtime (a CPU).

An engine computes in lanes: calls of `forward` that run side by side, each in a thread of its own. On a CPU
a lane is one core that computes alone. Threads that share one forward pass wait for each other after every
layer: torch's own came down from 45 to 5 tiles/s where other processes were using the cores.

Torch is loaded only where it computes: it takes seconds, and a quarter of a gigabyte.
"""

import sys
from importlib import import_module
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np

from wsi_pipeline.errors import ModelError
from wsi_pipeline.learn.model.checkpoint import Checkpoint
from wsi_pipeline.scores.ahead import Decoder, Pixels
from wsi_pipeline.scores.onnx_engine import OnnxEngine

EngineName = Literal["auto", "torch", "onnx"]
Precision = Literal["auto", "float32", "bfloat16"]
Decoding = Literal["cpu", "gpu"]  # where the JPEGs of a store become pixels
_DRIVERS = ("/dev/nvidiactl", "/dev/nvmap", "/dev/kfd", "/dev/dxg")  # NVIDIA, Jetson, AMD, GPUs under WSL


class Engine(Protocol):
    """What scoring needs of an engine.

    Attributes:
        name: torch or onnx.
        precision: what it computes in: float32, bfloat16, float16 or int8.
        lanes: calls of `forward` that may run at once, each in its own thread.
    """

    name: str
    precision: str
    lanes: int

    def piece(self, px: int, of: int) -> int:
        """How many tiles of px x px to give to one call, when `of` are to be divided."""
        ...

    def enter_lane(self) -> None:
        """To be called once in each thread that calls `forward`."""
        ...

    def forward(self, tiles: Pixels, px: int) -> np.ndarray:
        """Logits (n, C) float32 of tiles (n, H, W, 3) uint8 RGB, reduced to px x px first.

        Of an engine opened with `cells` (n, C, px // 32, px // 32): of each 32 x 32 px, their mean being the tile's.
        """
        ...

    def rest(self) -> None:
        """Give back what can be had again when more tiles come; no lane may be at work."""
        ...


def pick_device(name: str) -> str:
    """The device named auto (the first GPU, else the CPU), cpu, cuda or cuda:N, as cpu or cuda:N.

    Raises ModelError at once when it is unknown, or asked for and absent, telling what there is.
    """
    if name == "cpu":
        return name
    present = gpus()
    if name == "auto":
        return present[0] if present else "cpu"
    wanted = "cuda:0" if name == "cuda" else name
    if wanted not in present:
        raise ModelError(f"device {name!r} is not here; this machine has {', '.join(['cpu', *present])}, or use auto")
    return wanted


def gpus() -> list[str]:
    """The GPUs of this machine, cuda:0 and on; torch is asked only where there is a driver."""
    here = sys.platform == "win32" or any(Path(driver).exists() for driver in _DRIVERS)
    return list(_torch().gpus()) if here else []


def open_engine(
    checkpoint: Checkpoint,
    device: str,
    name: EngineName = "auto",
    *,
    precision: Precision = "auto",
    compiled: bool = False,
    cells: bool = False,
) -> Engine:
    """The engine of that name; auto is onnx on a CPU and torch on a GPU, or for bfloat16. `compiled` is of torch alone.

    `precision` auto is float32 on a CPU and half precision on a GPU. In float32 their logits differ by rounding (1e-6).
    Raises ModelError when onnx is asked for on a GPU or in bfloat16, bfloat16 where the processor has none of it,
    and an int8 checkpoint for anything but onnx.
    """
    if not isinstance(device, str):
        raise TypeError(f"device is {device!r}: give its name, as pick_device does")
    if name == "onnx" and device != "cpu":
        raise ModelError(f"engine onnx runs on a CPU, the device is {device}; use --device cpu, or model.engine=torch")
    if checkpoint.ranges is not None and (name == "torch" or device != "cpu"):
        raise ModelError(
            f"model {checkpoint.id} is int8, which ONNX Runtime computes on a CPU; got engine {name} on {device}: "
            f"use --device cpu with model.engine=auto, or the float32 model that it was made from"
        )
    if checkpoint.ranges is not None and precision != "auto":
        raise ModelError(
            f"model {checkpoint.id} is int8, got model.precision={precision}; leave it at auto, or use the float32 one"
        )
    if name == "onnx" and precision == "bfloat16":
        raise ModelError("engine onnx computes in float32, got model.precision=bfloat16; use model.engine=auto")
    if name == "onnx" or (name == "auto" and device == "cpu" and precision != "bfloat16"):
        return OnnxEngine(checkpoint, cells=cells)
    torch = _torch()
    half = torch.half_of(device, precision)
    engine: Engine = torch.TorchEngine(checkpoint, device, half=half, compiled=compiled, cells=cells)
    return engine


def open_decoder(device: str, engine: EngineName = "auto") -> Decoder:
    """What decodes JPEGs on a device, for torch to score them there. Raises ModelError where nothing does."""
    if engine == "onnx":
        raise ModelError("engine onnx takes pixels, not JPEGs; use model.engine=auto, or model.decode=cpu")
    decoder: Decoder = import_module("wsi_pipeline.scores.gpu_jpeg").JpegDecoder(device)
    return decoder


def _torch() -> Any:
    return import_module("wsi_pipeline.scores.torch_engine")
