"""Training material: every image decoded and looked at once, leaks refused, the pixels' mean and spread taken."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from wsi_pipeline.errors import ConfigError
from wsi_pipeline.learn.data.batches import Squares
from wsi_pipeline.learn.data.labels import LabelledImages
from wsi_pipeline.learn.data.splits import refuse_leakage
from wsi_pipeline.learn.model.checkpoint import card_of
from wsi_pipeline.learn.training.parts import PARTS, pixel_hash
from wsi_pipeline.learn.training.settings import TrainSettings
from wsi_pipeline.slide.describe import SAME_SCALE

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
Values = tuple[float, ...]


@dataclass(frozen=True, eq=False)
class Material:
    """Squares of all images that have a part, the rows of each part, mean and std of each channel in 0-1.

    `mpp` is um/px of the squares, None where the images have no scale.
    """

    images: LabelledImages
    squares: Squares
    parts: np.ndarray
    rows: dict[str, np.ndarray]
    mean: Values
    std: Values
    mpp: float | None

    def part(self, name: str) -> LabelledImages:
        """The images of one part."""
        return self.images.subset(self.rows[name])

    def to_input(self, pixels: Tensor, device: torch.device) -> Tensor:
        """(B, 3, px, px) uint8 -> the network's input (B, channels, px, px) float32, channels last, on the device."""
        moved = pixels.to(device, non_blocking=True).contiguous(memory_format=torch.channels_last).float()
        if len(self.mean) == 1:
            moved = moved.mean(dim=1, keepdim=True)
        mean, std = (torch.tensor(values, device=device)[:, None, None] * 255 for values in (self.mean, self.std))
        return moved.sub_(mean).div_(std)


def gather_material(
    images: LabelledImages, parts: np.ndarray, settings: TrainSettings, look: Callable[[int, int], None]
) -> Material:
    """Decode all images of a part in threads; `look(done, of)` is told how far it is.

    Raises ConfigError with the list when two parts share a patient or the same pixels, and where images of one scale
    come to squares of several, SlideError naming the images that cannot be read, ModelError for weights to start from
    that cannot be.
    """
    if not len(images):
        raise ConfigError(f"{images.name}: no images; check --data and data.options")
    refuse_leakage(parts, images.patients, ids=images.ids)
    known = _known_statistics(settings)
    taught = ~np.isnan(images.labels).all(axis=1)  # of the others nothing is learned: tiles across a border
    used = np.flatnonzero((parts == "test") | (np.isin(parts, PARTS) & taught))
    images, parts = images.subset(used), parts[used]
    squares = Squares(images, settings.data.px, settings.data.fit, cache_gib=settings.data.cache_gib)
    hashes, moments = np.empty(len(images), dtype="<U16"), _Moments(settings.model.channels)

    def look_at(row: int, pixels: np.ndarray) -> None:
        hashes[row] = pixel_hash(pixels)
        if parts[row] == "train":
            moments.add(pixels if settings.model.channels == 3 else pixels.mean(axis=2))
        look(row + 1, len(images))

    squares.read_all(look_at)
    try:
        refuse_leakage(parts, images.patients, hashes, images.ids)
    except ConfigError as error:
        hint = "where the split is ours, split.join_identical=true keeps such images together"
        raise ConfigError(f"{error}\n{hint}") from None
    mean, std = known or moments.result()
    rows = {part: np.flatnonzero(parts == part) for part in PARTS}
    return Material(images, squares, parts, rows, mean, std, _scale(squares))


def _scale(squares: Squares) -> float | None:
    """um/px of the squares: a tile of 256 px brought to 128 has twice that of its slide."""
    images, least, most = squares.images, int(squares.sides.min()), int(squares.sides.max())
    if images.mpp is None:
        return None
    if most > least * (1 + SAME_SCALE):
        raise ConfigError(
            f"{images.name}: images of {least} to {most} px at {images.mpp:g} um/px come to data.px={squares.px} at as "
            f"many scales; give images of one size, or say nothing of mpp: the model then scores no slides"
        )
    return images.mpp * (most / squares.px)


class _Moments:
    """Mean and spread of each channel over images shown one by one."""

    def __init__(self, channels: int) -> None:
        self.count, self.sums, self.squares = 0, np.zeros(channels), np.zeros(channels)

    def add(self, pixels: np.ndarray) -> None:
        values = pixels.reshape(-1, len(self.sums))
        self.count += len(values)
        self.sums += values.sum(axis=0, dtype=np.float64)
        self.squares += np.square(values, dtype=np.float64).sum(axis=0)

    def result(self) -> tuple[Values, Values]:
        mean = self.sums / self.count
        std = np.sqrt(np.maximum(self.squares / self.count - mean**2, 1.0))  # an even grey: not divided by 0
        return tuple(np.round(mean / 255, 4).tolist()), tuple(np.round(std / 255, 4).tolist())


def _known_statistics(settings: TrainSettings) -> tuple[Values, Values] | None:
    """Mean and std that the input is normalised with, as the weights were trained; None: those of this training.

    Weights whose card says nothing, since there is none, are taken for some that began with ImageNet.
    """
    how, weights = settings.data.normalise, settings.model.weights
    if how == "training" or (how == "auto" and weights == "none"):
        return None
    card = card_of(weights) if how == "auto" and weights != "imagenet" else None
    mean, std = (IMAGENET_MEAN, IMAGENET_STD) if card is None else (card.mean, card.std)
    return _as_channels(mean, settings), _as_channels(std, settings)


def _as_channels(values: Values, settings: TrainSettings) -> Values:
    channels = settings.model.channels
    return values if len(values) == channels else (round(sum(values) / len(values), 4),) * channels
