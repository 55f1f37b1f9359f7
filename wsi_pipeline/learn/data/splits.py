"""Parts of a data set, from labels and patients: whole patients, each part like the whole; and the leakage gate."""

import hashlib
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import ArrayLike

from wsi_pipeline.errors import ConfigError
from wsi_pipeline.learn.data.patients import normalised, normalised_all, shared_patients
from wsi_pipeline.learn.data.stratify import deal

__all__ = [
    "folds_by_patient",
    "labels_digest",
    "missing_classes",
    "normalised",
    "refuse_leakage",
    "shared_patients",
    "split_by_patient",
    "split_digest",
]

_LISTED = 20  # of what leaks, this many are named


def split_by_patient(
    labels: ArrayLike,
    patients: Iterable[object],
    *,
    shares: Sequence[float] = (0.7, 0.15, 0.15),
    seed: int = 0,
    names: Sequence[str] = ("train", "val", "test"),
) -> np.ndarray:
    """The part of each row, (N,) str: by patient, stratified by label, the same whatever the order of rows.

    labels: (N, C) of 0, 1, NaN; patients: (N,) ids, normalised first. `shares` of the images, adding up to 1,
    one a name. Each part gets a patient with and one without each label as far as there are any (see
    `missing_classes`); the rest goes where it is most lacking. Raises ConfigError on shares that do not add up,
    fewer patients than parts, or a missing patient.
    """
    wanted = np.asarray(shares, dtype=np.float64)
    if len(wanted) != len(names) or (wanted < 0).any() or abs(wanted.sum() - 1) > 1e-6:
        raise ConfigError(f"shares: got {list(shares)} for {list(names)}; give one a part, adding up to 1")
    of_row, counts = _by_patient(labels, patients, seed)
    if len(counts) < (wanted > 0).sum():
        raise ConfigError(f"{len(counts)} patients cannot fill {(wanted > 0).sum()} parts; give fewer parts")
    return np.asarray(names, dtype=str)[deal(counts, wanted)[of_row]]


def folds_by_patient(labels: ArrayLike, patients: Iterable[object], *, folds: int = 5, seed: int = 0) -> np.ndarray:
    """The fold 0 ... folds - 1 in which each row is tested, (N,) int64; as `split_by_patient`, of equal shares."""
    if folds < 2:
        raise ConfigError(f"folds: got {folds}; give 2 or more")
    names = [str(fold) for fold in range(folds)]
    return split_by_patient(labels, patients, shares=[1 / folds] * folds, seed=seed, names=names).astype(np.int64)


def refuse_leakage(
    parts: ArrayLike, patients: Iterable[object], hashes: ArrayLike | None = None, ids: ArrayLike | None = None
) -> None:
    """Raises ConfigError, with the list, when two parts share a patient (lesion, slide) or identical pixels.

    parts: (N,) str, "" for images in none. hashes: (N,) of the images' pixels, "" where unknown. ids: (N,) what
    the message calls the images.
    """
    of_row = np.asarray(parts, dtype=str)
    lines = _spread(of_row, normalised_all(patients), "patient", None)
    if hashes is not None:
        called = np.arange(len(of_row)) if ids is None else np.asarray(ids)
        lines += _spread(of_row, np.asarray(hashes, dtype=str), "identical pixels", called.astype(str))
    if lines:
        more = [f"and {len(lines) - _LISTED} more"] if len(lines) > _LISTED else []
        text = "\n  ".join(lines[:_LISTED] + more)
        raise ConfigError(f"leakage: {len(lines)} shared between parts; keep each in one part:\n  {text}")


def split_digest(ids: ArrayLike, parts: ArrayLike) -> str:
    """16 hex digits of which image is in which part, whatever the order of rows."""
    pairs = sorted(zip(np.asarray(ids).astype(str), np.asarray(parts).astype(str), strict=True))
    return hashlib.sha256("\n".join(f"{one}\t{part}" for one, part in pairs).encode()).hexdigest()[:16]


def labels_digest(ids: ArrayLike, labels: ArrayLike) -> str:
    """16 hex digits of which image has which labels (N, C) of 0, 1, NaN, whatever the order of rows."""
    order = np.argsort(np.asarray(ids).astype(str))
    signs = np.nan_to_num(np.asarray(labels, dtype=np.float64)[order], nan=-1).astype(np.int8)
    names = "\n".join(np.asarray(ids).astype(str)[order])
    return hashlib.sha256(names.encode() + signs.tobytes()).hexdigest()[:16]


def missing_classes(labels: ArrayLike, parts: ArrayLike, class_names: Sequence[str]) -> list[str]:
    """A line for each part and class of which the part has no positive, or no negative."""
    y, of_row = np.asarray(labels, dtype=np.float64), np.asarray(parts, dtype=str)
    lines = []
    for part in dict.fromkeys(of_row[of_row != ""].tolist()):
        rows = y[of_row == part]
        for name, positives, negatives in zip(class_names, (rows == 1).sum(0), (rows == 0).sum(0), strict=True):
            if not positives or not negatives:
                lacking = " and none ".join(["with"] * (not positives) + ["without"] * (not negatives))
                lines.append(f"{part}: none {lacking} {name} among {len(rows)} images")
    return lines


def _by_patient(labels: ArrayLike, patients: Iterable[object], seed: int) -> tuple[np.ndarray, np.ndarray]:
    """(patient of each row (N,), what each patient adds (P, 1 + 2C): images, positives, negatives).

    The patients stand in an order that their ids and the seed alone decide.
    """
    y, ids = np.asarray(labels, dtype=np.float64), normalised_all(patients)
    if y.ndim != 2 or len(y) != len(ids):
        raise ConfigError(f"labels {y.shape} for {len(ids)} patients; give (N, C) and (N,)")
    names, of_row = np.unique(ids, return_inverse=True)
    shuffled = np.argsort([hashlib.sha256(f"{seed}\t{name}".encode()).hexdigest() for name in names])
    of_row = np.argsort(shuffled)[of_row]
    by_row = np.column_stack([np.ones(len(y)), y == 1, y == 0]).T
    return of_row, np.stack([np.bincount(of_row, column, minlength=len(names)) for column in by_row], axis=1)


def _spread(parts: np.ndarray, keys: np.ndarray, what: str, ids: np.ndarray | None) -> list[str]:
    """A line for each key ("" is none) that stands in two parts or more ("" is none)."""
    used = (parts != "") & (keys != "")
    pairs = np.unique(np.stack([keys[used], parts[used]], axis=1), axis=0) if used.any() else np.empty((0, 2), str)
    values, counts = np.unique(pairs[:, 0], return_counts=True)
    lines = []
    for key in values[counts > 1]:
        where = ", ".join(pairs[pairs[:, 0] == key, 1])
        called = key if ids is None else ", ".join(ids[used & (keys == key)][:4])
        lines.append(f"{what} {called} in {where}")
    return lines
