"""A scene is written as a pyramid, the same whether a tile is copied, painted, or at the rim of the slide."""

import tracemalloc
from pathlib import Path

import numpy as np
import openslide
import pytest
import tifffile

from wsi_pipeline.slide.pyramid import through_jpeg, write_pyramid
from wsi_pipeline.slide.scene import Blob, Layer, paint

GREYS = {"base": 220, "low": 120, "high": 60}
TEXTURES = {name: np.full((64, 64, 3), grey, np.uint8) for name, grey in GREYS.items()}
LAYERS = [
    Layer("low", Blob(500, 400, 420, 330)),
    Layer("high", Blob(600, 450, 9, 7)),
    Layer("low", Blob(30, 30, 5, 5)),
]


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("pyramid") / "a.tif"
    write_pyramid(path, LAYERS, TEXTURES, base_texture="base", size_px=(2100, 1500), mpp=0.5)
    return path


def test_levels_halve_down_to_the_smallest(written: Path) -> None:
    with tifffile.TiffFile(written) as tiff:
        assert [page.shape[:2] for page in tiff.pages] == [(1500, 2100), (750, 1050), (375, 525)]
        assert all(page.is_tiled for page in tiff.pages)


@pytest.mark.parametrize("level", [0, 1, 2])
def test_every_pixel_is_as_if_the_whole_scene_were_painted_at_once(written: Path, level: int) -> None:
    pixels = tifffile.imread(written, key=level)
    height, width = pixels.shape[:2]
    x_um, y_um = ((np.arange(n) + 0.5) * 0.5 * 2**level for n in (width, height))
    whole = {name: np.full((height, width, 3), grey, np.uint8) for name, grey in GREYS.items()}
    expected = paint(LAYERS, whole, base=whole["base"], x_um=x_um[None], y_um=y_um[:, None])
    off = np.abs(pixels.astype(int) - expected)
    assert off.mean() < 0.5 and off.max() < 40  # JPEG rings along borders; a lost blob would be 60 or more


def test_resolution_is_told_level_by_level(written: Path) -> None:
    with tifffile.TiffFile(written) as tiff:
        told = [page.tags["XResolution"].value for page in tiff.pages]
    assert [den / num * 1e4 for num, den in told] == [0.5, 1.0, 2.0]


@pytest.mark.parametrize("mpp", [0.25, 0.499, 0.5, 1.0], ids=str)
def test_mpp_comes_back_exactly(tmp_path: Path, mpp: float) -> None:
    path = tmp_path / "a.tif"
    write_pyramid(path, LAYERS, TEXTURES, base_texture="base", size_px=(300, 200), mpp=mpp)
    with openslide.OpenSlide(path) as slide:
        assert float(slide.properties["openslide.mpp-x"]) == pytest.approx(mpp, rel=1e-12)
        assert float(slide.properties["openslide.mpp-y"]) == pytest.approx(mpp, rel=1e-12)


def test_memory_does_not_grow_with_the_slide(tmp_path: Path) -> None:
    peaks = []
    for side in (2048, 8192):
        tracemalloc.start()
        layers = [Layer("low", Blob(side / 4, side / 4, side / 5, side / 6))]  # um: all but the rim of the slide
        write_pyramid(tmp_path / "a.tif", layers, TEXTURES, base_texture="base", size_px=(side, side), mpp=0.5)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < peaks[0] + 5e6  # its pixels alone are 201 MB


def test_plain_colour_survives_jpeg() -> None:
    assert np.abs(through_jpeg(TEXTURES["low"]).astype(int) - 120).max() <= 1
