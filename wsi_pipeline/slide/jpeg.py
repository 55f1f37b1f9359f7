"""The bytes of one JPEG tile as a TIFF holds it -> a JPEG that stands alone -> its pixels, whole or reduced.

A TIFF keeps the tables of all tiles once, and says itself whether they are YCbCr or RGB. libjpeg-turbo at its
default settings is what OpenSlide decodes with, so the pixels are the same, bit for bit.
"""

import numpy as np
import simplejpeg

REDUCTIONS = (1, 2, 4, 8)  # what the transform of JPEG can be decoded at: 8 x 8 pixels as 8, 4, 2, 1

_START, _END, _END_MARK = b"\xff\xd8", b"\xff\xd9", 0xD9
_SCAN = 0xDA
_FRAMES = (0xC0, 0xC1, 0xC2)  # baseline, extended, progressive: all that libjpeg-turbo decodes lossily
_DROPPED = (*range(0xE0, 0xF0), 0xFE)  # APP and comments


def standalone(data: bytes, tables: bytes | None, *, ycbcr: bool, shape: tuple[int, int]) -> bytes:
    """The tile with the shared tables of its page and a marker that tells its colours.

    The file's own APP markers go: the page, not they, says what its colours are, and that is how OpenSlide
    takes them. Comments go too, and whatever lies behind the image: both may name a patient. Raises ValueError
    where the data are no JPEG of `shape` (rows, columns) in three 8-bit channels, or have no end: strict decoders
    would refuse the copy.
    """
    head, at = head_of(data, tables, ycbcr=ycbcr, shape=shape)
    return head + _scan(data, at)


def head_of(data: bytes, tables: bytes | None, *, ycbcr: bool, shape: tuple[int, int]) -> tuple[bytes, int]:
    """What `standalone` puts before the pixels, and where these begin in `data`; the same for most tiles of a page."""
    parts = [_START, _adobe(ycbcr)]
    at = _segment(tables, 0)[1] if tables else 0
    while tables and at < len(tables) - 2:  # without its own end
        mark, after = _segment(tables, at)
        if mark not in _DROPPED:
            parts.append(tables[at:after])
        at = after
    at = _segment(data, 0)[1]
    while True:
        mark, after = _segment(data, at)
        if mark == _SCAN:
            return b"".join(parts), at
        if mark in _FRAMES:
            _check_frame(data[at:after], shape)
        if mark not in _DROPPED:
            parts.append(data[at:after])
        at = after


def decode_into(jpeg: bytes | memoryview, out: np.ndarray, reduction: int = 1) -> None:
    """Decode a JPEG into `out` (rows, columns, 3) uint8 RGB, contiguous and of just its size / `reduction`.

    Reduced by 2, 4 or 8, only the low frequencies of each 8 x 8 block are transformed back, which is why that is
    fast: a reduction block by block, a little softer than Lanczos. Raises ValueError also where the decoder could
    only guess: as strict as OpenSlide, or more.
    """
    rows, cols = out.shape[:2] if reduction > 1 else (0, 0)
    found = simplejpeg.decode_jpeg(jpeg, min_height=rows, min_width=cols, buffer=out)
    if found.shape != out.shape:
        raise ValueError(f"decoded to {found.shape}, not {out.shape}")


def encode(rgb: np.ndarray, quality: int) -> bytes:
    """(rows, columns, 3) uint8 RGB -> a JPEG of that quality (1-100), colours at full resolution."""
    data: bytes = simplejpeg.encode_jpeg(np.ascontiguousarray(rgb), quality=quality, colorsubsampling="444")
    return data


def _adobe(ycbcr: bool) -> bytes:
    """The APP14 segment by which decoders tell RGB (transform 0) from YCbCr (1)."""
    return b"\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00" + bytes([ycbcr])


def _segment(data: bytes, at: int) -> tuple[int, int]:
    """The marker at `at`, and where its segment ends; ValueError where there is none."""
    if data[at : at + 2] == _START:
        return 0xD8, at + 2
    if len(data) < at + 4 or data[at] != 0xFF or data[at + 1] in (0xFF, _END_MARK):
        raise ValueError("no JPEG")
    return data[at + 1], at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")


def _scan(data: bytes, at: int) -> bytes:
    """From the scan at `at` to the end of the image; what is compressed never looks like an end."""
    end = data.find(_END, _segment(data, at)[1])
    if end < 0:
        raise ValueError("a JPEG without an end")
    return data[at : end + 2]


def _check_frame(frame: bytes, shape: tuple[int, int]) -> None:
    """SOF: length, bits, rows, columns, channels."""
    found = int.from_bytes(frame[5:7], "big"), int.from_bytes(frame[7:9], "big")
    if found != shape or frame[4] != 8 or frame[9] != 3:
        raise ValueError(f"a JPEG of {found}, {frame[9]} channels of {frame[4]} bits, where {shape} is expected")
