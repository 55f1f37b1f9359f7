"""Annotated regions of a slide, polygons in level-0 px -> the share of boxes that they cover, and points inside."""

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import shapely

UNNAMED = "None"  # the group of a region that has none, as ASAP writes it
CUT_OUT = frozenset(["_2", "normal", "negative", "exclusion"])  # groups that are taken out of the others, lower case
_PIECE_POINTS = 256  # a polygon of more is divided: a box then meets a small piece, not an outline of 20,000 points
_DIVISIONS = 24  # at most; each halves a piece
_BOXES_AT_ONCE = 16_384


@dataclass(frozen=True, eq=False)
class Regions:
    """What was drawn on one slide; made by `RegionDraft` and `read_regions`.

    Attributes:
        polygons: (K,) shapely Polygon or MultiPolygon, valid, in level-0 px, y down; may overlap.
        groups: (K,) what each was called, "None" where it was not.
        cut_out: (K,) bool, True for areas that are taken out of all the others, such as normal tissue in a tumour.
        skipped: what the file held beside it and no region can be, in words: "2 x Point".
    """

    polygons: np.ndarray
    groups: tuple[str, ...]
    cut_out: np.ndarray
    skipped: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.polygons)

    def select(self, groups: Collection[str]) -> "Regions":
        """The regions of these groups, upper or lower case, with what the other groups cut out of them.

        A group that is named here cuts nothing out.
        """
        wanted = {name.casefold() for name in groups}
        named = np.array([name.casefold() in wanted for name in self.groups], dtype=bool)
        rows = np.flatnonzero(named | self.cut_out)
        return Regions(self.polygons[rows], tuple(self.groups[k] for k in rows), ~named[rows])

    @cached_property
    def area(self) -> shapely.Geometry:
        """All that is covered, each place once, without what is cut out."""
        covered = shapely.union_all(self.polygons[~self.cut_out])
        return shapely.difference(covered, shapely.union_all(self.polygons[self.cut_out]))

    @cached_property
    def pieces(self) -> shapely.STRtree:
        """`area` divided into small polygons that do not overlap."""
        return shapely.STRtree([piece for part in shapely.get_parts(self.area) for piece in _divide(part)])


class RegionDraft:
    """Collects the shapes of one file, mends them, and counts what is left out."""

    def __init__(self) -> None:
        self._polygons: list[shapely.Geometry] = []
        self._groups: list[str] = []
        self._cut_out: list[bool] = []
        self._skipped: Counter[str] = Counter()

    def add(self, rings: Sequence[np.ndarray], group: str, *, cut_out: bool | None = None) -> None:
        """A polygon of an outer ring and holes, each (n, 2 or more) [x, y] in level-0 px, closed or not.

        Without `cut_out` the group's name tells, see CUT_OUT. Raises ValueError for a number that is not finite.
        """
        shape = _mended(rings)
        if shape is None:
            self.skip("polygon without an area")
        else:
            self.add_shape(shape, group, cut_out=cut_out)

    def add_shape(self, shape: shapely.Geometry, group: str, *, cut_out: bool | None = None) -> None:
        """A valid polygon as it is."""
        self._polygons.append(shape)
        self._groups.append(group)
        self._cut_out.append(group.casefold() in CUT_OUT if cut_out is None else cut_out)

    def skip(self, what: str) -> None:
        """Count something that no region can be."""
        self._skipped[what] += 1

    def regions(self) -> Regions:
        """All that was added."""
        polygons = np.empty(len(self._polygons), dtype=object)
        polygons[:] = self._polygons
        skipped = tuple(f"{count} x {what}" for what, count in sorted(self._skipped.items()))
        return Regions(polygons, tuple(self._groups), np.array(self._cut_out, dtype=bool), skipped)


