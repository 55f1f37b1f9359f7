"""Outlines are exact, valid, keep holes, and lie in level-0 pixels."""

import numpy as np
import pytest
import shapely
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from wsi_pipeline.slide.outline import outline

masks = arrays(bool, array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=9))
lengths = st.floats(0.3, 700.0)


def test_one_cell_is_its_rectangle() -> None:
    cells = np.zeros((3, 4), bool)
    cells[1, 2] = True
    assert outline(cells, cell_l0=(10, 20)).bounds == (20, 20, 30, 40)


def test_nothing_true_is_an_empty_multipolygon() -> None:
    shape = outline(np.zeros((2, 2), bool), cell_l0=(1, 1))
    assert shape.geom_type == "MultiPolygon" and shape.is_empty


def test_a_ring_keeps_its_hole() -> None:
    cells = np.ones((5, 5), bool)
    cells[2, 2] = False
    (ring,) = outline(cells, cell_l0=(2, 2), origin_l0=(100, 50)).geoms
    (hole,) = ring.interiors
    assert shapely.Polygon(hole).equals(shapely.box(104, 54, 106, 56))


def test_straight_edges_have_no_points_between_corners() -> None:
    (block,) = outline(np.ones((50, 70), bool), cell_l0=(1, 1)).geoms
    assert len(block.exterior.coords) == 5


def test_cells_touching_in_a_corner_are_one_valid_multipolygon() -> None:
    shape = outline(np.eye(3, dtype=bool), cell_l0=(1, 1))
    assert shape.is_valid and len(shape.geoms) == 3
    assert shape.geoms[0].touches(shape.geoms[1]) or shape.geoms[0].touches(shape.geoms[2])


def test_a_hole_that_meets_the_outside_in_a_corner_stays_a_hole() -> None:
    cells = np.array([[0, 1, 1, 1], [1, 0, 0, 1], [1, 1, 1, 1]], bool)
    shape = outline(cells, cell_l0=(1, 1))
    assert shape.is_valid and shape.area == cells.sum()


@given(masks, lengths, lengths)
def test_area_is_that_of_the_cells(cells: np.ndarray, width: float, height: float) -> None:
    shape = outline(cells, cell_l0=(width, height))
    assert shape.is_valid
    assert shape.area == pytest.approx(cells.sum() * width * height, rel=1e-9)


@given(masks)
def test_a_cell_is_inside_where_it_is_true_and_nowhere_else(cells: np.ndarray) -> None:
    shape = outline(cells, cell_l0=(4, 2), origin_l0=(-3, 7))
    rows, cols = np.indices(cells.shape)
    inside = shapely.contains_xy(shape, -3 + (cols + 0.5) * 4, 7 + (rows + 0.5) * 2)
    np.testing.assert_array_equal(inside, cells)


@given(masks)
def test_transposing_the_cells_transposes_the_outline(cells: np.ndarray) -> None:
    flipped = shapely.transform(outline(cells.T, cell_l0=(3, 5)), lambda xy: xy[:, ::-1])
    assert flipped.equals(outline(cells, cell_l0=(5, 3)))


def test_cells_given_are_left_as_they_were() -> None:
    cells = np.eye(4, dtype=bool)
    cells.flags.writeable = False
    assert outline(cells, cell_l0=(1, 1)).area == 4
