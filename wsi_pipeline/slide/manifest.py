"""A manifest CSV -> the slides of its rows; what is wrong in it is told by row."""

import csv
import difflib
import posixpath
from pathlib import Path

from wsi_pipeline.errors import ConfigError
from wsi_pipeline.slide.entry import MAX_ID_BYTES, SlideEntry, name_key, safe_id
from wsi_pipeline.slide.urls import is_url, plain

_COLUMNS = ("slide_id", "path", "mpp", "mpp_x", "mpp_y", "label", "patient_id", "split")
MAX_TABLE = 2**28  # bytes: a million slides with long paths


def read_manifest(path: Path, beside: str = "") -> list[SlideEntry]:
    """The rows of a manifest; their paths are from the folder of the file, or from the URL `beside`.

    Raises ConfigError naming file and row.
    """
    if path.stat().st_size > MAX_TABLE:
        raise ConfigError(f"{path.name}: more than {MAX_TABLE:,} bytes, no manifest of slides; give another file")
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, restval="", strict=True)
            _check_columns(path, [name or "" for name in reader.fieldnames or []])
            rows = [(reader.line_num, row) for row in reader if any(row.values())]  # Excel leaves ",,,"
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ConfigError(f"{path.name}: cannot be read as a CSV in UTF-8 ({error}); save it as one") from error
    entries = [_row(path, number, row, beside or str(path.parent)) for number, row in rows]
    first: dict[str, int] = {}
    for entry, (number, _) in zip(entries, rows, strict=True):
        same = first.setdefault(name_key(entry.slide_id), number)
        if same != number:
            twice = f"slide_id {entry.slide_id!r} in rows {same} and {number}"
            raise ConfigError(f"{path.name}: {twice}; give each slide its own")
    return entries


def _check_columns(path: Path, columns: list[str]) -> None:
    for name in columns:
        if name and columns.count(name) > 1:
            raise ConfigError(f"{path.name}: column {name!r} is there {columns.count(name)} times; keep one")
    for name in ("slide_id", "path"):
        if name not in columns:
            if any(mark in ",".join(columns) for mark in ";\t"):
                raise ConfigError(f"{path.name}: its columns are not divided by commas; save it as CSV with commas")
            raise ConfigError(f"{path.name}: no column {name!r}, got {', '.join(columns) or 'nothing'}; add it")
    for name in columns:
        near = difflib.get_close_matches(name.strip().lower(), _COLUMNS, n=1, cutoff=0.8)
        if name not in _COLUMNS and near and near[0] not in columns:
            raise ConfigError(f"{path.name}: unknown column {name!r}; did you mean {near[0]!r}?")


def _row(path: Path, number: int, row: dict[str, str], beside: str) -> SlideEntry:
    if None in row:
        raise ConfigError(f"{path.name}, row {number}: more fields than columns; put quotes around a comma")
    slide_id, where = row["slide_id"], plain((row["path"] or "").strip())  # of "a, a.svs"
    if not slide_id or not where:
        raise ConfigError(f"{path.name}, row {number}: empty {'path' if slide_id else 'slide_id'}; fill it in")
    if safe_id(slide_id) != slide_id or slide_id.startswith("."):
        raise ConfigError(
            f"{path.name}, row {number}: slide_id {slide_id!r} cannot be a file name; "
            f"use at most {MAX_ID_BYTES} bytes without separators, such as {safe_id(slide_id)!r}"
        )
    if "\0" in where:
        raise ConfigError(f"{path.name}, row {number}: a path with a NUL in it; correct it")
    x = _mpp(path, number, row, "mpp_x") or _mpp(path, number, row, "mpp")
    y = _mpp(path, number, row, "mpp_y") or _mpp(path, number, row, "mpp")
    if (x is None) != (y is None):
        raise ConfigError(f"{path.name}, row {number}: mpp_x and mpp_y go together; give both, or mpp")
    return SlideEntry(
        slide_id,
        path_from(beside, where),
        (x, y) if x and y else None,
        *((row.get(name) or "").strip() or None for name in ("label", "patient_id", "split")),
    )


def path_from(beside: str, where: str) -> str:
    """A path of a manifest, which lies at `beside`: a URL or a path of its own, or from there on."""
    if is_url(where) or not is_url(beside) or Path(where).is_absolute():
        return where if is_url(where) else str(Path(beside) / where)
    protocol, _, path = beside.partition("://")
    return f"{protocol}://{posixpath.normpath(f'{path}/{where}')}"


def _mpp(path: Path, number: int, row: dict[str, str], column: str) -> float | None:
    text = (row.get(column) or "").strip()
    if not text:
        return None
    try:
        value = -1.0 if "_" in text else float(text)  # Python reads 0_5 as 5
    except ValueError:
        value = -1.0
    if not 0 < value < float("inf"):
        raise ConfigError(
            f"{path.name}, row {number}: {column} {text!r} is no positive number of um/px; correct or clear it"
        )
    return value
