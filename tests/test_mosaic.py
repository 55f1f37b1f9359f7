"""Slides of a repeated block: how they open, and that each level shows the block."""

from pathlib import Path

import numpy as np
import pytest

from wsi_pipeline.slide.mosaic import write_mosaic
from wsi_pipeline.slide.reader import SlideReader, open_slide


def a_block(side: int = 256) -> np.ndarray:
    y, x = np.mgrid[:side, :side]
    channels = 128 + 90 * np.sin(x / 20), 128 + 90 * np.cos(y / 20), np.full((side, side), 120)
    return np.stack(channels, -1).astype(np.uint8)


@pytest.mark.parametrize(("name", "vendor"), [("a.svs", "aperio"), ("a.tif", "generic-tiff")])
def test_it_opens_with_its_levels_and_scale(tmp_path: Path, name: str, vendor: str) -> None:
    write_mosaic(tmp_path / name, a_block(), size_px=(600, 512), tile_px=64, mpp=0.25, aperio=vendor == "aperio")
    slide = open_slide(tmp_path / name)
    assert (slide.vendor, slide.level_sizes, slide.codec) == (vendor, ((600, 512), (150, 128)), "JPEG")
    assert slide.mpp_l0.mean == pytest.approx(0.25)


def test_the_block_comes_again_and_again(tmp_path: Path) -> None:
    block = a_block()
    write_mosaic(tmp_path / "a.tif", block, size_px=(600, 512), tile_px=64, quality=95)
    with SlideReader(open_slide(tmp_path / "a.tif")) as reader:
        first, second = reader.read(0, 0, 0, (256, 256)), reader.read(256, 256, 0, (256, 256))
        coarse = reader.read(0, 0, 1, (64, 64))
    np.testing.assert_array_equal(first, second)
    assert np.abs(first.astype(int) - block).mean() < 3
    assert np.abs(coarse - block.reshape(64, 4, 64, 4, 3).mean((1, 3))).mean() < 4


def test_a_block_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="a block of 256 x 256 px is no multiple of 240 px"):
        write_mosaic(tmp_path / "a.tif", a_block(), size_px=(600, 512), tile_px=240)
