"""What `evaluate` judges: a checkpoint's answers to one part of the images it was trained with, or to others."""

import os
import sys
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

import click
import numpy as np
import pandas as pd

from wsi_pipeline.cli.judged import Judged
from wsi_pipeline.errors import ConfigError, ModelError
from wsi_pipeline.learn.data.labels import LabelledImages
from wsi_pipeline.learn.data.patients import normalised, one_spelling
from wsi_pipeline.learn.datasets import open_dataset
from wsi_pipeline.learn.evaluation.predict import calibrated, predict_logits
from wsi_pipeline.learn.evaluation.tables import Answers
from wsi_pipeline.learn.model.checkpoint import Checkpoint, load_checkpoint
from wsi_pipeline.learn.model.probabilities import probabilities
from wsi_pipeline.learn.training.folder import SETTINGS, SPLIT
from wsi_pipeline.learn.training.parts import PARTS
from wsi_pipeline.learn.training.settings import load_settings
from wsi_pipeline.scores.engines import pick_device


def from_checkpoint(given: dict[str, Any]) -> Judged:
    """The answers of --checkpoint to one part of --data."""
    checkpoint, folder = load_checkpoint(given["checkpoint"]), Path(given["checkpoint"])
    called = Path(os.path.abspath(folder)).name  # also of "."
    trained = (folder / SETTINGS).is_file() and not given["dataset"]
    if not trained and not given["dataset"]:
        raise ConfigError(f"{folder}: no {SETTINGS} of a training; name the data set with --dataset")
    named = [f"data.dataset={given['dataset']}"] if given["dataset"] else []
    settings = load_settings(folder / SETTINGS if trained else None, [*named, *given["overrides"]])
    images = open_dataset(settings.data.dataset, Path(given["data"]), **settings.data.options)
    parts = read_parts(folder / SPLIT, images) if trained else _official(images)
    images, warnings = _chosen(images, parts, given["split"], split_of=given["checkpoint"])
    warnings += _of_its_patients(given["checkpoint"], images, "the model")
    images = aligned(images, checkpoint)
    _refuse_several(images, checkpoint)
    logits = logits_of(checkpoint, images, given)
    return Judged(
        Answers(
            ids=images.ids,
            class_names=checkpoint.class_names,
            labels=images.labels,
            probs=calibrated(checkpoint, logits),
            patients=_named_patients(images),
            raw=probabilities(logits, exclusive=checkpoint.exclusive),
            columns=images.columns,
            warnings=tuple(warnings),
        ),
        name=f"{called} on {images.name}, {given['split']}",
        exclusive=checkpoint.exclusive,
        ordinal=checkpoint.ordinal,
        thresholds=checkpoint.class_thresholds,
        images=images,
        facts={"Model": f"{called} ({checkpoint.id})", "Data": images.name, "Part": given["split"]},
    )


def probs_of_checkpoint(where: str, judged: Judged, given: dict[str, Any]) -> tuple[np.ndarray, list[str]]:
    """Another checkpoint's probabilities (N, C) for the same images, and what must be said of it.

    Raises ConfigError where it was trained on some of them, ModelError where its classes are others.
    """
    if judged.images is None:
        raise ConfigError(f"--compare {where}: a checkpoint needs images; give its predictions as a CSV")
    checkpoint, split = load_checkpoint(where), _split_of(where)
    if split.is_file():
        parts = read_parts(split, judged.images, whole=False)
        seen = judged.images.ids[np.isin(parts, PARTS[:2])]
        if len(seen):
            raise ConfigError(f"--compare {where}: {len(seen)} of these images were in its training, the first is "
                              f"{str(seen[0])!r}; train both with the same split.seed")  # fmt: skip
    order = [checkpoint.class_names.index(name) for name in _same_classes(judged.answers.class_names, checkpoint)]
    probs = calibrated(checkpoint, logits_of(checkpoint, judged.images, given))[:, order]
    return probs, _of_its_patients(where, judged.images, f"--compare {where}")


def logits_of(checkpoint: Checkpoint, images: LabelledImages, given: dict[str, Any]) -> np.ndarray:
    """Raw output (N, C), with a bar on a terminal."""
    device = pick_device(given["device"])
    click.echo(f"{len(images):,} images by model {checkpoint.id} on {device}", err=True)
    shown = sys.stderr if sys.stderr.isatty() else StringIO()  # elsewhere the label would stand alone
    with click.progressbar(length=len(images), file=shown, label="images") as bar:
        return predict_logits(
            checkpoint,
            images,
            device=device,
            batch=given["batch"],
            leave_unreadable=given["skip_unreadable"],
            progress=lambda done: bar.update(done),
        )


def aligned(images: LabelledImages, checkpoint: Checkpoint) -> LabelledImages:
    """The images with their labels in the order of the checkpoint's classes; ModelError where these are others."""
    _same_classes(images.class_names, checkpoint)
    if images.class_names == checkpoint.class_names:
        return images
    order = [images.class_names.index(name) for name in checkpoint.class_names]
    return replace(images, class_names=checkpoint.class_names, labels=images.labels[:, order])


