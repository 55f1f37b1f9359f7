"""HAM10000 or ISIC 2018/2019, a table of diagnoses and a folder of photographs -> LabelledImages."""

from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd

from wsi_pipeline.errors import ConfigError
from wsi_pipeline.learn.data.labels import LabelledImages
from wsi_pipeline.learn.datasets.lookup import Missing, find_images, image_ids
from wsi_pipeline.learn.datasets.table import Places, Table, official_parts, open_labels

SEVEN = ("akiec", "bcc", "bkl", "df", "mel", "nv", "vasc")
EIGHT = (*SEVEN, "scc")  # ISIC 2019
MALIGNANT = ("akiec", "bcc", "mel", "scc")

_IMAGE = ("file", "image_id", "image")
_LESION = ("lesion_id", "lesion")
_AS_AKIEC = ("AKIEC", "AK")  # its names in 2018 and 2019
_UNKNOWN = "UNK"  # a column of 2019 that no training image has
_ONE_HOT = ("MEL", "NV", "BCC", _AS_AKIEC, "BKL", "DF", "VASC")
_NO_LESIONS = "none"


def open_skin(
    folder: Path,
    *,
    labels: Places = None,
    images: Places = None,
    missing: Missing = "error",
    task: Literal["seven", "malignant"] = "seven",
    lesions: str | None = None,
) -> LabelledImages:
    """The photographs of `folder`; lesions are the patients.

    task "seven": the table's diagnoses, which exclude each other; eight in ISIC 2019, which has scc. "malignant": one
    task, 1 for mel, bcc, scc and akiec (akiec is actinic keratosis and Bowen's disease, in part a precursor).
    `lesions` is the CSV (image, lesion_id) that goes with a one-hot table of ISIC; it is looked for beside it, and
    "none" takes each image as a lesion of its own: photographs of one lesion may then part. How a diagnosis
    was made (dx_type) is not offered: follow-up means nevus. Raises ConfigError naming file and row.
    """
    if task not in ("seven", "malignant"):
        raise ConfigError(f"task {task!r}: give seven or malignant")
    table = open_labels(folder, labels, needs=[(_IMAGE, "dx"), (_IMAGE, *_ONE_HOT)])
    names = table.required(_IMAGE)
    ids = image_ids(table, names, images)
    table.refuse_repeats(ids)
    diagnoses, classes = _diagnoses(table)
    meta = table if table.has(_LESION) else _with_lesions(table, names, folder, lesions)
    patients = [lesion or name for lesion, name in zip(meta.text(_LESION), ids, strict=True)]
    columns = meta.optional(age=("age", "age_approx"), sex="sex", site=("localization", "anatom_site_general"))
    columns["dx"] = np.array(EIGHT)[diagnoses]
    found, read = find_images(table, names, folder, images=images, missing=missing)
    official = official_parts(table, "split")
    malignant = task == "malignant"
    one_hot = diagnoses[:, None] == np.arange(len(classes))
    values = np.isin(diagnoses, [EIGHT.index(name) for name in MALIGNANT])[:, None] if malignant else one_hot
    return LabelledImages(
        name="skin",
        class_names=("malignant",) if malignant else classes,
        labels=values.astype(np.float32)[found],
        ids=np.array(ids)[found],
        patients=np.array(patients)[found],
        read=read,
        kind="skin",
        exclusive=not malignant,
        official=None if official is None else official[found],
        columns=columns[found].reset_index(drop=True),
    )


def _diagnoses(table: Table) -> tuple[np.ndarray, tuple[str, ...]]:
    """(N,) int into EIGHT, and the classes of the table."""
    if table.has("dx"):
        return table.choices("dx", {name: number for number, name in enumerate(EIGHT[:7])}), SEVEN
    classes = EIGHT if table.has("SCC") else SEVEN
    names = [_AS_AKIEC if name == "akiec" else (name.upper(),) for name in classes]
    cells = np.stack([table.numbers(name) for name in names], axis=1)
    wrong = ~(np.isin(cells, (0, 1)).all(axis=1) & (cells.sum(axis=1) == 1))
    if wrong.any():
        row = int(wrong.argmax())
        raise ConfigError(
            f"{table.places[row]}: diagnoses {cells[row].tolist()}; give 1 for one of them, 0 for the others"
        )
    return cells.argmax(axis=1), classes


def _with_lesions(table: Table, names: list[str], folder: Path, lesions: str | None) -> Table:
    """The rows of the lesion table in the order of `table`. Raises ConfigError where it has no row for an image."""
    if lesions == _NO_LESIONS:
        rows = pd.DataFrame({"lesion_id": ""}, index=table.rows.index)
        return Table(table.name, rows, table.parts)
    try:
        other = open_labels(folder, lesions, needs=[(_IMAGE, _LESION)])
    except ConfigError as error:
        raise ConfigError(f"{error} by lesions=FILE, or lesions=none if each image is another lesion") from error
    keys = [Path(name).stem for name in other.required(_IMAGE)]
    other.refuse_repeats(keys)
    wanted, known = [Path(name).stem for name in names], set(keys)
    lost = [row for row, name in enumerate(wanted) if name not in known]
    if lost:
        raise ConfigError(
            f"{other.name}: {len(lost)} of {len(names)} images have no row, the first {names[lost[0]]!r} "
            f"({table.places[lost[0]]}); name the table of their lesions by lesions=FILE, or lesions=none if each "
            f"image is another lesion"
        )
    rows = other.rows.set_axis(keys).loc[wanted]
    return Table(other.name, rows.set_axis(table.rows.index), table.parts)
