"""Engines: a checkpoint on a device -> logits of tiles, by torch (a GPU, or a CPU) or by ONNX Runtime (a CPU).

An engine computes in lanes: calls of `forward` that run side by side, each in a thread of its own. On a CPU
a lane is one core that computes alone. Threads that share one forward pass wait for each other after every
layer: torch's own came down from 45 to 5 tiles/s where other processes were using the cores.
"""

import logging
import os
import threading
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from typing import Literal, Protocol

import numpy as np
import onnxruntime
import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, interpolate

from wsi_pipeline.errors import ModelError
from wsi_pipeline.learn.checkpoint import Checkpoint, build_model
from wsi_pipeline.learn.fold import FromPixels, PerCell, folded, in_half
from wsi_pipeline.scores.graph import densenet_graph

EngineName = Literal["auto", "torch", "onnx"]
_TORCH_PIECE = 4  # most tiles in one pass of torch on a CPU: more would fault fresh memory in page by page
_ONNX_PIXELS = 256 * 256  # in one pass of ONNX Runtime: one tile of 256 px was as fast as 4 or 8, or faster
_GPU_LANES = 2  # one batch computes while the next is uploaded

log = logging.getLogger(__name__)


class Engine(Protocol):
    """What scoring needs of an engine.

    Attributes:
        name: torch or onnx.
        lanes: calls of `forward` that may run at once, each in its own thread.
    """

    name: str
    lanes: int

    def piece(self, px: int, of: int) -> int:
        """How many tiles of px x px to give to one call, when `of` are to be divided."""
        ...

    def enter_lane(self) -> None:
        """To be called once in each thread that calls `forward`."""
        ...

    def forward(self, tiles: np.ndarray, px: int) -> np.ndarray:
        """Logits (n, C) float32 of tiles (n, H, W, 3) uint8 RGB, reduced to px x px first.

        Of an engine opened with `cells` (n, C, px // 32, px // 32): of each 32 x 32 px, their mean being the tile's.
        """
        ...


def pick_device(name: str) -> torch.device:
    """The device named auto (the first GPU, else the CPU), cpu, cuda or cuda:N.

    Raises ModelError at once when it is unknown, or asked for and absent, telling what there is.
    """
    present = [f"cuda:{i}" for i in range(torch.cuda.device_count())]
    if name == "auto":
        return torch.device(present[0] if present else "cpu")
    wanted = "cuda:0" if name == "cuda" else name
    if wanted not in ("cpu", *present):
        raise ModelError(f"device {name!r} is not here; this machine has {', '.join(['cpu', *present])}, or use auto")
    return torch.device(wanted)


def open_engine(
    checkpoint: Checkpoint,
    device: torch.device,
    name: EngineName = "auto",
    *,
    compiled: bool = False,
    cells: bool = False,
) -> Engine:
    """The engine of that name; auto is onnx on a CPU and torch on a GPU. `compiled` goes to torch alone.

    Their logits differ by rounding (1e-6), but for torch on a GPU, which computes in half precision.
    Raises ModelError when onnx is asked for on a GPU.
    """
    if name == "onnx" and device.type != "cpu":
        raise ModelError(f"engine onnx runs on a CPU, the device is {device}; use --device cpu, or model.engine=torch")
    if name == "onnx" or (name == "auto" and device.type == "cpu"):
        return OnnxEngine(checkpoint, cells=cells)
    return TorchEngine(checkpoint, device, half=_half_of(device), compiled=compiled, cells=cells)


