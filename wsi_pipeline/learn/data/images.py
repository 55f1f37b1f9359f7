"""An image file of any common kind -> (H, W, 3) uint8 RGB; that -> a square of px, its aspect kept."""

import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import imagecodecs
import numpy as np
import pydicom
import scipy.ndimage
import tifffile
from PIL import Image, ImageOps, UnidentifiedImageError
from pydicom.errors import InvalidDicomError
from pydicom.pixels import apply_color_lut, apply_modality_lut, apply_voi_lut, get_decoder

from wsi_pipeline.errors import ConfigError, SlideError
from wsi_pipeline.slide.files import check_file, is_tiff, reason, shown
from wsi_pipeline.slide.pieces import over_white

Fit = Literal["pad", "crop", "circle"]

_DEPTHS = (8, 10, 12, 14, 16)  # bits that detectors and scanners deliver in files of 16
_DARK = 0.1  # of an eye's brightest parts: what lies below is the black around it
_FAINT = 12  # grey values that JPEG leaves on black
_SMALL = 256  # px in which the eye is looked for
_UNREADABLE = (  # what decoders raise for a damaged file
    ArithmeticError, AttributeError, EOFError, LookupError, NotImplementedError, OSError, RuntimeError, SyntaxError,
    TypeError, ValueError, struct.error, zlib.error,
)  # fmt: skip
_NO_CODE = tifffile.PHOTOMETRIC.RGB, tifffile.PHOTOMETRIC.MINISBLACK, tifffile.PHOTOMETRIC.MINISWHITE
_MOST_PX = 2 * 89_478_485  # of what Pillow, too, refuses to open
_MAY_BE_EMPTY = ("WindowCenter", "WindowWidth", "RescaleSlope", "RescaleIntercept")
_ORIENTATION = 274  # tag of TIFF and EXIF
_TURNS: dict[int, Callable[[np.ndarray], np.ndarray]] = {  # its value -> upright
    2: lambda image: image[:, ::-1],
    3: lambda image: image[::-1, ::-1],
    4: lambda image: image[::-1],
    5: lambda image: image.swapaxes(0, 1),
    6: lambda image: np.rot90(image, -1),
    7: lambda image: image[::-1, ::-1].swapaxes(0, 1),
    8: lambda image: np.rot90(image),
}


def read_image(path: str | Path) -> np.ndarray:
    """The image in a PNG, JPEG, TIFF, DICOM or other file of Pillow's -> (H, W, 3) uint8 RGB, upright.

    More than 8 bits are scaled down, not clipped: by the window where a DICOM has one, else by the smallest
    usual depth (8, 10, 12, 14, 16 bits) that holds the image's maximum. The file's own 16 bits would leave 16
    greys of the 12 bits that most detectors deliver; the image's own maximum would give each another contrast.
    Grey is repeated, transparent parts become white, of several pages the first is taken.

    Raises SlideError, naming the file and what to do, where there is no image that can be read.
    """
    path = Path(path)
    if path.is_dir():
        raise SlideError(f"{shown(path)}: a folder, not an image; give the images in it")
    check_file(path)
    if _is_dicom(path):
        return _guarded(_read_dicom, path)
    if is_tiff(path):
        return _guarded(_read_tiff, path)
    return _guarded(_read_pillow, path)


def fit_square(rgb: np.ndarray, px: int, fit: Fit) -> np.ndarray:
    """(H, W, 3) uint8 -> (px, px, 3) uint8, antialiased, its aspect kept.

    "pad": all of it, centred on the colour of its border. "crop": the square in its middle.
    "circle": of a retina, cropped to the eye and centred on black.
    Raises ConfigError for another fit, SlideError for a retina without an eye.
    """
    if rgb.ndim != 3 or rgb.shape[2] != 3 or rgb.dtype != np.uint8 or not rgb.size or px < 1:
        raise ConfigError(f"image {rgb.shape} {rgb.dtype} to {px} px: give (H, W, 3) uint8 and at least 1 px")
    if fit == "crop":
        side = min(rgb.shape[:2])
        top, left = (rgb.shape[0] - side) // 2, (rgb.shape[1] - side) // 2
        return _resized(rgb[top : top + side, left : left + side], px, px)
    if fit == "circle":
        return _padded(crop_to_circle(rgb), px, np.zeros(3, np.uint8))
    if fit == "pad":
        return _padded(rgb, px, border_colour(rgb))
    raise ConfigError(f"fit {fit!r}: give pad, crop or circle")


