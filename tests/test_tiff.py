"""TIFFs that tifffile reads: scale, pixels in every layout, and what is refused with a reason."""

from pathlib import Path

import numpy as np
import openslide
import pytest
import tifffile

from wsi_pipeline.errors import ScaleError, SlideError
from wsi_pipeline.slide.reader import SlideReader, open_slide
from wsi_pipeline.slide.tiff import TiffPixels

MPP = (0.5, 0.5)


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, shape, dtype=np.uint8)


@pytest.mark.parametrize(
    ("channels", "options"),
    [
        pytest.param(3, {}, id="untiled"),
        pytest.param(3, {"rowsperstrip": 7}, id="strips"),
        pytest.param(3, {"rowsperstrip": 7, "compression": "zlib", "predictor": True}, id="deflated strips"),
        pytest.param(3, {"tile": (32, 48), "compression": "lzw"}, id="tiles"),
        pytest.param(3, {"planarconfig": "separate", "rowsperstrip": 11}, id="planar strips"),
        pytest.param(3, {"planarconfig": "separate", "tile": (32, 32), "compression": "zlib"}, id="planar tiles"),
        pytest.param(3, {"bigtiff": True, "byteorder": ">"}, id="big-endian BigTIFF"),
        pytest.param(4, {"extrasamples": ["unassalpha"]}, id="RGBA"),
        pytest.param(4, {"extrasamples": ["unassalpha"], "tile": (32, 32)}, id="RGBA in tiles"),
        pytest.param(4, {"extrasamples": ["unspecified"], "rowsperstrip": 5}, id="fourth channel no alpha"),
    ],
)
def test_pixels_equal_those_of_tifffile(tmp_path: Path, channels: int, options: dict) -> None:
    pixels, path = noise(75, 110, channels), tmp_path / "a.tif"
    if "unassalpha" in options.get("extrasamples", []):
        pixels[..., 3] = 255
    stored = np.moveaxis(pixels, -1, 0) if options.get("planarconfig") == "separate" else pixels
    tifffile.imwrite(path, stored, photometric="rgb", **options)
    slide = open_slide(path, mpp=MPP)
    assert slide.size_l0 == (110, 75)
    with SlideReader(slide) as reader:
        np.testing.assert_array_equal(reader.read(0, 0, 0, (110, 75)), pixels[..., :3])
        np.testing.assert_array_equal(reader.read(30, 20, 0, (41, 33)), pixels[20:53, 30:71, :3])


@pytest.mark.parametrize("options", [{}, {"tile": (32, 32)}], ids=["untiled", "tiled"])
def test_transparent_pixels_are_white(tmp_path: Path, options: dict) -> None:
    pixels = noise(64, 64, 4)
    pixels[..., 3] = 255
    pixels[:20, :, 3] = 0
    tifffile.imwrite(tmp_path / "a.tif", pixels, photometric="rgb", extrasamples=["unassalpha"], **options)
    with SlideReader(open_slide(tmp_path / "a.tif", mpp=MPP)) as reader:
        found = reader.read(0, 0, 0, (64, 64))
    assert (found[:20] == 255).all()
    np.testing.assert_array_equal(found[20:], pixels[20:, :, :3])


def test_outside_of_the_image_is_white(tmp_path: Path) -> None:
    pixels = noise(40, 50, 3)
    tifffile.imwrite(tmp_path / "a.tif", pixels, photometric="rgb", rowsperstrip=8)
    found = TiffPixels(tmp_path / "a.tif")
    expected = np.full((60, 60, 3), 255, np.uint8)
    expected[5:45, 6:56] = pixels
    np.testing.assert_array_equal(found.read(-6, -5, 0, (60, 60)), expected)
    assert (found.read(500, 0, 0, (3, 3)) == 255).all()
    found.close()


