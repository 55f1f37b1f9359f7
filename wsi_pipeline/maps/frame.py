"""The frame of every georeferenced output: the glass in micrometres, x right and y UP from the slide's top left.

x_um = x_l0 * mpp_x and y_um = -y_l0 * mpp_y, so all of a slide has y <= 0. GIS readers want rows that run downwards
in a y-up plane; a positive row step is shown mirrored by QGIS and refused by gdalbuildvrt. GeoTIFF keeps no more of
a local frame than its name and the unit's factor, so the name tells the frame.
"""

from typing import Literal

import numpy as np

from wsi_pipeline.geometry import Mpp

_NAMES = {
    "um": "Slide frame: micrometres from level-0 top left, x right, y up",
    "px": "Slide frame: level-0 pixels (no known scale) from top left, x right, y up",
}
_UNITS = {"um": 'UNIT["micrometre",1E-06]', "px": 'UNIT["pixel",1]'}


def frame_wkt(unit: Literal["um", "px"] = "um") -> str:
    """Well-known text (WKT 1) of the local CRS, in micrometres or, for a slide of unknown scale, in pixels."""
    return f'LOCAL_CS["{_NAMES[unit]}",{_UNITS[unit]},AXIS["Easting",EAST],AXIS["Northing",NORTH]]'


def frame_affine(
    cell_l0: tuple[float, float],
    mpp_l0: Mpp | None,
    *,
    origin_l0: tuple[float, float] = (0.0, 0.0),
) -> tuple[float, float, float, float, float, float]:
    """Coefficients (a, b, c, d, e, f) that take (col, row) corners of a raster to the frame; as `affine.Affine(*...)`.

    Args:
        cell_l0: level-0 px (x, y) of one raster cell.
        mpp_l0: micrometres per level-0 px; None for the frame in pixels.
        origin_l0: level-0 (x, y) of the raster's top left corner.
    """
    mpp_x, mpp_y = (1.0, 1.0) if mpp_l0 is None else (mpp_l0.x, mpp_l0.y)
    return (cell_l0[0] * mpp_x, 0.0, origin_l0[0] * mpp_x, 0.0, -cell_l0[1] * mpp_y, -origin_l0[1] * mpp_y)


def l0_to_frame(xy_l0: np.ndarray, mpp_l0: Mpp | None) -> np.ndarray:
    """Level-0 points (..., 2) [x, y], y down, to the frame's (x, y), y up."""
    mpp_x, mpp_y = (1.0, 1.0) if mpp_l0 is None else (mpp_l0.x, mpp_l0.y)
    return np.asarray(xy_l0, dtype=np.float64) * (mpp_x, -mpp_y)
