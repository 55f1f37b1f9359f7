"""The page around a picture: round scale bars of the right length, bounded sizes, an ordered colour ramp."""

import numpy as np
import pytest
from map_samples import a_slide
from PIL import Image

from wsi_pipeline.maps.palette import ramp_rgba
from wsi_pipeline.maps.sheet import (
    BOTTOM,
    MAX_ENLARGED,
    draw_scale_bar,
    encode_png,
    fit_view,
    lay_sheet,
    round_length_um,
)


@pytest.mark.parametrize(
    ("longest", "round_length"),
    [(1, 1), (1.9, 1), (4.99, 2), (5, 5), (99, 50), (1000, 1000), (0.3, 0.2)],
)
def test_scale_bar_lengths_are_one_two_five(longest, round_length):
    assert round_length_um(longest) == pytest.approx(round_length)


@pytest.mark.parametrize("mpp", [0.23, 0.5, 7.0])
def test_scale_bar_is_as_long_as_it_says(tmp_path, mpp):
    slide = a_slide((4000, 3000), mpp=(mpp, mpp))
    view = fit_view(slide, (4.0, 4.0))
    white = np.full((*view.size_px[::-1], 3), 255, dtype=np.uint8)
    sheet = lay_sheet(white, view, title="", colour_bar=False)
    draw_scale_bar(sheet)
    (tmp_path / "a.png").write_bytes(encode_png(sheet))
    with Image.open(tmp_path / "a.png") as image:
        below = np.asarray(image.convert("L"))[-BOTTOM + 4 :] < 60
    longest = below.sum(axis=1).max()  # the bar's own row; digits beside it are shorter
    length_um = round_length_um(view.um_per_px * 200)
    bar_only = below[:, : 28 + round(length_um / view.um_per_px) + 2].sum(axis=1).max()
    assert bar_only == pytest.approx(length_um / view.um_per_px, abs=1.5) and longest >= bar_only


def test_a_thumbnail_is_not_enlarged_beyond_its_worth():
    width, height = fit_view(a_slide((2000, 1600)), (16.0, 16.0)).size_px
    assert (width, height) == (2000 / 16 * MAX_ENLARGED, 1600 / 16 * MAX_ENLARGED)


def test_a_tiny_slide_is_still_large_enough_to_see():
    assert fit_view(a_slide((16, 16)), (16.0, 16.0)).size_px == (320, 320)


def test_the_ramp_rises_in_lightness_and_opacity():
    colours = ramp_rgba(np.linspace(0, 1, 50))
    lightness = colours[:, :3] @ [0.2126, 0.7152, 0.0722]
    assert (np.diff(lightness) > 0).all() and (np.diff(colours[:, 3]) > 0).all()
    assert colours[0, 3] == 0


def test_no_probability_has_no_colour():
    assert ramp_rgba(np.array([np.nan]))[0, 3] == 0
