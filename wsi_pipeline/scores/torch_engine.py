"""A checkpoint by torch -> logits of tiles: on a GPU, or on a CPU where ONNX Runtime is not wanted."""

import logging
import threading
from contextlib import AbstractContextManager, nullcontext

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, interpolate

from wsi_pipeline.errors import ModelError
from wsi_pipeline.learn.checkpoint import Checkpoint
from wsi_pipeline.learn.fold import FromPixels, PerCell, folded, in_half
from wsi_pipeline.learn.models import build_model
from wsi_pipeline.scores.cores import cores

_TORCH_PIECE = 4  # most tiles in one pass of torch on a CPU: more would fault fresh memory in page by page
_GPU_LANES = 2  # one batch computes while the next is uploaded

log = logging.getLogger(__name__)


def gpus() -> list[str]:
    """The GPUs of this machine as torch names them: cuda:0 and on."""
    return [f"cuda:{number}" for number in range(torch.cuda.device_count())]


def half_of(device: str) -> torch.dtype | None:
    """The type that a device computes in: bfloat16 or float16 on a GPU, float32 (None) on a CPU."""
    if device == "cpu":
        return None
    return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16


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
        self.most = 1 << 30  # tiles in a pass; less once the memory was full
        network = folded(build_model(checkpoint))
        network = network if half is None else in_half(network, half)
        network = PerCell(network) if cells else network
        model: nn.Module = FromPixels(network, checkpoint.mean, checkpoint.std, half)
        model = model.to(memory_format=torch.channels_last).to(self.device).eval()
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

    def rest(self) -> None:
        """Nothing to do: what torch itself holds is more, and stays."""

    def forward(self, tiles: np.ndarray | Tensor, px: int) -> np.ndarray:
        """As `Engine.forward`; a tensor is on the device already. When the GPU's memory does not hold the tiles,
        fewer are taken, from then on; ModelError when it does not hold one."""
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
        """The tiles, with black ones behind them up to the size compiled for."""
        if self._full is None:
            return tiles
        self._full = max(self._full, len(tiles))
        return torch.cat([tiles, tiles.new_zeros((self._full - len(tiles), *tiles.shape[1:]))])

    def _stream(self) -> AbstractContextManager[object]:
        stream = getattr(self._lane, "stream", None)
        return nullcontext() if stream is None else torch.cuda.stream(stream)

    def _take_less(self, tried: int, px: int) -> None:
        torch.cuda.empty_cache()
        if tried == 1:
            raise ModelError(f"{self.device} has no memory for one tile of {px} px; use smaller tiles or --device cpu")
        self.most = max(1, min(self.most, tried // 2))
        log.warning("%s is out of memory with %d tiles; going on with %d", self.device, tried, self.most)


def reduced(planes: Tensor, px: int) -> Tensor:
    """Planes (n, 3, H, W) float to px x px: as they are, exact means of blocks, or antialiased."""
    height, width = planes.shape[-2:]
    if height == width == px:
        return planes
    if height % px == 0 and width % px == 0:
        return avg_pool2d(planes, (height // px, width // px))
    return interpolate(planes, size=(px, px), mode="bilinear", antialias=True)
