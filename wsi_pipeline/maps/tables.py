"""Tables: a row a tile (Parquet), a row a slide (CSV, Parquet), a row a failure (CSV)."""

import io
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from wsi_pipeline.maps.atomic import replace_file
from wsi_pipeline.maps.result import FAILED, SlideResult
from wsi_pipeline.scores.store import Scores
from wsi_pipeline.tiles.grid import TileGrid

FAILURE_COLUMNS = ("slide_id", "status", "stage", "error", "message")
_NUMBERS: dict[Any, Any] = {float: np.float64, int: np.int64}  # everything else is text
_CSV_DIGITS = 6  # significant
_FREE = ("label", "patient_id", "split", "message", "warnings")  # texts that others wrote
_FORMULA = re.compile(r"'*[=+\-@\t]")  # what a spreadsheet would compute, and what would be taken for our mark of it


def write_tiles_parquet(path: str | Path, grid: TileGrid, scores: Scores, *, threshold: float | None = None) -> Path:
    """A row a tile: `tile`, level-0 top left `x`, `y` (int64), `row`, `col`, `tissue`, `readable`, `prob_<class>`.

    Probabilities of a tile that could not be read are NaN. What the numbers refer to lies as JSON in the
    schema's metadata under `wsi_pipeline`; `threshold` is the map's, the model's own if not given. Raises OSError
    where the file cannot be written.
    """
    corners = grid.xy_l0
    columns: dict[str, Any] = {
        "tile": np.arange(len(grid), dtype=np.int64),
        "x": corners[:, 0],
        "y": corners[:, 1],
        "row": grid.rowcol[:, 0],
        "col": grid.rowcol[:, 1],
        "tissue": grid.tissue,
        "readable": ~np.isnan(scores.probs).any(axis=1),
    }
    columns |= {f"prob_{name}": scores.probs[:, k] for k, name in enumerate(scores.class_names)}
    facts = {
        "slide_id": grid.slide.id,
        "model": scores.checkpoint_id,
        "positive": list(scores.positive),
        "threshold": scores.threshold if threshold is None else threshold,
        "tile_px": grid.tile_px,
        "stride_px": grid.stride_px,
        "mpp": [grid.mpp.x, grid.mpp.y],
        "mpp_l0": [grid.slide.mpp_l0.x, grid.slide.mpp_l0.y],
        "footprint_l0": list(grid.footprint_l0),
        "use": "Research use only",
    }
    table = pa.table({name: _numbers(values) for name, values in columns.items()})
    return _write_parquet(path, table.replace_schema_metadata({"wsi_pipeline": json.dumps(facts)}))


def write_slides_table(results: Sequence[SlideResult], folder: str | Path) -> tuple[Path, Path]:
    """slides.csv and slides.parquet: a row a slide, a column for each field of SlideResult, in that order.

    Ids stay text ("007", "NA"; read the CSV with dtype=str, keep_default_na=False to keep them so). In the
    CSV numbers have 6 significant digits and what does not exist is empty; several warnings are split by " | ". Free
    texts that begin with = + - @ or a tab have an apostrophe before them there, lest a spreadsheet computes them; not
    so slide_id, which may begin with these too: it comes back as it is. Raises OSError where a file cannot be written.
    """
    names = [item.name for item in fields(SlideResult)]
    rows = [{name: _plain(getattr(result, name)) for name in names} | _unknown(result) for result in results]
    columns = {item.name: _column([row[item.name] for row in rows], item.type) for item in fields(SlideResult)}
    parquet = _write_parquet(Path(folder) / "slides.parquet", pa.table(columns))
    return _write_csv(Path(folder) / "slides.csv", names, rows), parquet


def write_failures(results: Sequence[SlideResult], folder: str | Path) -> Path:
    """failures.csv: the slides that came to no map, where they ended and why; the header is always there."""
    failed = [result for result in results if result.status in FAILED]
    rows = [{name: _plain(getattr(result, name)) for name in FAILURE_COLUMNS} for result in failed]
    return _write_csv(Path(folder) / "failures.csv", FAILURE_COLUMNS, rows)


def _unknown(result: SlideResult) -> dict[str, None]:
    """Counts of what was not counted: lesions where there is no map, tiles of a slide that failed."""
    no_map = ("lesions",) if math.isnan(result.cancer_mm2) else ()
    return dict.fromkeys((*no_map, *(("tiles", "unreadable_tiles") if result.status in FAILED else ())))


def _plain(value: Any) -> Any:
    """A field as a table can hold it: warnings in one text, and no half characters from undecodable file names."""
    if isinstance(value, tuple):
        value = " | ".join(value)
    return value.encode("utf-8", "backslashreplace").decode() if isinstance(value, str) else value


def _csv_text(name: str, value: Any) -> str:
    """A field of column `name` as the CSV has it."""
    if isinstance(value, float):
        if math.isnan(value):
            return ""
        return np.format_float_positional(value, precision=_CSV_DIGITS, unique=False, fractional=False, trim="-")
    text = "" if value is None else str(value)
    return f"'{text}" if name in _FREE and _FORMULA.match(text) else text


def _write_csv(path: Path, names: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> Path:
    lines = [",".join(names), *(",".join(_quoted(_csv_text(name, row[name])) for name in names) for row in rows)]
    return replace_file(path, "".join(f"{line}\n" for line in lines).encode())


def _quoted(text: str) -> str:
    """A CSV cell. Python 3.11's csv.writer leaves a lone carriage return bare, which readers take for a new row."""
    return '"' + text.replace('"', '""') + '"' if any(mark in text for mark in ',"\r\n') else text


# Columns are laid in memory here: `pa.array` loads pandas, to see whether it was given one of that library's, which
# took half a second and 60 MiB of each process.


def _column(values: Sequence[Any], kind: Any) -> pa.Array:
    """Fields of one type, float, int or text, as they are in SlideResult; None where a count is not known."""
    if kind not in _NUMBERS:
        return _texts(values)
    numbers = _numbers(np.array([value or 0 for value in values], _NUMBERS[kind]))
    known = np.array([value is not None for value in values], bool)
    if known.all():
        return numbers
    return pa.Array.from_buffers(numbers.type, len(values), [_bits(known), numbers.buffers()[1]])


def _numbers(values: np.ndarray) -> pa.Array:
    """(n,) numbers or bool; NaN stays NaN."""
    if values.dtype == bool:
        return pa.Array.from_buffers(pa.bool_(), len(values), [None, _bits(values)])
    room = pa.py_buffer(np.ascontiguousarray(values))
    return pa.Array.from_buffers(pa.from_numpy_dtype(values.dtype), len(values), [None, room])


def _texts(values: Sequence[str | None]) -> pa.Array:
    """Texts, None where there is none."""
    parts = [(value or "").encode() for value in values]
    ends = np.cumsum([0, *map(len, parts)], dtype=np.int32)
    known = _bits(np.array([value is not None for value in values], bool))
    return pa.Array.from_buffers(pa.string(), len(values), [known, pa.py_buffer(ends), pa.py_buffer(b"".join(parts))])


def _bits(values: np.ndarray) -> pa.Buffer:
    return pa.py_buffer(np.packbits(values, bitorder="little"))


def _write_parquet(path: str | Path, table: pa.Table) -> Path:
    sink = io.BytesIO()
    pq.write_table(table, sink, compression="zstd")
    return replace_file(path, sink.getvalue())
