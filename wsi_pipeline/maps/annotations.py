"""Lesions, tissue and tiles as QuPath GeoJSON, in level-0 pixels from the corner that QuPath counts from."""

import gzip
import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from uuid import NAMESPACE_URL, uuid4, uuid5

import numpy as np
import shapely

from wsi_pipeline.maps.atomic import replace_file
from wsi_pipeline.maps.lesions import Lesion
from wsi_pipeline.scores.store import Scores
from wsi_pipeline.slide.reader import Slide
from wsi_pipeline.tiles.grid import TileGrid

LESION_RGB, TISSUE_RGB, TILE_RGB = [200, 30, 30], [40, 110, 60], [120, 120, 120]


def write_annotations(
    path: str | Path,
    lesions: Sequence[Lesion],
    slide: Slide,
    *,
    class_name: str,
    full_frame: bool = False,
) -> Path:
    """The lesions as locked QuPath annotations, holes kept, with their measurements."""
    shift = qupath_shift(slide, full_frame=full_frame)
    features = [
        _feature(
            f"{slide.id}/lesion/{lesion.number}",
            "annotation",
            _moved(lesion.polygon, shift),
            class_name=class_name,
            rgb=LESION_RGB,
            name=f"Lesion {lesion.number}",
            measurements={
                "area_mm2": lesion.area_mm2,
                "longest_diameter_um": lesion.longest_um,
                "mean_probability": lesion.mean_probability,
                "max_probability": lesion.max_probability,
                "tiles": lesion.tiles,
            },
        )
        for lesion in lesions
    ]
    return _write_collection(path, features)


def write_tissue(
    path: str | Path, tissue: shapely.MultiPolygon, slide: Slide, *, tissue_mm2: float, full_frame: bool = False
) -> Path:
    """The tissue outline as one locked QuPath annotation; none where there is no tissue."""
    moved = _moved(tissue, qupath_shift(slide, full_frame=full_frame))
    feature = _feature(
        f"{slide.id}/tissue",
        "annotation",
        moved,
        class_name="Tissue",
        rgb=TISSUE_RGB,
        name="Tissue",
        measurements={"area_mm2": tissue_mm2},
    )
    return _write_collection(path, [] if tissue.is_empty else [feature])


def write_tiles(path: str | Path, grid: TileGrid, scores: Scores, *, full_frame: bool = False) -> Path:
    """Every scored tile as a QuPath tile object with its probabilities, gzipped; written as a stream."""
    path = Path(path)
    partial = path.with_name(f".{uuid4().hex}.partial")
    try:
        with partial.open("wb") as raw, gzip.GzipFile("", "wb", 6, raw, mtime=0) as file:
            for piece in _tile_collection(grid, scores, qupath_shift(grid.slide, full_frame=full_frame)):
                file.write(piece.encode("utf-8", "replace"))
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
    return path


def write_detections(path: str | Path, lesions: Sequence[Lesion]) -> Path:
    """CAMELYON's detections, `confidence,x,y` a lesion: level-0 pixels, no header."""
    lines = [
        f"{lesion.max_probability:.4f},{round(lesion.centroid_l0[0])},{round(lesion.centroid_l0[1])}\n"
        for lesion in lesions
    ]
    return replace_file(path, "".join(lines).encode())


def qupath_shift(slide: Slide, *, full_frame: bool) -> tuple[int, int]:
    """Level-0 (x, y) of the corner that QuPath counts from: it crops to bounds that differ in width and height."""
    if full_frame or slide.bounds_l0 is None:
        return 0, 0
    x, y, width, height = slide.bounds_l0
    cropped = width != slide.size_l0[0] and height != slide.size_l0[1]
    return (x, y) if cropped else (0, 0)


def _tile_collection(grid: TileGrid, scores: Scores, shift: tuple[int, int]) -> Iterator[str]:
    yield '{"type": "FeatureCollection", "features": [\n'
    corners = grid.xy_l0 - np.asarray(shift)
    width, height = grid.footprint_l0
    for k, (x, y) in enumerate(corners.tolist()):
        box = shapely.box(x, y, x + round(width), y + round(height))
        measurements = dict(zip((f"prob_{c}" for c in scores.class_names), scores.probs[k].tolist(), strict=True))
        feature = _feature(
            f"{grid.slide.id}/tile/{k}", "tile", box, class_name="Tile", rgb=TILE_RGB, measurements=measurements
        )
        yield ("" if k == 0 else ",\n") + json.dumps(feature)
    yield "\n]}\n"


def _feature(
    key: str,
    kind: str,
    shape: Any,
    *,
    class_name: str,
    rgb: list[int],
    measurements: Mapping[str, float],
    name: str | None = None,
) -> dict[str, Any]:
    """One QuPath object; the id is the same in every run. QuPath reads NaN only as text."""
    properties: dict[str, Any] = {
        "objectType": kind,
        "classification": {"name": class_name, "color": rgb},
        "measurements": {k: "NaN" if math.isnan(v) else round(v, 6) for k, v in measurements.items()},
    }
    if name is not None:
        properties |= {"name": name, "isLocked": True}
    return {
        "type": "Feature",
        "id": str(uuid5(NAMESPACE_URL, key)),
        "geometry": shapely.geometry.mapping(shape),
        "properties": properties,
    }


def _moved(shape: shapely.MultiPolygon, shift: tuple[int, int]) -> shapely.MultiPolygon:
    return shapely.transform(shape, lambda corners: corners - np.asarray(shift))


def _write_collection(path: str | Path, features: list[dict[str, Any]]) -> Path:
    text = json.dumps({"type": "FeatureCollection", "features": features}, ensure_ascii=False)
    return replace_file(path, text.encode("utf-8", "replace"))
