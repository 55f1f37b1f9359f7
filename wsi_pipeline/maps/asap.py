"""Lesions as ASAP XML: outlines in level-0 px of the whole slide, each hole an annotation of its own."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import shapely

from wsi_pipeline.maps.atomic import replace_file
from wsi_pipeline.maps.lesions import Lesion

HOLES = "normal"  # the group of holes; CAMELYON17's word for what is taken out of metastases
LESION_COLOUR, HOLE_COLOUR = "#C81E1E", "#286E3C"


def write_asap(path: str | Path, lesions: Sequence[Lesion], *, group: str) -> Path:
    """The lesions as annotations of `group`, largest first; ASAP and `slide.region_files.read_asap` read them.

    ASAP knows no holes, so a hole is a polygon of the group "normal", as in CAMELYON17: it is taken out of all
    lesions. A lesion that lies in the hole of another is left out of it. Coordinates to a hundredth of a pixel;
    both groups are listed also where they are empty, for ASAP loads no file that names an unlisted one. Raises
    OSError where it cannot be written.
    """
    root = ElementTree.Element("ASAP_Annotations")
    annotations = ElementTree.SubElement(root, "Annotations")
    everywhere = shapely.get_parts([lesion.polygon for lesion in lesions])
    tree = shapely.STRtree(everywhere)
    group = _one_line(group)
    for lesion in lesions:
        parts = shapely.get_parts(lesion.polygon)
        _add(annotations, f"Lesion {lesion.number}", [shapely.Polygon(part.exterior) for part in parts], group)
        _add(annotations, f"Lesion {lesion.number} hole", _holes(parts, everywhere, tree), HOLES)
    groups = ElementTree.SubElement(root, "AnnotationGroups")
    for name in dict.fromkeys((group, HOLES)):
        attributes = {"Name": name, "PartOfGroup": "None", "Color": _colour(name)}
        ElementTree.SubElement(ElementTree.SubElement(groups, "Group", attributes), "Attributes")
    ElementTree.indent(root, "\t")
    text = ElementTree.tostring(root, encoding="unicode", short_empty_elements=True)
    return replace_file(path, f'<?xml version="1.0"?>\n{text}\n'.encode("utf-8", "replace"))


def _holes(parts: Iterable[shapely.Polygon], everywhere: np.ndarray, tree: shapely.STRtree) -> list[shapely.Polygon]:
    """The holes of a lesion's parts, without what lies in them of all parts `everywhere`, as polygons without holes.

    What lies in a hole lies in its box; the part around it, which may have thousands of holes, does not.
    """
    found: list[shapely.Polygon] = []
    corners = shapely.bounds(everywhere)
    for part in parts:
        for ring in part.interiors:
            hole = shapely.Polygon(ring)
            left, top, right, bottom = hole.bounds
            near = tree.query(hole)
            (x0, y0, x1, y1) = corners[near].T
            islands = everywhere[near[(x0 >= left) & (y0 >= top) & (x1 <= right) & (y1 <= bottom)]]
            for piece in shapely.get_parts(shapely.difference(hole, shapely.union_all(islands))):
                found += _simple(piece)
    return found


def _simple(polygon: shapely.Geometry) -> list[shapely.Polygon]:
    """The same area in polygons without holes: cut from top to bottom through the middle of the first hole."""
    if polygon.geom_type != "Polygon" or not polygon.area:
        return []
    if not len(polygon.interiors):
        return [polygon]
    left, top, right, bottom = polygon.bounds
    middle = polygon.interiors[0].centroid.x
    halves = shapely.box([left, middle], top, [middle, right], bottom)
    return [piece for half in shapely.get_parts(shapely.intersection(polygon, halves)) for piece in _simple(half)]


def _add(annotations: ElementTree.Element, name: str, polygons: Sequence[shapely.Polygon], group: str) -> None:
    """An annotation a polygon; from the second on with its number in the name."""
    for number, polygon in enumerate(polygons, start=1):
        said = name if number == 1 else f"{name} {number}"
        attributes = {"Name": said, "Type": "Polygon", "PartOfGroup": group, "Color": _colour(group)}
        element = ElementTree.SubElement(annotations, "Annotation", attributes)
        coordinates = ElementTree.SubElement(element, "Coordinates")
        for order, (x, y) in enumerate(polygon.exterior.coords[:-1]):  # ASAP closes the ring itself
            place = {"Order": str(order), "X": f"{x:.2f}", "Y": f"{y:.2f}"}
            ElementTree.SubElement(coordinates, "Coordinate", place)


def _colour(group: str) -> str:
    return HOLE_COLOUR if group == HOLES else LESION_COLOUR


def _one_line(group: str) -> str:
    """A class name without what XML cannot hold."""
    return "".join(mark if mark.isprintable() else " " for mark in group)