@pytest.mark.parametrize(
    ("pixels", "options", "reason"),
    [
        pytest.param(np.zeros((64, 64, 3), np.uint16), {"photometric": "rgb"}, "uint16, not 8-bit RGB", id="16 bit"),
        pytest.param(np.zeros((64, 64), np.uint8), {"photometric": "minisblack"}, "MINISBLACK, not RGB", id="grey"),
        pytest.param(np.zeros((5, 64, 64, 3), np.uint8), {"photometric": "rgb"}, "stacks are not tiled", id="stack"),
    ],
)
@pytest.mark.parametrize("tiles", [{}, {"tile": (32, 32)}], ids=["untiled", "tiled"])
def test_what_is_no_rgb_plane_is_refused_with_its_reason(
    tmp_path: Path, pixels: np.ndarray, options: dict, reason: str, tiles: dict
) -> None:
    tifffile.imwrite(
        tmp_path / "a.tif",
        pixels,
        metadata={"axes": "ZYXS"[-pixels.ndim :]} if pixels.ndim == 4 else None,
        **options,
        **tiles,
    )
    with pytest.raises(SlideError, match=rf"^a\.tif: .*{reason}"):
        open_slide(tmp_path / "a.tif", mpp=MPP)


@pytest.mark.parametrize(
    ("unit", "size", "expected"),
    [("µm", 0.25, 0.25), ("nm", 250.0, 0.25), ("mm", 0.0005, 0.5)],
    ids=["micrometres", "nanometres", "millimetres"],
)
def test_the_scale_of_ome_xml_is_read_in_its_unit(tmp_path: Path, unit: str, size: float, expected: float) -> None:
    told = {"axes": "YXS", "PhysicalSizeX": size, "PhysicalSizeXUnit": unit}
    told |= {"PhysicalSizeY": 2 * size, "PhysicalSizeYUnit": unit}
    tifffile.imwrite(tmp_path / "a.ome.tif", noise(64, 64, 3), photometric="rgb", metadata=told)
    slide = open_slide(tmp_path / "a.ome.tif")
    assert (slide.mpp_l0.x, slide.mpp_l0.y) == pytest.approx((expected, 2 * expected))
    assert slide.backend == "tifffile"


def test_the_resolution_tags_give_the_scale_where_no_vendor_does(tmp_path: Path) -> None:
    tifffile.imwrite(
        tmp_path / "a.tif", noise(64, 64, 3), photometric="rgb", resolution=(20_000, 10_000), resolutionunit=3
    )
    slide = open_slide(tmp_path / "a.tif")
    assert (slide.mpp_l0.x, slide.mpp_l0.y, slide.mpp_l0.source) == (0.5, 1.0, "tiff-resolution")


def test_levels_of_a_pyramid_are_found_and_read(tmp_path: Path) -> None:
    pixels = noise(128, 160, 3)
    with tifffile.TiffWriter(tmp_path / "a.ome.tif", ome=True) as writer:
        writer.write(pixels, photometric="rgb", subifds=1, tile=(32, 32), metadata={"axes": "YXS"})
        writer.write(pixels[::2, ::2], photometric="rgb", subfiletype=1, tile=(32, 32))
    slide = open_slide(tmp_path / "a.ome.tif", mpp=MPP)
    assert slide.level_sizes == ((160, 128), (80, 64))
    assert slide.level_downsamples == pytest.approx((1.0, 2.0))
    with SlideReader(slide) as reader:
        np.testing.assert_array_equal(reader.read(20, 40, 1, (30, 20)), pixels[::2, ::2][20:40, 10:40])


def test_a_small_image_before_the_slide_is_passed_over(tmp_path: Path) -> None:
    with tifffile.TiffWriter(tmp_path / "a.tif") as writer:
        writer.write(noise(16, 16), photometric="minisblack", metadata=None)
        writer.write(noise(64, 80, 3), photometric="rgb", metadata=None)
    assert open_slide(tmp_path / "a.tif", mpp=MPP).level_sizes == ((80, 64),)


def test_a_small_tiled_image_before_the_slide_is_passed_over_with_its_scale(tmp_path: Path) -> None:
    pixels, tiled = noise(256, 320, 3), {"photometric": "rgb", "tile": (32, 32), "metadata": None}
    with tifffile.TiffWriter(tmp_path / "a.tif") as writer:
        writer.write(noise(64, 80, 3), resolution=(2_500, 2_500), resolutionunit=3, **tiled)
        writer.write(pixels, resolution=(20_000, 20_000), resolutionunit=3, **tiled)
    with openslide.OpenSlide(tmp_path / "a.tif") as handle:
        assert handle.level_dimensions == ((80, 64),)  # what it takes for the slide
    slide = open_slide(tmp_path / "a.tif")
    assert (slide.level_sizes, slide.mpp_l0.mean) == (((320, 256),), 0.5)
    with SlideReader(slide) as reader:
        np.testing.assert_array_equal(reader.read(0, 0, 0, (320, 256)), pixels)


