"""ChestX-ray14 or CheXpert, a table of findings and a folder of radiographs -> LabelledImages of 14 labels."""

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np

from wsi_pipeline.errors import ConfigError
from wsi_pipeline.learn.data.labels import LabelledImages
from wsi_pipeline.learn.datasets.lookup import Missing, find_images, image_ids
from wsi_pipeline.learn.datasets.table import Places, Table, official_parts, open_labels

FINDINGS = (
    "Atelectasis", "Cardiomegaly", "Effusion", "Infiltration", "Mass", "Nodule", "Pneumonia", "Pneumothorax",
    "Consolidation", "Edema", "Emphysema", "Fibrosis", "Pleural_Thickening", "Hernia",
)  # fmt: skip
CHEXPERT = (
    "No Finding", "Enlarged Cardiomediastinum", "Cardiomegaly", "Lung Opacity", "Lung Lesion", "Edema",
    "Consolidation", "Pneumonia", "Atelectasis", "Pneumothorax", "Pleural Effusion", "Pleural Other", "Fracture",
    "Support Devices",
)  # fmt: skip

_IMAGE = ("Image Index", "file", "image")
_LABELS = ("Finding Labels", "findings")
_PATIENT = ("Patient ID", "patient")
_VIEW = ("View Position", "view")
_PART = ("split", "chexnet_split", "fold")
_LISTS = {"train_val_list.txt": "train", "test_list.txt": "test"}  # of ChestX-ray14
_UNCERTAIN = {"ignore": np.nan, "zeros": 0.0, "ones": 1.0}
_BLANK = {"absent": 0.0, "unknown": np.nan}


def open_chest_xray(
    folder: Path,
    *,
    labels: Places = None,
    images: Places = None,
    missing: Missing = "error",
    uncertain: Literal["ignore", "zeros", "ones"] = "ignore",
    blank: Literal["absent", "unknown"] = "absent",
    classes: Sequence[str] | None = None,
) -> LabelledImages:
    """The radiographs of `folder`; which data set it is shows in the columns of its table.

    ChestX-ray14: "A|B" in Finding Labels, "No Finding" is all 0. CheXpert: a column a finding; `uncertain` says
    what -1 becomes, `blank` what an empty cell does. `classes` are those to learn, all 14 by default.
    The official parts come from a column, from train_val_list.txt and test_list.txt, or from train.csv and valid.csv.
    Raises ConfigError naming file and row.
    """
    table = open_labels(folder, labels, needs=[(_IMAGE, _LABELS), ("Path", "Atelectasis")])
    chexpert = table.has("Path") and not table.has(_LABELS)
    names = table.required("Path" if chexpert else _IMAGE)
    ids = image_ids(table, names, images)
    table.refuse_repeats(ids)
    values = _read_cells(table, uncertain, blank) if chexpert else _read_findings(table)
    patients = _patients_of(table, names) if chexpert else table.required(_PATIENT)
    official = official_parts(table, _PART)
    official = _parts_of_lists(folder, names) if official is None else official
    columns = table.optional(view=_VIEW, sex=("Patient Gender", "sex"), age=("Patient Age", "age"))
    if chexpert:
        columns["view"] = _views(table)
    found, read = find_images(table, names, folder, images=images, missing=missing)
    opened = LabelledImages(
        name="chest_xray",
        class_names=CHEXPERT if chexpert else FINDINGS,
        labels=values[found],
        ids=np.array(ids)[found],
        patients=np.array(patients)[found],
        read=read,
        kind="chest_xray",
        official=None if official is None else official[found],
        columns=columns[found].reset_index(drop=True),
    )
    return opened if classes is None else choose_classes(opened, classes)


def choose_classes(images: LabelledImages, classes: Sequence[str]) -> LabelledImages:
    """The same images with these of their classes alone, in this order."""
    known = {name.lower(): column for column, name in enumerate(images.class_names)}
    wrong = [name for name in classes if name.lower() not in known]
    if wrong or not classes:
        raise ConfigError(f"{images.name}: class {wrong[0] if wrong else ''!r} is not known; give some of "
                          f"{', '.join(images.class_names)}")  # fmt: skip
    columns = [known[name.lower()] for name in classes]
    names = tuple(images.class_names[column] for column in columns)
    return replace(images, class_names=names, labels=images.labels[:, columns])


def _read_findings(table: Table) -> np.ndarray:
    """(N, 14) from "A|B" a row; "No Finding" stands alone and is all 0."""
    known = {name.lower(): column for column, name in enumerate(FINDINGS)} | {"no finding": len(FINDINGS)}
    values = np.zeros((len(table), len(FINDINGS) + 1), np.float32)
    rows, findings = [], []
    for row, text in enumerate(table.required(_LABELS)):
        found = [name.strip() for name in text.split("|")]
        rows += [row] * len(found)
        findings += found
    values[rows, table.chosen(findings, known, what="finding", rows=rows)] = 1
    both = (values[:, -1] == 1) & (values[:, :-1].sum(axis=1) > 0)
    if both.any():
        raise ConfigError(f"{table.places[int(both.argmax())]}: No Finding beside a finding; keep one of them")
    return values[:, :-1]


def _read_cells(table: Table, uncertain: str, blank: str) -> np.ndarray:
    """(N, 14) from a column a finding, of 1, 0, -1 (uncertain) and blank (not mentioned)."""
    for option, value, policies in (("uncertain", uncertain, _UNCERTAIN), ("blank", blank, _BLANK)):
        if value not in policies:
            raise ConfigError(f"{option} {value!r}: give {' or '.join(policies)}")
    values = np.stack([table.numbers(name) for name in CHEXPERT], axis=1)
    wrong = ~(np.isnan(values) | np.isin(values, (-1, 0, 1)))
    if wrong.any():
        row, column = np.argwhere(wrong)[0]
        raise ConfigError(
            f"{table.places[row]}: {CHEXPERT[column]} is {values[row, column]:g}; give 1, 0, -1 or nothing"
        )
    blanks, unsure = np.isnan(values), values == -1
    values[blanks], values[unsure] = _BLANK[blank], _UNCERTAIN[uncertain]
    return values.astype(np.float32)


def _patients_of(table: Table, paths: Sequence[str]) -> list[str]:
    """CheXpert's patient is a folder of the image's path."""
    found = [re.search(r"patient\d+", path) for path in paths]
    if None in found:
        row = found.index(None)
        raise ConfigError(f"{table.places[row]}: no patientNNNNN in Path {paths[row]!r}; correct it")
    return [match[0] for match in found if match]


def _views(table: Table) -> list[str]:
    """AP, PA or Lateral."""
    if not table.has("Frontal/Lateral"):
        return [""] * len(table)
    projections = table.text("AP/PA") if table.has("AP/PA") else [""] * len(table)
    return [projection or side for side, projection in zip(table.text("Frontal/Lateral"), projections, strict=True)]


def _parts_of_lists(folder: Path, names: Sequence[str]) -> np.ndarray | None:
    """Parts by the lists that come with ChestX-ray14; validation is taken from its train_val list by the split."""
    part_of: dict[str, str] = {}
    for file, part in _LISTS.items():
        if (folder / file).is_file():
            part_of |= dict.fromkeys((folder / file).read_text(encoding="utf-8").split(), part)
    return np.array([part_of.get(name, "") for name in names]) if part_of else None
