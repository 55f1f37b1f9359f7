"""A checkpoint by torch -> logits of tiles: on a GPU, or on a CPU where ONNX Runtime is not wanted."""

import logging
import threading
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, interpolate

from wsi_pipeline.errors import ModelError
from wsi_pipeline.learn.model.checkpoint import Checkpoint
from wsi_pipeline.learn.model.densenet import build_model
from wsi_pipeline.learn.model.fold import FromPixels, PerCell, folded, in_half
from wsi_pipeline.scores.cores import cores

_TORCH_PIECE = 4  # most tiles in one pass of torch on a CPU: more would fault fresh memory in page by page
_GPU_LANES = 2  # one batch computes while the next is uploaded
_LEAST, _STEP = 16, 64  # tiles in the batches that a compiled network knows: so that there are only a few of them
_BFLOAT16 = ("avx512_bf16", "amx_bf16", "bf16", "sve_bf16")  # a processor's instructions, as torch names them
_FULL = ("unable to find an engine", "CUDNN_STATUS_ALLOC_FAILED", "CUBLAS_STATUS_ALLOC_FAILED")  # of memory, as it were

log = logging.getLogger(__name__)


def gpus() -> list[str]:
    """The GPUs of this machine as torch names them: cuda:0 and on."""
    return [f"cuda:{number}" for number in range(torch.cuda.device_count())]


def half_of(device: str, precision: str = "auto") -> torch.dtype | None:
    """The type that a device computes in, None for float32: by itself bfloat16 or float16 on a GPU, float32 on a CPU.

    Raises ModelError where it is to be bfloat16, and the device has no instructions for that: it would be slower.
    """
    if precision == "float32" or (precision == "auto" and device == "cpu"):
        return None
    native = _has_bfloat16(device)
    if precision == "bfloat16" and not native:
        raise ModelError(f"model.precision=bfloat16: {device} here has no instructions for it; use auto, or float32")
    return torch.bfloat16 if native else torch.float16


def _has_bfloat16(device: str) -> bool:
    if device == "cpu":
        known: Mapping[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
        if known:
            return any(known.get(name, False) for name in _BFLOAT16)
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())  # torch before 2.10: where it is emulated, too
    with torch.cuda.device(device):
        return torch.cuda.is_bf16_supported(including_emulation=False)


def _compute_in_float32() -> None:
    """Switch off TF32, in which torch's convolutions on a GPU have 10 bits of 23 unless told otherwise."""
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_tf32 = False


