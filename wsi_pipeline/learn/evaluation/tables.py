"""Answers, what evaluation works on, from a table of predictions and a table of labels; bad rows are named."""

import difflib
import zlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
from scipy.special import expit, softmax

from wsi_pipeline.errors import ConfigError
from wsi_pipeline.learn.data.patients import one_spelling

Scale = Literal["probabilities", "logits", "softmax"]
_EMPTY = ("", "nan", "NaN", "NA", "N/A", "null", "None")  # what tables write where nothing is known
_NO_CLASS = ("", "no finding")  # words, in lower case, that say so
_NAMED = 5  # other words named in a warning
_ROUNDING = 1e-6
_SUM_OFF = 0.02  # how far the probabilities of exclusive classes may be from adding up to 1


@dataclass(frozen=True, eq=False)
class Predictions:
    """What one model says of N images, from one table: ids (N,) str, probs (N, C) in 0-1 or NaN."""

    place: str
    ids: np.ndarray
    class_names: tuple[str, ...]
    probs: np.ndarray


@dataclass(frozen=True, eq=False)
class Answers:
    """N images with what is true of them and what a model says.

    Attributes:
        ids: (N,) str, unique.
        class_names: C names.
        labels: (N, C) float32: 1 present, 0 absent, NaN unknown.
        probs: (N, C) float64 in 0-1; NaN where the model gave none.
        patients: (N,) str of what is resampled as one, or None where nobody knows.
        raw: (N, C) probabilities before calibration, where they are known.
        columns: N rows of what else is known, all text, for subgroups.
        warnings: what a reader must be told.
    """

    ids: np.ndarray
    class_names: tuple[str, ...]
    labels: np.ndarray
    probs: np.ndarray
    patients: np.ndarray | None = None
    raw: np.ndarray | None = field(default=None, repr=False)
    columns: pd.DataFrame = field(default_factory=pd.DataFrame, repr=False)
    warnings: tuple[str, ...] = ()


def read_predictions(
    path: str | Path, *, id_column: str, class_names: Sequence[str] = (), leave: Sequence[str] = (), scale: Scale
) -> Predictions:
    """The predictions of a CSV: a row an image, a column a class (by default all that have a name, but the id's and
    `leave`).

    `scale` "logits" takes a sigmoid of each value, "softmax" a softmax over the row. An empty cell is NaN; what is
    beyond 0 or 1 by rounding, as means in single precision are, is 0 or 1.
    Raises ConfigError naming file, column and image: no such column, a text, a value outside 0-1, ids twice.
    """
    frame = _read_csv(path, id_column)
    names = tuple(class_names) or tuple(name for name in frame.columns if name not in ("", id_column, *leave))
    _refuse_twice(names, "--classes")
    if not names:
        raise ConfigError(f"{path}: no column but {id_column!r}; give a column of probabilities for each class")
    remedy = "name the columns of classes with --classes"
    values = _numbers(frame, names, f"{path}", remedy=remedy, infinite=scale == "logits")
    if scale == "probabilities":
        _refuse_outside(values, frame.index, names, str(path))
        values = np.clip(values, 0, 1)
    elif scale == "logits":
        values = expit(values)
    else:
        values = softmax(values, axis=1)
    return Predictions(str(path), frame.index.to_numpy(str), names, values)


def read_labels(path: str | Path, *, id_column: str) -> pd.DataFrame:
    """The rows of a CSV of labels, all text, by id; ConfigError where it is empty, or has an id twice."""
    return _read_csv(path, id_column)


def labels_of(frame: pd.DataFrame, names: Sequence[str], *, place: str) -> np.ndarray:
    """Labels (N, C) float32 of the columns `names` of 0, 1 and empty; ConfigError names what else stands there."""
    labels = _numbers(frame, names, place, remedy="0, 1 or empty is expected")
    wrong = ~(np.isnan(labels) | (labels == 0) | (labels == 1))
    if wrong.any():
        row, column = np.argwhere(wrong)[0]
        raise ConfigError(
            f"{place}: image {frame.index[row]} has label {labels[row, column]:g} for {names[column]} "
            f"({wrong.sum()} such labels); give 1 (present), 0 (absent) or leave it empty (unknown)"
        )
    return labels.astype(np.float32)


