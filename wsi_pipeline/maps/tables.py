"""Tables: a row a tile (Parquet), a row a slide (CSV, Parquet), a row a failure, polygons for QGIS (GeoPackage)."""

import io
import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pyogrio
import pyogrio.raw
import shapely
from pyogrio.errors import DataLayerError, DataSourceError

from wsi_pipeline.disk import free_bytes, writing
from wsi_pipeline.errors import StoreError
from wsi_pipeline.maps.aggregate import SlideResult
from wsi_pipeline.maps.atomic import replace_file
from wsi_pipeline.maps.frame import frame_wkt, l0_to_frame
from wsi_pipeline.maps.lesions import Lesion
from wsi_pipeline.scores.store import Scores
from wsi_pipeline.slide.reader import Slide
from wsi_pipeline.tiles.grid import TileGrid

FAILED = ("no_mpp", "unreadable", "failed")
FAILURE_COLUMNS = ("slide_id", "status", "stage", "error", "message")
_ARROW_TYPES: dict[Any, pa.DataType] = {float: pa.float64(), int: pa.int64()}  # everything else is text
GPKG_VERSION = "1.2"  # GDAL before 3.7, and so QGIS 3.22, warns of GDAL's newer default
_CSV_DIGITS = 6  # significant
_TOLD = 60  # last characters of an error of GDAL, which begins with the whole SQL
_WHEN = {"OGR_CURRENT_DATE": "2000-01-01T00:00:00.000Z"}  # what GDAL dates layers by; run.json has the real time
_QUIET = {"CPL_LOG": os.devnull}  # GDAL prints what it also raises


