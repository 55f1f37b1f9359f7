"""Colours of an overview in strips: what the plain formulas give for the whole."""

import numpy as np
import pytest
import scipy.ndimage
from PIL import Image

from wsi_pipeline.slide.colours import colours_of

LEAST = np.repeat(np.uint8([40, 20, 10, 255]), 64)


@pytest.mark.parametrize("shape", [(1, 1), (5, 7), (32, 20), (33, 20), (97, 41)], ids=str)
def test_strips_give_what_the_whole_gives(shape: tuple[int, int]) -> None:
    rgb = np.random.default_rng(1).integers(0, 256, (*shape, 3), dtype=np.uint8)
    glass = (250.0, 240.5, 255.0)
    plain = np.minimum(255, np.rint(rgb * 255.0 / glass)).astype(int)
    ones = scipy.ndimage.convolve(plain, np.outer([1, 2, 1], [1, 2, 1])[..., None], mode="nearest")
    smooth = (ones + 8) // 16
    found = colours_of(rgb, glass, LEAST)
    np.testing.assert_array_equal(found.saturation, np.ptp(smooth, axis=2))
    np.testing.assert_array_equal(found.grey, np.asarray(Image.fromarray(smooth.astype(np.uint8)).convert("L")))
    np.testing.assert_array_equal(found.pale, found.saturation > LEAST[found.grey])
    np.testing.assert_array_equal(found.above, np.ptp(plain, axis=2) > found.saturation)
