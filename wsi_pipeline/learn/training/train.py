"""The training loop: labelled images and settings -> a calibrated checkpoint, in a folder that can be resumed."""

import math
import os
import platform
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch
from torch import nn

from wsi_pipeline import __version__
from wsi_pipeline.errors import ConfigError
from wsi_pipeline.knobs import as_yaml
from wsi_pipeline.learn.data.augment import augmentation, contact_sheet
from wsi_pipeline.learn.data.batches import Batch, Batches, in_order, order_of
from wsi_pipeline.learn.data.labels import LabelledImages
from wsi_pipeline.learn.model.card import RESEARCH_USE, Kind
from wsi_pipeline.learn.model.checkpoint import Checkpoint, save_checkpoint
from wsi_pipeline.learn.model.torch_files import as_arrays
from wsi_pipeline.learn.training import folder, ranks
from wsi_pipeline.learn.training.fitting import calibrated, judge
from wsi_pipeline.learn.training.history import History
from wsi_pipeline.learn.training.network import follow, set_rate
from wsi_pipeline.learn.training.objective import draw_weights
from wsi_pipeline.learn.training.parts import write_split
from wsi_pipeline.learn.training.resume import Saved, read_state
from wsi_pipeline.learn.training.settings import TrainSettings, as_json
from wsi_pipeline.learn.training.start import Listen, Training, copied, keep, not_finite, start, thaw, validation_logits

_LIBRARIES = ("numpy", "torch", "torchvision", "safetensors", "pillow")


def train(
    images: LabelledImages,
    parts: np.ndarray,
    settings: TrainSettings,
    out: str | Path,
    *,
    resume: bool = False,
    device: torch.device | str = "cpu",
    listen: Listen = lambda name, facts: None,
) -> Checkpoint:
    """Train, validate each epoch, keep the best, calibrate it on the validation part; returns it.

    parts: (N,) str "train", "val", "test" or "". `out` becomes a folder as in `learn/training/folder.py`; with
    `resume`, a training there goes on after its last whole epoch, on one CPU thread bit for bit as if it
    had never stopped. `listen(name, facts)` hears note, read, epoch, images. Inside `ranks.joined`, several
    processes train as one, each on its share of every batch.

    Raises ConfigError for leaks, labels or changed settings, SlideError for unreadable images, ModelError
    when the loss is not finite, StoreError or ModelError when the disk is full: the best so far is kept.
    """
    out, saved = _enter(Path(out), resume)
    training = start(images, parts, settings, saved=saved, device=torch.device(device), listen=listen)
    material, knobs, progress = training.material, settings, training.progress
    account = _begin(out, training)
    rows, share = material.rows["train"], (ranks.rank(), ranks.world())
    size = _batch_size(knobs, len(rows))
    epochs, per_epoch = knobs.stop.epochs, len(rows) // size
    chances = draw_weights(material.part("train")) if knobs.loss.sampler == "balanced" else None
    batches, plain = _batches(training, images.kind)
    val, val_plan = material.part("val"), in_order(material.rows["val"], batch=size, share=share)
    with History(out, training.rows, writes=ranks.rank() == 0) as history:
        while progress.epoch < epochs and progress.waited < knobs.stop.patience:
            epoch, began, loss_sum = progress.epoch + 1, perf_counter(), 0.0
            listen("epoch", {"epoch": epoch, "of": epochs, "images": per_epoch * size})
            thaw(training, epoch)
            training.model.train()
            plan = order_of(rows, batch=size, seed=knobs.run.seed, epoch=epoch, chances=chances, share=share)
            for done, batch in enumerate(batches.epoch(plan), start=1):
                rate = set_rate(training.optimiser, knobs.schedule, progress.step, epochs, per_epoch, progress.lowered)
                with training.amp():
                    logits = training.spread(material.to_input(batch.pixels, training.device))
                loss = training.objective.loss(logits.float(), batch.labels.to(training.device))
                loss_sum += _finite(loss.item(), training, batch.rows.numpy())
                training.optimiser.zero_grad(set_to_none=True)
                training.scaler.scale(loss).backward()
                training.scaler.unscale_(training.optimiser)
                if knobs.optimiser.clip_norm is not None:
                    nn.utils.clip_grad_norm_(training.model.parameters(), knobs.optimiser.clip_norm)
                training.scaler.step(training.optimiser)
                training.scaler.update()
                progress.step += 1
                if training.average is not None and knobs.model.ema is not None:
                    follow(training.average, training.model, decay=knobs.model.ema, step=progress.step)
                listen("images", {"done": done * size})
            trained = perf_counter() - began
            train_loss = ranks.mean(loss_sum / done, training.device)
            numbers, by_class = judge(validation_logits(training, plain.epoch(val_plan)), val, training.objective)
            progress.epoch, progress.seconds = epoch, progress.seconds + perf_counter() - began
            if _gained(training, numbers) and ranks.rank() == 0:
                save_checkpoint(_checkpoint(training, numbers), out)
            row = {"epoch": epoch, "rate": rate, "train_loss": train_loss, **numbers}
            row |= {"images_per_s": done * size / trained, "seconds": perf_counter() - began}
            history.add(row, best_epoch=progress.best_epoch, more=by_class)
            if ranks.rank() == 0:
                keep(training, out / folder.LAST)
            listen("validated", row | {"best_epoch": progress.best_epoch})
    return _finish(training, out, account, plain.epoch(val_plan))


def _enter(out: Path, resume: bool) -> tuple[Path, Saved | None]:
    """The folder, opened by the first process alone, and the state in it that is to be resumed."""
    if ranks.rank() == 0:
        folder.open_train_folder(out, resume=resume)
        read_state(out.absolute() / folder.LAST)  # puts right what a kill between two renamings left
    ranks.wait()
    return out.absolute(), read_state(out.absolute() / folder.LAST) if resume else None


