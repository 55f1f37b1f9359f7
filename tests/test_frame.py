"""The frame: rasters and polygons of one slide come to lie in one place, in micrometres with y up."""

import numpy as np
import pytest
from rasterio.crs import CRS

from wsi_pipeline.geometry import Mpp
from wsi_pipeline.maps.frame import frame_affine, frame_wkt, l0_to_frame

MPP = Mpp(0.25, 0.5)


def test_a_level_0_point_lies_right_and_below_the_slides_corner():
    assert l0_to_frame(np.array([[8, 4]]), MPP).tolist() == [[2, -2]]
    assert l0_to_frame(np.array([[8, 4]]), None).tolist() == [[8, -4]]


@pytest.mark.parametrize("mpp", [MPP, None], ids=["micrometres", "pixels"])
def test_corners_of_cells_and_level_0_points_fall_together(mpp):
    a, b, c, d, e, f = frame_affine((64, 32), mpp, origin_l0=(16, 8))
    col, row = 3, 5
    expected = l0_to_frame(np.array([16 + 64 * col, 8 + 32 * row]), mpp)
    assert (a * col + b * row + c, d * col + e * row + f) == pytest.approx(tuple(expected))


@pytest.mark.parametrize(("unit", "word"), [("um", "micrometres from"), ("px", "pixels (no known scale) from")])
def test_the_crs_is_local_and_its_name_tells_the_frame(unit, word):
    crs = CRS.from_wkt(frame_wkt(unit))
    assert not crs.is_geographic and not crs.is_projected
    assert word in crs.to_wkt()
