"""What goes wrong inside a slide: corrupt tiles, lost handles, bad colour profiles, and words that must not leak."""

import gc
import os
from pathlib import Path

import numpy as np
import openslide
import pytest
import tifffile
from PIL import Image, ImageCms
from small_slide import a_slide

from wsi_pipeline.errors import SlideError
from wsi_pipeline.slide.handles import drop_reader, reader_for
from wsi_pipeline.slide.openslide_pixels import slide_identity
from wsi_pipeline.slide.reader import Reading, SlideReader, open_slide

CANARY = "CANARY-JANE-DOE-4711"


def spoil(path: Path, tile: int) -> None:
    """Overwrite one JPEG tile of a TIFF with what is no JPEG."""
    with tifffile.TiffFile(path) as tiff:
        start, count = tiff.pages[0].dataoffsets[tile], tiff.pages[0].databytecounts[tile]
    with path.open("r+b") as file:
        file.seek(start)
        file.write(b"\x01" * count)


def jpeg_slide(folder: Path, *, tiled: bool) -> Path:
    pixels = np.full((128, 128, 3), 200, np.uint8)
    shape = {"tile": (64, 64)} if tiled else {"rowsperstrip": 64}
    tifffile.imwrite(folder / "a.tif", pixels, photometric="rgb", compression="jpeg", **shape)
    return folder / "a.tif"


@pytest.mark.parametrize("tiled", [True, False], ids=["openslide", "tifffile"])
def test_a_corrupt_tile_is_told_and_the_next_reader_reads_the_rest(tmp_path: Path, tiled: bool) -> None:
    path = jpeg_slide(tmp_path, tiled=tiled)
    spoil(path, 1)
    slide = open_slide(path, mpp=(0.5, 0.5))
    first = reader_for(slide)
    with pytest.raises(SlideError, match=r"^a\.tif: .*cannot be read.*get a fresh copy") as told:
        first.read(70, 70, 0, (8, 8)) if not tiled else first.read(70, 0, 0, (8, 8))
    assert first.failed and str(tmp_path) not in str(told.value)
    assert reader_for(slide) is not first
    assert abs(int(reader_for(slide).read(0, 0, 0, (8, 8)).mean()) - 200) <= 2
    drop_reader(slide)


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="needs /proc")
@pytest.mark.parametrize("spoilt", [False, True], ids=["good", "bad"])
def test_opening_leaves_no_file_open(tmp_path: Path, spoilt: bool) -> None:
    slide, _ = a_slide(tmp_path)
    path = Path(slide.path)
    if spoilt:
        path.write_bytes(path.read_bytes()[:5000])
    gc.collect()
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        try:
            open_slide(path, mpp=(0.5, 0.5))
        except SlideError:
            assert spoilt
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_bad_tiff_leaves_no_line_in_the_log(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    slide, _ = a_slide(tmp_path)
    path = Path(slide.path)
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(SlideError):
        open_slide(path)
    assert caplog.records == []


def test_what_the_file_tells_of_a_patient_reaches_nothing(tmp_path: Path) -> None:
    pixels = np.full((64, 64, 3), 200, np.uint8)
    told = {"description": f"Aperio |AppMag = 20|MPP = 0.5|User = {CANARY}", "software": CANARY, "metadata": None}
    tifffile.imwrite(tmp_path / "a.svs", pixels, photometric="rgb", tile=(32, 32), compression="jpeg", **told)
    slide = open_slide(tmp_path / "a.svs")
    assert slide.vendor == "aperio" and slide.mpp_l0.source == "vendor"
    assert CANARY not in repr(slide)
    tifffile.imwrite(tmp_path / "b.tif", pixels[..., 0], photometric="minisblack", **told)
    with pytest.raises(SlideError) as refused:
        open_slide(tmp_path / "b.tif")
    assert CANARY not in str(refused.value)


def swapped_profile() -> bytes:
    """sRGB with the columns of red and blue exchanged: a picture through it comes out with both swapped."""
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    red, blue = profile.index(b"rXYZ"), profile.index(b"bXYZ")
    profile[red : red + 4], profile[blue : blue + 4] = b"bXYZ", b"rXYZ"
    return bytes(profile)


@pytest.mark.parametrize("options", [{}, {"tile": (32, 32)}], ids=["tifffile", "openslide"])
def test_colours_go_through_the_profile_only_when_asked(tmp_path: Path, options: dict) -> None:
    pixels = np.full((64, 64, 3), (200, 120, 60), np.uint8)
    tifffile.imwrite(tmp_path / "a.tif", pixels, photometric="rgb", iccprofile=swapped_profile(), **options)
    slide = open_slide(tmp_path / "a.tif", mpp=(0.5, 0.5))
    with SlideReader(slide) as plain, SlideReader(slide, Reading(icc=True)) as managed:
        assert plain.read(0, 0, 0, (1, 1)).ravel().tolist() == [200, 120, 60]
        if slide.backend == "tifffile":  # OpenSlide gives no profile of a generic TIFF in some versions
            assert managed.warnings == ()
            np.testing.assert_allclose(managed.read(0, 0, 0, (1, 1)).ravel(), [60, 120, 200], atol=2)
            assert (managed.read(-5, -5, 0, (4, 4)) == 255).all()


@pytest.mark.parametrize(
    ("profile", "words"), [(None, "no colour profile"), (b"rubbish" * 40, "cannot be used")], ids=["none", "broken"]
)
def test_a_slide_without_a_usable_profile_keeps_its_colours_and_says_so(
    tmp_path: Path, profile: bytes | None, words: str
) -> None:
    pixels = np.full((64, 64, 3), (200, 120, 60), np.uint8)
    tifffile.imwrite(tmp_path / "a.tif", pixels, photometric="rgb", iccprofile=profile)
    with SlideReader(open_slide(tmp_path / "a.tif", mpp=(0.5, 0.5)), Reading(icc=True)) as reader:
        assert words in reader.warnings[0]
        assert reader.read(0, 0, 0, (1, 1)).ravel().tolist() == [200, 120, 60]


def test_the_identity_is_that_of_openslide_or_none(tmp_path: Path) -> None:
    slide, _ = a_slide(tmp_path)
    with openslide.OpenSlide(slide.path) as handle:
        assert slide_identity(slide.path) == handle.properties["openslide.quickhash-1"]
    Image.new("RGB", (8, 8)).save(tmp_path / "b.png")
    assert slide_identity(tmp_path / "b.png") is None
    assert slide_identity(tmp_path / "gone.svs") is None


def test_a_slide_keeps_its_absolute_path_and_the_name_of_its_link(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slide, _ = a_slide(tmp_path)
    (tmp_path / "case.tif").symlink_to(slide.path)
    monkeypatch.chdir(tmp_path)
    found = open_slide("case.tif", mpp=(0.5, 0.5))
    assert (found.id, found.path) == ("case", str(tmp_path / "case.tif"))