def _begin(out: Path, training: Training) -> dict[str, Any]:
    """Write what stands before the first epoch: settings, split, samples, account; returns the account."""
    settings, images = training.settings, training.material.images
    account = {
        folder.MARK: __version__,
        "use": RESEARCH_USE,
        "started": folder.now(),
        "status": "training",
        "seed": settings.run.seed,
        "device": str(training.device),
        "processes": ranks.world(),
        "threads": torch.get_num_threads(),
        "versions": _versions(),
        "data": _data(training),
    }
    if ranks.rank() > 0:
        return account
    account["started"] = folder.read_account(out).get("started", account["started"])
    folder.replace_file(out / folder.SETTINGS, as_yaml(settings))
    write_split(images, training.material.parts, out / folder.SPLIT)
    if settings.data.augment and not (out / folder.SAMPLES).exists():
        contact_sheet(
            training.material.part("train"), images.kind, settings.data.px, out / folder.SAMPLES,
            seed=settings.run.seed, fit=settings.data.fit,
        )  # fmt: skip
    folder.write_account(out, account)
    return account


def _finish(training: Training, out: Path, account: dict[str, Any], batches: Iterable[Batch]) -> Checkpoint:
    """The best weights calibrated on the validation part, saved in place of the uncalibrated ones."""
    val = training.material.part("val")
    training.judged.load_state_dict(training.best)
    logits = validation_logits(training, batches, exact=True)
    numbers, _ = judge(logits, val, training.objective)
    checkpoint = calibrated(_checkpoint(training, numbers), logits, val, training.settings.calibration)
    if ranks.rank() == 0:
        save_checkpoint(checkpoint, out)
        _end(out, training, account, checkpoint)
    ranks.wait()
    return checkpoint


def _end(out: Path, training: Training, account: dict[str, Any], checkpoint: Checkpoint) -> None:
    progress = training.progress
    early = progress.epoch < training.settings.stop.epochs
    folder.write_account(
        out,
        account
        | {
            "status": "done",
            "stopped": f"no gain in {progress.waited} epochs" if early else "all epochs done",
            "finished": folder.now(),
            "seconds": round(progress.seconds, 1),
            "epochs": progress.epoch,
            "best_epoch": progress.best_epoch,
            "checkpoint": checkpoint.id,
            "validation": checkpoint.about["validation"],
            "calibration": checkpoint.about["calibration"],
        },
    )


def _gained(training: Training, numbers: dict[str, float]) -> bool:
    """Whether this epoch is the best so far; then its weights are copied. Counts the epochs without gain."""
    progress, settings = training.progress, training.settings
    value = numbers[f"val_{settings.stop.metric}"] * (-1 if settings.stop.metric == "loss" else 1)
    value = -math.inf if math.isnan(value) else value
    if progress.best is None or value > progress.best:
        progress.best, progress.best_epoch, progress.waited = value, progress.epoch, 0
        training.best = copied(training.judged)
        return True
    progress.waited += 1
    progress.lowered += progress.waited % settings.schedule.patience == 0
    return False


def _checkpoint(training: Training, numbers: dict[str, float]) -> Checkpoint:
    """The best weights so far with all that gives them a meaning, not yet calibrated."""
    settings, images = training.settings, training.material.images
    about = {
        "data": _data(training),
        "loss": training.objective.weights | {"split": training.digest},
        "training": as_json(settings),
        "versions": _versions(),
        "validation": {name: round(value, 6) for name, value in numbers.items() if math.isfinite(value)}
        | {"epoch": training.progress.best_epoch},
    }
    return Checkpoint(
        arch=settings.model.arch,
        class_names=images.class_names,
        positive=images.positive,
        exclusive=images.exclusive,
        ordinal=images.ordinal,
        input_px=settings.data.px,
        in_channels=settings.model.channels,
        mpp=training.material.mpp,
        mean=training.material.mean,
        std=training.material.std,
        state=as_arrays(training.best),
        prior=training.objective.prior,
        kind=images.kind,
        fit=settings.data.fit,
        about=about,
    )


def _data(training: Training) -> dict[str, Any]:
    images = training.material.images
    counts = {part: len(rows) for part, rows in training.material.rows.items()}
    return {"name": images.name, "images": counts, "patients": len(set(images.patients)), "split": training.digest}


def _versions() -> dict[str, str]:
    libraries = {name: version(name).split("+")[0] for name in _LIBRARIES}
    return {"wsi_pipeline": __version__, "python": platform.python_version()} | libraries


def _batch_size(knobs: TrainSettings, rows: int) -> int:
    size = min(knobs.run.batch, rows)
    if size < 2 * ranks.world():
        raise ConfigError(f"batches of {size} images for {ranks.world()} processes; BatchNorm needs 2 in each")
    return size


def _batches(training: Training, kind: Kind) -> tuple[Batches, Batches]:
    """(training, validation) batches. Beside a network on the CPU no process prepares them: it needs the cores."""
    data, workers = training.settings.data, training.settings.run.workers
    if workers is None:
        workers = min(8, (os.cpu_count() or 1) // ranks.world()) if training.device.type == "cuda" else 0
    squares = training.material.squares
    augmented = Batches(squares, augment=augmentation(kind) if data.augment else None, workers=workers)
    return augmented, Batches(squares, workers=0 if squares.cached else workers)


def _finite(loss: float, training: Training, rows: np.ndarray) -> float:
    if not math.isfinite(loss):
        raise not_finite(f"loss {loss}", training, rows)
    return loss
