"""Connected pieces by runs: the same as scipy labels cell by cell."""

import numpy as np
import pytest
import scipy.ndimage
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from wsi_pipeline.slide.runs import runs_of

MASKS = arrays(bool, array_shapes(min_dims=2, max_dims=2, max_side=12))


@settings(deadline=None)
@given(MASKS, st.booleans())
def test_pieces_are_those_of_scipy(mask: np.ndarray, corners: bool) -> None:
    labels, count = scipy.ndimage.label(mask, np.ones((3, 3)) if corners else None)
    runs = runs_of(mask, corners=corners)
    assert runs.count == count
    assert sorted(runs.areas()) == sorted(np.bincount(labels.ravel())[1:])
    for piece in range(count):
        one = runs.painted(np.arange(count) == piece)
        found = np.unique(labels[one])
        assert len(found) == 1 and np.array_equal(one, labels == found[0])


@settings(deadline=None)
@given(MASKS, st.booleans())
def test_labels_and_boxes_are_those_of_scipy(mask: np.ndarray, corners: bool) -> None:
    labels, count = scipy.ndimage.label(mask, np.ones((3, 3)) if corners else None)
    runs = runs_of(mask, corners=corners)
    np.testing.assert_array_equal(runs.labelled(), labels)
    assert runs.boxes() == scipy.ndimage.find_objects(labels, count)


@settings(deadline=None)
@given(MASKS)
def test_all_and_none_are_painted(mask: np.ndarray) -> None:
    runs = runs_of(mask, corners=True)
    np.testing.assert_array_equal(runs.painted(np.ones(runs.count, bool)), mask)
    assert not runs.painted(np.zeros(runs.count, bool)).any()


@settings(deadline=None)
@given(MASKS)
def test_cells_of_another_mask_are_counted_by_piece(mask: np.ndarray) -> None:
    other = np.indices(mask.shape).sum(0) % 2 == 0
    runs = runs_of(mask, corners=False)
    expected = [(runs.painted(np.arange(runs.count) == piece) & other).sum() for piece in range(runs.count)]
    assert runs.cells_of(other).tolist() == expected


@pytest.mark.parametrize(
    ("row", "col", "touches"), [(0, 2, True), (4, 2, True), (2, 0, True), (2, 5, True), (2, 2, False)]
)
def test_pieces_at_a_side_are_known(row: int, col: int, touches: bool) -> None:
    mask = np.zeros((5, 6), bool)
    mask[row, col] = True
    assert runs_of(mask, corners=True).at_border().tolist() == [touches]


def test_no_run_goes_on_into_the_next_row() -> None:
    mask = np.array([[0, 0, 1], [1, 0, 0], [1, 1, 1]], bool)
    assert runs_of(mask, corners=True).count == 2
