"""LabelledImages: images with their labels and the groups that must not be split; what every dataset comes to."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
import pandas as pd

from wsi_pipeline.errors import ConfigError
from wsi_pipeline.learn.model.card import Kind


@dataclass(frozen=True, eq=False)
class LabelledImages:
    """N images of one kind with labels of C classes; checked when made, ConfigError names what is wrong.

    Attributes:
        name: of the dataset, for messages.
        class_names: C names, the columns of `labels`.
        labels: (N, C) float32: 1 present, 0 absent, NaN unknown.
        ids: (N,) str, one an image, unique: what messages and tables call it.
        patients: (N,) str, what must stay together in a split (patient, lesion, slide, group of duplicates).
        read: image k -> (H, W, 3) uint8 RGB of any size; picklable; raises SlideError naming the file.
        kind: which fitting and augmentation keep its labels.
        exclusive: exactly one class an image (softmax); else each class on its own (sigmoid).
        ordinal: the C classes are the cumulative tasks grade >= 1 ... grade >= C.
        positive: the classes that count as cancer on slides; may be empty.
        mpp: um/px of the images as read, where they have a scale.
        official: (N,) str "train", "val", "test" or "" where the dataset says which part an image is of; a word
            that is none of these is kept, for `divide` to refuse.
        columns: N rows of what else is known (view, sex, age, site), for subgroups.
    """

    name: str
    class_names: tuple[str, ...]
    labels: np.ndarray
    ids: np.ndarray
    patients: np.ndarray
    read: Callable[[int], np.ndarray] = field(repr=False)
    kind: Kind = "plain"
    exclusive: bool = False
    ordinal: bool = False
    positive: tuple[str, ...] = ()
    mpp: float | None = None
    official: np.ndarray | None = None
    columns: pd.DataFrame = field(default_factory=pd.DataFrame, repr=False)

    def __post_init__(self) -> None:
        labels = np.asarray(self.labels, np.float32)
        object.__setattr__(self, "labels", labels)
        for name in ("ids", "patients"):
            values = np.asarray(getattr(self, name), dtype=object)
            self._refuse_missing(name, values)
            object.__setattr__(self, name, values.astype(str))
        self._check_shapes()
        self._check_labels()

    def __len__(self) -> int:
        return len(self.labels)

    def image(self, index: int) -> np.ndarray:
        """Image `index`: (H, W, 3) uint8 RGB."""
        return self.read(index)

    def subset(self, rows: np.ndarray) -> "LabelledImages":
        """These rows (indices or bools), in this order."""
        rows = np.flatnonzero(rows) if np.asarray(rows).dtype == bool else np.asarray(rows, dtype=np.intp)
        return replace(
            self,
            labels=self.labels[rows],
            ids=self.ids[rows],
            patients=self.patients[rows],
            read=_Rows(self.read, rows),
            official=None if self.official is None else self.official[rows],
            columns=self.columns.iloc[rows].reset_index(drop=True) if len(self.columns) else self.columns,
        )

    def _refuse_missing(self, name: str, values: np.ndarray) -> None:
        """A missing name would become the text "nan", and all such rows one patient."""
        missing = pd.isna(values) | (values == "")
        if missing.any():
            raise ConfigError(
                f"{self.name}: {missing.sum()} of {len(values)} rows have no {name[:-1]}, the first is row "
                f"{missing.argmax()}; fill it in, or leave those rows out"
            )

    def _check_shapes(self) -> None:
        rows, classes = len(self.ids), len(self.class_names)
        if self.labels.shape != (rows, classes):
            raise ConfigError(f"{self.name}: labels {self.labels.shape} for {rows} images of {classes} classes")
        if len(self.patients) != rows or (len(self.columns) not in (0, rows)):
            raise ConfigError(f"{self.name}: {len(self.patients)} patients, {len(self.columns)} rows of columns "
                              f"for {rows} images")  # fmt: skip
        if len(set(self.class_names)) < classes or not classes:
            raise ConfigError(f"{self.name}: class names {list(self.class_names)}; give each once, at least one")
        values, counts = np.unique(self.ids, return_counts=True)
        if rows and counts.max() > 1:
            twice = str(values[counts.argmax()])
            raise ConfigError(f"{self.name}: image {twice!r} stands in {counts.max()} rows; keep one")

    def _check_labels(self) -> None:
        wrong = ~(np.isnan(self.labels) | (self.labels == 0) | (self.labels == 1))
        if wrong.any():
            row, column = np.argwhere(wrong)[0]
            raise ConfigError(
                f"{self.name}: image {self.ids[row]} has label {self.labels[row, column]:g} for "
                f"{self.class_names[column]}; give 1 (present), 0 (absent) or leave it empty (unknown)"
            )
        if self.exclusive and len(self) and not (np.nansum(self.labels, axis=1) == 1).all():
            row = int((np.nansum(self.labels, axis=1) != 1).argmax())
            raise ConfigError(f"{self.name}: image {self.ids[row]} has not exactly one class; they exclude each other")


@dataclass(frozen=True, eq=False)
class _Rows:
    """A reader of some of the images; a class, so that it can be pickled."""

    read: Callable[[int], np.ndarray]
    rows: np.ndarray

    def __call__(self, index: int) -> np.ndarray:
        return self.read(int(self.rows[index]))