def labels_in_words(
    frame: pd.DataFrame, names: Sequence[str], column: str, *, place: str
) -> tuple[np.ndarray, list[str]]:
    """Labels (N, C) of one column of class names in any case, several parted by |, and a warning of other words.

    These count as absent of all classes, as "No Finding" does; ConfigError when no word of the whole column is
    a class. An image of no class is 0 for all; an empty cell is unknown for all.
    """
    words = frame[find_column(frame, column, place)].str.strip()
    unknown = (words.isin(_EMPTY) & ~words.isin(names)).to_numpy()
    spelt = {name.casefold(): name for name in names}
    split = [
        {word if word in names else spelt.get(word.casefold(), word) for word in map(str.strip, cell.split("|"))}
        for cell in words
    ]
    labels = np.array([[float(name in said) for name in names] for said in split], dtype=np.float32)
    labels[unknown] = np.nan
    if not np.nansum(labels):
        raise ConfigError(
            f"{place}: no word of column {column!r} is a class; it says {', '.join(sorted(set(words))[:5])}, "
            f"the classes are {', '.join(names)}"
        )
    said = Counter(word for row in np.flatnonzero(~unknown) for word in split[row])
    others = sorted((-count, word) for word, count in said.items() if word.casefold() not in (*spelt, *_NO_CLASS))
    if not others:
        return labels, []
    listed = ", ".join(f"{word!r} ({-count:,})" for count, word in others[:_NAMED])
    more = f" and {len(others) - _NAMED} more" if len(others) > _NAMED else ""
    return labels, [f"Words of column {column!r} that are no class count as absent: {listed}{more}."]


def labels_of_grades(frame: pd.DataFrame, classes: int, column: str, *, place: str) -> np.ndarray:
    """Cumulative labels (N, C), grade >= 1 ... grade >= C, of a column of whole grades 0 ... C."""
    grades = _numbers(frame, [find_column(frame, column, place)], place, remedy="a grade is expected")[:, 0]
    wrong = ~(np.isnan(grades) | np.isin(grades, np.arange(classes + 1)))
    if wrong.any():
        row = int(wrong.argmax())
        raise ConfigError(f"{place}: image {frame.index[row]} has grade {grades[row]:g}; give 0 to {classes}")
    steps = (grades[:, None] >= np.arange(1, classes + 1)).astype(np.float32)
    return np.where(np.isnan(grades)[:, None], np.float32("nan"), steps)


def pair(predictions: Predictions, frame: pd.DataFrame, *, place: str, only_common: bool) -> pd.DataFrame:
    """The rows of `frame` in the order of the predictions; both must hold the same ids.

    With `only_common`, rows that stand in one table alone are left out, of the predictions by the caller
    (`keep`). Raises ConfigError with the count and the first of them otherwise, or when none is common.
    """
    common = pd.Index(predictions.ids).isin(frame.index)  # numpy's isin takes minutes on text
    lacking = predictions.ids[~common]
    extra = frame.index[~frame.index.isin(predictions.ids)]
    if len(lacking) == len(predictions.ids):
        raise ConfigError(
            f"{predictions.place} and {place} have no id in common: {str(predictions.ids[0])!r} here, "
            f"{str(frame.index[0])!r} there; give both the same ids"
        )
    if (len(lacking) or len(extra)) and not only_common:
        parts = [_some(lacking, f"in {predictions.place} alone"), _some(extra, f"in {place} alone")]
        raise ConfigError(f"{'; '.join(filter(None, parts))}; mend the tables, or go on with --only-common")
    return frame.loc[predictions.ids[common]]


def keep(predictions: Predictions, ids: np.ndarray) -> np.ndarray:
    """The probabilities (len(ids), C) of these ids, in their order; every id must be there."""
    place = pd.Index(predictions.ids).get_indexer(pd.Index(ids))
    return predictions.probs[place]


def patients_of(frame: pd.DataFrame, column: str | None, *, place: str) -> np.ndarray | None:
    """The patient (N,) str of each row, in one spelling; None without a column. ConfigError where a row has none."""
    if column is None:
        return None
    patients = frame[find_column(frame, column, place)].str.strip()
    lacking = patients.isin(_EMPTY)
    if lacking.any():
        raise ConfigError(f"{place}: {_some(frame.index[lacking], f'without {column}')}; fill it in for every image")
    return one_spelling(patients)


def check_exclusive(labels: np.ndarray, probs: np.ndarray, ids: np.ndarray) -> list[str]:
    """Warnings for classes that exclude each other; ConfigError where an image has not exactly one."""
    wrong = np.nansum(labels, axis=1) != 1
    if wrong.any():
        named = _some(ids[wrong], "without exactly one class")
        raise ConfigError(f"{named}; mend the labels, or leave --exclusive out")
    off = np.abs(np.nansum(probs, axis=1) - 1)[~np.isnan(probs).any(axis=1)]
    if len(off) and off.max() > _SUM_OFF:
        return [f"The probabilities of an image do not add up to 1 (off by up to {off.max():.2f})."]
    return []