@pytest.mark.parametrize("options", [{"compression": "zlib"}, {"compression": "jpeg"}], ids=["zlib", "jpeg"])
def test_an_orientation_tag_turns_no_tile_in_its_place(tmp_path: Path, options: dict) -> None:
    plain, turned = ({"tile": (64, 64), "photometric": "rgb"} | options | more
                     for more in ({}, {"extratags": [(274, 3, 1, 3, True)]}))  # fmt: skip
    tifffile.imwrite(tmp_path / "a.tif", noise(128, 192, 3), **plain)
    tifffile.imwrite(tmp_path / "b.tif", noise(128, 192, 3), **turned)
    found = []
    for name in ("a.tif", "b.tif"):
        with SlideReader(open_slide(tmp_path / name, mpp=MPP)) as reader:
            found.append(reader.read(0, 0, 0, (192, 128)))
    np.testing.assert_array_equal(*found)


def ome_image(side: int, mpp: float, data: str) -> str:
    told = f'SizeX="{side}" SizeY="{side}" SizeZ="1" SizeC="3" SizeT="1" PhysicalSizeX="{mpp}" PhysicalSizeY="{mpp}"'
    channel = '<Channel ID="Channel:0:0" SamplesPerPixel="3"/>'
    return f'<Image><Pixels DimensionOrder="XYCZT" Type="uint8" {told}>{channel}{data}</Pixels></Image>'


@pytest.mark.parametrize("absent_first", [True, False])
def test_the_scale_of_an_image_that_is_not_in_the_file_is_not_taken(tmp_path: Path, absent_first: bool) -> None:
    images = [ome_image(48, 4.0, ""), ome_image(64, 0.5, '<TiffData IFD="0" PlaneCount="1"/>')]
    told = f"<OME>{''.join(images if absent_first else reversed(images))}</OME>"
    tifffile.imwrite(tmp_path / "a.tif", noise(64, 64, 3), photometric="rgb", description=told, metadata=None)
    if absent_first:  # tifffile counts one image, the XML two
        with pytest.raises(ScaleError, match=r"^a\.tif: no mpp in the file"):
            open_slide(tmp_path / "a.tif")
    else:
        assert open_slide(tmp_path / "a.tif").mpp_l0.mean == 0.5


@pytest.mark.parametrize(
    "content", [b"II*\0", b"II*\0\xff\xff\xff\xff", b"text, no TIFF"], ids=["4 bytes", "lost", "text"]
)
def test_a_file_that_is_no_tiff_is_one_slide_error(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.tif").write_bytes(content)
    with pytest.raises(SlideError, match=r"^a\.tif: cannot be read as TIFF \(.+\); get a fresh copy$"):
        TiffPixels(tmp_path / "a.tif")


@pytest.mark.real
def test_a_real_ome_tiff_has_its_scale_and_its_pixels(real_data: Path) -> None:
    path = real_data / "slides" / "ome-tiff" / "OS-1-detail.ome.tif"
    slide = open_slide(path)
    assert slide.mpp_l0.mean == pytest.approx(0.2271, abs=1e-4)
    with SlideReader(slide) as reader:
        np.testing.assert_array_equal(reader.read(100, 50, 0, (200, 300)), tifffile.imread(path)[50:350, 100:300])


@pytest.mark.real
def test_a_real_stack_of_channels_is_refused(real_data: Path) -> None:
    with pytest.raises(SlideError, match=r"axes CZYX .*stacks are not tiled"):
        open_slide(real_data / "slides" / "ome-tiff" / "multi-channel-z-series.ome.tif")


@pytest.mark.parametrize(("tag", "value"), [("ImageWidth", 2**31), ("TileWidth", 2**20), ("TileByteCounts", 2**31)])
def test_a_size_that_the_file_cannot_hold_is_refused_before_a_decoder_takes_all_memory(tmp_path, tag, value):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, np.zeros((64, 64, 3), np.uint8), photometric="rgb", tile=(32, 32), compression="deflate")
    with tifffile.TiffFile(path, mode="r+") as tiff:
        entry = tiff.pages[0].tags[tag]
        entry.overwrite(value if entry.count == 1 else (value, *entry.value[1:]), dtype="I")
    with pytest.raises(SlideError, match=r"^a\.tif: cut short or damaged: it cannot hold"):
        open_slide(path, mpp=(0.5, 0.5))
