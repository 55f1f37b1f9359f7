"""Images of every kind come out as 8-bit RGB, upright, unclipped; bad ones are named."""

import struct
import zlib
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
import tifffile
from PIL import Image
from pydicom import dcmread
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    DigitalXRayImageStorageForPresentation,
    ExplicitVRLittleEndian,
    JPEGLosslessSV1,
    generate_uid,
)

from wsi_pipeline.errors import ConfigError, SlideError
from wsi_pipeline.learn.data.images import border_colour, crop_to_circle, fit_square, read_image, to_8_bits

RAMP = np.arange(256, dtype=np.uint8).reshape(16, 16)
COLOURS = np.stack([RAMP, RAMP[::-1], RAMP.T], axis=-1)


def write_dicom(path: Path, stored: np.ndarray, *, bits: int = 12, **elements: object) -> Path:
    """A DICOM of one grey image (H, W) uint16 or int16."""
    image = Dataset()
    image.file_meta = FileMetaDataset()
    image.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    image.file_meta.MediaStorageSOPClassUID = image.SOPClassUID = DigitalXRayImageStorageForPresentation
    image.file_meta.MediaStorageSOPInstanceUID = image.SOPInstanceUID = generate_uid()
    image.Rows, image.Columns = stored.shape[:2]
    image.SamplesPerPixel, image.PhotometricInterpretation = 1, "MONOCHROME2"
    image.BitsAllocated, image.BitsStored, image.HighBit = 16, bits, bits - 1
    image.PixelRepresentation = int(np.issubdtype(stored.dtype, np.signedinteger))
    image.PixelData = stored.tobytes()
    for name, value in elements.items():
        setattr(image, name, value)
    image.save_as(path, enforce_file_format=True)
    return path


def grey_of(path: Path) -> np.ndarray:
    """The image's grey (H, W), which all three channels hold."""
    rgb = read_image(path)
    assert rgb.dtype == np.uint8 and rgb.shape[2:] == (3,)
    assert (rgb == rgb[..., :1]).all()
    return rgb[..., 0]


def test_a_plain_png_is_read_as_it_is(tmp_path: Path) -> None:
    Image.fromarray(COLOURS).save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), COLOURS)


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_sixteen_bits_are_scaled_not_clipped(tmp_path: Path, suffix: str) -> None:
    Image.fromarray(RAMP.astype(np.uint16) * 257).save(tmp_path / f"a.{suffix}")
    np.testing.assert_array_equal(grey_of(tmp_path / f"a.{suffix}"), RAMP)


def test_twelve_bits_in_a_file_of_sixteen_fill_the_range(tmp_path: Path) -> None:
    Image.fromarray(np.array([[0, 2048, 4095]], np.uint16)).save(tmp_path / "a.png")
    assert grey_of(tmp_path / "a.png").tolist() == [[0, 128, 255]]  # 2048 / 4095 x 255 = 127.53


def write_deep_png(path: Path, values: np.ndarray, **more: object) -> Path:
    """A PNG of 16 bits with 2 to 4 channels (H, W, C) uint16, `more` as Pillow saves it (exif)."""
    path.write_bytes(imagecodecs.png_encode(values))
    if more:  # Pillow writes no such PNG: its chunk goes behind IHDR
        exif = more["exif"].tobytes().removeprefix(b"Exif\0\0")  # type: ignore[attr-defined]
        chunk = b"eXIf" + exif
        whole = struct.pack(">I", len(exif)) + chunk + struct.pack(">I", zlib.crc32(chunk))
        path.write_bytes(path.read_bytes()[:33] + whole + path.read_bytes()[33:])
    return path


@pytest.mark.parametrize("top", [4095, 65535])
def test_sixteen_bit_colours_of_a_png_are_scaled_as_those_of_a_tiff(tmp_path: Path, top: int) -> None:
    colours = np.rint(COLOURS / 255.0 * top).astype(np.uint16)
    np.testing.assert_array_equal(read_image(write_deep_png(tmp_path / "a.png", colours)), COLOURS)
    opaque = np.full_like(colours[..., :1], 65535)
    for channels, expected in ((colours, COLOURS), (colours[..., :1], np.repeat(COLOURS[..., :1], 3, axis=2))):
        png = write_deep_png(tmp_path / "b.png", np.concatenate([channels, opaque], axis=2))
        np.testing.assert_array_equal(read_image(png), expected)


