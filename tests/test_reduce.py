"""Reduction: sub-pixel place kept, nothing aliased, pieces that meet without a seam."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from wsi_pipeline.slide import reduce
from wsi_pipeline.slide.reduce import Read, coarsest_below, reduce_box, reduce_whole


def image(width: int, height: int, *, noise: float = 10) -> np.ndarray:
    """A smooth field with some noise, (height, width, 3) uint8."""
    y, x = np.mgrid[:height, :width]
    field = 128 + 60 * np.sin(x / 17)[..., None] * np.cos(y / 23)[..., None] * (1.0, 0.5, -1.0)
    return (field + np.random.default_rng(0).normal(0, noise, (height, width, 3))).clip(0, 255).astype(np.uint8)


def reading(pixels: np.ndarray, sizes: list[tuple[int, int]] | None = None) -> Read:
    """Reads regions of an array; white beyond it."""

    def read(left: int, top: int, size: tuple[int, int]) -> np.ndarray:
        if sizes is not None:
            sizes.append(size)
        rows, cols = np.arange(top, top + size[1]), np.arange(left, left + size[0])
        inside = ((rows >= 0) & (rows < len(pixels)))[:, None] & ((cols >= 0) & (cols < pixels.shape[1]))
        found = pixels[rows.clip(0, len(pixels) - 1)[:, None], cols.clip(0, pixels.shape[1] - 1)]
        return np.where(inside[..., None], found, np.uint8(255))

    return read


@pytest.mark.parametrize(
    ("zoom", "expected"),
    [(0.5, None), (1.0, 0), (3.9, 0), (4.0, 1), (100.0, 2)],
    ids=["finer than all", "level 0", "just below", "exact", "beyond"],
)
def test_the_nearest_finer_level_is_taken(zoom: float, expected: int | None) -> None:
    assert coarsest_below((1.0, 4.0, 16.0), zoom) == expected


@settings(max_examples=20, deadline=None)
@given(
    place=st.tuples(st.floats(0, 60), st.floats(0, 60)),
    zoom=st.tuples(st.floats(1.05, 5.9), st.floats(1.05, 5.9)),
)
def test_a_box_equals_the_reduction_of_the_whole_but_for_its_rim(
    place: tuple[float, float], zoom: tuple[float, float]
) -> None:
    pixels = image(300, 300)
    width, height = 40 * zoom[0], 36 * zoom[1]
    found = reduce_box(reading(pixels), (*place, width, height), (40, 36)).astype(int)
    box = (*place, place[0] + width, place[1] + height)
    whole = np.asarray(Image.fromarray(pixels).resize((40, 36), Image.Resampling.LANCZOS, box=box)).astype(int)
    assert np.abs(found - whole)[4:-4, 4:-4].max() <= 2  # Pillow rounds twice, first across, then down
    assert np.abs(found - whole).mean() < 2


@pytest.mark.parametrize("zoom", [6.5, 11.3, 24.0])
def test_a_strong_reduction_averages_blocks_first_and_comes_out_the_same(zoom: float) -> None:
    pixels = image(800, 700)
    box, size_px = (7.3, 5.6, 28 * zoom, 25 * zoom), (28, 25)
    corners = (*box[:2], box[0] + box[2], box[1] + box[3])
    whole = Image.fromarray(pixels).resize(size_px, Image.Resampling.LANCZOS, box=corners)
    found = reduce_box(reading(pixels), box, size_px)
    assert np.abs(found.astype(int) - np.asarray(whole))[4:-4, 4:-4].mean() < 1


def test_a_strong_reduction_reads_in_strips_that_leave_no_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    pixels, box, sizes = image(640, 640), (0.0, 0.0, 640.0, 640.0), []
    whole = reduce_box(reading(pixels), box, (40, 40))
    monkeypatch.setattr(reduce, "MAX_READ_PX", 640 * 30)
    np.testing.assert_array_equal(reduce_box(reading(pixels, sizes), box, (40, 40)), whole)
    assert len(sizes) > 10 and max(width * height for width, height in sizes) <= 640 * 30


def test_stripes_finer_than_the_output_become_grey() -> None:
    stripes = np.zeros((300, 300, 3), np.uint8)
    stripes[:, ::2] = 255
    found = reduce_box(reading(stripes), (10.0, 10.0, 252.0, 252.0), (72, 72))
    assert np.abs(found[4:-4, 4:-4].astype(int) - 127).max() <= 12


def test_an_edge_stays_at_its_sub_pixel_place() -> None:
    pixels = np.full((100, 400, 3), 50, np.uint8)
    pixels[:, 200:] = 200
    found = reduce_box(reading(pixels), (100.5, 10.0, 198.0, 39.6), (100, 20))  # 1.98 px a pixel
    place_px = (200 - found[10, :, 0].astype(float)).sum() / 150  # dark pixels left of the edge
    assert place_px == pytest.approx((200 - 100.5) / 1.98, abs=0.05)


@settings(max_examples=20, deadline=None)
@given(size=st.tuples(st.integers(1, 60), st.integers(1, 50)), limit=st.integers(500, 40_000))
def test_the_whole_in_blocks_equals_the_whole_at_once(size: tuple[int, int], limit: int) -> None:
    pixels = image(173, 141, noise=0)
    whole = Image.fromarray(pixels).resize(size, Image.Resampling.BOX)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reduce, "MAX_READ_PX", limit)
        found = reduce_whole(reading(pixels), (173, 141), size)
    assert np.abs(found.astype(int) - np.asarray(whole)).max() <= 2  # a line right between two may go to either


def test_a_very_wide_slide_is_read_in_columns_too(monkeypatch: pytest.MonkeyPatch) -> None:
    pixels, sizes = image(2000, 40), []
    monkeypatch.setattr(reduce, "MAX_READ_PX", 5000)
    found = reduce_whole(reading(pixels, sizes), (2000, 40), (50, 1))
    assert max(width * height for width, height in sizes) <= 5000
    np.testing.assert_allclose(found[0], pixels.reshape(40, 50, 40, 3).mean((0, 2)), atol=1)
