"""Lesions, tissue and scored tiles as QuPath GeoJSON, in the level-0 pixels that QuPath shows; CAMELYON detections."""

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

from wsi_pipeline.disk import writing
from wsi_pipeline.maps.atomic import replace_file
from wsi_pipeline.maps.lesions import Lesion
from wsi_pipeline.scores.store import Scores
from wsi_pipeline.slide.reader import Slide
from wsi_pipeline.slide.region_files import qupath_corner
from wsi_pipeline.tiles.grid import TileGrid

LESION_RGB, TISSUE_RGB = (200, 30, 30), (40, 110, 60)
TILES_AT_ONCE = 4096  # of which the text is in memory


def write_annotations(
    path: str | Path,
    lesions: Sequence[Lesion],
    slide: Slide,
    *,
    class_name: str,
    full_frame: bool = False,
) -> Path:
    """The lesions as locked QuPath annotations, holes kept, with their measurements.

    Coordinates count from the corner that QuPath shows, or with `full_frame` from that of the slide; see
    `qupath_shift`. Ids come from slide and number, so that a second run gives the same file. Raises OSError
    where it cannot be written.
    """
    shift = qupath_shift(slide, full_frame=full_frame)
    features = [
        _annotation(
            f"{slide.id}/lesion/{lesion.number}",
            _moved(lesion.polygon, shift),
            name=f"Lesion {lesion.number}",
            classification=_classification(class_name, LESION_RGB),
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
    """The tissue outline (level-0 px) as one locked QuPath annotation; no feature where there is no tissue."""
    feature = _annotation(
        f"{slide.id}/tissue",
        _moved(tissue, qupath_shift(slide, full_frame=full_frame)),
        name="Tissue",
        classification=_classification("Tissue", TISSUE_RGB),
        measurements={"area_mm2": tissue_mm2},
    )
    return _write_collection(path, [] if tissue.is_empty else [feature])


def write_tiles(
    path: str | Path, grid: TileGrid, scores: Scores, *, threshold: float | None = None, full_frame: bool = False
) -> Path:
    """Every tile as a QuPath tile object with measurements `prob_<class>`, gzipped; written as a stream.

    A tile at or above the threshold, the model's own if none is given, has the class of the lesions, the others none.
    Memory does not grow with the number of tiles; equal tiles give equal bytes. Raises OSError where it cannot be
    written.
    """
    path = Path(path)
    partial = path.with_name(f".{uuid4().hex}.partial")
    shift = qupath_shift(grid.slide, full_frame=full_frame)
    cancer = scores.positive_prob() >= np.float32(scores.threshold if threshold is None else threshold)  # not of NaN
    try:
        with writing(path), partial.open("wb") as raw:
            with gzip.GzipFile("", "wb", 6, raw, mtime=0) as file:
                file.write(b'{"type": "FeatureCollection", "features": [\n')
                for start in range(0, len(grid), TILES_AT_ONCE):
                    lines = ",\n".join(json.dumps(tile) for tile in _tiles(grid, scores, cancer, start, shift=shift))
                    file.write((",\n" if start else "").encode() + lines.encode())
                file.write(b"\n]}\n")
            raw.flush()
            os.fsync(raw.fileno())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
    return path


def write_detections(path: str | Path, lesions: Sequence[Lesion]) -> Path:
    """CAMELYON's detections: a line `confidence,x,y` a lesion, level-0 px of the full slide, no header.

    The confidence is the lesion's highest probability; the point its centroid or, where that lies outside,
    a point within, as a point beside the lesion would count as a false positive.
    """
    lines = []
    for lesion in lesions:
        centre = shapely.Point(lesion.centroid_l0)
        point = centre if lesion.polygon.covers(centre) else lesion.polygon.representative_point()
        lines.append(f"{lesion.max_probability:.6f},{round(point.x)},{round(point.y)}\n")
    return replace_file(path, "".join(lines).encode())


def cancer_name(positive: Sequence[str]) -> str:
    """What the classes that count as cancer are called together."""
    return positive[0] if len(positive) == 1 else "cancer"


def qupath_shift(slide: Slide, *, full_frame: bool) -> tuple[int, int]:
    """Level-0 (x, y) that is taken off all coordinates: QuPath's corner, or nothing in the full frame."""
    return (0, 0) if full_frame else qupath_corner(slide)


def _tiles(
    grid: TileGrid, scores: Scores, cancer: np.ndarray, start: int, *, shift: tuple[int, int]
) -> Iterator[dict[str, Any]]:
    """The features of up to TILES_AT_ONCE tiles from `start` on; `cancer` (N,) bool."""
    stop = min(start + TILES_AT_ONCE, len(grid))
    boxes = grid.boxes_l0(start, stop)
    corners = np.hstack([boxes[:, :2] - shift, boxes[:, :2] + boxes[:, 2:] - shift]).round(2).tolist()
    names = [f"prob_{name}" for name in scores.class_names]
    positive = {"classification": _classification(cancer_name(scores.positive), LESION_RGB)}
    rows = zip(corners, scores.probs[start:stop].tolist(), cancer[start:stop], strict=True)
    for number, ((left, top, right, bottom), row, found) in enumerate(rows, start=start):
        ring = [[left, top], [right, top], [right, bottom], [left, bottom], [left, top]]
        yield {
            "type": "Feature",
            "id": _feature_id(f"{grid.slide.id}/tile/{number}"),
            "geometry": {"type": "Polygon", "coordinates": [ring]},
            "properties": {"objectType": "tile", "measurements": _measurements(zip(names, row, strict=True))}
            | (positive if found else {}),
        }


def _annotation(
    key: str,
    shape: shapely.MultiPolygon,
    *,
    name: str,
    classification: Mapping[str, Any],
    measurements: Mapping[str, float],
) -> dict[str, Any]:
    """One locked QuPath annotation; a single piece is a Polygon."""
    return {
        "type": "Feature",
        "id": _feature_id(key),
        "geometry": shapely.geometry.mapping(shape.geoms[0] if len(shape.geoms) == 1 else shape),
        "properties": {
            "objectType": "annotation",
            "name": name,
            "classification": classification,
            "isLocked": True,
            "measurements": _measurements(measurements.items()),
        },
    }


def _classification(name: str, rgb: tuple[int, int, int]) -> dict[str, Any]:
    """QuPath cannot parse a class without a colour."""
    return {"name": name, "color": list(rgb)}


def _measurements(values: Any) -> dict[str, float | str]:
    """Numbers to 6 decimals; QuPath reads NaN only as text."""
    return {name: "NaN" if math.isnan(value) else round(value, 6) for name, value in values}


def _feature_id(key: str) -> str:
    """The same UUID for the same key, in every run; half characters of a file name are spelt out first."""
    return str(uuid5(NAMESPACE_URL, key.encode("utf-8", "backslashreplace").decode()))


def _moved(shape: shapely.MultiPolygon, shift: tuple[int, int]) -> shapely.MultiPolygon:
    """Level-0 shape from QuPath's corner, to a hundredth of a pixel."""
    return shapely.transform(shape, lambda corners: (corners - shift).round(2))


def _write_collection(path: str | Path, features: list[dict[str, Any]]) -> Path:
    return replace_file(path, json.dumps({"type": "FeatureCollection", "features": features}).encode())