class TorchEngine:
    """Torch on a GPU, or on a CPU: channels last, norms folded, normalised on the device.

    With `half` all but the norms and the classifier computes in that type. On a GPU two lanes work, each on
    a stream of its own, so that uint8 pixels are uploaded from pinned memory while another batch computes.
    """

    name = "torch"

    def __init__(
        self,
        checkpoint: Checkpoint,
        device: str,
        *,
        half: torch.dtype | None = None,
        compiled: bool = False,
        cells: bool = False,
    ) -> None:
        """Loads the weights onto `device`. `compiled`: by torch.compile, a minute at the first batch."""
        self.device = torch.device(device)
        self.lanes = cores() if self.device.type == "cpu" else _GPU_LANES
        self.precision = "float32" if half is None else str(half).removeprefix("torch.")
        self.most = 1 << 30  # tiles in a pass; less once the memory was full
        if half is None and self.device.type == "cuda":
            _compute_in_float32()
        network = folded(build_model(checkpoint))
        network = network if half is None else in_half(network, half)
        network = PerCell(network) if cells else network
        model: nn.Module = FromPixels(network, checkpoint.mean, checkpoint.std, half)
        model = model.to(memory_format=torch.channels_last).to(self.device).eval()
        self.model = torch.compile(model, dynamic=False) if compiled else model
        self._full = 0 if compiled else None  # the largest batch it was compiled for: smaller ones are filled up
        self._least = _TORCH_PIECE if self.device.type == "cpu" else _LEAST
        self._launching = threading.Lock()
        self._lane = threading.local()

    def piece(self, px: int, of: int) -> int:
        return max(1, min(_TORCH_PIECE, -(-of // self.lanes))) if self.device.type == "cpu" else of

    def enter_lane(self) -> None:
        if self.device.type == "cpu":
            torch.set_num_threads(1)
        else:
            self._lane.stream = torch.cuda.Stream(self.device)

    def rest(self) -> None:
        """Nothing to do: what torch itself holds is more, and stays."""

    def forward(self, tiles: np.ndarray | Tensor, px: int) -> np.ndarray:
        """As `Engine.forward`; a tensor is on the device already. When the GPU's memory does not hold the tiles,
        fewer are taken, from then on; ModelError when it does not hold one."""
        out: list[np.ndarray] = []
        start, waited = 0, False
        while start < len(tiles):
            part = tiles[start : start + self.most]
            try:
                out.append(self._pass(part, px))
                start += len(part)
                continue
            except RuntimeError as error:  # torch's OutOfMemoryError is one
                if not is_full(error):
                    raise
                said = str(error).partition("\n")[0]
            # Recovered from here: in the except clause the traceback still holds the memory.
            if len(part) > 1:
                self._take_less(len(part))
            elif not waited:
                waited = True
                self._wait_for_others()
            else:
                raise ModelError(
                    f"{self.device} has no memory for one tile of {px} px ({said}); use smaller tiles or --device cpu"
                )
        return np.concatenate(out)

    def _pass(self, tiles: np.ndarray | Tensor, px: int) -> np.ndarray:
        with torch.inference_mode(), self._stream():
            pixels = self._filled(self._uploaded(tiles))
            with self._launching if self.device.type == "cuda" else nullcontext():
                logits = self.model(reduced(pixels.permute(0, 3, 1, 2).float(), px))
            return np.asarray(logits[: len(tiles)].float().cpu().numpy())

    def _uploaded(self, tiles: np.ndarray | Tensor) -> Tensor:
        if isinstance(tiles, Tensor):
            return tiles
        pixels = torch.from_numpy(np.require(tiles, np.uint8, ["C", "W"]))
        return pixels.pin_memory().to(self.device, non_blocking=True) if self.device.type == "cuda" else pixels

    def _filled(self, tiles: Tensor) -> Tensor:
        """The tiles, with black ones behind them up to a size that it is compiled for, or is now.

        After eight sizes torch compiles no more; so they are few, and the largest serves for all that are smaller.
        """
        if self._full is None:
            return tiles
        wanted = self._least if len(tiles) <= self._least else -(-len(tiles) // _STEP) * _STEP
        self._full = full = max(self._full, wanted)
        size = max(len(tiles), min(full, self.most))  # `most` is what the memory holds
        return torch.cat([tiles, tiles.new_zeros((size - len(tiles), *tiles.shape[1:]))])

    def _stream(self) -> AbstractContextManager[object]:
        stream = getattr(self._lane, "stream", None)
        return nullcontext() if stream is None else torch.cuda.stream(stream)

    def _take_less(self, tried: int) -> None:
        torch.cuda.empty_cache()
        self.most = max(1, min(self.most, tried // 2))
        log.warning("%s is out of memory with %d tiles; going on with %d", self.device, tried, self.most)

    def _wait_for_others(self) -> None:
        """Until what the other lane computes has left the memory."""
        if self.device.type == "cuda":
            with self._launching:
                torch.cuda.synchronize(self.device)
                torch.cuda.empty_cache()


def is_full(error: RuntimeError) -> bool:
    """Whether the device's memory did not hold what was asked; cuDNN and cuBLAS say so in words of their own."""
    return isinstance(error, torch.cuda.OutOfMemoryError) or any(words in str(error) for words in _FULL)


def reduced(planes: Tensor, px: int) -> Tensor:
    """Planes (n, 3, H, W) float to px x px: as they are, exact means of blocks, or antialiased."""
    height, width = planes.shape[-2:]
    if height == width == px:
        return planes
    if height % px == 0 and width % px == 0:
        return avg_pool2d(planes, (height // px, width // px))
    return interpolate(planes, size=(px, px), mode="bilinear", antialias=True)
