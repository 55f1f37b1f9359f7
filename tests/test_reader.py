"""Slides opened and read: what is refused, exact pixels, white outside, boxes, thumbnails, handles."""

import pickle
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import openslide
import pytest
import tifffile
from small_slide import a_slide

from wsi_pipeline.errors import ScaleError, SlideError
from wsi_pipeline.geometry import Mpp
from wsi_pipeline.slide import openslide_pixels, reduce
from wsi_pipeline.slide.handles import drop_reader, reader_for
from wsi_pipeline.slide.pieces import over_white
from wsi_pipeline.slide.reader import SlideReader, open_slide, working_mpp


def broken_link(path: Path) -> None:
    path.symlink_to(path.with_name("gone.tif"))


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        pytest.param(lambda path: path.touch(), r"empty file \(0 bytes\)", id="empty"),
        pytest.param(lambda path: path.write_text("not a slide"), "in no slide format", id="text"),
        pytest.param(lambda path: path.mkdir(), "a folder, not a slide file", id="directory"),
        pytest.param(broken_link, "a broken link", id="broken link"),
        pytest.param(lambda path: None, "no such file", id="missing"),
    ],
)
def test_what_is_no_slide_is_refused_by_its_name(tmp_path: Path, make, reason: str) -> None:
    make(tmp_path / "a.svs")
    with pytest.raises(SlideError, match=rf"^a\.svs: {reason}") as refused:
        open_slide(tmp_path / "a.svs")
    assert str(tmp_path) not in str(refused.value)


@pytest.mark.parametrize("kept", [4, 100, 5000], ids=["header", "tags", "pixels"])
def test_a_truncated_file_is_a_slide_error_by_the_first_read(tmp_path: Path, kept: int) -> None:
    a_slide(tmp_path)
    content = (tmp_path / "a.tif").read_bytes()
    (tmp_path / "a.tif").write_bytes(content[:kept])
    with pytest.raises(SlideError, match=r"^a\.tif: "):  # noqa: SIM117 - opening may be what fails
        with SlideReader(open_slide(tmp_path / "a.tif", mpp=(0.5, 0.5))) as reader:
            reader.read(0, 0, 0, (320, 256))


def test_level_0_equals_what_openslide_reads(tmp_path: Path) -> None:
    slide, pixels = a_slide(tmp_path)
    with SlideReader(slide) as reader, openslide.OpenSlide(slide.path) as handle:
        found = reader.read(37, 21, 0, (100, 90))
        expected = np.asarray(handle.read_region((37, 21), 0, (100, 90)))[..., :3]
    assert slide.backend == "openslide"
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(found, pixels[21:111, 37:137])


def test_outside_of_the_slide_is_white(tmp_path: Path) -> None:
    slide, pixels = a_slide(tmp_path)
    expected = np.full((40, 40, 3), 255, np.uint8)
    with SlideReader(slide) as reader:
        expected[10:, 10:] = pixels[:30, :30]
        np.testing.assert_array_equal(reader.read(-10, -10, 0, (40, 40)), expected)
        assert (reader.read(5000, 5000, 0, (8, 8)) == 255).all()
        assert (reader.read(320, 0, 0, (8, 8)) == 255).all()


def test_transparent_pixels_become_white_and_half_ones_lighter() -> None:
    rgba = np.array([[[10, 20, 30, 0], [10, 20, 30, 255], [0, 100, 255, 51]]], np.uint8)
    assert over_white(rgba).tolist() == [[[255, 255, 255], [10, 20, 30], [204, 224, 255]]]


def test_a_box_at_the_slides_own_scale_is_its_pixels(tmp_path: Path) -> None:
    slide, pixels = a_slide(tmp_path)
    with SlideReader(slide) as reader:
        np.testing.assert_array_equal(reader.read_box((16, 8, 64, 32), (64, 32)), pixels[8:40, 16:80])
        near = reader.read_box((16, 8, 64.9, 32.4), (64, 32))
    np.testing.assert_array_equal(near, pixels[8:40, 16:80])


def test_a_box_is_reduced_to_the_mean_colour(tmp_path: Path) -> None:
    slide, pixels = a_slide(tmp_path)
    with SlideReader(slide) as reader:
        found = reader.read_box((0, 0, 256, 256), (32, 32))
    assert found.shape == (32, 32, 3) and found.dtype == np.uint8
    assert found.std() < pixels.std() / 3  # noise averages out: nothing aliases
    np.testing.assert_allclose(found.mean((0, 1)), pixels[:, :256].mean((0, 1)), atol=1)


@pytest.mark.parametrize("box", [(0, 0, 30, 30), (0, 0, 64, 30)], ids=["both sides", "one side"])
def test_a_box_is_never_enlarged(tmp_path: Path, box: tuple[float, float, float, float]) -> None:
    slide, _ = a_slide(tmp_path)
    with SlideReader(slide) as reader, pytest.raises(ScaleError, match=r"enlarged by .*ask for 0\.5 um/px or coarser"):
        reader.read_box(box, (60, 60))


