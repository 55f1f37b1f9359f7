"""Regions of a TIFF page equal the same cut of the whole, and only the pieces they touch are decoded."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st

from wsi_pipeline.slide import pieces
from wsi_pipeline.slide.pieces import PiecesOfPage

PIXELS = np.random.default_rng(0).integers(0, 256, (50, 70, 3), dtype=np.uint8)
LAYOUTS: dict[str, dict[str, Any]] = {
    "one strip": {},
    "strips": {"rowsperstrip": 9, "compression": "zlib"},
    "tiles": {"tile": (16, 32), "compression": "zlib"},
}


@contextmanager
def page_of(path: Path, pixels: np.ndarray, **options: Any) -> Iterator[Any]:
    tifffile.imwrite(path, pixels, photometric="rgb", **options)
    with tifffile.TiffFile(path) as tiff:
        yield tiff.pages[0]


@settings(max_examples=25, deadline=None)
@given(
    layout=st.sampled_from(sorted(LAYOUTS)),
    corner=st.tuples(st.integers(-30, 80), st.integers(-30, 60)),
    size=st.tuples(st.integers(1, 60), st.integers(1, 60)),
)
def test_any_region_equals_the_cut_of_the_image_laid_on_white(
    layout: str, corner: tuple[int, int], size: tuple[int, int]
) -> None:
    on_white = np.full((250, 270, 3), 255, np.uint8)
    on_white[100:150, 100:170] = PIXELS
    x, y = corner[0] + 100, corner[1] + 100
    with (
        tempfile.TemporaryDirectory() as folder,
        page_of(Path(folder) / "a.tif", PIXELS, **LAYOUTS[layout]) as page,
    ):
        found = PiecesOfPage(page).read(*corner, size)
    np.testing.assert_array_equal(found, on_white[y : y + size[1], x : x + size[0]])


def test_only_the_pieces_touched_are_decoded_and_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    decoded: list[int] = []
    with page_of(tmp_path / "a.tif", PIXELS, tile=(16, 16), compression="zlib") as page:
        reader = PiecesOfPage(page)  # 5 tiles a row
        plain = reader._segment
        monkeypatch.setattr(reader, "_segment", lambda index: decoded.append(index) or plain(index))
        reader.read(20, 20, (20, 5))
        reader.read(17, 18, (8, 8))
    assert decoded == [6, 7]


def test_what_is_kept_stays_below_its_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pieces, "_KEPT_BYTES", 3 * 16 * 16 * 3)
    with page_of(tmp_path / "a.tif", PIXELS, tile=(16, 16), compression="zlib") as page:
        reader = PiecesOfPage(page)
        np.testing.assert_array_equal(reader.read(0, 0, (70, 50)), PIXELS)
        assert len(reader._kept) == 3


def test_one_strip_without_compression_is_read_by_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pieces, "_RAW_BYTES", 10 * 70 * 3)
    with page_of(tmp_path / "a.tif", PIXELS) as page:
        reader = PiecesOfPage(page)
        np.testing.assert_array_equal(reader.read(0, 25, (70, 10)), PIXELS[25:35])
        assert sorted(reader._kept) == [2, 3]


def test_a_tile_that_was_never_written_is_white(tmp_path: Path) -> None:
    with page_of(tmp_path / "a.tif", PIXELS, tile=(16, 16), compression="zlib") as page:
        page.databytecounts = (0, *page.databytecounts[1:])
        found = PiecesOfPage(page).read(0, 0, (32, 16))
    assert (found[:, :16] == 255).all()
    np.testing.assert_array_equal(found[:, 16:], PIXELS[:16, 16:32])


def test_a_strip_that_ends_too_early_is_an_error(tmp_path: Path) -> None:
    with page_of(tmp_path / "a.tif", PIXELS) as page:
        end = page.dataoffsets[0] + 1000
        (tmp_path / "b.tif").write_bytes((tmp_path / "a.tif").read_bytes()[:end])
    with tifffile.TiffFile(tmp_path / "b.tif") as tiff, pytest.raises(ValueError, match="the file ends too early"):
        PiecesOfPage(tiff.pages[0]).read(0, 0, (70, 50))


@pytest.mark.parametrize(
    ("kind", "expected"),
    [("assocalpha", [155, 175, 195]), ("unassalpha", [167, 177, 187]), ("unspecified", [20, 40, 60])],
    ids=["colour times alpha", "straight alpha", "no alpha"],
)
def test_the_fourth_channel_is_what_the_file_says_it_is(tmp_path: Path, kind: str, expected: list[int]) -> None:
    rgba = np.array([[[20, 40, 60, 120]]], np.uint8)  # 255 - 120 = 135 of white; or 120/255 of the colour
    with page_of(tmp_path / "a.tif", rgba.repeat(16, 0).repeat(16, 1), extrasamples=[kind]) as page:
        found = PiecesOfPage(page).read(0, 0, (1, 1))[0, 0]
    if kind == "unassalpha":
        expected = [round(colour * 120 / 255 + 135) for colour in (20, 40, 60)]
    assert found.tolist() == expected