def check_ordinal(labels: np.ndarray, names: Sequence[str], ids: np.ndarray) -> list[str]:
    """A warning of grades that are not wholly known; ConfigError where an image has grade >= k + 1 and not grade >= k,
    as with a column for each grade."""
    wrong = labels[:, 1:] > labels[:, :-1]  # never of NaN
    if wrong.any():
        k = np.argwhere(wrong)[0, 1]
        named = _some(ids[wrong.any(axis=1)], f"with {names[k + 1]!r} and without the lower {names[k]!r}")
        raise ConfigError(f"{named}; --ordinal wants grade >= 1, grade >= 2 ... in rising order, or --label-column")
    unknown = int(np.isnan(labels).any(axis=1).sum())
    if not unknown:
        return []
    return [f"{unknown:,} of {len(ids):,} images have no known grade and are in no accuracy, kappa or confusion."]


def find_column(frame: pd.DataFrame, name: str, place: str) -> str:
    """`name`, a column of the table; ConfigError names the nearest one that it has."""
    if name in frame.columns:
        return name
    known = [str(column) for column in frame.columns]
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.0)
    nearest = f"did you mean {near[0]!r}? " if near else ""
    raise ConfigError(f"{place}: no column {name!r}; {nearest}It has {', '.join(known[:20]) or 'none'}")


def _read_csv(path: str | Path, id_column: str) -> pd.DataFrame:
    """A CSV as text, its index the ids (also kept as a column); cells that a row lacks at its end are empty."""
    how = {"dtype": str, "keep_default_na": False, "encoding": "utf-8-sig", "skipinitialspace": True}
    try:  # the header as a row: pandas would rename a second column of a name, and move cells of longer rows
        frame = pd.read_csv(path, header=None, **how).fillna("")  # type: ignore[call-overload]
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror or error}); give an existing CSV") from None
    except pd.errors.EmptyDataError:
        raise ConfigError(f"{path}: is empty; a CSV with a header and a row an image is expected") from None
    except (pd.errors.ParserError, UnicodeDecodeError, EOFError, zlib.error) as error:
        raise ConfigError(f"{path}: is no CSV of UTF-8 text ({' '.join(str(error).split())})") from None
    frame, frame.columns = frame.iloc[1:], frame.iloc[0].str.strip()
    _refuse_twice([name for name in frame.columns if name], str(path))
    if not len(frame):
        raise ConfigError(f"{path}: has a header and no rows; give a row an image")
    ids = frame[find_column(frame, id_column, str(path))].str.strip()
    if twice := ids[ids.duplicated()].tolist():
        raise ConfigError(f"{path}: {_some(np.array(twice), 'in more than one row')}; keep one row an image")
    return frame.set_index(pd.Index(ids, name="id"))


def _refuse_twice(names: Sequence[str], place: str) -> None:
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        raise ConfigError(f"{place}: {twice[0]!r} is there twice; give each column a name of its own")


def _numbers(
    frame: pd.DataFrame, names: Sequence[str], place: str, *, remedy: str, infinite: bool = False
) -> np.ndarray:
    """Columns (N, C) float64; an empty cell is NaN, another text a ConfigError that names its image; inf may be one."""
    out = np.empty((len(frame), len(names)))
    for k, name in enumerate(names):
        cells = frame[find_column(frame, name, place)].str.strip()
        known = ~cells.isin(_EMPTY).to_numpy()
        out[:, k] = pd.to_numeric(cells.where(known), errors="coerce")
        wrong = known & (np.isnan(out[:, k]) if infinite else ~np.isfinite(out[:, k]))
        if wrong.any():
            row = int(wrong.argmax())
            raise ConfigError(f"{place}: image {frame.index[row]} has {cells.iloc[row]!r} in column {name!r}; {remedy}")
    return out


def _refuse_outside(values: np.ndarray, ids: pd.Index, names: Sequence[str], place: str) -> None:
    outside = (values < -_ROUNDING) | (values > 1 + _ROUNDING)
    if outside.any():
        row, column = np.argwhere(outside)[0]
        raise ConfigError(
            f"{place}: image {ids[row]} has {values[row, column]:g} for {names[column]}, outside 0 to 1 like "
            f"{outside.sum():,} of all values: these look like logits; give --logits, or a table of probabilities"
        )


def _some(ids: Sequence[str] | np.ndarray | pd.Index, what: str) -> str:
    """What is with some ids, how many they are, and the first; empty for none."""
    return f"ids {what}: {len(ids):,}, the first is {str(ids[0])!r}" if len(ids) else ""