def share_in_boxes(regions: Regions, boxes_l0: np.ndarray) -> np.ndarray:
    """Share of each box that lies in the regions: (N, 4) [x, y, width, height] in level-0 px -> (N,) float64 0-1.

    Exact by area; where regions overlap, a place counts once.
    """
    boxes = np.asarray(boxes_l0, dtype=np.float64).reshape(-1, 4)
    covered = np.zeros(len(boxes))
    for start in range(0, len(boxes), _BOXES_AT_ONCE):
        part = slice(start, start + _BOXES_AT_ONCE)
        covered[part] = _covered(regions.pieces, boxes[part])
    return np.clip(covered / (boxes[:, 2] * boxes[:, 3]), 0, 1)


def at_points(regions: Regions, xy_l0: np.ndarray) -> np.ndarray:
    """Whether each point lies in the regions or on their border: (N, 2) [x, y] in level-0 px -> (N,) bool."""
    points = shapely.points(np.asarray(xy_l0, dtype=np.float64).reshape(-1, 2))
    inside = np.zeros(len(points), dtype=bool)
    inside[regions.pieces.query(points, predicate="intersects")[0]] = True
    return inside


def _covered(pieces: shapely.STRtree, boxes: np.ndarray) -> np.ndarray:
    """Level-0 px2 of each box that pieces cover."""
    left, top, width, height = boxes.T
    shapes = shapely.box(left, top, left + width, top + height)
    box, piece = pieces.query(shapes)
    areas = shapely.area(shapely.intersection(shapes[box], pieces.geometries[piece]))
    return np.bincount(box, areas, minlength=len(boxes))


def _mended(rings: Sequence[np.ndarray]) -> shapely.Geometry | None:
    """A valid (multi)polygon of the rings, None where they enclose nothing.

    Of an outline that crosses itself every loop is kept, also one drawn twice over: a pen that went round
    once more means the same area, not a hole.
    """
    outer, *holes = [_corners(ring) for ring in rings] or [np.empty((0, 2))]
    if len(outer) < 3:
        return None
    holes = [hole for hole in holes if len(hole) >= 3]
    shape = shapely.Polygon(outer, holes)
    if not shape.is_valid:  # made valid whole, a hole outside would become an area of its own
        shape = shapely.difference(_loops(outer), shapely.union_all([_loops(hole) for hole in holes]))
    parts = [part for part in shapely.get_parts(shape) if part.geom_type == "Polygon" and part.area > 0]
    return None if not parts else parts[0] if len(parts) == 1 else shapely.MultiPolygon(parts)


def _loops(ring: np.ndarray) -> shapely.Geometry:
    """All that a ring (n, 2), n >= 3, goes round, also where it crosses itself."""
    loops = shapely.get_parts(shapely.make_valid(shapely.Polygon(ring), method="structure", keep_collapsed=False))
    return shapely.union_all(loops)  # for a lesion of CAMELYON16 GEOS 3.14 gave loops that crossed


def _corners(ring: np.ndarray) -> np.ndarray:
    """(n, 2) corners of a ring, none twice in a row and the last not the first."""
    points = np.asarray(ring, dtype=np.float64)
    if points.size == 0:
        return np.empty((0, 2))
    if points.ndim != 2 or points.shape[1] < 2 or not np.isfinite(points).all():
        raise ValueError("a ring that is no list of finite x, y")
    return points[(points[:, :2] != np.roll(points[:, :2], 1, axis=0)).any(axis=1), :2]


def _divide(polygon: shapely.Geometry, divisions: int = _DIVISIONS) -> list[shapely.Geometry]:
    """The polygon in pieces of at most _PIECE_POINTS points, cut in half along its longer side again and again."""
    if shapely.get_num_coordinates(polygon) <= _PIECE_POINTS or not divisions:
        return [polygon]
    left, top, right, bottom = polygon.bounds
    middle_x, middle_y = (left + right) / 2, (top + bottom) / 2
    if right - left >= bottom - top:
        halves = shapely.box([left, middle_x], top, [middle_x, right], bottom)
    else:
        halves = shapely.box(left, [top, middle_y], right, [middle_y, bottom])
    parts = shapely.get_parts(shapely.intersection(polygon, halves))
    return [piece for part in parts if part.area > 0 for piece in _divide(part, divisions - 1)]
