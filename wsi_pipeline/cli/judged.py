"""What `evaluate` judges: any model's predictions in a table, against a table of labels; no torch."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np
import pandas as pd

from wsi_pipeline.errors import ConfigError
from wsi_pipeline.learn.evaluation import tables
from wsi_pipeline.learn.evaluation.tables import Answers

if TYPE_CHECKING:
    from wsi_pipeline.learn.data.labels import LabelledImages

TABLES = (".csv", ".gz", ".tsv", ".txt")


@dataclass(frozen=True, eq=False)
class Judged:
    """Answers, how their classes hang together, the model's own thresholds (C,), and the images, where at hand."""

    answers: Answers
    name: str
    exclusive: bool
    ordinal: bool
    thresholds: np.ndarray | None = None
    images: "LabelledImages | None" = None
    facts: dict[str, object] = field(default_factory=dict)


def from_tables(given: dict[str, Any]) -> Judged:
    """The answers of --predictions and --labels."""
    if not given["labels"]:
        raise click.UsageError("--predictions needs --labels, the table of what is true")
    if given["exclusive"] and given["ordinal"]:
        raise click.UsageError("--exclusive and --ordinal: grades are cumulative tasks; give one of the two")
    place = str(given["labels"])
    said = read_predictions(given["predictions"], given, given["classes"])
    true = tables.read_labels(place, id_column=given["id_column"])
    frame = tables.pair(said, true, place=place, only_common=given["only_common"])
    ids = frame.index.to_numpy(str)
    labels, warnings = _labels_of(frame, said.class_names, given, place)
    if given["ordinal"]:
        warnings += tables.check_ordinal(labels, said.class_names, ids)
    probs = tables.keep(said, ids)
    if given["exclusive"]:
        warnings += tables.check_exclusive(labels, probs, ids)
        labels = np.nan_to_num(labels)  # who has one class has none of the others, told or not
    if left := len(said.ids) - len(ids):
        warnings.append(f"{left:,} predictions have no label and are left out (--only-common).")
    if left := len(true) - len(ids):
        warnings.append(f"{left:,} labelled images have no prediction and are left out (--only-common).")
    names = Path(given["predictions"]).name, Path(place).name
    return Judged(
        Answers(
            ids=ids,
            class_names=said.class_names,
            labels=labels,
            probs=probs,
            patients=tables.patients_of(frame, given["patient_column"], place=place),
            columns=frame.reset_index(drop=True),
            warnings=tuple(warnings),
        ),
        name=f"{names[0]} against {names[1]}",
        exclusive=given["exclusive"],
        ordinal=given["ordinal"],
        facts={"Predictions": names[0], "Labels": names[1]},
    )


def probs_of_table(where: str, judged: Judged, given: dict[str, Any]) -> np.ndarray:
    """Another table's probabilities (N, C) for the same images; NaN where it has none, with --only-common."""
    answers = judged.answers
    said = read_predictions(where, given | {"exclusive": judged.exclusive}, ",".join(answers.class_names))
    lacking = answers.ids[~pd.Index(answers.ids).isin(said.ids)]
    if len(lacking) and not given["only_common"]:
        raise ConfigError(f"{where}: {len(lacking)} images have no prediction, the first is {str(lacking[0])!r}; "
                          f"add them, or compare what is common with --only-common")  # fmt: skip
    if len(lacking) == len(answers.ids):
        raise ConfigError(f"{where}: has none of the images, such as {str(lacking[0])!r}; give the same ids")
    return pd.DataFrame(said.probs, index=said.ids).reindex(answers.ids).to_numpy()


def read_predictions(path: str, given: dict[str, Any], classes: str | None) -> tables.Predictions:
    """A table of predictions, as the options say; `classes` are names parted by commas."""
    scale: tables.Scale = "probabilities"
    if given["logits"]:
        scale = "softmax" if given["exclusive"] else "logits"
    names = [name.strip() for name in (classes or "").split(",") if name.strip()]
    leave = ["patient_id", given["patient_column"] or "patient_id"]  # the first is what predictions.csv calls it
    return tables.read_predictions(path, id_column=given["id_column"], class_names=names, leave=leave, scale=scale)


def _labels_of(
    frame: pd.DataFrame, names: tuple[str, ...], given: dict[str, Any], place: str
) -> tuple[np.ndarray, list[str]]:
    """Labels (N, C), and what must be said of them."""
    column = given["label_column"]
    if column is None:
        return tables.labels_of(frame, names, place=place), []
    if given["ordinal"]:
        return tables.labels_of_grades(frame, len(names), column, place=place), []
    return tables.labels_in_words(frame, names, column, place=place)
