"""JPEG tiles read directly: OpenSlide's pixels bit for bit, or left to OpenSlide."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import openslide
import pytest
import tifffile

from wsi_pipeline.config import load_config
from wsi_pipeline.errors import SlideError
from wsi_pipeline.pipeline.settings import tiling_settings
from wsi_pipeline.pipeline.tile import lay_tiles
from wsi_pipeline.slide.direct import DirectPixels
from wsi_pipeline.slide.jpeg import decode_into, encode, standalone
from wsi_pipeline.slide.jpeg_levels import jpeg_levels
from wsi_pipeline.slide.reader import Reading, Slide, SlideReader, open_slide
from wsi_pipeline.tiles.pixels import read_tiles
from wsi_pipeline.tiles.store import open_store

SIZES = ((300, 260), (150, 130))
APERIO = "Aperio |AppMag = 20|MPP = 0.5"
MPP = (0.5, 0.5)


def scene(width: int, height: int) -> np.ndarray:
    """Colours that vary smoothly, and sharp noise: (height, width, 3) uint8."""
    y, x = np.mgrid[:height, :width]
    smooth = np.stack([128 + 100 * np.sin(x / 9), 128 + 100 * np.cos(y / 7), (x + y) % 256], -1)
    return np.clip(smooth + np.random.default_rng(0).normal(0, 9, smooth.shape), 0, 255).astype(np.uint8)


def jpeg_tiff(
    path: Path, *, sizes: tuple[tuple[int, int], ...] = SIZES, described: str = "", **options: object
) -> Slide:
    """A TIFF of JPEG tiles of 64 px, one page a size, the first `described`."""
    known = {"tile": (64, 64), "photometric": "ycbcr", "compression": "jpeg", "metadata": None} | options
    file = {name: known.pop(name) for name in ("bigtiff", "byteorder") if name in known}
    with tifffile.TiffWriter(path, **file) as writer:
        for number, (width, height) in enumerate(sizes):
            kind = 0 if "description" in known else min(number, 1)  # Aperio marks no page as a reduced one
            said = {"description": described} if described and not number else {}
            writer.write(scene(width, height), subfiletype=kind, **known | said)
    return open_slide(path, mpp=MPP)


def with_shared_tables(path: Path) -> Slide:
    """The tables of all tiles moved into the page, as Aperio has them."""
    tiles = []
    pixels = scene(128, 128)
    for top, left in np.ndindex(2, 2):
        data = encode(np.ascontiguousarray(pixels[top * 64 : top * 64 + 64, left * 64 : left * 64 + 64]), 80)
        parts, at = [], 2
        while data[at + 1] != 0xDA:
            end = at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")
            parts.append(data[at:end])
            at = end
        shared = [part for part in parts if part[1] in (0xDB, 0xC4)]
        tiles.append(b"\xff\xd8" + b"".join(part for part in parts if part not in shared) + data[at:])
    tables = b"\xff\xd8" + b"".join(shared) + b"\xff\xd9"
    tifffile.imwrite(
        path, iter(tiles), shape=(128, 128, 3), dtype=np.uint8, tile=(64, 64), photometric="ycbcr",
        compression="jpeg", jpegtables=tables, metadata=None, extratags=[(347, 7, len(tables), tables, True)],
    )  # fmt: skip
    return open_slide(path, mpp=MPP)


def philips(path: Path) -> Slide:
    """A Philips TIFF: what its levels are lies in XML, their pages are padded to whole tiles."""
    pages = ((320, 256), (192, 128), (128, 64))
    spacings = [f'"{0.0005 * 2**level}" "{0.0005 * 2**level}"' for level in range(len(pages))]
    told = "".join(
        f'<DataObject ObjectType="PixelDataRepresentation">{attribute("DICOM_PIXEL_SPACING", spacing)}</DataObject>'
        for spacing in spacings
    )
    image = (
        attribute("PIM_DP_IMAGE_TYPE", "WSI")
        + attribute("DICOM_PIXEL_SPACING", spacings[0])
        + attribute("PIIM_PIXEL_DATA_REPRESENTATION_SEQUENCE", f"<Array>{told}</Array>")
    )
    scanned = f'<Array><DataObject ObjectType="DPScannedImage">{image}</DataObject></Array>'
    xml = f'<DataObject ObjectType="DPUfsImport">{attribute("PIM_DP_SCANNED_IMAGES", scanned)}</DataObject>'
    return jpeg_tiff(path, sizes=pages, software="Philips DP v1.0", described=xml)


def attribute(name: str, value: str) -> str:
    return f'<Attribute Name="{name}">{value}</Attribute>'


def drop_tile(path: Path, page: int, tile: int) -> None:
    """Set the byte count of a tile to 0: never written."""
    with tifffile.TiffFile(path) as tiff:
        tag = tiff.pages[page].tags["TileByteCounts"]
        at, width = tag.valueoffset, tag.valuebytecount // tag.count
    with path.open("r+b") as file:
        file.seek(at + tile * width)
        file.write(bytes(width))


def overwrite_tile(path: Path, tile: int, data: bytes, *, at: int = 0) -> None:
    with tifffile.TiffFile(path) as tiff:
        start = tiff.pages[0].dataoffsets[tile]
    with path.open("r+b") as file:
        file.seek(start + at)
        file.write(data)


def both(slide: Slide, region: tuple[int, int, int, tuple[int, int]]) -> tuple[np.ndarray, np.ndarray]:
    """The region as read by default, and by OpenSlide alone."""
    with SlideReader(slide) as fast, SlideReader(slide, Reading(direct=False)) as reference:
        return fast.read(*region), reference.read(*region)


def directly_read(slide: Slide) -> list[bool]:
    return [level is not None for level in jpeg_levels(slide)]


@pytest.mark.parametrize("name", ["a.svs", "a.tif"])
@pytest.mark.parametrize(
    "options",
    [
        pytest.param({}, id="444"),
        pytest.param({"subsampling": (2, 2)}, id="420"),
        pytest.param({"subsampling": (2, 1)}, id="422"),
        pytest.param({"photometric": "rgb", "compressionargs": {"outcolorspace": "rgb"}}, id="RGB"),
        pytest.param({"bigtiff": True, "byteorder": ">"}, id="big-endian BigTIFF"),
    ],
)
def test_every_level_equals_openslide_bit_for_bit(tmp_path: Path, name: str, options: dict) -> None:
    said = {"description": APERIO} if name == "a.svs" else {}
    slide = jpeg_tiff(tmp_path / name, **options | said)
    assert all(directly_read(slide))
    for level, (width, height) in enumerate(slide.level_sizes):
        for x, y, size in [(0, 0, (width, height)), (-9, -7, (80, 70)), (64, 128, (64, 64)), (100, 90, (250, 33))]:
            by = round(slide.level_downsamples[level])
            np.testing.assert_array_equal(*both(slide, (x * by, y * by, level, size)))


def test_tables_shared_by_all_tiles_are_used(tmp_path: Path) -> None:
    slide = with_shared_tables(tmp_path / "a.tif")
    level = jpeg_levels(slide)[0]
    assert level is not None and level.tables is not None
    fast, reference = both(slide, (10, 10, 0, (100, 100)))
    np.testing.assert_array_equal(fast, reference)
    assert np.abs(fast.astype(int) - scene(128, 128)[10:110, 10:110]).mean() < 12


def test_tiles_that_do_not_begin_alike_are_each_decoded_by_their_own_tables(tmp_path: Path) -> None:
    pixels = scene(256, 64)
    tiles = [
        encode(np.ascontiguousarray(pixels[:, 64 * n : 64 * n + 64]), quality)
        for n, quality in enumerate((90, 20, 20, 60))
    ]
    tifffile.imwrite(
        tmp_path / "a.tif", iter(tiles), shape=pixels.shape, dtype=np.uint8, tile=(64, 64), photometric="ycbcr",
        compression="jpeg", metadata=None,
    )  # fmt: skip
    slide = open_slide(tmp_path / "a.tif", mpp=MPP)
    assert directly_read(slide) == [True]
    np.testing.assert_array_equal(*both(slide, (0, 0, 0, (256, 64))))


def test_a_region_is_read_into_the_room_given(tmp_path: Path) -> None:
    slide = jpeg_tiff(tmp_path / "a.tif")
    room = np.zeros((64, 64, 3), np.uint8)
    with SlideReader(slide) as reader:
        for box in ((64, 64, 64, 64), (30, 20, 64, 64), (270, 220, 64, 64)):
            found = reader.read_box(box, (64, 64), out=room)
            assert found is room
            np.testing.assert_array_equal(found, both(slide, (*box[:2], 0, (64, 64)))[1])


def test_the_pages_colours_count_not_the_tiles_own_marker(tmp_path: Path) -> None:
    rgb = {"photometric": "rgb", "compressionargs": {"outcolorspace": "rgb"}}
    slide = jpeg_tiff(tmp_path / "a.tif", sizes=((64, 64),), **rgb)
    level = jpeg_levels(slide)[0]
    assert level is not None
    with DirectPixels(slide.path, (level,)) as pixels:
        jpeg = pixels.tile_bytes(0, 0, 0, (64, 64))
    assert jpeg is not None
    jfif = b"\xff\xe0\x00\x10JFIF\x00\x01\x01\x00\x00\x01\x00\x01\x00\x00"  # says YCbCr
    again = standalone(jpeg[:2] + jfif + jpeg[2:], None, ycbcr=False, shape=(64, 64))
    out = np.empty((64, 64, 3), np.uint8)
    decode_into(again, out)
    np.testing.assert_array_equal(out, both(slide, (0, 0, 0, (64, 64)))[1])


def test_a_missing_tile_is_white_as_with_openslide(tmp_path: Path) -> None:
    slide = jpeg_tiff(tmp_path / "a.tif", sizes=SIZES[:1])
    drop_tile(tmp_path / "a.tif", 0, 6)
    assert directly_read(slide) == [True]
    fast, reference = both(slide, (0, 0, 0, SIZES[0]))
    np.testing.assert_array_equal(fast, reference)
    assert (fast[64:128, 64:128] == 255).all()


def test_a_level_whose_missing_tiles_openslide_draws_from_a_finer_one_is_left_to_it(tmp_path: Path) -> None:
    slide = jpeg_tiff(tmp_path / "a.svs", description=APERIO)
    drop_tile(tmp_path / "a.svs", 1, 2)
    drop_tile(tmp_path / "a.svs", 0, 2)
    assert directly_read(slide) == [True, False]
    for level, size in enumerate(SIZES):
        np.testing.assert_array_equal(*both(slide, (0, 0, level, size)))


def test_a_level_over_a_missing_tile_of_a_finer_one_is_left_to_openslide(tmp_path: Path) -> None:
    slide = jpeg_tiff(tmp_path / "a.svs", description=APERIO)
    drop_tile(tmp_path / "a.svs", 0, 2)  # what lies over it is drawn from the finer level, though it is there
    assert directly_read(slide) == [True, False]
    for level, size in enumerate(SIZES):
        np.testing.assert_array_equal(*both(slide, (0, 0, level, size)))


def test_the_padded_levels_of_philips_equal_openslides(tmp_path: Path) -> None:
    slide = philips(tmp_path / "a.tiff")
    assert slide.vendor == "philips" and slide.level_sizes == ((320, 256), (160, 128), (80, 64))
    assert all(directly_read(slide))
    for level, (width, height) in enumerate(slide.level_sizes):
        for x, y, size in [(0, 0, (width + 40, height + 40)), (-9, -7, (80, 70)), (64, 64, (64, 64))]:
            np.testing.assert_array_equal(*both(slide, (x << level, y << level, level, size)))
    drop_tile(tmp_path / "a.tiff", 1, 0)
    fast, reference = both(slide, (0, 0, 1, (160, 128)))
    np.testing.assert_array_equal(fast, reference)
    assert (fast[:64, :64] == 255).all()


@pytest.mark.parametrize(
    ("options", "why"),
    [
        pytest.param({"compression": "zlib", "photometric": "rgb"}, "deflate", id="deflate"),
        pytest.param({"compression": "jpeg2000", "photometric": "rgb"}, "JPEG 2000", id="JPEG 2000"),
        pytest.param({"tile": None, "rowsperstrip": 64}, "JPEG", id="strips"),
    ],
)
def test_what_is_no_jpeg_tile_is_left_to_the_other_readers(tmp_path: Path, options: dict, why: str) -> None:
    slide = jpeg_tiff(tmp_path / "a.tif", sizes=SIZES[:1], **options)
    assert slide.codec == why
    assert directly_read(slide) == [False]
    np.testing.assert_array_equal(*both(slide, (20, 30, 0, (90, 80))))


def test_an_unknown_vendor_is_left_to_openslide(tmp_path: Path) -> None:
    slide = jpeg_tiff(tmp_path / "a.tif")
    assert directly_read(replace(slide, vendor="ventana")) == [False, False]


def test_between_the_pixels_of_a_level_openslide_reads(tmp_path: Path) -> None:
    slide = jpeg_tiff(tmp_path / "a.svs", sizes=((301, 261), (150, 130)), description=APERIO)
    assert slide.level_downsamples[1] != 2
    np.testing.assert_array_equal(*both(slide, (101, 77, 1, (40, 40))))


def test_the_parts_of_a_large_region_that_openslide_interpolates_are_left_to_it(tmp_path: Path) -> None:
    slide = jpeg_tiff(tmp_path / "a.svs", sizes=((8203, 67), (4101, 33)), description=APERIO)
    assert directly_read(slide) == [True, True] and slide.level_downsamples[1] % 1
    fast, reference = both(slide, (0, 0, 1, (4101, 33)))
    np.testing.assert_array_equal(fast[:, 4096:], reference[:, 4096:])  # the second part begins between two pixels
    np.testing.assert_array_equal(fast, reference)
    np.testing.assert_array_equal(*both(slide, (0, 0, 0, (8203, 67))))


def test_a_tile_between_the_pixels_of_its_level_is_not_copied_as_it_is_not_read_so(tmp_path: Path) -> None:
    slide = jpeg_tiff(tmp_path / "a.svs", sizes=((301, 261), (150, 130)), description=APERIO)
    assert directly_read(slide) == [True, True]
    side = 64 * slide.level_downsamples[1]
    with SlideReader(slide) as reader:
        jpeg = reader.own_jpeg((0, 0, side, side), (64, 64))
        assert jpeg is not None
        out = np.empty((64, 64, 3), np.uint8)
        decode_into(jpeg, out)
        np.testing.assert_array_equal(out, reader.read_box((0, 0, side, side), (64, 64)))
        assert reader.own_jpeg((side, side, side, side), (64, 64)) is None


def test_the_knob_switches_it_off(tmp_path: Path) -> None:
    slide = jpeg_tiff(tmp_path / "a.tif")
    with SlideReader(slide, Reading(direct=False)) as reader:
        assert reader.own_jpeg((0, 0, 64, 64), (64, 64)) is None
    with SlideReader(slide) as reader:
        assert reader.own_jpeg((0, 0, 64, 64), (64, 64)) is not None


@pytest.mark.parametrize("damage", [bytes(4000), b"\xff\xd8\xff\xd9", b"\x01" * 500], ids=["zeros", "empty", "rubbish"])
def test_a_damaged_tile_is_a_slide_error_as_before_and_spares_the_rest(tmp_path: Path, damage: bytes) -> None:
    path = tmp_path / "a.tif"
    slide = jpeg_tiff(path, sizes=SIZES[:1])
    overwrite_tile(path, 6, damage[:1500])
    with SlideReader(slide) as reader:
        assert reader.read(0, 0, 0, (60, 60)).shape == (60, 60, 3)
        with pytest.raises(SlideError, match=r"^a\.tif: level 0 at \(70, 70\) cannot be read"):
            reader.read(70, 70, 0, (8, 8))
        assert reader.failed


def test_it_never_takes_what_openslide_refuses(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    slide = jpeg_tiff(path, sizes=((64, 64),))
    good, draw = path.read_bytes(), np.random.default_rng(3)
    with tifffile.TiffFile(path) as tiff:
        start, count = tiff.pages[0].dataoffsets[0], tiff.pages[0].databytecounts[0]
    refused = 0
    for _ in range(60):
        broken = bytearray(good)
        broken[start + int(draw.integers(count))] ^= 1 << int(draw.integers(8))
        path.write_bytes(broken)
        with SlideReader(slide) as fast, openslide.OpenSlide(path) as reference:
            try:
                expected = np.asarray(reference.read_region((0, 0), 0, (64, 64)))[..., :3]
            except openslide.OpenSlideError:
                refused += 1
                with pytest.raises(SlideError):
                    fast.read(0, 0, 0, (64, 64))
                continue
            np.testing.assert_array_equal(fast.read(0, 0, 0, (64, 64)), expected)
    assert refused > 5


def test_what_the_decoder_here_refuses_is_read_by_openslide(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    slide = jpeg_tiff(path, sizes=((64, 64),))
    level = jpeg_levels(slide)[0]
    assert level is not None
    cut = replace(level, counts=level.counts - 2)  # no end marker: OpenSlide takes it, in a file that ends so
    with DirectPixels(path, (cut,)) as pixels, pytest.raises(ValueError):
        pixels.read(0, 0, 0, (64, 64))
    with SlideReader(slide) as reader:
        whole = reader.read(0, 0, 0, (64, 64))
        reader._direct = DirectPixels(path, (cut,))
        np.testing.assert_array_equal(reader.read(0, 0, 0, (64, 64)), whole)


def test_a_jpeg_without_an_end_is_not_copied(tmp_path: Path) -> None:
    slide = jpeg_tiff(tmp_path / "a.tif", sizes=((64, 64),))
    level = jpeg_levels(slide)[0]
    assert level is not None
    with DirectPixels(slide.path, (replace(level, counts=level.counts - 2),)) as cut:
        with pytest.raises(ValueError, match="a JPEG without an end"):
            cut.tile_bytes(0, 0, 0, (64, 64))
        with SlideReader(slide) as reader:
            assert reader.own_jpeg((0, 0, 64, 64), (64, 64)) is not None
            reader._direct = cut
            assert reader.own_jpeg((0, 0, 64, 64), (64, 64)) is None


@pytest.mark.parametrize("step", [64, 40, 32], ids=["aligned", "not aligned", "overlapping"])
def test_each_tile_is_decoded_once_on_a_walk_over_the_slide(tmp_path: Path, step: int) -> None:
    slide = jpeg_tiff(tmp_path / "a.tif", sizes=((320, 256),))
    with DirectPixels(slide.path, jpeg_levels(slide)) as pixels:
        for y in range(5, 256, step) if step == 40 else range(0, 256, step):
            for x in range(5, 320, step) if step == 40 else range(0, 320, step):
                pixels.read(x, y, 0, (64, 64))
        assert 20 <= pixels.decoded <= 21  # of 5 x 4; the very first one may be met alone


def test_a_row_and_a_tile_are_memory_enough_to_decode_each_tile_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    across, down = 10, 4
    slide = jpeg_tiff(tmp_path / "a.tif", sizes=((64 * across, 64 * down),))
    monkeypatch.setattr("wsi_pipeline.slide.direct._KEPT_BYTES", (across + 2) * 64 * 64 * 3)
    with DirectPixels(slide.path, jpeg_levels(slide)) as pixels:
        for y in range(5, 64 * (down - 1), 64):
            for x in range(5, 64 * (across - 1), 64):
                pixels.read(x, y, 0, (64, 64))
        assert pixels.decoded == across * down


def test_what_is_kept_is_bounded_and_gives_the_same_pixels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    slide = jpeg_tiff(tmp_path / "a.tif", sizes=SIZES[:1])
    monkeypatch.setattr("wsi_pipeline.slide.direct._KEPT_BYTES", 3 * 64 * 64 * 3)
    with DirectPixels(slide.path, jpeg_levels(slide)) as pixels:
        for _ in range(2):
            found = pixels.read(-3, -3, 0, (310, 270))
        assert pixels.decoded == 2 * 25
    np.testing.assert_array_equal(found, both(slide, (-3, -3, 0, (310, 270)))[1])


def test_reduced_in_the_decoder_is_close_to_the_mean_and_in_its_place(tmp_path: Path) -> None:
    slide = jpeg_tiff(tmp_path / "a.tif", sizes=((512, 512),), compressionargs={"level": 95})
    with SlideReader(slide, Reading(reduced=True)) as fast, SlideReader(slide) as plain:
        for zoom in (2, 4):
            box, size = (64, 32, 96 * zoom, 64 * zoom), (96, 64)
            mean = plain.read(64, 32, 0, (96 * zoom, 64 * zoom)).reshape(64, zoom, 96, zoom, 3).mean((1, 3))
            assert np.abs(fast.read_box(box, size) - mean).mean() < 6
            assert np.abs(np.roll(fast.read_box(box, size), 1, 1) - mean).mean() > 12
        odd = fast.read_box((64, 32, 240, 200), (96, 80))  # by 2 in the decoder, by 1.25 after it
        assert np.abs(odd.astype(int) - plain.read_box((64, 32, 240, 200), (96, 80))).mean() < 6


def test_tiles_reduced_in_the_decoder_show_what_their_grid_says(tmp_path: Path) -> None:
    jpeg_tiff(tmp_path / "a.tif", sizes=((512, 512),), compressionargs={"level": 95})
    slide = open_slide(tmp_path / "a.tif", mpp=(0.2456, 0.2456))
    settings = tiling_settings(
        load_config(overrides=["slide.reduced_decode=true", "tiles.tile_px=128", "tiles.min_tissue=0"])
    )
    lay_tiles(slide, str(tmp_path / "a.zarr"), "k", settings)
    store = open_store(tmp_path / "a.zarr", complete=False)
    assert store.grid.footprint_l0 == (256, 256)  # not 260.6, as 0.5 um/px would be
    tiles, _ = read_tiles(store.grid, 0, 4, store.reading)
    with SlideReader(slide) as plain:
        whole = plain.read(0, 0, 0, (512, 512))
    mean = whole.reshape(2, 128, 2, 2, 128, 2, 3).mean((2, 5)).swapaxes(1, 2).reshape(4, 128, 128, 3)
    assert np.abs(tiles - mean).mean() < 6


def test_reduced_beyond_the_edge_is_white(tmp_path: Path) -> None:
    slide = jpeg_tiff(tmp_path / "a.tif", sizes=SIZES[:1])
    with SlideReader(slide, Reading(reduced=True)) as reader:
        found = reader.read_box((256, 256, 128, 128), (64, 64))
    assert (found[:, 22:] == 255).all() and (found[2:] == 255).all()
    assert (found[:2, :22] < 255).any(-1).all()


def test_a_level_that_is_not_read_directly_is_reduced_all_the_same(tmp_path: Path) -> None:
    pixels = scene(256, 256)
    tifffile.imwrite(tmp_path / "a.tif", pixels, photometric="rgb", tile=(64, 64))
    slide = open_slide(tmp_path / "a.tif", mpp=MPP)
    with SlideReader(slide, Reading(reduced=True)) as asked, SlideReader(slide) as plain:
        box = (0, 0, 128, 128), (64, 64)
        np.testing.assert_array_equal(asked.read_box(*box), plain.read_box(*box))


def test_a_damaged_tile_is_a_slide_error_when_reduced_too(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    slide = jpeg_tiff(path, sizes=SIZES[:1])
    overwrite_tile(path, 6, bytes(1500))
    with SlideReader(slide, Reading(reduced=True)) as reader, pytest.raises(SlideError):
        reader.read_box((0, 0, 256, 256), (128, 128))


@pytest.mark.parametrize(
    ("box", "own"),
    [
        ((64, 64, 64, 64), True),
        ((64.2, 64, 64.3, 64), True),
        ((60, 64, 64, 64), False),
        ((64, 64, 128, 128), False),
        ((256, 192, 64, 64), False),
        ((-64, 0, 64, 64), False),
    ],
    ids=["a tile", "within 2 percent", "moved", "another size", "over the edge", "outside"],
)
def test_only_a_whole_tile_has_a_jpeg_of_its_own(tmp_path: Path, box: tuple, own: bool) -> None:
    slide = jpeg_tiff(tmp_path / "a.tif", sizes=SIZES[:1])
    size = (round(box[2]), round(box[3]))
    with SlideReader(slide) as reader:
        jpeg = reader.own_jpeg(box, size)
        assert (jpeg is not None) == own
        if jpeg is not None:
            out = np.empty((64, 64, 3), np.uint8)
            decode_into(jpeg, out)
            np.testing.assert_array_equal(out, reader.read_box(box, size))


def test_a_jpeg_of_another_size_is_refused() -> None:
    jpeg = encode(np.zeros((32, 32, 3), np.uint8), 80)
    with pytest.raises(ValueError, match=r"a JPEG of \(32, 32\)"):
        standalone(jpeg, None, ycbcr=True, shape=(64, 64))
    with pytest.raises(ValueError, match="no JPEG"):
        standalone(b"", None, ycbcr=True, shape=(64, 64))
    with pytest.raises(ValueError):
        decode_into(jpeg, np.empty((9, 9, 3), np.uint8), 4)


@pytest.mark.real
@pytest.mark.parametrize("place", [(0, 0), (480, 240), (317, 1201), (2100, 2900)], ids=str)
def test_a_real_aperio_slide_equals_openslide_bit_for_bit(real_data: Path, place: tuple[int, int]) -> None:
    slide = open_slide(real_data / "slides" / "aperio" / "CMU-1-Small-Region.svs")
    assert directly_read(slide) == [True]
    np.testing.assert_array_equal(*both(slide, (*place, 0, (256, 256))))
