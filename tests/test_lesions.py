"""Lesions: pieces of cancer drawn by hand come out with the areas and lengths counted by eye."""

import numpy as np
import pytest
from map_samples import an_extent

from wsi_pipeline.maps.lesions import find_lesions, metastasis_class

CELL_MM2 = (32 * 0.5) ** 2 * 1e-6


def test_pieces_that_touch_in_a_corner_are_one_lesion_and_the_largest_comes_first():
    lesions = find_lesions(an_extent([[1, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]))
    assert [lesion.tiles for lesion in lesions] == [2, 1]
    assert [lesion.number for lesion in lesions] == [1, 2]
    assert lesions[0].area_mm2 == pytest.approx(2 * CELL_MM2)


def test_a_lesion_is_measured_on_the_glass():
    (lesion,) = find_lesions(an_extent([[0, 0.6, 0.8, 1.0]]))
    assert lesion.longest_um == pytest.approx(np.hypot(3 * 16, 16))
    assert lesion.centroid_l0 == pytest.approx((32 * 2.5, 16))
    assert lesion.centroid_um == pytest.approx((40, 8))
    assert (lesion.mean_probability, lesion.max_probability) == pytest.approx((0.8, 1.0))


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
def test_a_slides_class_follows_its_largest_lesion(longest_um, name):
    assert metastasis_class(longest_um) == name
