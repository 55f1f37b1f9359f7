"""Annotation files (ASAP XML, QuPath GeoJSON, NCRF JSON, mask TIFF) -> the Regions of a slide.

What a file says is never trusted: sizes and depths are limited, XML entities refused, and whatever is not as it
should be is a ConfigError that names the file.
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element, ParseError

import numpy as np
from defusedxml import ElementTree

from wsi_pipeline.errors import ConfigError, SlideError
from wsi_pipeline.slide.describe import Slide
from wsi_pipeline.slide.files import check_file, reason, shown
from wsi_pipeline.slide.region_masks import read_mask
from wsi_pipeline.slide.regions import UNNAMED, RegionDraft, Regions

MAX_TEXT_BYTES = 256 * 2**20  # 30 times the largest annotation of CAMELYON
_MAX_DEPTH = 16  # elements of XML inside each other; ASAP needs 5
_OUTLINES = ("Polygon", "Spline", "Rectangle")  # ASAP's types that enclose an area
_ANNOTATION = (None, "annotation", "PathAnnotationObject")  # QuPath's objects that a person drew; the rest are results
_POLYGONS = ("Polygon", "MultiPolygon")
_FAILED = (ParseError, ArithmeticError, AttributeError, LookupError, OSError, RecursionError, TypeError, ValueError)


def read_regions(
    path: str | Path, *, size_l0: tuple[int, int] | None = None, corner_l0: tuple[float, float] = (0.0, 0.0)
) -> Regions:
    """Read an annotation file: .xml, .json, .geojson, .tif or .tiff.

    `size_l0` (width, height) of the slide tells the scale of a mask, and is asked for only there. `corner_l0`
    is the level-0 (x, y) that the coordinates of a GeoJSON count from, see `qupath_corner`; all other
    formats count from that of the slide. Raises ConfigError where the file cannot be used.
    """
    path = Path(path)
    with _told(path, "annotation file"):
        check_file(path)
    kind = path.suffix.lower()
    if kind == ".xml":
        return read_asap(path)
    if kind in (".json", ".geojson"):
        return read_json(path, corner_l0=corner_l0)
    if kind in (".tif", ".tiff"):
        if size_l0 is None:
            raise ConfigError(f"{shown(path)}: a mask needs the size of its slide; give size_l0")
        return read_mask(path, size_l0)
    raise ConfigError(f"{shown(path)}: no known annotation file; give .xml (ASAP), .geojson, .json or .tif")


def qupath_corner(slide: Slide) -> tuple[int, int]:
    """Level-0 (x, y) that QuPath counts from: it crops to bounds that differ from the slide in width and height."""
    if slide.bounds_l0 is None:
        return 0, 0
    x, y, width, height = slide.bounds_l0
    cropped = width != slide.size_l0[0] and height != slide.size_l0[1]
    return (x, y) if cropped else (0, 0)


def read_asap(path: Path) -> Regions:
    """The polygons, splines (by their points) and rectangles of an ASAP XML; dots and the like are counted.

    A group that CUT_OUT names is taken out of the others: `_2` of CAMELYON16, `normal` of CAMELYON17.
    """
    draft = RegionDraft()
    with _told(path, "ASAP XML"):
        for annotation in _asap_annotations(path):
            kind = annotation.get("Type", "")
            if kind in _OUTLINES:
                draft.add([_asap_ring(annotation)], annotation.get("PartOfGroup") or UNNAMED)
            else:
                draft.skip(kind or "annotation without a type")
    return draft.regions()


def read_json(path: Path, *, corner_l0: tuple[float, float] = (0.0, 0.0)) -> Regions:
    """QuPath's GeoJSON, or NCRF's JSON of `positive` and `negative` polygons: what is in it tells.

    Of a GeoJSON the polygons of annotations are read, each part and hole; points, lines, cells and tiles are
    counted. The group is the name of the classification.
    """
    draft = RegionDraft()
    with _told(path, "GeoJSON"):
        found = json.loads(_text(path), parse_constant=_refuse_constant)
        if isinstance(found, dict) and "type" not in found and {"positive", "negative"} & set(found):
            _add_ncrf(draft, found)
        else:
            for feature in _features(found):
                _add_feature(draft, feature, np.asarray(corner_l0, dtype=np.float64))
    return draft.regions()


def _asap_annotations(path: Path) -> Iterator[Element]:
    """Each Annotation element as it is read; forgotten when the next is asked for."""
    _check_text_size(path)
    depth = 0
    with path.open("rb") as file:
        for event, element in ElementTree.iterparse(file, events=("start", "end")):
            depth += 1 if event == "start" else -1
            if depth == 1 and event == "start" and element.tag != "ASAP_Annotations":
                raise ValueError(f"begins with <{element.tag[:40]}>, not <ASAP_Annotations>")
            if depth > _MAX_DEPTH:
                raise ValueError(f"elements more than {_MAX_DEPTH} deep")
            if event == "end" and element.tag == "Annotation":
                yield element
                element.clear()


def _asap_ring(annotation: Element) -> np.ndarray:
    """(n, 2) [x, y] of an annotation, by `Order` where all have one."""
    points = annotation.findall("Coordinates/Coordinate")
    try:
        ring = np.array([(float(point.attrib["X"]), float(point.attrib["Y"])) for point in points])
        order = [int(point.attrib["Order"]) for point in points if "Order" in point.attrib]
    except (KeyError, ValueError) as error:
        raise ValueError(f"annotation {annotation.get('Name', '')!r}: a coordinate that is none ({error})") from None
    return ring[np.argsort(order, kind="stable")] if points and len(order) == len(points) else ring


def _features(found: Any) -> Iterator[Mapping[str, Any]]:
    """The features of a collection, a list, a single feature or a bare geometry."""
    if isinstance(found, dict) and found.get("type") == "FeatureCollection":
        found = found["features"]
    for item in found if isinstance(found, list) else [found]:
        if not isinstance(item, dict) or not isinstance(item.get("type"), str):
            raise ValueError(f"a feature that is none: {str(item)[:40]}")
        if item["type"] == "FeatureCollection":
            yield from _features(item)
        else:
            yield item if item["type"] == "Feature" else {"geometry": item}


def _add_feature(draft: RegionDraft, feature: Mapping[str, Any], corner: np.ndarray) -> None:
    properties = feature.get("properties") or {}
    kind = properties.get("objectType", properties.get("object_type"))  # the second by QuPath 0.2
    if kind not in _ANNOTATION:
        draft.skip(str(kind))
    elif not feature.get("geometry"):
        draft.skip("feature without a geometry")
    else:
        _add_geometry(draft, feature["geometry"], _class_name(properties.get("classification")), corner)


def _add_geometry(draft: RegionDraft, geometry: Mapping[str, Any], group: str, corner: np.ndarray) -> None:
    kind = geometry["type"]
    if kind == "GeometryCollection":
        for part in geometry["geometries"]:
            _add_geometry(draft, part, group, corner)
    elif kind in _POLYGONS:
        places = geometry["coordinates"]
        for rings in places if kind == "MultiPolygon" else [places]:
            draft.add([_ring(ring, corner) for ring in rings], group)
    else:
        draft.skip(str(kind))


def _ring(points: Any, corner: np.ndarray) -> np.ndarray:
    ring = np.array(points, dtype=np.float64)
    return ring[:, :2] + corner if ring.ndim == 2 and ring.shape[1] >= 2 else ring


def _class_name(classification: Any) -> str:
    """QuPath's class: {"name": ...}, {"names": [...]} of a derived one, or plain text."""
    if isinstance(classification, dict):
        classification = classification.get("name") or ": ".join(map(str, classification.get("names") or ()))
    return str(classification or UNNAMED)


def _add_ncrf(draft: RegionDraft, found: Mapping[str, Any]) -> None:
    for group in ("positive", "negative"):
        for polygon in found.get(group, []):
            draft.add([np.array(polygon["vertices"], dtype=np.float64)], group)


def _text(path: Path) -> bytes:
    _check_text_size(path)
    return path.read_bytes()


def _check_text_size(path: Path) -> None:
    size = path.stat().st_size
    if size > MAX_TEXT_BYTES:
        raise ValueError(f"{size:,} bytes, more than {MAX_TEXT_BYTES:,}; export annotations alone, without cells")


def _refuse_constant(word: str) -> float:
    raise ValueError(f"{word} is no coordinate")


@contextmanager
def _told(path: Path, what: str) -> Iterator[None]:
    """Turn what a damaged or foreign file raises into a ConfigError that names it."""
    try:
        yield
    except SlideError as error:
        raise ConfigError(str(error)) from None
    except _FAILED as error:
        said = f"{error} is missing" if isinstance(error, KeyError) else reason(error, path)
        raise ConfigError(f"{shown(path)}: cannot be read as {what} ({said}); correct it, or take it out") from None