def test_transparent_parts_of_a_deep_png_become_white_and_it_is_set_upright(tmp_path: Path) -> None:
    values = np.array([[[0, 0, 0, 65535], [65535, 0, 0, 0]]], np.uint16)
    exif = Image.Exif()
    exif[274] = 6  # to be turned by 90 degrees
    assert read_image(write_deep_png(tmp_path / "a.png", values)).tolist() == [[[0] * 3, [255] * 3]]
    assert read_image(write_deep_png(tmp_path / "b.png", values, exif=exif)).tolist() == [[[0] * 3], [[255] * 3]]


def test_a_deep_png_cut_short_is_named(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 65536, (64, 64, 3), np.uint16)
    path = write_deep_png(tmp_path / "a.png", noise)
    path.write_bytes(path.read_bytes()[:9000])
    with pytest.raises(SlideError, match=r"a.png: no image that can be read"):
        read_image(path)


def test_sixteen_bit_colours_of_a_tiff_keep_their_order(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", COLOURS.astype(np.uint16) * 257, photometric="rgb")
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif"), COLOURS)


def test_planes_of_a_tiff_become_channels(tmp_path: Path) -> None:
    planes = np.moveaxis(COLOURS, -1, 0).astype(np.uint16) * 257
    tifffile.imwrite(tmp_path / "a.tif", planes, photometric="rgb", planarconfig="separate")
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif"), COLOURS)


def test_a_compression_that_pillow_lacks_is_read(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", COLOURS, photometric="rgb", compression="jpeg2000")
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif"), COLOURS)


def test_a_tiff_whose_white_is_zero_is_turned_over(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", np.array([[0, 65535]], np.uint16), photometric="miniswhite")
    assert grey_of(tmp_path / "a.tif").tolist() == [[255, 0]]


def test_shares_in_a_tiff_of_floats_are_scaled(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", np.array([[0.0, 0.2, 1.0]], np.float32))
    assert grey_of(tmp_path / "a.tif").tolist() == [[0, 51, 255]]


def test_other_floats_are_refused(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", np.array([[-3.0, 7.0]], np.float32))
    with pytest.raises(SlideError, match=r"a.tif.*values -3 to 7 \(float32\), save it with 8 or 16 bits"):
        read_image(tmp_path / "a.tif")


@pytest.mark.parametrize(("top", "depth"), [(255, 8), (1000, 10), (4095, 12), (4096, 14), (20000, 16)])
def test_the_depth_is_the_smallest_usual_one_that_holds_the_maximum(top: int, depth: int) -> None:
    expected = round(top * 255 / (2**depth - 1))
    assert to_8_bits(np.array([0, top], np.uint16)).tolist() == [0, expected]


def test_grey_is_repeated(tmp_path: Path) -> None:
    Image.fromarray(RAMP).save(tmp_path / "a.png")
    np.testing.assert_array_equal(grey_of(tmp_path / "a.png"), RAMP)


def test_two_channels_are_grey_and_alpha_over_white(tmp_path: Path) -> None:
    Image.fromarray(np.array([[[10, 255], [10, 0]]], np.uint8), "LA").save(tmp_path / "a.png")
    assert grey_of(tmp_path / "a.png").tolist() == [[10, 255]]


@pytest.mark.parametrize("kind", [np.uint8, np.uint16], ids=["8 bit", "16 bit"])
def test_transparent_parts_become_white(tmp_path: Path, kind: type) -> None:
    top = np.iinfo(kind).max
    rgba = np.array([[[top, 0, 0, top], [top, 0, 0, 0]]], kind)
    tifffile.imwrite(tmp_path / "a.tif", rgba, photometric="rgb", extrasamples=["unassalpha"])
    assert read_image(tmp_path / "a.tif").tolist() == [[[255, 0, 0], [255, 255, 255]]]


def test_a_palette_gives_its_colours(tmp_path: Path) -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([0, 0, 0, 200, 100, 50])
    image.putpixel((1, 0), 1)
    image.save(tmp_path / "a.png")
    assert read_image(tmp_path / "a.png").tolist() == [[[0, 0, 0], [200, 100, 50]]]


def test_inks_become_rgb(tmp_path: Path) -> None:
    Image.new("CMYK", (4, 4), (0, 255, 255, 0)).save(tmp_path / "a.tif")
    assert read_image(tmp_path / "a.tif")[0, 0].tolist() == [255, 0, 0]


@pytest.mark.parametrize("suffix", ["jpg", "png", "tif"])
@pytest.mark.parametrize("turned", range(1, 9))
def test_a_picture_taken_sideways_is_set_upright_once(tmp_path: Path, suffix: str, turned: int) -> None:
    upright = np.zeros((24, 48, 3), np.uint8)
    upright[:8, :16] = 255  # a patch at the top left says which way is up
    stored = {
        1: upright, 2: upright[:, ::-1], 3: upright[::-1, ::-1], 4: upright[::-1], 5: upright.swapaxes(0, 1),
        6: np.rot90(upright), 7: upright[::-1, ::-1].swapaxes(0, 1), 8: np.rot90(upright, -1),
    }[turned]  # fmt: skip
    exif = Image.Exif()
    exif[274] = turned
    Image.fromarray(np.ascontiguousarray(stored)).save(tmp_path / f"a.{suffix}", exif=exif)
    np.testing.assert_allclose(read_image(tmp_path / f"a.{suffix}"), upright, atol=3)


@pytest.mark.parametrize(("turned", "expected"), [(1, [[0, 128], [255, 0]]), (6, [[255, 0], [0, 128]])])
def test_a_turned_tiff_of_sixteen_bits_is_set_upright(tmp_path: Path, turned: int, expected: list) -> None:
    values = np.array([[0, 32896], [65535, 0]], np.uint16)
    tifffile.imwrite(tmp_path / "a.tif", values, photometric="minisblack", extratags=[(274, 3, 1, turned, True)])
    assert grey_of(tmp_path / "a.tif").tolist() == expected


def test_a_dicom_without_a_window_is_scaled_by_its_stored_bits(tmp_path: Path) -> None:
    path = write_dicom(tmp_path / "a.dcm", np.array([[0, 1024, 4095]], np.uint16))
    assert grey_of(path).tolist() == [[0, 64, 255]]  # 1024 / 4095 x 255 = 63.8


def test_a_dicom_of_monochrome1_is_turned_over(tmp_path: Path) -> None:
    stored = np.array([[0, 1024, 4095]], np.uint16)
    path = write_dicom(tmp_path / "a.dcm", stored, PhotometricInterpretation="MONOCHROME1")
    assert grey_of(path).tolist() == [[255, 191, 0]]


def test_a_dicom_window_is_applied_after_its_rescale(tmp_path: Path) -> None:
    stored = np.array([[0, 900, 1000, 1100, 4095]], np.uint16)  # -1000, -100, 0, 100, 3095 after the rescale
    path = write_dicom(
        tmp_path / "a.dcm", stored, RescaleSlope=1, RescaleIntercept=-1000, WindowCenter=0.5, WindowWidth=201
    )
    assert grey_of(path).tolist() == [[0, 0, 128, 255, 255]]  # (x - 0) / 200 + 0.5 (PS3.3 C.11.2.1.2.1)


def test_a_dicom_with_several_windows_takes_the_first(tmp_path: Path) -> None:
    stored = np.array([[0, 100, 4095]], np.uint16)
    path = write_dicom(tmp_path / "a.dcm", stored, WindowCenter=[50.5, 2048], WindowWidth=[101, 4096])
    assert grey_of(path).tolist() == [[0, 255, 255]]


def test_a_dicom_table_of_values_is_applied(tmp_path: Path) -> None:
    table = Dataset()
    table.LUTDescriptor, table.LUTData = [4, 0, 8], np.array([0, 10, 20, 255], np.uint16).tobytes()
    path = write_dicom(tmp_path / "a.dcm", np.array([[0, 1, 2, 3]], np.uint16), VOILUTSequence=[table])
    assert grey_of(path).tolist() == [[0, 10, 20, 255]]


def test_signed_values_of_a_dicom_go_from_least_to_largest(tmp_path: Path) -> None:
    path = write_dicom(tmp_path / "a.dcm", np.array([[-100, 0, 155]], np.int16), bits=16)
    assert grey_of(path).tolist() == [[0, 100, 255]]


def test_a_dicom_of_colours_is_read(tmp_path: Path) -> None:
    path = write_dicom(
        tmp_path / "a.dcm", COLOURS, bits=8, BitsAllocated=8, SamplesPerPixel=3, PlanarConfiguration=0,
        PhotometricInterpretation="RGB",
    )  # fmt: skip
    np.testing.assert_array_equal(read_image(path), COLOURS)


def test_a_dicom_of_many_frames_is_refused(tmp_path: Path) -> None:
    path = write_dicom(tmp_path / "a.dcm", np.zeros((4, 4), np.uint16), NumberOfFrames=2)
    with pytest.raises(SlideError, match=r"a\.dcm.*2 frames, give one image a file"):
        read_image(path)


def test_empty_windows_and_rescales_of_a_dicom_are_none(tmp_path: Path) -> None:
    empty = dict.fromkeys(["WindowCenter", "WindowWidth", "RescaleSlope", "RescaleIntercept"])
    assert grey_of(write_dicom(tmp_path / "a.dcm", np.array([[0, 4095]], np.uint16), **empty)).tolist() == [[0, 255]]


def test_a_dicom_whose_compression_is_not_decoded_says_so(tmp_path: Path) -> None:
    path = write_dicom(tmp_path / "a.dcm", np.zeros((4, 4), np.uint16))
    image = dcmread(path)
    image.file_meta.TransferSyntaxUID = JPEGLosslessSV1
    image.PixelData = encapsulate([b"\xff\xd8\xff\xd9"])
    image.save_as(path)
    with pytest.raises(SlideError, match=r"a\.dcm: compressed as JPEG Lossless.*; decompress it"):
        read_image(path)


def cut(path: Path, keep: float) -> Path:
    path.write_bytes(path.read_bytes()[: int(keep * path.stat().st_size)])
    return path


@pytest.mark.parametrize("suffix", ["png", "jpg", "tif", "dcm"])
def test_a_truncated_image_is_named(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"half.{suffix}"
    if suffix == "dcm":
        write_dicom(path, np.zeros((64, 64), np.uint16))
    else:
        Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)).save(path)
    with pytest.raises(SlideError, match=rf"half\.{suffix}: no image that can be read .*; get a fresh copy"):
        read_image(cut(path, 0.5))


@pytest.mark.parametrize("suffix", ["png", "jpg", "tif", "dcm"])
@pytest.mark.parametrize(
    ("content", "message"),
    [(b"", r"empty file \(0 bytes\)"), (b"no picture at all", "no image that can be read"), (b"II*\0", "no image")],
    ids=["zero bytes", "text", "a TIFF's first bytes"],
)
def test_a_file_without_an_image_is_named(tmp_path: Path, suffix: str, content: bytes, message: str) -> None:
    (tmp_path / f"bad.{suffix}").write_bytes(content)
    with pytest.raises(SlideError, match=rf"bad\.{suffix}: {message}"):
        read_image(tmp_path / f"bad.{suffix}")


def test_an_image_that_would_fill_the_memory_is_refused(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "vast.tif", shape=(20000, 20000), dtype=np.uint16)  # a hole on the disk, no zeros
    with pytest.raises(SlideError, match=r"vast\.tif: too many pixels \(20000 x 20000\); reduce it"):
        read_image(tmp_path / "vast.tif")


def test_a_missing_image_is_named(tmp_path: Path) -> None:
    with pytest.raises(SlideError, match=r"none\.png: no such file"):
        read_image(tmp_path / "none.png")


@pytest.mark.parametrize("shape", [(20, 40), (40, 20), (40, 40), (1, 90), (200, 100)], ids=str)
@pytest.mark.parametrize("fit", ["pad", "crop", "circle"])
def test_every_fit_gives_a_square_of_the_asked_side(shape: tuple[int, int], fit: str) -> None:
    square = fit_square(np.full((*shape, 3), 200, np.uint8), 32, fit)  # type: ignore[arg-type]
    assert square.shape == (32, 32, 3) and square.dtype == np.uint8


def test_padding_keeps_all_of_the_image_and_its_aspect() -> None:
    image = np.full((20, 40, 3), 200, np.uint8)
    image[:2] = image[-2:] = image[:, :2] = image[:, -2:] = 90  # its border, so the colour of the padding
    square = fit_square(image, 40, "pad")
    np.testing.assert_array_equal(square[10:30], image)
    assert (square[:10] == 90).all() and (square[30:] == 90).all()


def test_cropping_takes_the_middle() -> None:
    image = np.zeros((20, 40, 3), np.uint8)
    image[:, 10:30] = 255
    assert (fit_square(image, 20, "crop") == 255).all()


def test_reducing_averages_instead_of_picking() -> None:
    stripes = np.zeros((256, 256, 3), np.uint8)
    stripes[:, ::2] = 255
    np.testing.assert_allclose(fit_square(stripes, 64, "pad")[8:-8, 8:-8], 127.5, atol=6)


def eye(height: int, width: int, centre: tuple[int, int], radius: int) -> np.ndarray:
    """A drawn retina: an orange disc on black with JPEG's faint noise."""
    rows, cols = np.ogrid[:height, :width]
    inside = (rows - centre[0]) ** 2 + (cols - centre[1]) ** 2 <= radius**2
    noise = np.random.default_rng(0).integers(0, 8, (height, width, 3), np.uint8)
    return np.where(inside[..., None], np.array([180, 90, 30], np.uint8), noise)


def test_a_retina_is_cropped_to_its_circle() -> None:
    cropped = crop_to_circle(eye(340, 512, (170, 250), 150))
    assert abs(cropped.shape[0] - 301) <= 4 and abs(cropped.shape[1] - 301) <= 4  # steps of 2 px at this size


def test_a_bright_speck_beside_the_eye_does_not_widen_the_crop() -> None:
    image = eye(340, 512, (170, 300), 150)
    image[5:9, 5:30] = 255  # a date printed on the photograph
    assert crop_to_circle(image).shape[1] <= 305


def test_a_circle_cut_off_above_and_below_is_centred_on_black() -> None:
    square = fit_square(eye(200, 400, (100, 200), 150), 90, "circle")
    assert square[45, 45].tolist() == [180, 90, 30]
    assert (square[:10] == 0).all() and (square[-10:] == 0).all()  # 200 of 300 rows: 60 of 90


@pytest.mark.parametrize("value", [0, 5], ids=["black", "faint"])
def test_an_all_black_retina_is_said_to_be_one(value: int) -> None:
    with pytest.raises(SlideError, match="all black; take it out"):
        fit_square(np.full((40, 40, 3), value, np.uint8), 32, "circle")


def test_the_colour_of_a_border_is_its_median() -> None:
    image = np.full((5, 5, 3), 7, np.uint8)
    image[0, :3] = 255
    image[2, 2] = 0
    assert border_colour(image).tolist() == [7, 7, 7]


@pytest.mark.parametrize(
    ("image", "px", "fit"),
    [
        (np.zeros((4, 4), np.uint8), 8, "pad"),
        (np.zeros((4, 4, 3)), 8, "pad"),
        (np.zeros((4, 4, 3), np.uint8), 8, "squash"),
        (np.zeros((4, 4, 3), np.uint8), 0, "pad"),
    ],
    ids=["grey", "floats", "another fit", "no pixels"],
)
def test_what_cannot_be_fitted_is_refused(image: np.ndarray, px: int, fit: str) -> None:
    with pytest.raises(ConfigError, match="give"):
        fit_square(image, px, fit)  # type: ignore[arg-type]


@pytest.mark.real
@pytest.mark.parametrize(
    "pattern", ["xray/nih_1024_original/*", "retina/idrid/original_fullres/*", "histology/camelyon16_256/*/*"]
)
def test_real_images_are_read(real_data: Path, pattern: str) -> None:
    for path in sorted(real_data.glob(pattern))[:16]:
        rgb = read_image(path)
        assert rgb.shape[2] == 3 and rgb.std() > 5


@pytest.mark.real
def test_a_real_retina_fills_its_square(real_data: Path) -> None:
    for path in sorted((real_data / "retina/idrid/images_512").iterdir())[:20]:
        square = fit_square(read_image(path), 128, "circle")
        lit = square.max(axis=2) > 30
        assert lit[64].mean() > 0.9  # from side to side
        assert lit[[0, 0, -1, -1], [0, -1, 0, -1]].sum() == 0  # its corners are black
