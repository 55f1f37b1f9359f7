"""Lesions: the connected pieces of an ExtentMap's cancer, measured on the glass."""

from dataclasses import dataclass

from shapely import MultiPolygon

from wsi_pipeline.maps.extent import ExtentMap


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
    raise NotImplementedError
