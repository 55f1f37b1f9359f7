"""Lesions: the connected pieces of an ExtentMap's cancer, measured on the glass."""

from dataclasses import dataclass, replace

import numpy as np
import scipy.ndimage
import shapely
from scipy.spatial.distance import pdist
from shapely import MultiPolygon

from wsi_pipeline.geometry import Mpp, cell_area_mm2
from wsi_pipeline.maps.extent import ExtentMap
from wsi_pipeline.slide.outline import outline

ITC_UM, MICRO_UM = 200.0, 2000.0  # largest diameters of isolated tumour cells and of a micrometastasis


@dataclass(frozen=True)
class Lesion:
    """One 8-connected piece of cancer."""

    number: int  # 1 = largest
    area_mm2: float
    longest_um: float
    centroid_um: tuple[float, float]  # (x, y), y down
    centroid_l0: tuple[float, float]
    mean_probability: float
    max_probability: float
    tiles: int  # raster cells
    polygon: MultiPolygon  # level-0 px, y down, holes kept


def find_lesions(extent: ExtentMap) -> tuple[Lesion, ...]:
    """The lesions of a map, largest area first; their areas add up to the map's cancer."""
    pieces, count = scipy.ndimage.label(extent.cancer, np.ones((3, 3)))
    found = [
        _measure(extent, pieces[box] == number, (box[0].start, box[1].start))
        for number, box in enumerate(scipy.ndimage.find_objects(pieces, count), start=1)
    ]
    found.sort(key=lambda lesion: -lesion.area_mm2)
    return tuple(replace(lesion, number=number) for number, lesion in enumerate(found, start=1))


def metastasis_class(longest_um: float | None) -> str:
    """CAMELYON's class of a slide by its largest lesion: negative, itc (<= 0.2 mm), micro (<= 2 mm) or macro."""
    if longest_um is None:
        return "negative"
    return "itc" if longest_um <= ITC_UM else "micro" if longest_um <= MICRO_UM else "macro"


def _measure(extent: ExtentMap, cells: np.ndarray, corner: tuple[int, int]) -> Lesion:
    """One piece: `cells` (rows, cols) bool from raster cell `corner` (row, col) on."""
    rows, cols = np.nonzero(cells)
    rows, cols = rows + corner[0], cols + corner[1]
    (cell_x, cell_y), (left, top) = extent.cell_l0, extent.origin_l0
    area = extent.tissue[rows, cols].astype(np.float64)
    weight = np.maximum(area, 1e-9)
    centre = (
        left + cell_x * (float(np.average(cols, weights=weight)) + 0.5),
        top + cell_y * (float(np.average(rows, weights=weight)) + 0.5),
    )
    known = extent.probability[rows, cols]
    known = known[~np.isnan(known)]
    origin = (left + corner[1] * cell_x, top + corner[0] * cell_y)
    polygon = outline(cells, cell_l0=extent.cell_l0, origin_l0=origin)
    mpp = extent.mpp_l0
    return Lesion(
        number=0,
        area_mm2=float(area.sum()) * cell_area_mm2(extent.cell_l0, mpp),
        longest_um=_longest_um(polygon, mpp),
        centroid_um=(centre[0] * mpp.x, centre[1] * mpp.y),
        centroid_l0=centre,
        mean_probability=float(known.mean()) if known.size else float("nan"),
        max_probability=float(known.max()) if known.size else float("nan"),
        tiles=len(rows),
        polygon=polygon,
    )


def _longest_um(polygon: MultiPolygon, mpp: Mpp) -> float:
    """Largest distance of two corners (maximum Feret diameter) in um, x and y apart."""
    corners = shapely.get_coordinates(polygon.convex_hull) * (mpp.x, mpp.y)
    return float(pdist(corners).max())
