"""Batches: chosen images, decoded once and augmented anew each epoch, as tensors in an order that a seed repeats.

Each batch has a seed of its own, from the run's seed, the epoch and its number. So neither the number of
workers nor where a run was cut and resumed changes what is drawn, and no two workers draw alike.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from wsi_pipeline.errors import ConfigError, SlideError
from wsi_pipeline.learn.data.images import Fit, fit_square
from wsi_pipeline.learn.data.labels import LabelledImages

Augment = Callable[[Tensor], Tensor]
_NAMED = 5  # unreadable images named in a message
_STRETCH = 512  # images read ahead of who looks at them


class Batch(NamedTuple):
    """Images (B, 3, px, px) uint8, labels (B, C) float32, and the rows (B,) they are of."""

    pixels: Tensor
    labels: Tensor
    rows: Tensor


class Squares:
    """Square images of a data set: all in memory when they fit into `cache_gib`, else read when asked for.

    `sides` (N,) px of the side that came to `px`, 0 for images not read yet.
    """

    def __init__(self, images: LabelledImages, px: int, fit: Fit, *, cache_gib: float) -> None:
        self.images, self.px, self.fit = images, px, fit
        self.sides = np.zeros(len(images), np.intp)
        self.cached = len(images) * px * px * 3 <= cache_gib * 2**30
        self._pixels = torch.empty((len(images), px, px, 3), dtype=torch.uint8) if self.cached else None

    def read_all(self, look: Callable[[int, np.ndarray], None], *, threads: int | None = None) -> None:
        """Read every image once in threads, show each to `look(row, pixels)` in order, and keep it if it fits.

        Raises SlideError naming the images that cannot be read, once all were tried.
        """
        failed: list[str] = []
        with ThreadPoolExecutor(threads or min(8, os.cpu_count() or 1)) as pool:
            for row, result in enumerate(self._read_ahead(pool)):
                if isinstance(result, SlideError):
                    failed.append(f"{self.images.ids[row]} (row {row}): {result}")
                    continue
                if self._pixels is not None:
                    self._pixels[row] = torch.from_numpy(result)
                look(row, result)
        if failed:
            more = f"; and {len(failed) - _NAMED} more" if len(failed) > _NAMED else ""
            raise SlideError(f"{len(failed)} of {len(self.images)} images: {'; '.join(failed[:_NAMED])}{more}")

    def take(self, rows: Sequence[int]) -> Tensor:
        """Images of these rows, (B, px, px, 3) uint8."""
        if self._pixels is not None:
            return self._pixels[torch.as_tensor(rows)]
        return torch.stack([torch.from_numpy(self._read(int(row))) for row in rows])

    def share(self) -> None:
        """Move the kept pixels to memory that worker processes see too; ConfigError where there is too little of it."""
        if self._pixels is None:
            return
        try:
            self._pixels.share_memory_()
        except RuntimeError as error:
            raise ConfigError(
                f"{self.images.name}: {self._pixels.nbytes / 2**30:.2g} GiB of images do not fit into the shared "
                f"memory that worker processes need ({str(error).splitlines()[0]}); give more of it (docker run "
                f"--shm-size), or use run.workers=0"
            ) from None

    def _read_ahead(self, pool: ThreadPoolExecutor) -> Iterator[np.ndarray | SlideError]:
        """All images in order, a stretch at a time, so that what is read and not yet looked at stays small."""
        for start in range(0, len(self.images), _STRETCH):
            yield from pool.map(self._try, range(start, min(start + _STRETCH, len(self.images))))

    def _read(self, row: int) -> np.ndarray:
        image = self.images.image(row)
        self.sides[row] = min(image.shape[:2]) if self.fit == "crop" else max(image.shape[:2])
        return np.array(fit_square(image, self.px, self.fit))  # a copy: Pillow's is read-only

    def _try(self, row: int) -> np.ndarray | SlideError:
        try:
            return self._read(row)
        except SlideError as error:
            return error


@dataclass(frozen=True, eq=False)
class _Prepared(Dataset):
    """A batch for a seed and its rows; picklable, for workers."""

    squares: Squares
    augment: Augment | None

    def __getitem__(self, plan: tuple[int, np.ndarray]) -> Batch:
        seed, rows = plan
        pixels = self.squares.take(rows.tolist()).permute(0, 3, 1, 2)
        if self.augment is not None:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)
                pixels = torch.stack([self.augment(image) for image in pixels])
        return Batch(pixels, torch.from_numpy(self.squares.images.labels[rows]), torch.from_numpy(rows))


class _Plans:
    """The batches of the current epoch as (seed, rows)."""

    def __init__(self) -> None:
        self.plans: list[tuple[int, np.ndarray]] = []

    def __iter__(self) -> Iterator[tuple[int, np.ndarray]]:
        return iter(self.plans)

    def __len__(self) -> int:
        return len(self.plans)


class Batches:
    """Batches of some rows of `squares`, an epoch at a time; `workers` processes prepare them ahead."""

    def __init__(self, squares: Squares, *, augment: Augment | None = None, workers: int = 0) -> None:
        if workers:
            squares.share()
        self._plans = _Plans()
        self._loader = DataLoader(
            _Prepared(squares, augment),
            batch_size=None,
            sampler=self._plans,
            num_workers=workers,
            persistent_workers=workers > 0,
            multiprocessing_context="spawn" if workers else None,
            prefetch_factor=4 if workers else None,
            pin_memory=workers > 0 and torch.cuda.is_available(),
            generator=torch.Generator(),  # its own: the global one is not to depend on the number of workers
        )

    def epoch(self, plans: list[tuple[int, np.ndarray]]) -> Iterator[Batch]:
        """The batches of these (seed, rows); SlideError names an image that cannot be read any more."""
        self._plans.plans = plans
        try:
            yield from self._loader
        except SlideError as error:  # of a worker process: its traceback, then what it says
            raise SlideError(str(error).rstrip().rpartition(f"{SlideError.__name__}: ")[2]) from None


def order_of(
    rows: np.ndarray, *, batch: int, seed: int, epoch: int, chances: np.ndarray | None = None,
    share: tuple[int, int] = (0, 1),
) -> list[tuple[int, np.ndarray]]:  # fmt: skip
    """(seed, rows) of each training batch of an epoch: shuffled, or drawn with `chances` (one a row) and put back.

    What is left over after whole batches is dropped: a batch of one would break a BatchNorm. Process k of n,
    `share` (k, n), gets every n-th image of a batch; all processes get as many batches.
    """
    rng = np.random.default_rng([seed, epoch])
    order = rng.permutation(rows) if chances is None else rng.choice(rows, len(rows), p=chances)
    size = min(batch, len(order))
    part, parts = share
    starts = range(0, len(order) - size + 1, size)
    return [
        (_batch_seed(seed, epoch, number * parts + part), order[start : start + size][part::parts])
        for number, start in enumerate(starts)
    ]


def in_order(rows: np.ndarray, *, batch: int, share: tuple[int, int] = (0, 1)) -> list[tuple[int, np.ndarray]]:
    """(0, rows) of batches in the order given, none dropped; process k of n gets rows k, k + n, ..."""
    mine = rows[share[0] :: share[1]]
    return [(0, mine[start : start + batch]) for start in range(0, len(mine), batch)]


def _batch_seed(seed: int, epoch: int, number: int) -> int:
    return int(np.random.SeedSequence([seed, epoch, number]).generate_state(1, np.uint64)[0] >> 1)
