"""Boxes over a mask in strips: what scipy gives for the whole."""

import numpy as np
import pytest
import scipy.ndimage

from wsi_pipeline.slide.boxes import close_gaps, inner


@pytest.mark.parametrize("radius", [(0, 0), (1, 1), (3, 2), (0, 4), (5, 0)], ids=str)
@pytest.mark.parametrize("shape", [(1, 1), (7, 9), (64, 30), (150, 33)], ids=str)
def test_strips_give_what_the_whole_gives(shape: tuple[int, int], radius: tuple[int, int]) -> None:
    mask = np.random.default_rng(0).random(shape) < 0.3
    box = np.ones([2 * r + 1 for r in radius])
    framed = np.pad(mask, [(2 * r, 2 * r) for r in radius])
    whole = tuple(slice(2 * r, 2 * r + n) for r, n in zip(radius, shape, strict=True))
    closed = scipy.ndimage.binary_closing(framed, box)[whole]
    np.testing.assert_array_equal(close_gaps(mask, radius), closed)
    dense = ~mask | ~np.roll(mask, 1, 0)
    np.testing.assert_array_equal(inner(dense, radius), scipy.ndimage.binary_erosion(dense, box, border_value=1))
