"""JPEGs of tiles -> their pixels on the device that scores them, by nvImageCodec: nvJPEG on a GPU.

On the device "cpu" the same library decodes by libjpeg-turbo; so the same lines can be tried without a GPU. What the
device refuses is given to the decoder of the usual way (tiles/codecs.py) before it counts as unreadable: a full
memory, or a kind of JPEG that a GPU does not know, then costs time and no tile.

torchvision's decoder is deprecated since 0.29. TorchCodec, which follows it, fails with the whole batch where one JPEG
is damaged, and does not let nvJPEG smooth enlarged colours as libjpeg-turbo does.
"""

import logging
import os
import threading
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from importlib import import_module
from typing import Any

import numpy as np
import torch
from torch import Tensor

from wsi_pipeline.errors import ModelError
from wsi_pipeline.scores.ahead import Pixels
from wsi_pipeline.scores.cores import cores
from wsi_pipeline.slide.jpeg import encode, standalone
from wsi_pipeline.tiles.codecs import WHITE, decode_jpeg

MOST_OFF = 16  # levels between two decoders' pixels: rounding gives a few, colours taken for others tens
_TRIAL_PX = 64
_HEAD = b"\xff\xd8\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00"  # how `standalone` begins, then what colours are
_RGB, _YCBCR = _HEAD + b"\0", _HEAD + b"\1"
_END = b"\xff\xd9"
OPTIONS = ":fancy_upsampling=1"  # smooths enlarged colours, as libjpeg-turbo does
_INSTALL = "pip install 'wsi-pipeline[gpu]', which is for CUDA 13, or set model.decode=cpu"

log = logging.getLogger(__name__)


class JpegDecoder:
    """A decoder on one device; threads that call it take turns."""

    def __init__(self, device: str, options: str = OPTIONS) -> None:
        """Tries it out on two tiles, YCbCr and RGB. Raises ModelError where the library or its nvJPEG is missing,
        or where YCbCr does not come out as by libjpeg-turbo; RGB that does not is left to the CPU."""
        self.device = torch.device(device)
        self._one = threading.Lock()
        self._stream = torch.cuda.Stream(self.device) if self.device.type == "cuda" else None
        self._library = _library()
        self._decoder = _open(self._library, self.device, options)
        self._params = _params(self._library)
        self._knows_rgb = True
        self._told = False  # that the device failed once
        self._try_out()

    def decode(self, jpegs: Sequence[bytes], px: int) -> tuple[Pixels, np.ndarray]:
        """(n, px, px, 3) uint8 RGB on the device, ready for any stream, and (n,) bool: False and white where a JPEG
        cannot be decoded, or is of another size. In the CPU's memory where the GPU's is full: who scores them can
        take fewer at a time."""
        try:
            with self._one, self._on_stream():
                return self._decoded(jpegs, px)
        except RuntimeError as error:  # torch's OutOfMemoryError is one; the library's own errors are nothing else
            said = str(error).partition("\n")[0]
        if not self._told:
            self._told = True
            log.warning("%s does not decode %d tiles of %d px (%s): the CPU does", self.device, len(jpegs), px, said)
        torch.cuda.empty_cache()
        return decode_jpeg(jpegs, px)

    def _decoded(self, jpegs: Sequence[bytes], px: int) -> tuple[Tensor, np.ndarray]:
        found = self._by_device(jpegs, px)
        white = torch.full((px, px, 3), WHITE, dtype=torch.uint8, device=self.device)
        tiles = torch.stack([white if tile is None else tile for tile in found]) if found else white[None][:0]
        readable = np.array([tile is not None for tile in found], bool)
        refused = np.flatnonzero(~readable).tolist()
        if refused:
            others, readable[refused] = decode_jpeg([jpegs[row] for row in refused], px)
            tiles[refused] = torch.from_numpy(others).to(self.device)
        if self._stream is not None:
            self._stream.synchronize()
        return tiles, readable

    def _by_device(self, jpegs: Sequence[bytes], px: int) -> list[Tensor | None]:
        """(px, px, 3) uint8 of each JPEG; None where it is refused."""
        found: list[Tensor | None] = [None] * len(jpegs)
        stream = 0 if self._stream is None else self._stream.cuda_stream
        in_rgb = np.array([jpeg.startswith(_RGB) for jpeg in jpegs], bool)
        for rgb, params in self._params.items():
            codes = {row: self._code_stream(jpegs[row], px) for row in np.flatnonzero(in_rgb == rgb).tolist()}
            codes = {row: code for row, code in codes.items() if code is not None}
            images = self._decoder.decode(list(codes.values()), params=params, cuda_stream=stream) if codes else []
            for row, image in zip(codes, images, strict=True):
                found[row] = None if image is None else self._tensor(image)
        return found

    def _code_stream(self, jpeg: bytes, px: int) -> Any:
        """What the library decodes; None where that would be no whole tile. RGB poses as YCbCr, see `_params`."""
        rgb = jpeg.startswith(_RGB)
        if not jpeg.endswith(_END) or (rgb and not self._knows_rgb):
            return None
        try:
            code = self._library.CodeStream(_YCBCR + jpeg[len(_RGB) :] if rgb else jpeg)
            return code if (code.height, code.width, code.num_channels) == (px, px, 3) else None
        except RuntimeError:  # no JPEG
            return None

    def _tensor(self, image: Any) -> Tensor:
        on_cpu = self._stream is None
        return torch.from_numpy(np.asarray(image)) if on_cpu else torch.as_tensor(image, device=self.device)

    def _on_stream(self) -> AbstractContextManager[object]:
        return nullcontext() if self._stream is None else torch.cuda.stream(self._stream)

    def _try_out(self) -> None:
        """Whether colours come out as by libjpeg-turbo."""
        shade = np.indices((_TRIAL_PX, _TRIAL_PX)) * 4
        tile = np.stack([shade[0], 255 - shade[0], shade[1]], axis=2).astype(np.uint8)
        ycbcr, rgb = (
            standalone(encode(tile, 95), None, ycbcr=coded, shape=(_TRIAL_PX, _TRIAL_PX)) for coded in (True, False)
        )
        if not self._agrees(ycbcr):
            raise ModelError(f"model.decode=gpu: nvImageCodec does not decode JPEGs on {self.device}; {_INSTALL}")
        self._knows_rgb = self._agrees(rgb)
        if not self._knows_rgb:
            log.warning("JPEGs in RGB are decoded by the CPU: on %s their colours come out wrong", self.device)

    def _agrees(self, jpeg: bytes) -> bool:
        with self._one, self._on_stream():
            (found,) = self._by_device([jpeg], _TRIAL_PX)
            expected, _ = decode_jpeg([jpeg], _TRIAL_PX)
            return found is not None and int(np.abs(found.cpu().numpy().astype(int) - expected[0]).max()) <= MOST_OFF


