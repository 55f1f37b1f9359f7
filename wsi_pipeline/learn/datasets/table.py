"""A CSV of labels -> its columns by any of their known names, each value checked; messages name file and row."""

import csv
import difflib
import gzip
import re
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from wsi_pipeline.errors import ConfigError

Names = str | Sequence[str]
Places = str | Mapping[str, str] | None

PARTS = {"train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}

_ENDINGS = (".csv", ".csv.gz")
_MAX_BYTES = 2**30


@dataclass(frozen=True, eq=False)
class Table:
    """Rows of text, indexed by where they stand ("labels.csv row 7"; row 1 is the header).

    Attributes:
        name: of the file or files.
        rows: N rows, all str.
        parts: (N,) str "train", "val", "test" where each part has a file of its own, else "".
    """

    name: str
    rows: pd.DataFrame
    parts: np.ndarray

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def places(self) -> list[str]:
        """Where each row stands, for messages."""
        return [str(place) for place in self.rows.index]

    def has(self, names: Names) -> bool:
        """Whether there is a column of one of these names; case, spaces and marks do not count."""
        return _find(self.rows.columns, names) is not None

    def text(self, names: Names) -> list[str]:
        """The column of the first of these names that is there. Raises ConfigError with the nearest known one."""
        found = _find(self.rows.columns, names)
        if found is None:
            wanted = _listed(names)[0]
            raise ConfigError(f"{self.name}: no column {wanted!r}; {_nearest(wanted, list(self.rows.columns))}")
        return self.rows[found].tolist()

    def required(self, names: Names) -> list[str]:
        """As `text`, and no value may be empty."""
        values = self.text(names)
        if "" in values:
            raise ConfigError(f"{self.places[values.index('')]}: no {_listed(names)[0]}; fill it in")
        return values

    def numbers(self, names: Names) -> np.ndarray:
        """(N,) float64, NaN where empty. Raises ConfigError for other text."""
        values = self.text(names)
        numbers = np.asarray(pd.to_numeric(pd.Series(values, dtype=object), errors="coerce"), np.float64)
        wrong = np.isnan(numbers) & (np.array(values, dtype=object) != "")
        if wrong.any():
            row = int(wrong.argmax())
            raise ConfigError(f"{self.places[row]}: {_listed(names)[0]} {values[row]!r} is no number; correct it")
        return numbers

    def choices(self, names: Names, known: Mapping[str, int]) -> np.ndarray:
        """(N,) int: what `known` makes of each value (keys in lower case). Raises ConfigError for others."""
        return self.chosen(self.required(names), known, what=_listed(names)[0])

    def chosen(
        self, values: Sequence[str], known: Mapping[str, int], *, what: str, rows: Sequence[int] | None = None
    ) -> np.ndarray:
        """As `choices`, of M values already at hand, value k from row `rows[k]` (None: from row k)."""
        for number, value in enumerate(values):
            if value.lower() not in known:
                place = self.places[number if rows is None else rows[number]]
                raise ConfigError(f"{place}: {what} {value!r} is not known; {_nearest(value, list(known))}")
        return np.array([known[value.lower()] for value in values], np.intp)

    def refuse_repeats(self, values: Sequence[str]) -> None:
        """Raises ConfigError where two rows have the same value: one image twice."""
        first: dict[str, int] = {}
        for row, value in enumerate(values):
            if first.setdefault(value, row) != row:
                before = self.places[first[value]]
                raise ConfigError(f"{self.places[row]}: {value!r} stands already in {before}; keep one row an image")

    def optional(self, **names: Names) -> pd.DataFrame:
        """Those of these columns that the file has, under the names given here; "age" in years, NaN unknown."""
        found = {name: self.text(of) for name, of in names.items() if self.has(of)}
        columns = {name: _years(values) if name == "age" else values for name, values in found.items()}
        return pd.DataFrame(columns, index=range(len(self)))


def open_labels(folder: Path, labels: Places, *, needs: Sequence[Sequence[Names]]) -> Table:
    """The label table of a data folder; `labels` names it, or {part: file} for a file a part.

    With None, the CSV of the folder itself that has all columns of one of `needs`; several are taken together
    where they are named train, valid, test. Raises ConfigError where there is none, or more than one.
    """
    if not folder.is_dir():
        raise ConfigError(f"{folder.name}: no such folder; give the folder of the data set")
    if isinstance(labels, Mapping):
        return _joined([replace_parts(read_table(folder / file), part) for part, file in labels.items()])
    if labels is not None:
        return read_table(folder / labels)
    found = [path for path in sorted(folder.iterdir()) if path.name.endswith(_ENDINGS)]
    headers = {path: _header(path) for path in found}
    tables = {path: read_table(path) for path in found if any(_has_all(headers[path], need) for need in needs)}
    parts = [PARTS.get(path.name.split(".")[0].lower(), "") for path in tables]
    if len(tables) > 1 and all(parts):
        return _joined([replace_parts(table, part) for table, part in zip(tables.values(), parts, strict=True)])
    if len(tables) == 1:
        return next(iter(tables.values()))
    wanted = " or ".join(" + ".join(_listed(names)[0] for names in need) for need in needs)
    seen = ", ".join(path.name for path in tables or found) or "no CSV"
    raise ConfigError(f"{folder.name}: {len(tables)} tables with columns {wanted}, it has {seen}; give labels=FILE")


def read_table(path: Path) -> Table:
    """A CSV, plain or .gz, as text; columns without a name and rows without a value are left out."""
    if not path.is_file():
        others = sorted(other.name for other in path.parent.glob("*.csv*")) if path.parent.is_dir() else []
        raise ConfigError(f"{path.name}: no such file; {_nearest(path.name, others)}")
    try:
        _check_size(path)
        rows = pd.read_csv(path, dtype=str, keep_default_na=False, skip_blank_lines=False, encoding="utf-8-sig")
    except (pd.errors.ParserError, pd.errors.EmptyDataError, OSError, EOFError, zlib.error, ValueError) as error:
        raise ConfigError(f"{path.name}: cannot be read as CSV ({str(error).strip()}); get a fresh copy") from error
    if not isinstance(rows.index, pd.RangeIndex):
        raise ConfigError(f"{path.name}: rows have more values than the header has names; correct it")
    rows = rows[[name for name in rows.columns if name.strip() and not name.startswith("Unnamed:")]].fillna("")
    rows = rows.apply(lambda column: column.str.strip())
    rows.index = pd.Index([f"{path.name} row {number}" for number in range(2, len(rows) + 2)], dtype=object)
    rows = rows[(rows != "").any(axis=1)]
    if not len(rows):
        raise ConfigError(f"{path.name}: no rows below its header; give a table of labels")
    return Table(path.name, rows, np.full(len(rows), "", dtype="<U5"))


def _check_size(path: Path) -> None:
    """ValueError for a table that no data set has, also once unpacked: a few bytes of gzip can be gigabytes."""
    with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
        size = sum(len(part) for part in iter(lambda: file.read(2**22) if file.tell() <= _MAX_BYTES else b"", b""))
    if size > _MAX_BYTES:
        raise ValueError(f"more than {_MAX_BYTES:,} bytes")


def replace_parts(table: Table, part: str) -> Table:
    """The table with all its rows in one part. Raises ConfigError for a part that is none."""
    if part.lower() not in PARTS:
        raise ConfigError(f"part {part!r}: {_nearest(part, ['train', 'val', 'test'])}")
    return replace(table, parts=np.full(len(table), PARTS[part.lower()], dtype="<U5"))


def part_names(values: Iterable[str]) -> np.ndarray:
    """What a data set calls its parts -> (N,) str "train", "val", "test", or its own word for another."""
    return np.array([PARTS.get(value.strip().lower(), value.strip()) for value in values], dtype=str)


def official_parts(table: Table, names: Names) -> np.ndarray | None:
    """(N,) str from a file a part or from a column of one of these names; None where there is neither."""
    if (table.parts != "").any():
        return table.parts
    return part_names(table.text(names)) if table.has(names) else None


def _joined(tables: Sequence[Table]) -> Table:
    name = ", ".join(table.name for table in tables)
    rows = pd.concat([table.rows for table in tables]).fillna("")
    return Table(name, rows, np.concatenate([table.parts for table in tables]))


def _header(path: Path) -> list[str]:
    try:
        return list(pd.read_csv(path, dtype=str, nrows=0, encoding="utf-8-sig").columns)
    except (pd.errors.ParserError, pd.errors.EmptyDataError, OSError, EOFError, zlib.error, ValueError, csv.Error):
        return []  # some other CSV; the label table is looked for among the rest


def _has_all(columns: Iterable[str], needs: Sequence[Names]) -> bool:
    columns = list(columns)
    return all(_find(columns, names) is not None for names in needs)


def _find(columns: Iterable[str], names: Names) -> str | None:
    plain = {_plain(column): column for column in columns}
    return next((plain[_plain(name)] for name in _listed(names) if _plain(name) in plain), None)


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


def _listed(names: Names) -> list[str]:
    return [names] if isinstance(names, str) else list(names)


def _nearest(value: str, known: Sequence[str]) -> str:
    """What to say of a value that is not among the known ones."""
    by_plain: dict[str, str] = {name.lower(): name for name in known}
    close = difflib.get_close_matches(value.lower(), by_plain, n=1, cutoff=0.5)
    there = f"known: {', '.join(known) or 'none'}"
    return f"did you mean {by_plain[close[0]]!r}? ({there})" if close else there


def _years(values: Sequence[str]) -> np.ndarray:
    """Ages (58, "058Y", "006M", "012D") in years; NaN for what is empty, no age, or beyond 120."""
    units: dict[str, Callable[[float], float]] = {"Y": float, "M": lambda n: n / 12, "D": lambda n: n / 365.25}
    ages = np.full(len(values), np.nan)
    for row, value in enumerate(values):
        match = re.fullmatch(r"(\d+(?:\.\d*)?)\s*([YMD]?)", value.strip().upper())
        if match:
            ages[row] = units[match[2] or "Y"](float(match[1]))
    return np.where(ages <= 120, ages, np.nan)
