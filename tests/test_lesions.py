"""Lesions: pieces of cancer drawn by hand come out with the areas and lengths counted by eye."""

import numpy as np
import pytest
from map_samples import an_extent

from wsi_pipeline.geometry import Mpp
from wsi_pipeline.maps.extent import ExtentMap
from wsi_pipeline.maps.lesions import find_lesions, metastasis_class

CELL_MM2 = (32 * 0.5) ** 2 * 1e-6


def test_pieces_that_touch_in_a_corner_are_one_lesion_and_the_largest_comes_first():
    lesions = find_lesions(an_extent([[1, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]))
    assert [lesion.tiles for lesion in lesions] == [2, 1]
    assert [lesion.number for lesion in lesions] == [1, 2]
    assert lesions[0].area_mm2 == pytest.approx(2 * CELL_MM2)


def test_the_areas_of_lesions_count_tissue_alone_and_add_up_to_the_maps_cancer():
    extent = an_extent([[1, 0, 1], [1, 0, 0]], tissue=np.array([[1, 1, 0.5], [0.25, 1, 1]], np.float32))
    first, second = find_lesions(extent)
    assert (first.area_mm2, second.area_mm2) == pytest.approx((1.25 * CELL_MM2, 0.5 * CELL_MM2))
    assert first.polygon.area == pytest.approx(2 * 32**2)


def test_a_lesion_is_measured_on_the_glass():
    (lesion,) = find_lesions(an_extent([[0, 0.6, 0.8, 1.0]]))
    left, right = 1.5 - (0.6 - 0.5) / 0.6, 4.0  # crosses 0.5 on the way from cell 1 to cell 0; ends at the raster
    assert lesion.longest_um == pytest.approx((right - left) * 16)
    assert lesion.centroid_l0 == pytest.approx((32 * 2.5, 16))
    assert lesion.centroid_um == pytest.approx((40, 8))
    assert (lesion.mean_probability, lesion.max_probability) == pytest.approx((0.8, 1.0))


def test_x_and_y_have_their_own_scale_and_the_raster_its_own_origin():
    extent = an_extent([[0], [1], [1], [0]], cell_l0=(10.0, 20.0), mpp_l0=Mpp(1.0, 0.5), origin_l0=(-5.0, -10.0))
    (lesion,) = find_lesions(extent)
    assert lesion.longest_um == pytest.approx(2 * 20 * 0.5)
    assert (lesion.centroid_l0, lesion.centroid_um) == (pytest.approx((0, 30)), pytest.approx((0, 15)))
    assert lesion.polygon.bounds == (-5, 10, 5, 50)


@pytest.mark.parametrize("offset", [(0.0, 0.0), (0.5, 0.5), (0.3, 0.1)], ids=["cell corner", "cell centre", "between"])
@pytest.mark.parametrize("soft", [1e-9, 2.0], ids=["sharp border", "soft border"])
@pytest.mark.parametrize("diameter", [5.0, 12.5, 33.0])
def test_a_disc_is_as_long_as_its_diameter_to_within_a_cell(diameter, soft, offset):
    y, x = np.mgrid[-20:20, -20:20] + 0.5
    inside = (diameter / 2 - np.hypot(x - offset[0], y - offset[1])) / soft
    (lesion,) = find_lesions(an_extent(0.5 + 0.5 * np.tanh(np.clip(inside, -50, 50))))
    assert lesion.longest_um / 16 == pytest.approx(diameter, abs=0.2 if soft > 1 else 1)


@pytest.mark.parametrize("sure", [0.51, 1.0])
def test_a_single_cell_is_as_long_as_a_disc_of_its_area_however_sure_it_is(sure):
    (lesion,) = find_lesions(an_extent([[0, 0, 0], [0, sure, 0], [0, 0, 0]]))
    assert lesion.longest_um == pytest.approx(2 * (16**2 / np.pi) ** 0.5)


def test_no_lesion_is_shorter_than_its_area_allows():
    rng = np.random.default_rng(0)
    for threshold in (0.5, 0.7, 0.9):
        for lesion in find_lesions(an_extent(rng.random((12, 12)), threshold=threshold)):
            assert lesion.area_mm2 * 1e6 <= np.pi / 4 * lesion.longest_um**2 * 1.0001


def test_a_hole_stays_in_the_polygon():
    (lesion,) = find_lesions(an_extent([[1, 1, 1], [1, 0, 1], [1, 1, 1]]))
    assert lesion.polygon.area == pytest.approx(8 * 32**2)
    assert len(lesion.polygon.geoms[0].interiors) == 1


def test_no_cancer_gives_no_lesion():
    assert find_lesions(an_extent([[0.1, None]])) == ()


@pytest.mark.parametrize(
    ("longest_um", "name"),
    [(None, "negative"), (200.0, "itc"), (200.1, "micro"), (2000.0, "micro"), (2000.1, "macro")],
)
def test_a_slides_class_follows_its_longest_lesion(longest_um, name):
    assert metastasis_class(longest_um) == name


def a_core(left: float, width: float) -> ExtentMap:
    """Three rows of cells, all cancer, that tissue covers from `left` cells on for `width`; no probability beyond."""
    edges = np.arange(13)
    share = np.clip(np.minimum(left + width, edges + 1) - np.maximum(left, edges), 0, 1).astype(np.float32)
    row = [None if part == 0 else 1.0 for part in share]
    return an_extent([row] * 3, tissue=np.tile(share, (3, 1)))


@pytest.mark.parametrize("left", [2.0, 2.25, 2.5, 2.9])
@pytest.mark.parametrize("width", [0.4, 0.75, 1.0, 1.6, 7.1])
def test_a_lesion_that_ends_with_the_tissue_is_no_longer_than_its_tissue(left: float, width: float) -> None:
    (lesion,) = find_lesions(a_core(left, width))
    at_least = 2 * (3 * width / np.pi) ** 0.5  # a disc of its area
    assert lesion.longest_um / 16 <= max(np.hypot(width, 3), at_least) + 1e-5
    if width > 3:
        assert lesion.longest_um / 16 == pytest.approx(np.hypot(width, 2), abs=0.3)  # between rows: no corners


def test_an_outline_ends_with_the_slide() -> None:
    (lesion,) = find_lesions(an_extent([[0, 1], [0, 1]], origin_l0=(-8.0, -8.0), size_l0=(50, 40)))
    assert lesion.polygon.bounds == (24, 0, 50, 40)
