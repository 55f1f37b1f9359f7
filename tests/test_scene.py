"""Shapes tell inside from outside exactly, and their fields never promise more distance than there is."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsi_pipeline.slide.scene import Blob, Layer, Outside, Ripples, Shape, Stroke, coverage, draw_blob, paint

BLOB = draw_blob(np.random.default_rng(4), (0, 0, 1000, 700))
SHAPES = {
    "ellipse": Blob(500, 400, 300, 120),
    "blob": BLOB,
    "ripples": Ripples(((0.02, 0.01, 0.3), (-0.005, 0.03, 1.0)), 0.2),
    "stroke": Stroke(100, 800, 350, 40, 60),
    "outside": Outside((BLOB, Blob(900, 600, 50, 50))),
}
places = st.floats(0, 1000)


def grid(side_um: float, cells: int) -> tuple[np.ndarray, np.ndarray]:
    centres = (np.arange(cells) + 0.5) * side_um / cells
    return centres[None], centres[:, None]


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@given(x=places, y=places, dx=places, dy=places)
def test_a_field_changes_no_faster_than_one_moves(shape: Shape, x: float, y: float, dx: float, dy: float) -> None:
    here, there = (shape.field(np.array([[a]]), np.array([[b]])).item() for a, b in ((x, y), (dx, dy)))
    assert abs(here - there) <= np.hypot(x - dx, y - dy) + 1e-6


@pytest.mark.parametrize("name", ["ellipse", "blob"])
def test_the_area_of_a_blob_is_that_counted_on_a_fine_grid(name: str) -> None:
    inside = SHAPES[name].field(*grid(1000, 2000)) < 0
    assert SHAPES[name].area_mm2 == pytest.approx(inside.mean(), rel=1e-3)  # the grid is 1 mm2


def test_the_border_of_a_blob_is_where_its_field_is_0() -> None:
    x, y = BLOB.border().T
    np.testing.assert_allclose(BLOB.field(x, y), 0, atol=1e-9)


@pytest.mark.parametrize("seed", range(5))
def test_a_blob_stays_in_its_box(seed: int) -> None:
    x, y = draw_blob(np.random.default_rng(seed), (100, 50, 600, 300)).border().T
    assert x.min() >= 100 and x.max() <= 700 and y.min() >= 50 and y.max() <= 350


def test_coverage_of_all_pixels_adds_up_to_the_area() -> None:
    disc = Blob(500, 500, 301.3, 207.7)
    share = coverage(disc, *grid(1000, 100))  # pixels of 10 um, so that each cut one counts
    assert share.sum() * 100e-6 == pytest.approx(disc.area_mm2, rel=2e-3)


def test_a_border_is_sharp_to_a_pixel() -> None:
    share = coverage(Blob(500, 500, 300, 300), *grid(1000, 500))
    assert ((share > 0) & (share < 1)).sum() < 1.5 * 2 * np.pi * 150


def test_later_layers_lie_over_earlier_ones() -> None:
    x_um, y_um = grid(1000, 50)
    textures = {name: np.full((50, 50, 3), grey, np.uint8) for name, grey in (("low", 50), ("high", 200))}
    layers = [Layer("low", Blob(500, 500, 400, 400)), Layer("high", Blob(500, 500, 100, 100))]
    rgb = paint(layers, textures, base=np.zeros((50, 50, 3), np.uint8), x_um=x_um, y_um=y_um)
    assert rgb[25, 25, 0] == 200 and rgb[25, 8, 0] == 50 and rgb[0, 0, 0] == 0
