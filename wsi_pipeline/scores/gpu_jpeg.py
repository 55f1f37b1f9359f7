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
from wsi_pipeline.scores.cores import cores
from wsi_pipeline.slide.jpeg import encode, standalone
from wsi_pipeline.tiles.codecs import WHITE, decode_jpeg

MOST_OFF = 16  # levels between two decoders' pixels: rounding gives 1 to 4, colours taken for others tens
_TRIAL_PX = 64
_RGB = b"\xff\xd8\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00\x00"  # how `standalone` begins where colours are RGB
_END = b"\xff\xd9"
_INSTALL = "pip install 'wsi-pipeline[gpu]', which is for CUDA 13, or set model.decode=cpu"

log = logging.getLogger(__name__)


class JpegDecoder:
    """A decoder on one device; threads that call it take turns."""

    def __init__(self, device: str) -> None:
        """Tries it out on two tiles, YCbCr and RGB. Raises ModelError where the library or its nvJPEG is missing,
        or where YCbCr, which most JPEGs are in, does not come out as by libjpeg-turbo."""
        self.device = torch.device(device)
        self._one = threading.Lock()
        self._stream = torch.cuda.Stream(self.device) if self.device.type == "cuda" else None
        self._library = _library()
        self._decoder = _open(self._library, self.device)
        self._params = self._library.DecodeParams(apply_exif_orientation=False)
        self._knows_rgb = True
        self._try_out()

    def decode(self, jpegs: Sequence[bytes], px: int) -> tuple[Tensor, np.ndarray]:
        """(n, px, px, 3) uint8 RGB on the device, ready for any stream, and (n,) bool: False and white where a JPEG
        cannot be decoded, or is of another size. Raises ModelError when the GPU's memory is too small."""
        try:
            with self._one, self._on_stream():
                return self._decoded(jpegs, px)
        except torch.cuda.OutOfMemoryError:
            raise ModelError(
                f"{self.device} has no memory to decode {len(jpegs)} tiles of {px} px; "
                "use a smaller model.batch, or model.decode=cpu"
            ) from None

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
        streams = [self._code_stream(jpeg, px) for jpeg in jpegs]
        stream = 0 if self._stream is None else self._stream.cuda_stream
        known = [code for code in streams if code is not None]
        images = iter(self._decoder.decode(known, params=self._params, cuda_stream=stream) if known else ())
        return [None if code is None else self._tensor(next(images)) for code in streams]

    def _code_stream(self, jpeg: bytes, px: int) -> Any:
        """What the library decodes; None where that would be no whole tile, or in colours that it takes for others."""
        if not jpeg.endswith(_END) or (jpeg.startswith(_RGB) and not self._knows_rgb):
            return None
        try:
            code = self._library.CodeStream(jpeg)
            return code if (code.height, code.width, code.num_channels) == (px, px, 3) else None
        except RuntimeError:  # no JPEG
            return None

    def _tensor(self, image: Any) -> Tensor | None:
        if image is None:
            return None
        on_cpu = self._stream is None
        return torch.from_numpy(np.asarray(image)) if on_cpu else torch.as_tensor(image, device=self.device)

    def _on_stream(self) -> AbstractContextManager[object]:
        return nullcontext() if self._stream is None else torch.cuda.stream(self._stream)

    def _try_out(self) -> None:
        """Whether colours come out as by libjpeg-turbo: the library's own parser takes all that has three for YCbCr."""
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


def _open(library: Any, device: torch.device) -> Any:
    """A decoder that smooths enlarged colours, as libjpeg-turbo does; no JPEG engine, which not every GPU has."""
    on_gpu = device.type == "cuda"
    kinds = library.BackendKind
    allowed = [kinds.GPU_ONLY, kinds.HYBRID_CPU_GPU] if on_gpu else [kinds.CPU_ONLY]
    try:
        return library.Decoder(
            device_id=device.index or 0 if on_gpu else library.NVIMGCODEC_DEVICE_CPU_ONLY,
            max_num_cpu_threads=cores(),
            backends=[library.Backend(kind) for kind in allowed],
            options=":fancy_upsampling=1",
        )
    except RuntimeError as error:
        raise ModelError(f"model.decode=gpu: nvImageCodec cannot be used on {device} ({error}); {_INSTALL}") from None
