"""Small images for tests of training: bright ones are positive, dark ones negative, with noise."""

from dataclasses import dataclass, replace

import numpy as np

from wsi_pipeline.learn.data.labels import LabelledImages
from wsi_pipeline.learn.training.settings import TrainSettings, load_settings

PX = 32


@dataclass(frozen=True)
class Bright:
    """Reads image k: grey 70 or 170 by its label, and noise of its own; picklable."""

    bright: tuple[bool, ...]

    def __call__(self, row: int) -> np.ndarray:
        noise = np.random.default_rng(row).normal(0, 25, (PX, PX, 3))
        return np.clip((170 if self.bright[row] else 70) + noise, 0, 255).astype(np.uint8)


def bright_images(n: int = 40, *, classes: int = 1, exclusive: bool = False) -> LabelledImages:
    """n images, two a patient; class 0 is bright, each further class every third, shifted."""
    rows = np.arange(n)
    labels = np.column_stack([(rows // 2) % 2, *[(rows // 2 + c) % 3 == 0 for c in range(1, classes)]])
    if exclusive:
        labels = np.column_stack([labels[:, 0], 1 - labels[:, 0]])
    return LabelledImages(
        name="bright",
        class_names=tuple(f"class{c}" for c in range(labels.shape[1])),
        labels=labels.astype(np.float32),
        ids=np.array([f"image{row:03d}" for row in rows]),
        patients=np.array([f"patient{row // 2:03d}" for row in rows]),
        read=Bright(tuple(labels[:, 0] > 0)),
        exclusive=exclusive,
    )


def parts_of(images: LabelledImages) -> np.ndarray:
    """Three quarters of the patients train, the others validate."""
    number = np.array([int(patient[-3:]) for patient in images.patients])
    return np.where(number < 0.75 * (number.max() + 1), "train", "val")


def quick(*overrides: str) -> TrainSettings:
    """Settings of a training that takes a second."""
    base = ["data.dataset=folder", f"data.px={PX}", "model.arch=densenet_demo", "run.batch=8", "stop.epochs=2"]
    return load_settings(None, [*base, *overrides])


def with_labels(images: LabelledImages, labels: np.ndarray) -> LabelledImages:
    """The same images, labelled otherwise."""
    return replace(images, labels=labels)
