"""Parts: which images train, validate and test, from the data set, by patient or from a file; leaks stop the run."""

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from wsi_pipeline.errors import ConfigError
from wsi_pipeline.learn.data.batches import Squares
from wsi_pipeline.learn.data.images import Fit
from wsi_pipeline.learn.data.labels import LabelledImages
from wsi_pipeline.learn.data.patients import normalised_all
from wsi_pipeline.learn.data.splits import folds_by_patient, split_by_patient
from wsi_pipeline.learn.training.folder import replace_file
from wsi_pipeline.learn.training.settings import SplitKnobs

PARTS = ("train", "val", "test")
_NAMED = 5  # unknown parts named in a message


def divide(images: LabelledImages, knobs: SplitKnobs, *, px: int, fit: Fit) -> np.ndarray:
    """The part of each image, (N,) str of "train", "val", "test" or "" (unused).

    Official parts without a "val" give some of their training patients to it. With `join_identical`, patients
    that share an image, as a square of `px` by `fit`, stay together where it is ours to choose. Raises ConfigError
    when the data set has no parts, or some of another name beside them, the file does not fit, or no image would
    train or validate.
    """
    if knobs.how in ("auto", "official") and knobs.folds is None:
        _refuse_other_words(images)
    if knobs.join_identical:
        images = joined_by_pixels(images, px, fit)
    if knobs.how == "file":
        parts = _from_file(images, Path(str(knobs.file)))
    elif knobs.folds is not None:
        parts = _from_folds(images, knobs)
    elif knobs.how == "patient" or (knobs.how == "auto" and not _has(images, "train", "test")):
        parts = split_by_patient(images.labels, images.patients, shares=knobs.shares, seed=knobs.seed)
    else:
        parts = _official(images, knobs)
    parts = np.asarray(parts, dtype=object).astype(str)
    for part in PARTS[:2]:
        if not (parts == part).any():
            raise ConfigError(f"{images.name}: of {len(images)} images none is in part {part!r}; see split.shares")
    return parts


def thin(images: LabelledImages, limit: int | None) -> LabelledImages:
    """At most `limit` of the images, spread evenly over all of them."""
    if limit is None or limit >= len(images):
        return images
    return images.subset(np.linspace(0, len(images) - 1, limit).round().astype(np.intp))


def joined_by_pixels(images: LabelledImages, px: int, fit: Fit) -> LabelledImages:
    """The images, with patients who share an image of the same square as one; named after the first of them.

    Raises SlideError naming the images that cannot be read.
    """
    hashes = np.empty(len(images), dtype="<U16")

    def look(row: int, pixels: np.ndarray) -> None:
        hashes[row] = pixel_hash(pixels)

    Squares(images, px, fit, cache_gib=0).read_all(look)
    patients, of_row = np.unique(normalised_all(images.patients), return_inverse=True)
    kinds, pixels = np.unique(hashes, return_inverse=True)
    size = len(patients) + len(kinds)
    graph = coo_array((np.ones(len(images)), (of_row, len(patients) + pixels)), shape=(size, size))
    group = connected_components(graph, directed=False)[1][: len(patients)]
    first = np.unique(group, return_index=True)[1]
    return replace(images, patients=patients[first[group]][of_row])


def pixel_hash(pixels: np.ndarray) -> str:
    """16 hex digits of a (px, px, 3) uint8 image: equal for equal pixels, whatever the file."""
    return hashlib.sha256(np.ascontiguousarray(pixels).data).hexdigest()[:16]


def write_split(images: LabelledImages, parts: np.ndarray, path: Path) -> None:
    """split.csv: id, patient, part of each image."""
    table = pd.DataFrame({"id": images.ids, "patient": images.patients, "part": parts})
    replace_file(path, table.to_csv(index=False))


def _has(images: LabelledImages, *parts: str) -> bool:
    return images.official is not None and all((images.official == part).any() for part in parts)


def _refuse_other_words(images: LabelledImages) -> None:
    """ConfigError where the data set names parts, and others beside them: these would be trained on, or lost."""
    words = pd.Series([] if images.official is None else images.official, dtype=object)
    known = words.isin(PARTS)
    others = words[~known & (words != "")].value_counts()
    if known.any() and len(others):
        named = ", ".join(f"{word!r} ({count:,})" for word, count in others.head(_NAMED).items())
        more = f" and {len(others) - _NAMED} more words" if len(others) > _NAMED else ""
        beside = ", ".join(part for part in PARTS if (words == part).any())
        raise ConfigError(
            f"{images.name}: its column of parts says {named}{more} beside {beside}; "
            f"write train, val or test there or leave it empty, or use split.how=patient"
        )


def _official(images: LabelledImages, knobs: SplitKnobs) -> np.ndarray:
    if images.official is None or not _has(images, "train"):
        raise ConfigError(f"{images.name}: does not say which images train; use split.how=patient")
    parts = np.array(images.official, dtype=object).astype(str)
    if not (parts == "val").any():
        parts[parts == "train"] = _train_and_val(images.subset(parts == "train"), knobs)
    return parts


def _from_folds(images: LabelledImages, knobs: SplitKnobs) -> np.ndarray:
    folds = folds_by_patient(images.labels, images.patients, folds=int(knobs.folds or 2), seed=knobs.seed)
    parts = np.full(len(images), "test", dtype=object)
    parts[folds != knobs.fold] = _train_and_val(images.subset(folds != knobs.fold), knobs)
    return parts


def _train_and_val(images: LabelledImages, knobs: SplitKnobs) -> np.ndarray:
    train, val, _ = knobs.shares
    shares = (train / (train + val), val / (train + val))
    return split_by_patient(images.labels, images.patients, shares=shares, seed=knobs.seed, names=PARTS[:2])


def _from_file(images: LabelledImages, path: Path) -> np.ndarray:
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False)
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: cannot be read as a split ({error}); give a CSV with columns id, part") from None
    if not {"id", "part"} <= set(table.columns):
        raise ConfigError(f"{path}: has columns {list(table.columns)}; a split needs id and part")
    if wrong := sorted(set(table["part"]) - {*PARTS, ""}):
        raise ConfigError(f"{path}: unknown part {wrong[0]!r}; use train, val, test, or leave it empty")
    if table["id"].duplicated().any():
        raise ConfigError(f"{path}: image {table['id'][table['id'].duplicated()].iloc[0]!r} stands twice; keep one")
    found = pd.Series(images.ids).map(table.set_index("id")["part"])
    if found.isna().all():
        raise ConfigError(f"{path}: names none of the {len(images)} images, such as {images.ids[0]!r}")
    return found.fillna("").to_numpy()
