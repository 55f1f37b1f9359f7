"""A checkpoint and images -> logits and calibrated probabilities, row k for image k."""

import os
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor, nn

from wsi_pipeline.errors import ConfigError, ModelError, SlideError
from wsi_pipeline.learn.data.images import fit_square
from wsi_pipeline.learn.data.labels import LabelledImages
from wsi_pipeline.learn.model.checkpoint import Checkpoint
from wsi_pipeline.learn.model.densenet import build_model
from wsi_pipeline.learn.model.probabilities import probabilities

BATCH = {"cpu": 16, "cuda": 64}  # on a CPU larger ones only fault in fresh memory
_AHEAD = 3  # batches being read while the network computes
Progress = Callable[[int], None]


def predict(
    checkpoint: Checkpoint,
    images: LabelledImages,
    *,
    device: torch.device | str = "cpu",
    batch: int | None = None,
    leave_unreadable: bool = False,
    progress: Progress | None = None,
) -> np.ndarray:
    """Calibrated probabilities (N, C) float32 of the images, in their order; the rest as `predict_logits`."""
    logits = predict_logits(
        checkpoint, images, device=device, batch=batch, leave_unreadable=leave_unreadable, progress=progress
    )
    return calibrated(checkpoint, logits)


def predict_logits(
    checkpoint: Checkpoint,
    images: LabelledImages,
    *,
    device: torch.device | str = "cpu",
    batch: int | None = None,
    leave_unreadable: bool = False,
    progress: Progress | None = None,
) -> np.ndarray:
    """Raw output (N, C) float32 of the checkpoint's network, in float32 on any device.

    Each image is brought to the checkpoint's square by its own `fit` and normalised as in training; `batch`
    at a time, which changes the speed and no result. `progress` is told the number of images just done.

    Raises SlideError naming the first image that cannot be read (with `leave_unreadable` its row is NaN),
    ModelError when an output is not finite, ConfigError for a batch below 1.
    """
    device = torch.device(device)
    size = BATCH.get(device.type, 64) if batch is None else batch
    if size < 1:
        raise ConfigError(f"batch: got {size}; give at least 1 image")
    model = build_model(checkpoint).to(memory_format=torch.channels_last).to(device)
    logits = np.full((len(images), len(checkpoint.class_names)), np.nan, np.float32)
    for start, squares in _read_ahead(images, checkpoint, size, leave_unreadable):
        readable = [k for k, square in enumerate(squares) if square is not None]
        if readable:
            pixels = np.stack([square for square in squares if square is not None])
            logits[[start + k for k in readable]] = forward(model, to_input(pixels, checkpoint, device))
        if progress is not None:
            progress(len(squares))
        _refuse_broken(logits, start, readable, images)
    return logits


def calibrated(checkpoint: Checkpoint, logits: np.ndarray) -> np.ndarray:
    """Probabilities (N, C) float32 of raw output (N, C), by the checkpoint's prior and temperature."""
    return probabilities(
        logits, exclusive=checkpoint.exclusive, prior=checkpoint.prior, temperature=checkpoint.temperature
    )


def to_input(pixels: np.ndarray, checkpoint: Checkpoint, device: torch.device) -> Tensor:
    """Squares (B, px, px, 3) uint8 RGB -> the network's input (B, channels, px, px) float32; grey is the mean."""
    writable = np.require(pixels, requirements=["C", "W"])  # torch warns of others; Pillow's are read-only
    planes = torch.from_numpy(writable).to(device).permute(0, 3, 1, 2).float() / 255
    if checkpoint.in_channels == 1:
        planes = planes.mean(dim=1, keepdim=True)
    mean, std = (torch.tensor(values, device=device)[:, None, None] for values in (checkpoint.mean, checkpoint.std))
    return ((planes - mean) / std).contiguous(memory_format=torch.channels_last)


def forward(model: nn.Module, inputs: Tensor) -> np.ndarray:
    """Output (B, C) float32 of a model in eval mode."""
    with torch.inference_mode():
        return model(inputs).float().cpu().numpy()


def _read_ahead(
    images: LabelledImages, checkpoint: Checkpoint, size: int, leave_unreadable: bool
) -> Iterator[tuple[int, list[np.ndarray | None]]]:
    """(first image, squares) of each batch in order; None for an image that cannot be read and is left."""

    def read(row: int) -> np.ndarray | None:
        try:
            return fit_square(images.image(row), checkpoint.input_px, checkpoint.fit)
        except SlideError as error:
            if leave_unreadable:
                return None
            raise SlideError(
                f"{images.ids[row]}: {error}; mend or remove the image, or go on without such with --skip-unreadable"
            ) from error

    queue: deque[list[Future[np.ndarray | None]]] = deque()
    starts = iter(range(0, len(images), size))
    done = 0
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1), thread_name_prefix="read-images") as pool:
        try:
            while True:
                while len(queue) < _AHEAD and (start := next(starts, None)) is not None:
                    queue.append([pool.submit(read, row) for row in range(start, min(start + size, len(images)))])
                if not queue:
                    return
                squares = [coming.result() for coming in queue.popleft()]
                yield done, squares
                done += len(squares)
        finally:
            pool.shutdown(cancel_futures=True)


def _refuse_broken(logits: np.ndarray, start: int, readable: list[int], images: LabelledImages) -> None:
    broken = [start + k for k in readable if not np.isfinite(logits[start + k]).all()]
    if broken:
        raise ModelError(
            f"output for {len(broken)} images is not finite, the first is {images.ids[broken[0]]}; "
            f"the weights are damaged: take an earlier checkpoint"
        )