class OnnxEngine:
    """ONNX Runtime on a CPU: one session that every lane runs by itself, so its weights are held once."""

    name = "onnx"

    def __init__(self, checkpoint: Checkpoint, *, cells: bool = False) -> None:
        """Folds the network; the graph is built when the first tiles come."""
        self._cells = cells
        self.lanes = cores()
        self._model = folded(build_model(checkpoint))
        self._mean, self._std = checkpoint.mean, checkpoint.std
        self._sessions: dict[bool, onnxruntime.InferenceSession] = {}
        self._building = threading.Lock()

    def piece(self, px: int, of: int) -> int:
        return max(1, min(_ONNX_PIXELS // px**2, -(-of // self.lanes)))

    def enter_lane(self) -> None:
        torch.set_num_threads(1)  # torch only reduces tiles here

    def forward(self, tiles: np.ndarray, px: int) -> np.ndarray:
        """As `Engine.forward`; the same bits however the tiles are divided into calls."""
        whole = tiles.shape[1:3] == (px, px)
        pixels = np.ascontiguousarray(tiles) if whole else reduced(_planes(tiles), px).numpy()
        (logits,) = self._session(tiles=whole).run(None, {"pixels": pixels})
        return np.asarray(logits)

    def _session(self, *, tiles: bool) -> onnxruntime.InferenceSession:
        with self._building:
            if tiles not in self._sessions:
                graph = densenet_graph(self._model, self._mean, self._std, tiles=tiles, cells=self._cells)
                self._sessions[tiles] = onnx_session(graph)
            return self._sessions[tiles]


class TorchEngine:
    """Torch on a GPU, or on a CPU: channels last, norms folded, normalised on the device.

    With `half` all but the norms and the classifier computes in that type. On a GPU two lanes work, each on
    a stream of its own, so that uint8 pixels are uploaded from pinned memory while another batch computes.
    """

    name = "torch"

    def __init__(
        self,
        checkpoint: Checkpoint,
        device: torch.device,
        *,
        half: torch.dtype | None = None,
        compiled: bool = False,
        cells: bool = False,
    ) -> None:
        """Loads the weights onto `device`. `compiled`: by torch.compile, a minute at the first batch."""
        self.device = device
        self.lanes = cores() if device.type == "cpu" else _GPU_LANES
        self.most = 1 << 30  # tiles in a pass; less once the memory was full
        network = folded(build_model(checkpoint))
        network = network if half is None else in_half(network, half)
        network = PerCell(network) if cells else network
        model: nn.Module = FromPixels(network, checkpoint.mean, checkpoint.std, half)
        model = model.to(memory_format=torch.channels_last).to(device).eval()
        self.model = torch.compile(model, dynamic=False) if compiled else model
        self._full = 0 if compiled else None  # compiled for one size of batch: smaller ones are filled up
        self._launching = threading.Lock()
        self._lane = threading.local()

    def piece(self, px: int, of: int) -> int:
        return max(1, min(_TORCH_PIECE, -(-of // self.lanes))) if self.device.type == "cpu" else of

    def enter_lane(self) -> None:
        if self.device.type == "cpu":
            torch.set_num_threads(1)
        else:
            self._lane.stream = torch.cuda.Stream(self.device)

    def forward(self, tiles: np.ndarray, px: int) -> np.ndarray:
        """As `Engine.forward`. When the GPU's memory does not hold the tiles, fewer are taken, from then on;
        ModelError when it does not hold one."""
        out: list[np.ndarray] = []
        start = 0
        while start < len(tiles):
            part = tiles[start : start + self.most]
            try:
                out.append(self._pass(part, px))
                start += len(part)
                continue
            except torch.cuda.OutOfMemoryError:
                pass  # recovered from below: here the traceback still holds the memory
            self._take_less(len(part), px)
        return np.concatenate(out)

    def _pass(self, tiles: np.ndarray, px: int) -> np.ndarray:
        with torch.inference_mode(), self._stream():
            pixels = self._uploaded(self._filled(tiles))
            with self._launching if self.device.type == "cuda" else nullcontext():
                logits = self.model(reduced(pixels.permute(0, 3, 1, 2).float(), px))
            return np.asarray(logits[: len(tiles)].float().cpu().numpy())

    def _uploaded(self, tiles: np.ndarray) -> Tensor:
        pixels = torch.from_numpy(np.require(tiles, np.uint8, ["C", "W"]))
        return pixels.pin_memory().to(self.device, non_blocking=True) if self.device.type == "cuda" else pixels

    def _filled(self, tiles: np.ndarray) -> np.ndarray:
        """The tiles, with black ones behind them up to the size compiled for."""
        if self._full is None:
            return tiles
        self._full = max(self._full, len(tiles))
        return np.concatenate([tiles, np.zeros((self._full - len(tiles), *tiles.shape[1:]), np.uint8)])

    def _stream(self) -> AbstractContextManager[object]:
        stream = getattr(self._lane, "stream", None)
        return nullcontext() if stream is None else torch.cuda.stream(stream)

    def _take_less(self, tried: int, px: int) -> None:
        torch.cuda.empty_cache()
        if tried == 1:
            raise ModelError(f"{self.device} has no memory for one tile of {px} px; use smaller tiles or --device cpu")
        self.most = max(1, min(self.most, tried // 2))
        log.warning("%s is out of memory with %d tiles; going on with %d", self.device, tried, self.most)


def onnx_session(graph: bytes, threads: int = 1) -> onnxruntime.InferenceSession:
    """A session on the CPU; with one thread it computes in the thread that calls it, and none spins."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])


def reduced(planes: Tensor, px: int) -> Tensor:
    """Planes (n, 3, H, W) float to px x px: as they are, exact means of blocks, or antialiased."""
    height, width = planes.shape[-2:]
    if height == width == px:
        return planes
    if height % px == 0 and width % px == 0:
        return avg_pool2d(planes, (height // px, width // px))
    return interpolate(planes, size=(px, px), mode="bilinear", antialias=True)


@cache
def cores() -> int:
    """Cores this process may use; asked once, since an engine's lanes change torch's own answer."""
    mine = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(torch.get_num_threads(), mine))


def _planes(tiles: np.ndarray) -> Tensor:
    return torch.from_numpy(np.require(tiles, np.uint8, ["C", "W"])).permute(0, 3, 1, 2).float()


def _half_of(device: torch.device) -> torch.dtype | None:
    """The type that a device computes in: bfloat16 or float16 on a GPU, float32 (None) on a CPU."""
    if device.type == "cpu":
        return None
    return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
