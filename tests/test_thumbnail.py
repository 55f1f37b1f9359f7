"""Overviews of damaged slides: what cannot be read is white and told, the rest is as it is."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import tifffile

from wsi_pipeline.errors import SlideError
from wsi_pipeline.slide.reader import Reading, SlideReader, open_slide
from wsi_pipeline.slide.reduce import read_around
from wsi_pipeline.slide.tissue import TissueSettings, find_tissue

TILE = 128


def a_single_level(path: Path, *, width: int = 1280, height: int = 1024, **options: object) -> Path:
    """A slide of one level with a pink square on white, JPEG tiles of 128 px."""
    pixels = np.full((height, width, 3), 245, np.uint8)
    pixels[200:900, 200:1100] = 200, 120, 160
    known = {"photometric": "rgb", "compression": "jpeg"} | options
    tifffile.imwrite(path, pixels, tile=(TILE, TILE), **known)
    return path


def spoil(path: Path, *tiles: int) -> None:
    """Flip bytes all through these tiles."""
    with tifffile.TiffFile(path) as tiff:
        page = tiff.pages[0]
        places = [(page.dataoffsets[tile], page.databytecounts[tile]) for tile in tiles]
    with path.open("r+b") as file:
        for start, count in places:
            file.seek(start)
            data = np.frombuffer(file.read(count), np.uint8)
            file.seek(start)
            file.write((data ^ 0x5A).tobytes())


@pytest.mark.parametrize("direct", [True, False], ids=["direct", "openslide"])
@pytest.mark.parametrize("options", [{}, {"compression": "zlib"}], ids=["jpeg", "deflate"])
def test_only_the_damaged_tile_is_white(tmp_path: Path, direct: bool, options: dict) -> None:
    path = a_single_level(tmp_path / "a.tif", **options)
    slide = open_slide(path, mpp=(0.5, 0.5))
    with SlideReader(slide) as reader:
        whole = reader.read_thumbnail((160, 128))
        assert reader.warnings == ()
    spoil(path, 33)  # the fourth row of ten, fourth column
    with SlideReader(slide, Reading(direct=direct)) as reader:
        found = reader.read_thumbnail((160, 128))
        assert reader.warnings == ("1 part of the thumbnail could not be read and count as glass: the file is damaged",)
    differs = np.argwhere((found != whole).any(-1))
    assert (found[48:64, 48:64] == 255).all()
    assert differs.min(0).tolist() == [32, 32] and differs.max(0).tolist() == [63, 63]  # 256 px, reduced by 8


def test_the_reader_reads_on_after_it(tmp_path: Path) -> None:
    path = a_single_level(tmp_path / "a.tif")
    slide = open_slide(path, mpp=(0.5, 0.5))
    spoil(path, 33)
    with SlideReader(slide, Reading(direct=False)) as reader:
        reader.read_thumbnail((160, 128))
        assert not reader.failed
        assert reader.read(0, 0, 0, (8, 8)).mean() > 240


def test_the_tissue_tells_of_the_parts_left_out(tmp_path: Path) -> None:
    path = a_single_level(tmp_path / "a.tif")
    spoil(path, 33, 36, 55)
    with SlideReader(open_slide(path, mpp=(2.0, 2.0))) as reader:
        tissue = find_tissue(reader, TissueSettings(mpp=16))
    assert any(line.startswith("3 parts of the thumbnail could not be read") for line in tissue.warnings)
    assert tissue.tissue_mm2 > 0.5 * 0.9 * 0.7 * 4


def test_a_slide_that_is_mostly_damaged_is_refused(tmp_path: Path) -> None:
    path = a_single_level(tmp_path / "a.tif")
    spoil(path, *range(0, 80, 2))
    with (
        SlideReader(open_slide(path, mpp=(0.5, 0.5))) as reader,
        pytest.raises(SlideError, match=r"a\.tif: level 0 .*cannot be read"),
    ):
        reader.read_thumbnail((160, 128))


def test_reading_around_a_fault_ends_at_parts_of_256_px() -> None:
    left_white: list[int] = []

    def read(left: int, top: int, size_px: tuple[int, int]) -> np.ndarray:
        width, height = size_px
        if left <= 700 < left + width and top <= 300 < top + height:
            raise SlideError("one bad pixel")
        return np.zeros((height, width, 3), np.uint8)

    whole = read_around(read, SlideError, lambda _, pixels: left_white.append(pixels))(13, 7, (1500, 900))
    assert whole.shape == (900, 1500, 3)
    rows, cols = np.nonzero(whole[..., 0])
    assert left_white == [256 * 256] == [len(rows)]
    assert (cols.min() + 13, cols.max() + 13) == (512, 767) and (rows.min() + 7, rows.max() + 7) == (256, 511)


@pytest.mark.real
def test_a_real_slide_with_a_flipped_tile_has_its_tissue(tmp_path: Path, real_data: Path) -> None:
    path = tmp_path / "a.svs"
    shutil.copy(real_data / "slides" / "aperio" / "CMU-1-Small-Region.svs", path)
    path.chmod(0o644)
    with SlideReader(open_slide(path)) as reader:
        good = find_tissue(reader, TissueSettings())
    spoil(path, 45)
    with SlideReader(open_slide(path)) as reader:
        found = find_tissue(reader, TissueSettings())
    assert "could not be read" in found.warnings[0] and not good.warnings
    assert found.tissue_mm2 == pytest.approx(good.tissue_mm2, rel=0.1)