def _named_patients(images: LabelledImages) -> np.ndarray | None:
    """The patient (N,) str of each image; None where each is called as its image, as in data sets that name none."""
    return None if np.array_equal(images.patients, images.ids) else one_spelling(images.patients)


def _refuse_several(images: LabelledImages, checkpoint: Checkpoint) -> None:
    """ConfigError where the model's classes exclude each other, and an image has none or several of them."""
    wrong = np.flatnonzero(checkpoint.exclusive & (np.nansum(images.labels, axis=1) != 1))
    if len(wrong):
        raise ConfigError(
            f"{images.name}: {len(wrong):,} of {len(images):,} images have none or several of the classes, which in "
            f"model {checkpoint.id} exclude each other; the first is {str(images.ids[wrong[0]])!r}. Use the data set's "
            f"options that give each image one class, or leave such images out"
        )


def read_parts(path: Path, images: LabelledImages, *, whole: bool = True) -> np.ndarray:
    """The part of each image, (N,) str, "" where the split.csv of a training does not know it.

    Raises ConfigError where it cannot be read, or, with `whole`, where it names images that are not here.
    """
    known = _read_split(path)["part"]
    lacking = known.index[~known.index.isin(images.ids)]
    if whole and len(lacking):
        raise ConfigError(
            f"{path}: {len(lacking)} of {len(known)} images are not in the data, the first is {lacking[0]!r}; "
            f"give --data the folder that was trained on, or name another --dataset"
        )
    return known.reindex(images.ids).fillna("").to_numpy(str)


def _read_split(path: Path) -> pd.DataFrame:
    """A training's split.csv by id, with column part and mostly patient; ConfigError where it is none."""
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False).set_index("id")
    except (OSError, ValueError, KeyError) as error:
        raise ConfigError(f"{path}: cannot be read as a split ({error}); take it from the training's folder") from None
    if "part" not in table:
        raise ConfigError(f"{path}: cannot be read as a split (no column part); take it from the training's folder")
    return table


def _official(images: LabelledImages) -> np.ndarray:
    return np.full(len(images), "") if images.official is None else np.asarray(images.official).astype(str)


def _split_of(where: str) -> Path:
    """Where the split of a checkpoint's training lies, if it has one: in its folder, or beside its weights."""
    place = Path(where)
    return (place.parent if place.is_file() else place) / SPLIT


def _of_its_patients(where: str, images: LabelledImages, model: str) -> list[str]:
    """A line where a checkpoint was trained on other images of the same patients, going by their ids."""
    path = _split_of(where)
    split = _read_split(path) if path.is_file() else pd.DataFrame(columns=["patient", "part"])
    if "patient" not in split:
        return []
    learned = split[split["part"].isin(PARTS[:2])]
    known = {normalised(patient) for patient in learned["patient"]} - {""}
    mine = np.array([normalised(patient) in known for patient in images.patients], dtype=bool)
    count = int((mine & ~pd.Index(images.ids).isin(learned.index)).sum())
    if not count:
        return []
    return [
        f"{count:,} images are of patients, by their ids, whose other images trained {model} or chose its epoch, "
        f"temperature and thresholds: its figures are better than on new patients."
    ]


def _chosen(
    images: LabelledImages, parts: np.ndarray, split: str, *, split_of: str
) -> tuple[LabelledImages, list[str]]:
    """The images of one part, or all, and what must be said of it by the split of the checkpoint `split_of`.

    Without that file nobody knows what trained it: then the data set's own parts may have.
    """
    rows = np.arange(len(images)) if split == "all" else np.flatnonzero(parts == split)
    if not len(rows):
        there = ", ".join(f"{part} ({(parts == part).sum()})" for part in PARTS if (parts == part).any()) or "none"
        raise ConfigError(f"{images.name}: no image is in part {split!r}; there are: {there}; or give --split all")
    path = _split_of(split_of)
    seen = read_parts(path, images, whole=False) if path.is_file() else parts
    trained, chose = (int((seen[rows] == part).sum()) for part in PARTS[:2])
    if not trained + chose:
        return images.subset(rows), []
    if not path.is_file():
        return images.subset(rows), [
            f"{trained + chose:,} of these images are of the data set's own training or validation part: "
            f"where the model learnt from them, the figures are better than on new images."
        ]
    return images.subset(rows), [
        f"{trained:,} of these images trained the model and {chose:,} chose its epoch, temperature and thresholds: "
        f"the figures are better than on new images."
    ]


def _same_classes(names: tuple[str, ...], checkpoint: Checkpoint) -> tuple[str, ...]:
    if set(names) != set(checkpoint.class_names):
        raise ModelError(
            f"model {checkpoint.id} has classes {', '.join(checkpoint.class_names)}, the data {', '.join(names)}; "
            f"use a model of these classes, or the data set's option that makes them"
        )
    return names