def _library() -> Any:
    os.environ.setdefault("PYNVIMGCODEC_VERBOSITY", "0")  # else it prints a line for each damaged tile
    try:
        return import_module("nvidia.nvimgcodec")
    except ImportError as error:
        raise ModelError(f"model.decode=gpu: needs nvImageCodec ({error}); {_INSTALL}") from None


def _params(library: Any) -> dict[bool, Any]:
    """How JPEGs in YCbCr (False) and in RGB (True) are decoded.

    The library takes three channels for YCbCr whatever the marker says, and what nvJPEG makes of the marker is not
    documented; so RGB is given as YCbCr and asked for as YCbCr, and nothing is converted.
    """
    spec, form = library.ColorSpec, library.SampleFormat
    asked = {False: (spec.SRGB, form.I_RGB), True: (spec.SYCC, form.I_YUV)}
    return {
        rgb: library.DecodeParams(apply_exif_orientation=False, color_spec=colours, sample_format=layout)
        for rgb, (colours, layout) in asked.items()
    }


def _open(library: Any, device: torch.device, options: str) -> Any:
    """The library's decoder on a device; without the JPEG engines, which only some GPUs have, so that all are alike."""
    on_gpu = device.type == "cuda"
    kinds = library.BackendKind
    allowed = [kinds.GPU_ONLY, kinds.HYBRID_CPU_GPU] if on_gpu else [kinds.CPU_ONLY]
    try:
        return library.Decoder(
            device_id=device.index or 0 if on_gpu else library.NVIMGCODEC_DEVICE_CPU_ONLY,
            max_num_cpu_threads=cores(),
            backends=[library.Backend(kind) for kind in allowed],
            options=options,
        )
    except RuntimeError as error:
        raise ModelError(f"model.decode=gpu: nvImageCodec cannot be used on {device} ({error}); {_INSTALL}") from None
