"""Lesions: the connected pieces of an ExtentMap's cancer, measured on the glass."""

from dataclasses import dataclass, replace
from math import pi, sqrt

import numpy as np
import shapely
from shapely import MultiPolygon

from wsi_pipeline.geometry import cell_area_mm2
from wsi_pipeline.maps.extent import ExtentMap
from wsi_pipeline.slide.outline import outline
from wsi_pipeline.slide.runs import runs_of

ITC_UM, MICRO_UM = 200.0, 2000.0  # longest diameters of isolated tumour cells and of a micrometastasis
_NEIGHBOURS = ((-1, 0), (1, 0), (0, -1), (0, 1))  # (row, col) steps across the four edges of a cell


@dataclass(frozen=True)
class Lesion:
    """One 8-connected piece of cancer.

    Attributes:
        number: 1 for the largest area.
        area_mm2: tissue in its cells; over all lesions it adds up to the map's cancer.
        longest_um: longest diameter (maximum Feret), see `find_lesions`.
        centroid_um, centroid_l0: centre of its tissue (x, y), y down; may lie outside a bent lesion.
        mean_probability, max_probability: over its cells.
        tiles: its cells, one stride step each.
        polygon: outline of its cells in level-0 px, y down, holes kept, within the slide.
    """

    number: int
    area_mm2: float
    longest_um: float
    centroid_um: tuple[float, float]
    centroid_l0: tuple[float, float]
    mean_probability: float
    max_probability: float
    tiles: int
    polygon: MultiPolygon


def find_lesions(extent: ExtentMap) -> tuple[Lesion, ...]:
    """The lesions of a map, largest area first, of equal ones the first from the top left.

    The longest diameter is taken between the points where the map crosses the threshold on its way from a
    cell's centre to that of the cell beyond the lesion's edge; towards a cell without a probability, where the
    lesion's own tissue ends, as if it filled its cell from the other side. Between corners of cells a disc would
    come out three quarters of a cell too long, and what ends with the tissue half a cell.
    """
    runs = runs_of(extent.cancer, corners=True)
    pieces = runs.labelled()
    framed = np.pad(extent.probability, 1, constant_values=np.nan)
    found = [
        _measure(extent, framed, pieces[box] == number, (box[0].start, box[1].start))
        for number, box in enumerate(runs.boxes(), start=1)
    ]
    found.sort(key=lambda lesion: -lesion.area_mm2)
    return tuple(replace(lesion, number=number) for number, lesion in enumerate(found, start=1))


def metastasis_class(longest_um: float | None) -> str:
    """CAMELYON's class of a slide by its longest lesion: negative, itc (<= 0.2 mm), micro (<= 2 mm) or macro."""
    if longest_um is None:
        return "negative"
    return "itc" if longest_um <= ITC_UM else "micro" if longest_um <= MICRO_UM else "macro"


def _measure(extent: ExtentMap, framed: np.ndarray, cells: np.ndarray, corner: tuple[int, int]) -> Lesion:
    """One piece: `cells` (rows, cols) bool from raster cell `corner` (row, col) on; `framed` by a cell of NaN."""
    (cell_x, cell_y), (left, top), mpp = extent.cell_l0, extent.origin_l0, extent.mpp_l0
    local = np.argwhere(cells)
    rows, cols = (local + corner).T
    tissue = extent.tissue[rows, cols].astype(np.float64)
    row, col = np.average(local + corner + 0.5, axis=0, weights=tissue)
    centre = float(left + col * cell_x), float(top + row * cell_y)
    probability = extent.probability[rows, cols].astype(np.float64)
    origin = left + corner[1] * cell_x, top + corner[0] * cell_y
    around = framed[corner[0] :, corner[1] :][: cells.shape[0] + 2, : cells.shape[1] + 2]
    area_mm2 = float(tissue.sum()) * cell_area_mm2(extent.cell_l0, mpp)
    share = np.pad(np.where(cells, extent.tissue[corner[0] :, corner[1] :][: cells.shape[0], : cells.shape[1]], 0), 1)
    edge_l0 = _edge_points(around, np.pad(cells, 1), share, extent.threshold)[:, ::-1] * extent.cell_l0
    return Lesion(
        number=0,
        area_mm2=area_mm2,
        # Around few cells the map may cross the threshold near their centres; a disc is the shortest shape of its area.
        longest_um=max(_longest(edge_l0 * (mpp.x, mpp.y)), 2000 * sqrt(area_mm2 / pi)),
        centroid_um=(centre[0] * mpp.x, centre[1] * mpp.y),
        centroid_l0=centre,
        mean_probability=float(probability.mean()),
        max_probability=float(probability.max()),
        tiles=len(rows),
        polygon=_within(outline(cells, cell_l0=extent.cell_l0, origin_l0=origin), extent.size_l0),
    )


def _within(polygon: MultiPolygon, size_l0: tuple[int, int] | None) -> MultiPolygon:
    """The part of an outline that lies on the slide: the last cells of the raster may reach over it."""
    if size_l0 is None:
        return polygon
    slide = shapely.box(0, 0, *size_l0)
    if slide.covers(polygon):
        return polygon
    cut = polygon.intersection(slide)
    return MultiPolygon([part for part in shapely.get_parts(cut) if part.geom_type == "Polygon"])


def _edge_points(probability: np.ndarray, inside: np.ndarray, share: np.ndarray, threshold: float) -> np.ndarray:
    """Where the map crosses the threshold around the cells `inside`, none at the border: (N, 2) [row, col].

    `share` of each cell is tissue, 0-1.
    """
    points = []
    for step in _NEIGHBOURS:
        beyond = np.roll(inside, (-step[0], -step[1]), axis=(0, 1))
        places = np.argwhere(inside & ~beyond)
        here, there, behind = (probability[tuple((places + way).T)] for way in ((0, 0), step, np.negative(step)))
        tissue = share[tuple(places.T)]
        away = np.where(np.isnan(behind), tissue / 2, tissue - 0.5)  # alone it lies in the middle of its cell
        away = np.where(np.isnan(there), away, 0.5)
        points.append(places + _crossing(here, there, threshold, away)[:, None] * step)
    return np.concatenate(points)


def _crossing(here: np.ndarray, there: np.ndarray, threshold: float, other: np.ndarray) -> np.ndarray:
    """Part of the way from a cell's centre to the next at which `threshold` is crossed, 0-1; where not, `other`."""
    crosses = (here >= threshold) & (there < threshold)  # False for NaN
    return np.divide(here - threshold, here - there, out=other.astype(np.float64), where=crosses)


def _longest(points: np.ndarray) -> float:
    """The largest distance between two of (N, 2) points, N >= 2."""
    hull = shapely.get_coordinates(shapely.convex_hull(shapely.multipoints(points)))
    return float(np.sqrt(((hull[:, None] - hull) ** 2).sum(axis=-1)).max())
