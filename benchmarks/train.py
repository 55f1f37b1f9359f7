"""Training on a CPU or GPU: our loop against a plain PyTorch loop over the same JPEGs, network, augmentation and loss.

`python -m benchmarks.train [--quick] [--json FOLDER] [--device cuda:0] [--arch densenet121] [--px 96] [--images N]`

Both are run in turn, two epochs each; the second counts, when workers have started and our images are decoded.
One thread is told by the seconds of processor that it took, more (or a GPU) by the clock on the wall. The plain
loop is what a tutorial has: a DataLoader that reads, resizes, augments and normalises, in the default memory
layout, float32 on a CPU and autocast on a GPU; without and with worker processes.
"""

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from benchmarks.timing import Benchmark, Result, arguments, finish, rounds
from wsi_pipeline.learn.data.augment import augmentation
from wsi_pipeline.learn.data.images import fit_square, read_image
from wsi_pipeline.learn.data.labels import LabelledImages
from wsi_pipeline.learn.model.densenet import build_densenet
from wsi_pipeline.learn.training.losses import class_weights, weighted_bce
from wsi_pipeline.learn.training.settings import TrainSettings, load_settings
from wsi_pipeline.learn.training.start import precision
from wsi_pipeline.learn.training.train import train
from wsi_pipeline.slide.synthetic import draw_tiles

LEAST_ROUNDS = 5
Clock = Callable[[], float]
JPEG_PX = 320


@dataclass(frozen=True)
class Files:
    """Reads image k of a folder of JPEGs."""

    paths: tuple[str, ...]

    def __call__(self, row: int) -> np.ndarray:
        return read_image(self.paths[row])


@dataclass(frozen=True)
class Plain(Dataset):
    """What a plain loop reads: (normalised image, label)."""

    images: LabelledImages
    px: int

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, row: int) -> tuple[Tensor, Tensor]:
        square = torch.from_numpy(fit_square(self.images.image(row), self.px, "pad").copy()).permute(2, 0, 1)
        changed = augmentation("histology")(square).float() / 255
        return (changed - 0.5) / 0.25, torch.from_numpy(self.images.labels[row])


def draw(folder: Path, n: int) -> LabelledImages:
    """n drawn tiles of tissue as JPEGs; every fourth validates."""
    rgb, _, centre = draw_tiles(n, tile_px=JPEG_PX, mpp=0.5, seed=3)
    paths = tuple(str(folder / f"{row:05d}.jpg") for row in range(n))
    for path, tile in zip(paths, rgb, strict=True):
        Image.fromarray(tile).save(path, quality=90)
    ids = np.array([f"{row:05d}" for row in range(n)])
    labels = centre.astype(np.float32)[:, None]
    return LabelledImages("drawn", ("tumour",), labels, ids, ids, Files(paths), kind="histology", positive=("tumour",))


def ours(images: LabelledImages, settings: TrainSettings, device: str, clock: Clock) -> float:
    """Images/s of the steps of the second epoch of `train`."""
    parts = np.where(np.arange(len(images)) % 4 == 0, "val", "train")
    began, ended, seen = 0.0, 0.0, 0

    def listen(name: str, facts: dict) -> None:
        nonlocal began, ended, seen
        if name == "epoch":
            began = clock()
        elif name == "images":
            ended, seen = clock(), facts["done"]

    with TemporaryDirectory() as out:
        train(images, parts, settings, Path(out) / "run", device=device, listen=listen)
    return seen / (ended - began)


def plain(images: LabelledImages, settings: TrainSettings, device: str, clock: Clock, *, workers: int) -> float:
    """Images/s of the second epoch of a plain loop over the same training part."""
    part = images.subset(np.arange(len(images)) % 4 != 0)
    model = build_densenet(settings.model.arch, 1).to(device)
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=1e-4)
    amp, scaler = precision("auto", torch.device(device))
    w_p, w_n = class_weights(part.labels)
    loader = DataLoader(
        Plain(part, settings.data.px), settings.run.batch, shuffle=True, drop_last=True, num_workers=workers,
        persistent_workers=workers > 0, pin_memory=device != "cpu",
    )  # fmt: skip
    for _ in range(2):
        began, seen = clock(), 0
        for pixels, labels in loader:
            with amp():
                logits = model(pixels.to(device, non_blocking=True))
            loss = weighted_bce(logits.float(), labels.to(device), w_p, w_n)
            optimiser.zero_grad(set_to_none=True)
            scaler.scale(loss).backward()
            scaler.unscale_(optimiser)
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            scaler.step(optimiser)
            scaler.update()
            seen += len(pixels)
            loss.item()
    return seen / (clock() - began)


def main(args: Sequence[str] | None = None) -> Benchmark:
    """One thread without workers, then all cores with them."""
    asked = arguments(__doc__ or "", args, device={"default": "cpu"}, arch={"default": None}, px={"type": int},
                      images={"type": int}, batch={"type": int, "default": 16})  # fmt: skip
    arch = asked.arch or ("densenet_demo" if asked.quick else "densenet121")
    px, n = asked.px or (64 if asked.quick else 96), asked.images or 44
    settings = load_settings(None, [f"data.px={px}", f"model.arch={arch}", f"run.batch={asked.batch}",
                                    "stop.epochs=2", "data.dataset=folder"])  # fmt: skip
    cores, device, turns = os.cpu_count() or 1, asked.device, max(LEAST_ROUNDS, rounds(asked.quick))
    facts = {"arch": arch, "px": px, "images": 3 * n // 4, "batch": asked.batch, "device": device, "cores": cores}
    benchmark = Benchmark("train", asked.quick, facts)
    with TemporaryDirectory() as folder:
        images = draw(Path(folder), n)
        for threads, workers, clock in ((1, 0, time.process_time), (cores, min(8, cores), time.perf_counter)):
            torch.set_num_threads(threads)
            timed = clock if device == "cpu" else time.perf_counter
            against = f"plain loop, {workers or 'no'} workers"
            ways: dict[str, Callable[[], float]] = {
                "ours": partial(ours, images, settings, device, timed),
                against: partial(plain, images, settings, device, timed, workers=workers),
            }
            name = f"training {arch}, {threads} thread{'s' * (threads > 1)}, {workers or 'no'} workers"
            benchmark.results.append(Result(name, "image", "ours", against, in_turns(ways, turns), target=1.0))
    finish(benchmark, asked.json)
    return benchmark


def in_turns(ways: dict[str, Callable[[], float]], turns: int) -> dict[str, list[float]]:
    """The rate that each way tells, a number a round, the order turned round from one round to the next."""
    rates: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(turns):
        for name in list(ways) if turn % 2 else reversed(list(ways)):
            rates[name].append(ways[name]())
    return rates


if __name__ == "__main__":
    main()
