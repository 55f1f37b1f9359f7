"""Subgroups: the rows of each value of a column; numbers of many values are parted into quarters."""

import difflib
from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd

from wsi_pipeline.errors import ConfigError

MOST_VALUES = 12  # more are parted into quarters (numbers), or the rarest put together (words)
_UNKNOWN = "unknown"
_NO_NUMBER = ["NA", "N/A", "null"]  # a missing one among numbers; among words it may be one of them


def subgroups_of(columns: pd.DataFrame | None, by: Sequence[str]) -> Iterator[tuple[str, str, np.ndarray]]:
    """(column, value, indices of rows) of every value of the columns named in `by`.

    Raises ConfigError with the nearest name where there is no such column.
    """
    for name in by:
        known = [] if columns is None else [str(column) for column in columns.columns]
        if columns is None or name not in known:
            near = difflib.get_close_matches(name, known, n=1, cutoff=0.0)
            nearest = f"; did you mean {near[0]!r}? There are {', '.join(known[:20])}" if near else "; there are none"
            raise ConfigError(f"subgroups by {name!r}: no such column{nearest}")
        values = _parted(columns[name])
        for value in _ordered(values):
            yield name, value, np.flatnonzero(values == value)


def _parted(column: pd.Series) -> np.ndarray:
    """Each row's value (N,) str, of at most MOST_VALUES and "unknown"."""
    words = column.astype("string").str.strip().fillna("")
    words = words.mask(words.isin(["", "nan", "NaN", "None"]), _UNKNOWN)
    if words.nunique() <= MOST_VALUES:
        return words.to_numpy(str)
    numbers = pd.to_numeric(words.mask(words.isin(_NO_NUMBER), _UNKNOWN), errors="coerce")
    if (numbers.notna() | words.isin([_UNKNOWN, *_NO_NUMBER])).all():
        return _quarters(numbers.to_numpy(np.float64))
    common = words.value_counts().index[: MOST_VALUES - 1]
    return words.where(words.isin(common), f"other ({words.nunique() - len(common)} values)").to_numpy(str)


def _quarters(numbers: np.ndarray) -> np.ndarray:
    """Four ranges of about equally many rows, as words."""
    edges = np.unique(np.nanquantile(numbers, [0.25, 0.5, 0.75]))
    part = np.searchsorted(edges, numbers, side="left")
    out = np.full(len(numbers), _UNKNOWN, dtype=object)
    for k in np.unique(part[~np.isnan(numbers)]):
        rows = (part == k) & ~np.isnan(numbers)
        out[rows] = f"{numbers[rows].min():.12g} to {numbers[rows].max():.12g}"  # with :g dates would be one range
    return out.astype(str)


def _ordered(values: np.ndarray) -> list[str]:
    """The values in order, of numbers by their size, "unknown" and "other" last."""

    def place(value: str) -> tuple[int, float, str]:
        try:
            return 0, float(value.split(" ")[0]), value
        except ValueError:
            return (2 if value == _UNKNOWN or value.startswith("other (") else 1), 0.0, value

    return sorted(set(values.tolist()), key=place)
