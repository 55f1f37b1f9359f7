"""Tables: a row a tile, a row a slide, a row a failure; and polygons for QGIS (GeoPackage)."""

import csv
import io
import json
import math
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pyogrio.raw
import shapely

from wsi_pipeline.maps.aggregate import SlideResult
from wsi_pipeline.maps.atomic import replace_file
from wsi_pipeline.maps.frame import frame_wkt, l0_to_frame
from wsi_pipeline.maps.lesions import Lesion
from wsi_pipeline.scores.store import Scores
from wsi_pipeline.slide.reader import Slide
from wsi_pipeline.tiles.grid import TileGrid

_ARROW = {"str": pa.string(), "float": pa.float64(), "int": pa.int64()}
FAILED = ("no_mpp", "unreadable", "failed")


def write_tiles_parquet(path: str | Path, grid: TileGrid, scores: Scores) -> Path:
    """A row a tile: level-0 top left x, y, cell, tissue share, whether it could be read, and its probabilities."""
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
        "tile_px": grid.tile_px,
        "stride_px": grid.stride_px,
        "mpp": [grid.mpp.x, grid.mpp.y],
        "mpp_l0": [grid.slide.mpp_l0.x, grid.slide.mpp_l0.y],
        "footprint_l0": list(grid.footprint_l0),
        "use": "Research use only",
    }
    table = pa.table(columns).replace_schema_metadata({"wsi_pipeline": json.dumps(facts)})
    return _write_parquet(path, table)


def write_slides_table(results: Sequence[SlideResult], folder: str | Path) -> tuple[Path, Path]:
    """slides.csv and slides.parquet: a row a slide, every field of SlideResult; ids stay text."""
    names = [item.name for item in fields(SlideResult)]
    rows = [{name: _plain(getattr(result, name)) for name in names} for result in results]
    schema = pa.schema([(item.name, _arrow_type(item.type)) for item in fields(SlideResult)])
    parquet = _write_parquet(Path(folder) / "slides.parquet", pa.Table.from_pylist(rows, schema=schema))
    text = [[_csv_text(row[name]) for name in names] for row in rows]
    return _write_csv(Path(folder) / "slides.csv", [names, *text]), parquet


def write_failures(results: Sequence[SlideResult], folder: str | Path) -> Path:
    """failures.csv: the slides that came to no map, where they ended and why; the header is always there."""
    names = ["slide_id", "status", "stage", "error", "message"]
    failed = [result for result in results if result.status in FAILED]
    rows = [[str(getattr(result, name)) for name in names] for result in failed]
    return _write_csv(Path(folder) / "failures.csv", [names, *rows])


def write_geopackage(path: str | Path, lesions: Sequence[Lesion], tissue: shapely.MultiPolygon, slide: Slide) -> Path:
    """Layers "lesions" and "tissue": polygons in micrometres, in the frame of the heatmap."""
    numbers: dict[str, np.ndarray] = {
        "number": np.array([lesion.number for lesion in lesions], dtype=np.int32),
        "area_mm2": np.array([lesion.area_mm2 for lesion in lesions], dtype=np.float64),
        "longest_um": np.array([lesion.longest_um for lesion in lesions], dtype=np.float64),
        "mean_probability": np.array([lesion.mean_probability for lesion in lesions], dtype=np.float64),
        "max_probability": np.array([lesion.max_probability for lesion in lesions], dtype=np.float64),
    }
    pieces = [part for part in tissue.geoms if not part.is_empty]
    areas = [part.area * slide.mpp_l0.x * slide.mpp_l0.y * 1e-6 for part in pieces]
    with TemporaryDirectory() as scratch:  # GDAL writes a database in place; ours appears whole
        draft = Path(scratch) / "extent.gpkg"
        _write_layer(draft, "lesions", [lesion.polygon for lesion in lesions], numbers, slide)
        _write_layer(draft, "tissue", pieces, {"area_mm2": np.array(areas, dtype=np.float64)}, slide)
        return replace_file(path, draft.read_bytes())


def _write_layer(path: Path, layer: str, shapes: Sequence[Any], columns: dict[str, np.ndarray], slide: Slide) -> None:
    placed = [shapely.transform(shape, lambda xy: l0_to_frame(xy, slide.mpp_l0)) for shape in shapes]
    whole = [shapely.MultiPolygon([shape]) if shape.geom_type == "Polygon" else shape for shape in placed]
    pyogrio.raw.write(
        path,
        geometry=np.array(shapely.to_wkb(np.array(whole, dtype=object)), dtype=object),
        field_data=list(columns.values()),
        fields=list(columns),
        layer=layer,
        driver="GPKG",
        geometry_type="MultiPolygon",
        crs=frame_wkt("um"),
        append=path.exists(),
    )


def _arrow_type(annotation: Any) -> pa.DataType:
    text = annotation if isinstance(annotation, str) else getattr(annotation, "__name__", str(annotation))
    return _ARROW.get(text, pa.string())


def _plain(value: Any) -> Any:
    return " | ".join(value) if isinstance(value, tuple) else value


def _csv_text(value: Any) -> str:
    if isinstance(value, float):
        return "" if math.isnan(value) else f"{value:.6g}"
    return "" if value is None else str(value)


def _write_csv(path: Path, rows: Sequence[Sequence[str]]) -> Path:
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\n").writerows(rows)
    return replace_file(path, text.getvalue().encode("utf-8", "replace"))


def _write_parquet(path: str | Path, table: pa.Table) -> Path:
    sink = io.BytesIO()
    pq.write_table(table, sink)
    return replace_file(path, sink.getvalue())
