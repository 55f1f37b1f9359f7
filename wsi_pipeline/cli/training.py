"""What a training shows while it works: images of the epoch done, images/s, and a line an epoch."""

from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from wsi_pipeline.cli.bars import Bars
from wsi_pipeline.learn.data.labels import LabelledImages
from wsi_pipeline.learn.model.checkpoint import Checkpoint


class Watched(Bars):
    """Listens to a training."""

    def __init__(self, *, show: bool = True) -> None:
        super().__init__(show=show)
        self._began, self._epoch = perf_counter(), ""
        self._bar = self._bars.add_task("reading", total=None, rate="")

    def __call__(self, name: str, facts: dict[str, Any]) -> None:
        """Show one event."""
        if name == "note":
            self._say(facts["text"])
        elif name == "read":
            self._bars.update(self._bar, completed=facts["done"], total=facts["of"])
        elif name == "epoch":
            self._began, self._epoch = perf_counter(), f"{facts['epoch']}/{facts['of']}"
            self._bars.reset(self._bar, total=facts["images"], description=f"epoch {self._epoch}", rate="")
        elif name == "images":
            rate = facts["done"] / max(perf_counter() - self._began, 1e-3)
            self._bars.update(self._bar, completed=facts["done"], rate=f"{rate:.0f} images/s")
        elif name == "validated":
            self._validated(facts)

    def told(self, images: LabelledImages, parts: np.ndarray) -> None:
        """Say what the data set holds."""
        counts = ", ".join(f"{(parts == part).sum():,} {part}" for part in ("train", "val", "test"))
        groups = len(set(images.patients))
        self._say(f"{images.name}: {len(images):,} images of {groups:,} patients or groups: {counts}")

    def _validated(self, facts: dict[str, Any]) -> None:
        shown = {"train_loss": "loss", "val_loss": "val loss", "val_auroc": "AUROC", "val_kappa": "kappa",
                 "val_accuracy": "balanced accuracy"}  # fmt: skip
        numbers = "  ".join(f"{words} {facts[name]:.4f}" for name, words in shown.items() if name in facts)
        best = "  best" if facts["best_epoch"] == facts["epoch"] else ""
        self._say(
            f"epoch {self._epoch}  {numbers}  {facts['images_per_s']:.1f} images/s  {facts['seconds']:.0f} s{best}"
        )


def told(checkpoint: Checkpoint, folder: Path) -> str:
    """What is said at the end: the best epoch, calibration before and after, where it lies."""
    found, fitted = checkpoint.about["validation"], checkpoint.about["calibration"]
    numbers = ", ".join(f"{name.removeprefix('val_')} {value:.4f}" for name, value in found.items() if name != "epoch")
    return (
        f"best: epoch {found['epoch']}, validation {numbers}\n"
        f"temperature {fitted['temperature']:.3f}; expected calibration error {fitted['ece_before']:.4f} before, "
        f"{fitted['ece_after']:.4f} after\n"
        f"  {folder / 'model.safetensors'} ({checkpoint.id})"
    )