def crop_to_circle(rgb: np.ndarray) -> np.ndarray:
    """The box around the largest bright piece of (H, W, 3): a retina without the black beside it.

    Raises SlideError where all is black.
    """
    step = max(1, max(rgb.shape[:2]) // _SMALL)
    grey = rgb[::step, ::step].max(axis=2)
    pieces, count = scipy.ndimage.label(grey > max(_FAINT, _DARK * float(np.percentile(grey, 99))))
    if not count:
        raise SlideError(f"retina {rgb.shape[1]} x {rgb.shape[0]} px: all black; take it out, or use fit pad")
    eye = int(np.bincount(pieces.ravel())[1:].argmax())
    rows, cols = scipy.ndimage.find_objects(pieces)[eye]
    return rgb[rows.start * step : rows.stop * step, cols.start * step : cols.stop * step]


def border_colour(rgb: np.ndarray) -> np.ndarray:
    """The median colour of the outermost pixels of (H, W, 3) -> (3,) uint8."""
    edges = np.concatenate([rgb[0], rgb[-1], rgb[:, 0], rgb[:, -1]])
    return np.median(edges, axis=0).astype(np.uint8)


def to_8_bits(values: np.ndarray) -> np.ndarray:
    """Unsigned integers, shares 0-1 or bools of any shape -> uint8, scaled as `read_image` says.

    Raises ValueError for negative values, for shares outside 0-1 and beyond 16 bits.
    """
    if values.dtype == np.uint8:
        return values
    low, high = (float(values.min()), float(values.max())) if values.size else (0.0, 0.0)
    if np.issubdtype(values.dtype, np.floating) or values.dtype == bool:
        depth_max = 1.0
    else:
        depth_max = float(next((2**bits - 1 for bits in _DEPTHS if high < 2**bits), 0))
    if not 0 <= low <= high <= depth_max:
        raise ValueError(f"values {low:g} to {high:g} ({values.dtype}), save it with 8 or 16 bits, unsigned")
    return np.rint(values * (255.0 / depth_max)).astype(np.uint8)


def _guarded(read: Callable[[Path], np.ndarray], path: Path) -> np.ndarray:
    """What `read` makes of the file; whatever its library raises becomes a SlideError that names it."""
    try:
        rgb = read(path)
    except SlideError:
        raise
    except (MemoryError, Image.DecompressionBombError) as error:
        raise SlideError(f"{shown(path)}: too many pixels ({reason(error, path)}); reduce it") from error
    except _UNREADABLE as error:
        raise SlideError(
            f"{shown(path)}: no image that can be read ({reason(error, path)}); get a fresh copy or take it out"
        ) from error
    if not rgb.size:
        raise SlideError(f"{shown(path)}: an image of {rgb.shape[1]} x {rgb.shape[0]} px; get a fresh copy")
    return rgb


def _read_pillow(path: Path) -> np.ndarray:
    with Image.open(path) as file:
        if file.format == "PNG" and _is_deep(path):
            turn = _TURNS.get(file.getexif().get(_ORIENTATION, 1), lambda image: image)
            return _rgb(turn(imagecodecs.png_decode(path.read_bytes())), alpha=True)
        image = ImageOps.exif_transpose(file)
    if image.mode.startswith(("I", "F")):
        return _rgb(np.asarray(image), alpha=False)
    if image.has_transparency_data:
        return over_white(np.asarray(image.convert("RGBA")))
    return np.asarray(image.convert("RGB"))


def _is_deep(path: Path) -> bool:
    """Whether a PNG has 16 bits of colours, or of grey and alpha: of these Pillow keeps the upper 8."""
    with path.open("rb") as file:
        head = file.read(26)  # ends with IHDR's bit depth and colour type
    return head[24] == 16 and head[25] in (2, 4, 6)


def _read_tiff(path: Path) -> np.ndarray:
    """8 bits by Pillow, which knows palettes, inks and JPEG; what it clips or refuses by tifffile."""
    with tifffile.TiffFile(path) as file:
        page: Any = file.pages[0]
        if page.bitspersample <= 8:
            try:
                return _read_pillow(path)
            except UnidentifiedImageError:
                if page.photometric not in _NO_CODE:
                    raise
        if page.imagelength * page.imagewidth > _MOST_PX:  # a damaged header asks for all memory there is
            raise Image.DecompressionBombError(f"{page.imagewidth} x {page.imagelength}")
        values = page.asarray()
        if page.planarconfig == 2 and values.ndim == 3:
            values = np.moveaxis(values, 0, -1)
        if page.photometric == tifffile.PHOTOMETRIC.MINISWHITE:
            values = np.iinfo(values.dtype).max - values
        tag = page.tags.get(_ORIENTATION)
        alpha = bool(page.extrasamples) and int(page.extrasamples[0]) != 0
    return _rgb(_TURNS.get(tag.value if tag else 1, lambda image: image)(values), alpha=alpha)


def _rgb(values: np.ndarray, *, alpha: bool) -> np.ndarray:
    """(H, W) or (H, W, 1 to 4) of any depth -> (H, W, 3) uint8; a last channel may be alpha, else it is dropped."""
    values = values[..., None] if values.ndim == 2 else values
    channels = values.shape[-1]
    if values.ndim != 3 or channels > 4:
        raise ValueError(f"shape {values.shape}, save it as one RGB or grey picture")
    colours = 1 if channels <= 2 else 3
    rgb = to_8_bits(values[..., :colours])
    rgb = np.repeat(rgb, 3, axis=2) if colours == 1 else rgb
    if channels in (2, 4) and alpha:
        opaque = 1.0 if np.issubdtype(values.dtype, np.floating) else float(np.iinfo(values.dtype).max)
        share = np.rint(values[..., -1:] * (255.0 / opaque)).astype(np.uint8)
        return over_white(np.concatenate([rgb, share], axis=2))
    return np.ascontiguousarray(rgb)


def _is_dicom(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(132)[128:] == b"DICM" or path.suffix.lower() in (".dcm", ".dicom")


def _read_dicom(path: Path) -> np.ndarray:
    """Modality rescale, then the first VOI window or table, then MONOCHROME1 turned over (PS3.3, C.11)."""
    try:
        image = pydicom.dcmread(path)
    except InvalidDicomError as error:
        raise ValueError("no DICOM header") from error
    if int(image.get("NumberOfFrames") or 1) > 1:
        raise ValueError(f"{image.NumberOfFrames} frames, give one image a file")
    for name in _MAY_BE_EMPTY:
        if name in image and image[name].is_empty:
            del image[name]
    syntax = image.file_meta.TransferSyntaxUID
    if syntax.is_compressed and not get_decoder(syntax).is_available:
        raise SlideError(
            f"{shown(path)}: compressed as {syntax.name}, for which pydicom finds no decoder; decompress it "
            "(such as by DCMTK's dcmdjpeg), or install pylibjpeg"
        )
    values = image.pixel_array
    if image.PhotometricInterpretation == "PALETTE COLOR":
        return _rgb(apply_color_lut(values, image), alpha=False)
    if int(image.SamplesPerPixel) > 1:
        return _rgb(values, alpha=False)
    values = apply_modality_lut(values, image)
    low, high = _range(image, values)
    grey = (apply_voi_lut(values, image).astype(np.float64) - low) / max(high - low, 1e-9)
    grey = 1 - grey if image.PhotometricInterpretation == "MONOCHROME1" else grey
    return _rgb(np.clip(grey, 0, 1), alpha=False)


def _range(image: pydicom.Dataset, values: np.ndarray) -> tuple[float, float]:
    """The values of black and white after the VOI step: those that pydicom's window fills, else the stored bits.

    Signed values without a window have no natural white (Hounsfield units); they go from the least to the largest.
    """
    if image.get("VOILUTSequence"):
        return 0.0, float(2 ** int(image.VOILUTSequence[0].LUTDescriptor[2]) - 1)
    if image.get("ModalityLUTSequence"):
        return 0.0, float(2 ** int(image.ModalityLUTSequence[0].LUTDescriptor[2]) - 1)
    signed = int(image.PixelRepresentation) == 1
    if signed and image.get("WindowWidth") is None:
        return float(values.min()), float(values.max())
    half = 2 ** (int(image.BitsStored) - 1)
    low, high = (-half, half - 1) if signed else (0, 2 * half - 1)
    slope, shift = float(image.get("RescaleSlope") or 1), float(image.get("RescaleIntercept") or 0)
    return low * slope + shift, high * slope + shift


def _padded(rgb: np.ndarray, px: int, fill: np.ndarray) -> np.ndarray:
    height, width = rgb.shape[:2]
    scale = px / max(height, width)
    height, width = max(1, round(height * scale)), max(1, round(width * scale))
    square = np.empty((px, px, 3), np.uint8)
    square[:] = fill
    top, left = (px - height) // 2, (px - width) // 2
    square[top : top + height, left : left + width] = _resized(rgb, height, width)
    return square


def _resized(rgb: np.ndarray, height: int, width: int) -> np.ndarray:
    if rgb.shape[:2] == (height, width):
        return np.ascontiguousarray(rgb)
    image = Image.fromarray(np.ascontiguousarray(rgb))
    return np.asarray(image.resize((width, height), Image.Resampling.BICUBIC))  # reducing, Pillow antialiases
