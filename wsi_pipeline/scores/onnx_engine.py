"""A checkpoint by ONNX Runtime on a CPU -> logits of tiles; torch is not loaded."""

import threading

import numpy as np
import onnxruntime

from wsi_pipeline.learn.model.checkpoint import Checkpoint
from wsi_pipeline.memory import give_back_freed
from wsi_pipeline.scores.cores import cores
from wsi_pipeline.scores.graph import densenet_graph

_PIXELS = 256 * 256  # in one pass: one tile of 256 px was as fast as 4 or 8, or faster


class OnnxEngine:
    """One session that every lane runs by itself, so its weights are held once; tiles of another size get another."""

    name = "onnx"

    def __init__(self, checkpoint: Checkpoint, *, cells: bool = False) -> None:
        """The graph is built when the first tiles come."""
        self.precision = "float32" if checkpoint.ranges is None else "int8"
        self.lanes = cores()
        self._checkpoint, self._cells = checkpoint, cells
        self._sessions: dict[tuple[bool, int], onnxruntime.InferenceSession] = {}
        self._building = threading.Lock()

    def piece(self, px: int, of: int) -> int:
        return max(1, min(_PIXELS // px**2, -(-of // self.lanes)))

    def enter_lane(self) -> None:
        """Nothing to do: a session computes in the thread that calls it."""

    def forward(self, tiles: np.ndarray, px: int) -> np.ndarray:
        """As `Engine.forward`; the same bits however the tiles are divided into calls."""
        whole = tiles.shape[1:3] == (px, px)
        pixels = np.ascontiguousarray(tiles) if whole else reduced(tiles, px)
        (logits,) = self._session(tiles=whole, px=px).run(None, {"pixels": pixels})
        return np.asarray(logits)

    def rest(self) -> None:
        """The sessions: their weights and working memory, 100 MiB of a DenseNet-121; made anew in 0.2 s."""
        with self._building:
            self._sessions.clear()
            give_back_freed()

    def _session(self, *, tiles: bool, px: int) -> onnxruntime.InferenceSession:
        with self._building:
            if (tiles, px) not in self._sessions:
                self._sessions.clear()  # reduced tiles are of another size slide by slide
                graph = densenet_graph(self._checkpoint, tiles=tiles, cells=self._cells, px=px)
                self._sessions[tiles, px] = onnx_session(graph)
                del graph
                give_back_freed()  # its own copies of the weights
            return self._sessions[tiles, px]


def onnx_session(graph: bytes, threads: int = 1) -> onnxruntime.InferenceSession:
    """A session on the CPU; with one thread it computes in the thread that calls it, and none spins."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])


def reduced(tiles: np.ndarray, px: int) -> np.ndarray:
    """Tiles (n, H, W, 3) uint8 to planes (n, 3, px, px) float32 of 0-255: exact means of blocks, or antialiased.

    Each tile by itself, so that its pixels are the same bits in any batch.
    """
    down, across = _triangles(tiles.shape[1], px), _triangles(tiles.shape[2], px)
    planes = np.empty((len(tiles), 3, px, px), np.float32)
    for tile, out in zip(tiles, planes, strict=True):
        for channel in range(3):
            out[channel] = down @ tile[..., channel].astype(np.float32) @ across.T
    return planes


def _triangles(length: int, px: int) -> np.ndarray:
    """Weights (px, length) float32, rows summing to 1, by which `length` pixels become px.

    Where px divides the length, means of blocks; else a triangle as wide as two output pixels, as Pillow and
    torch's antialiased bilinear have it.
    """
    zoom = length / px
    centres, pixels = (np.arange(px)[:, None] + 0.5) * zoom, np.arange(length) + 0.5
    away = np.abs(pixels - centres) / zoom
    weights = (away < 0.5).astype(np.float64) if length % px == 0 else np.clip(1 - away, 0, None)
    return (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)