def write_tiles_parquet(path: str | Path, grid: TileGrid, scores: Scores) -> Path:
    """A row a tile: `tile`, level-0 top left `x`, `y` (int64), `row`, `col`, `tissue`, `readable`, `prob_<class>`.

    Probabilities of a tile that could not be read are NaN. What the numbers refer to lies as JSON in the
    schema's metadata under `wsi_pipeline`. Raises OSError where the file cannot be written.
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
        "threshold": scores.threshold,
        "tile_px": grid.tile_px,
        "stride_px": grid.stride_px,
        "mpp": [grid.mpp.x, grid.mpp.y],
        "mpp_l0": [grid.slide.mpp_l0.x, grid.slide.mpp_l0.y],
        "footprint_l0": list(grid.footprint_l0),
        "use": "Research use only",
    }
    return _write_parquet(path, pa.table(columns).replace_schema_metadata({"wsi_pipeline": json.dumps(facts)}))


def write_slides_table(results: Sequence[SlideResult], folder: str | Path) -> tuple[Path, Path]:
    """slides.csv and slides.parquet: a row a slide, a column for each field of SlideResult, in that order.

    Ids stay text ("007", "NA"; read the CSV with dtype=str, keep_default_na=False to keep them so). In the
    CSV numbers have 6 significant digits and what does not exist is empty; several warnings are split by " | ".
    Raises OSError where a file cannot be written.
    """
    schema = pa.schema([(item.name, _ARROW_TYPES.get(item.type, pa.string())) for item in fields(SlideResult)])
    rows = [{name: _plain(getattr(result, name)) for name in schema.names} for result in results]
    parquet = _write_parquet(Path(folder) / "slides.parquet", pa.Table.from_pylist(rows, schema=schema))
    return _write_csv(Path(folder) / "slides.csv", schema.names, rows), parquet


def write_failures(results: Sequence[SlideResult], folder: str | Path) -> Path:
    """failures.csv: the slides that came to no map, where they ended and why; the header is always there."""
    failed = [result for result in results if result.status in FAILED]
    rows = [{name: _plain(getattr(result, name)) for name in FAILURE_COLUMNS} for result in failed]
    return _write_csv(Path(folder) / "failures.csv", FAILURE_COLUMNS, rows)


def write_geopackage(path: str | Path, lesions: Sequence[Lesion], tissue: shapely.MultiPolygon, slide: Slide) -> Path:
    """Layers "lesions" and "tissue": polygons in micrometres, in the frame of the heatmap (maps/frame.py), y up.

    A feature a lesion and a feature a piece of tissue; layers without any are there too. The areas of lesions
    count tissue alone, so a lesion's outline may hold a little more. Equal lesions and tissue give equal bytes.
    Raises OSError where the file cannot be written.
    """
    mpp = slide.mpp_l0
    centres = l0_to_frame(np.array([lesion.centroid_l0 for lesion in lesions]).reshape(-1, 2), mpp)
    lesion_columns = {
        "number": np.array([lesion.number for lesion in lesions], dtype=np.int32),
        "area_mm2": _floats(lesion.area_mm2 for lesion in lesions),
        "longest_um": _floats(lesion.longest_um for lesion in lesions),
        "centroid_x_um": centres[:, 0],
        "centroid_y_um": centres[:, 1],
        "mean_probability": _floats(lesion.mean_probability for lesion in lesions),
        "max_probability": _floats(lesion.max_probability for lesion in lesions),
        "tiles": np.array([lesion.tiles for lesion in lesions], dtype=np.int32),
    }
    pieces = [shapely.MultiPolygon([piece]) for piece in tissue.geoms]
    tissue_columns = {"area_mm2": _floats(piece.area * mpp.x * mpp.y * 1e-6 for piece in pieces)}
    with writing(path), TemporaryDirectory() as scratch:  # GDAL builds the database in place; ours appears whole
        draft, said = Path(scratch) / "extent.gpkg", ""
        try:
            _write_layer(draft, "lesions", [lesion.polygon for lesion in lesions], lesion_columns, slide=slide)
            _write_layer(draft, "tissue", pieces, tissue_columns, slide=slide)
        except (DataSourceError, DataLayerError) as error:
            said = str(error)[-_TOLD:]
        if said:  # not raised from GDAL's own error, which does not travel from a worker
            raise StoreError(
                f"{path}: its draft in {Path(scratch).parent} failed, where {free_bytes(draft):,} bytes are free "
                f"(GDAL: ...{said}); free some there or set TMPDIR, then run again with --resume"
            )
        return replace_file(path, draft.read_bytes())


def _write_layer(
    path: Path, layer: str, shapes: Sequence[shapely.MultiPolygon], columns: Mapping[str, np.ndarray], *, slide: Slide
) -> None:
    """Add a layer of level-0 shapes, moved to the frame, to a GeoPackage, made where it is not there yet."""
    before = {name: pyogrio.get_gdal_config_option(name) for name in _WHEN}
    pyogrio.set_gdal_config_options(_QUIET)
    placed = [shapely.transform(shape, lambda xy: l0_to_frame(xy, slide.mpp_l0)) for shape in shapes]
    pyogrio.set_gdal_config_options(_WHEN)
    try:
        pyogrio.raw.write(
            path,
            geometry=shapely.to_wkb(np.array(placed, dtype=object)),
            field_data=list(columns.values()),
            fields=list(columns),
            layer=layer,
            driver="GPKG",
            geometry_type="MultiPolygon",
            crs=frame_wkt("um"),
            append=path.exists(),
            dataset_options={"VERSION": GPKG_VERSION},
        )
    finally:
        pyogrio.set_gdal_config_options(before)


def _floats(values: Any) -> np.ndarray:
    return np.fromiter(values, dtype=np.float64)


def _plain(value: Any) -> Any:
    """A field as a table can hold it: warnings in one text, and no half characters from undecodable file names."""
    if isinstance(value, tuple):
        value = " | ".join(value)
    return value.encode("utf-8", "backslashreplace").decode() if isinstance(value, str) else value


def _csv_text(value: Any) -> str:
    if isinstance(value, float):
        if math.isnan(value):
            return ""
        return np.format_float_positional(value, precision=_CSV_DIGITS, unique=False, fractional=False, trim="-")
    return "" if value is None else str(value)


def _write_csv(path: Path, names: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> Path:
    lines = [",".join(names), *(",".join(_quoted(_csv_text(row[name])) for name in names) for row in rows)]
    return replace_file(path, "".join(f"{line}\n" for line in lines).encode())


def _quoted(text: str) -> str:
    """A CSV cell. Python 3.11's csv.writer leaves a lone carriage return bare, which readers take for a new row."""
    return '"' + text.replace('"', '""') + '"' if any(mark in text for mark in ',"\r\n') else text


def _write_parquet(path: str | Path, table: pa.Table) -> Path:
    sink = io.BytesIO()
    pq.write_table(table, sink, compression="zstd")
    return replace_file(path, sink.getvalue())