def test_a_thumbnail_in_strips_equals_the_one_in_a_piece(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    slide, pixels = a_slide(tmp_path)
    reads: list[tuple[int, int]] = []
    with SlideReader(slide) as reader:
        whole = reader.read_thumbnail((40, 32))
        monkeypatch.setattr(reduce, "MAX_READ_PX", 4096)
        plain = reader.read
        monkeypatch.setattr(reader, "read", lambda *box, out: reads.append(box[3]) or plain(*box, out=out))
        np.testing.assert_array_equal(reader.read_thumbnail((40, 32)), whole)
    assert len(reads) > 10 and max(width * height for width, height in reads) <= 4096
    np.testing.assert_allclose(whole, pixels.reshape(32, 8, 40, 8, 3).mean((1, 3)), atol=1)


def test_a_thumbnail_larger_than_the_slide_is_refused(tmp_path: Path) -> None:
    slide, _ = a_slide(tmp_path)
    with SlideReader(slide) as reader, pytest.raises(ScaleError, match=r"a\.tif: would have to be enlarged"):
        reader.read_thumbnail((640, 512))


def test_a_level_within_2_percent_is_taken_as_it_is(tmp_path: Path) -> None:
    slide = replace(a_slide(tmp_path)[0], mpp_l0=Mpp(0.2485, 0.2485), level_downsamples=(1.0, 4.0))
    assert working_mpp(slide, 0.25) == Mpp(0.2485, 0.2485, "level")
    assert working_mpp(slide, 1.0) == Mpp(0.994, 0.994, "level")
    assert working_mpp(slide, 0.5) == Mpp(0.5, 0.5, "resampled")
    assert working_mpp(slide, 1.02).source == "resampled"


def test_a_scale_finer_than_the_slide_names_the_finest(tmp_path: Path) -> None:
    slide, _ = a_slide(tmp_path)
    with pytest.raises(
        ScaleError, match=r"a\.tif: 0\.25 um/px asked for, its finest is 0\.5; use --set tiles\.mpp=0\.5"
    ):
        working_mpp(slide, 0.25)


def test_a_dropped_reader_is_closed_and_the_next_is_fresh(tmp_path: Path) -> None:
    slide, pixels = a_slide(tmp_path)
    first = reader_for(slide)
    assert reader_for(slide) is first
    drop_reader(slide)
    drop_reader(slide)  # nothing left to drop, no error
    second = reader_for(slide)
    assert second is not first
    np.testing.assert_array_equal(second.read(0, 0, 0, (9, 9)), pixels[:9, :9])
    drop_reader(slide)


def test_another_scale_of_the_same_file_has_a_reader_of_its_own(tmp_path: Path) -> None:
    slide, _ = a_slide(tmp_path)
    other = replace(slide, mpp_l0=Mpp(0.25, 0.25))
    assert [reader_for(each).slide.mpp_l0.x for each in (slide, other, slide)] == [0.5, 0.25, 0.5]
    drop_reader(slide)
    assert reader_for(other).slide == other
    drop_reader(other)


def test_a_few_readers_stay_open_and_the_oldest_is_replaced(tmp_path: Path) -> None:
    slide, _ = a_slide(tmp_path)
    slides = [replace(slide, fingerprint=str(n)) for n in range(5)]
    readers = [reader_for(each) for each in slides]
    assert reader_for(slides[4]) is readers[4] and reader_for(slides[0]) is not readers[0]
    for each in slides:
        drop_reader(each)


PADDED = ((640, 512), (320, 256), (192, 128), (128, 64))  # the third should be 160 px wide


@pytest.mark.parametrize(
    ("sizes", "used", "said"),
    [
        pytest.param(PADDED, 2, ("2 coarser levels do not fit the finest and are not used",), id="padded"),
        pytest.param(PADDED[:3], 2, ("1 coarser level does not fit the finest and is not used",), id="the last padded"),
        pytest.param(
            ((320, 320), (192, 192)), 1, ("1 coarser level does not fit the finest and is not used",), id="square"
        ),
        pytest.param(((301, 261), (150, 130), (75, 65)), 3, (), id="rounded down"),
        pytest.param(((301, 261), (151, 131), (76, 66)), 3, (), id="rounded up"),
        pytest.param(((302, 302), (75, 75)), 2, (), id="square, by 4"),
    ],
)
def test_levels_padded_beyond_the_finest_are_not_used(
    tmp_path: Path, sizes: tuple[tuple[int, int], ...], used: int, said: tuple[str, ...]
) -> None:
    with tifffile.TiffWriter(tmp_path / "a.tif") as writer:
        for number, (width, height) in enumerate(sizes):
            pixels, kind = np.full((height, width, 3), 200, np.uint8), min(number, 1)
            writer.write(pixels, photometric="rgb", tile=(64, 64), subfiletype=kind, metadata=None)
    slide = open_slide(tmp_path / "a.tif", mpp=(0.5, 0.5))
    assert (slide.vendor, slide.level_sizes, slide.warnings) == ("generic-tiff", sizes[:used], said)
    assert len(slide.level_downsamples) == used


@pytest.mark.parametrize(("vendor", "used"), [("dicom", 2), ("generic-tiff", 2), ("aperio", 4)])
def test_levels_are_held_against_the_finest_where_a_format_does_not_tell_of_padding(
    monkeypatch: pytest.MonkeyPatch, vendor: str, used: int
) -> None:
    told = SimpleNamespace(
        properties={"openslide.vendor": vendor}, level_dimensions=PADDED, level_downsamples=(1.0, 2.0, 3.67, 6.5)
    )
    monkeypatch.setattr(openslide_pixels, "_open", lambda _: nullcontext(told))
    facts = openslide_pixels.facts_of_openslide(Path("a"), None)
    assert (facts.level_sizes, len(facts.level_downsamples)) == (PADDED[:used], used)


def test_a_slide_survives_pickling(tmp_path: Path) -> None:
    slide, pixels = a_slide(tmp_path)
    again = pickle.loads(pickle.dumps(slide))
    assert again == slide
    with SlideReader(again) as reader:
        np.testing.assert_array_equal(reader.read(0, 0, 0, (5, 5)), pixels[:5, :5])


def test_the_fingerprint_tells_files_apart_that_differ_in_pixels(tmp_path: Path) -> None:
    for name, value in (("a", 10), ("b", 11)):
        tifffile.imwrite(tmp_path / f"{name}.tif", np.full((64, 64, 3), value, np.uint8), photometric="rgb")
    first, second = (open_slide(tmp_path / f"{name}.tif", mpp=(0.5, 0.5)) for name in "ab")
    assert first.fingerprint != second.fingerprint
    assert first.fingerprint == open_slide(first.path, mpp=(0.4, 0.4)).fingerprint


def test_a_default_scale_is_taken_with_a_warning(tmp_path: Path) -> None:
    slide, _ = a_slide(tmp_path)
    found = open_slide(slide.path, mpp_default=0.25, slide_id="mine")
    assert (found.id, found.mpp_l0) == ("mine", Mpp(0.25, 0.25, "default"))
    assert "default" in " ".join(found.warnings)


@pytest.mark.real
@pytest.mark.parametrize(
    "name",
    [
        "aperio/CMU-1-Small-Region.svs",
        "hamamatsu/test3-DAPI-2-387.ndpi",
        "dicom/highdicom_sm_image/highdicom_sm_image.dcm",
    ],
    ids=["svs", "ndpi", "dicom"],
)
def test_a_real_slide_equals_what_openslide_reads(real_data: Path, name: str) -> None:
    slide = open_slide(real_data / "slides" / name)
    x, y = slide.size_l0[0] // 2, slide.size_l0[1] // 3
    with SlideReader(slide) as reader, openslide.OpenSlide(slide.path) as handle:
        rgba = np.asarray(handle.read_region((x, y), 0, (128, 64)))
        found = reader.read(x, y, 0, (128, 64))
    inside = rgba[..., 3] == 255
    np.testing.assert_array_equal(found[inside], rgba[inside][:, :3])
    assert (found[rgba[..., 3] == 0] == 255).all()


@pytest.mark.real
def test_a_real_truncated_slide_is_a_slide_error(real_data: Path, tmp_path: Path) -> None:
    content = (real_data / "slides" / "aperio" / "CMU-1-Small-Region.svs").read_bytes()
    (tmp_path / "a.svs").write_bytes(content[: len(content) // 2])
    with pytest.raises(SlideError, match=r"^a\.svs: "):  # noqa: SIM117 - opening may be what fails
        with SlideReader(open_slide(tmp_path / "a.svs", mpp=(0.5, 0.5))) as reader:
            reader.read_thumbnail((222, 296))


@pytest.mark.real
def test_a_real_scale_outside_the_plausible_is_refused(real_data: Path) -> None:
    with pytest.raises(ScaleError, match=r"boxes\.tiff: mpp 352.* is implausible"):
        open_slide(real_data / "slides" / "openslide-fixtures" / "boxes.tiff")


@pytest.mark.real
def test_a_real_codec_that_nobody_knows_is_told_by_its_number(real_data: Path) -> None:
    with pytest.raises(SlideError, match="Unsupported TIFF compression: 52479"):
        open_slide(real_data / "slides" / "broken" / "unopenable.tiff")
