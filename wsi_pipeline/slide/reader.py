"""A slide file -> what it is (Slide) and its pixels (SlideReader), white wherever nothing was scanned.

Three readers behind one interface: OpenSlide, the reference; the JPEG tiles of a TIFF read directly, which is
faster and gives the same pixels (direct.py); tifffile for what OpenSlide refuses (tiff.py). Label and macro
images are never read.
"""

from dataclasses import dataclass, replace
from functools import partial
from io import BytesIO
from typing import Any

import numpy as np
from PIL import Image, ImageCms

from wsi_pipeline.errors import ScaleError, SlideError
from wsi_pipeline.slide.cache import hold
from wsi_pipeline.slide.describe import SAME_SCALE
from wsi_pipeline.slide.describe import Slide as Slide  # at home here for all who read slides
from wsi_pipeline.slide.describe import working_mpp as working_mpp
from wsi_pipeline.slide.direct import DirectPixels
from wsi_pipeline.slide.files import shown
from wsi_pipeline.slide.jpeg import REDUCTIONS
from wsi_pipeline.slide.jpeg_levels import jpeg_levels
from wsi_pipeline.slide.opening import open_slide as open_slide
from wsi_pipeline.slide.openslide_pixels import OpenSlidePixels
from wsi_pipeline.slide.reduce import coarsest_below, read_around, reduce_box, reduce_whole
from wsi_pipeline.slide.tiff import TiffPixels

_WHOLE = 1e-6  # of a pixel; at less OpenSlide interpolates nothing
_PART_PX = 4096  # OpenSlide reads larger regions in parts, each from a whole pixel of level 0 on
_MOST_UNREAD = 0.25  # share of a thumbnail; with more white in it, what is tissue would be anyone's guess


@dataclass(frozen=True)
class Reading:
    """How the pixels of a slide are read.

    Attributes:
        icc: convert colours to sRGB with the slide's profile, where it has one.
        direct: read JPEG tiles directly where that gives what OpenSlide gives; False: OpenSlide for all it opens.
        reduced: reduce by 2, 4 or 8 in the JPEG decoder where tiles are read directly: other pixels, and faster.
    """

    icc: bool = False
    direct: bool = True
    reduced: bool = False

    @property
    def reductions(self) -> tuple[int, ...]:
        """What a decoder may reduce by, from 1 on."""
        return REDUCTIONS if self.reduced else (1,)


PLAIN = Reading()


class SlideReader:
    """An open slide; for one thread at a time. Regions are (height, width, 3) uint8 RGB, white outside.

    Attributes:
        failed: a read went wrong; OpenSlide then refuses all else on this handle, so open another.
        warnings: what could not be done as asked: colours without a profile, a thumbnail with parts left out.
    """

    def __init__(self, slide: Slide, reading: Reading = PLAIN) -> None:
        self.slide = slide
        self.failed = False
        self.warnings: tuple[str, ...] = ()
        self._held = hold(slide.path)
        self._path = self._held.path
        here = replace(slide, path=str(self._path))
        self._opened: OpenSlidePixels | TiffPixels | None = None
        self._direct: DirectPixels | None = None
        if reading.direct and any(levels := jpeg_levels(here)):
            self._direct = DirectPixels(here.path, levels)
        else:
            self._opened = self._pixels  # what cannot be opened is told now
        self._reductions = reading.reductions
        self._to_srgb: Any = None
        if reading.icc:
            self._to_srgb, self.warnings = self._colours()

    def __enter__(self) -> "SlideReader":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file; the reader cannot be used after it."""
        if self._opened:
            self._opened.close()
        if self._direct:
            self._direct.close()
        self._held.close()

    def read(
        self, x_l0: int, y_l0: int, level: int, size_px: tuple[int, int], *, out: np.ndarray | None = None
    ) -> np.ndarray:
        """`size_px` (width, height) pixels of a level from level-0 (x_l0, y_l0) on.

        They may come in `out`, contiguous and of their shape: room that was used before costs no page faults.
        Raises SlideError where they cannot be decoded.
        """
        place = self._whole_place(x_l0, y_l0, level, size_px)
        if place is not None:
            direct = self._directly(*place, level, size_px, out=out)
            if direct is not None:
                return self._coloured(direct)
        try:
            if isinstance(self._pixels, TiffPixels):
                by = self.slide.level_downsamples[level]
                return self._coloured(self._pixels.read(round(x_l0 / by), round(y_l0 / by), level, size_px))
            return self._coloured(self._pixels.read(x_l0, y_l0, level, size_px))
        except SlideError:
            self.failed = True
            raise

    def read_box(
        self, box_l0: tuple[float, float, float, float], size_px: tuple[int, int], *, out: np.ndarray | None = None
    ) -> np.ndarray:
        """A level-0 box (x, y, width, height), over the edges or not, at `size_px` (width, height) pixels.

        Read from the nearest finer level. Within 2 % of that level's scale its pixels come as they are, else
        they are reduced without aliasing. They may come in `out`, as for `read`. Raises ScaleError where they
        would have to be enlarged.
        """
        x, y, width, height = box_l0
        zoom = width / size_px[0], height / size_px[1]
        level = self._level_for(min(zoom))
        reduction = self._reduction_for(level, min(zoom))
        by = self.slide.level_downsamples[level] * reduction
        read = partial(self._read_reduced, level, reduction)
        if max(abs(zoom[0] / by - 1), abs(zoom[1] / by - 1)) <= SAME_SCALE:
            return read(round(x / by), round(y / by), size_px, out=out)
        return reduce_box(read, (x / by, y / by, width / by, height / by), size_px)

    def read_thumbnail(self, size_px: tuple[int, int]) -> np.ndarray:
        """The whole slide at `size_px` (width, height), each pixel the mean of what it covers.

        Memory is bounded whatever the slide's size. Parts that cannot be read, down to about one of the slide's
        own tiles, are white, and told in `warnings`. Raises SlideError where they are more than a quarter,
        ScaleError where the slide would have to be enlarged.
        """
        width, height = self.slide.size_l0
        level = self._level_for(min(width / size_px[0], height / size_px[1]))
        by = self.slide.level_downsamples[level]
        unread: list[int] = []
        most_px = _MOST_UNREAD * width * height / by**2

        def left_white(error: SlideError, part_px: int) -> None:
            unread.append(part_px)
            if sum(unread) > most_px:
                raise error

        read = read_around(partial(self._read_afresh, level), SlideError, left_white)
        thumbnail = reduce_whole(read, (width / by, height / by), size_px)
        if unread:
            parts = "1 part" if len(unread) == 1 else f"{len(unread)} parts"
            self.warnings += (f"{parts} of the thumbnail could not be read and count as glass: the file is damaged",)
        return thumbnail

    def own_jpeg(self, box_l0: tuple[float, float, float, float], size_px: tuple[int, int]) -> bytes | None:
        """The slide's own JPEG of a box, not decoded; None where `read_box` gives anything but a whole tile."""
        x, y, width, height = box_l0
        level = self._level_for(min(width / size_px[0], height / size_px[1]))
        by = self.slide.level_downsamples[level]
        off = max(abs(width / size_px[0] / by - 1), abs(height / size_px[1] / by - 1))
        if self._direct is None or not self._direct.has(level) or self._to_srgb is not None or off > SAME_SCALE:
            return None
        place = self._whole_place(*self._in_level_0(level, round(x / by), round(y / by)), level, size_px)
        if place is None:
            return None
        try:
            return self._direct.tile_bytes(*place, level, size_px)
        except (ValueError, OSError):
            return None

    @property
    def _pixels(self) -> OpenSlidePixels | TiffPixels:
        """OpenSlide or tifffile; beside the direct reader opened only once it is needed: OpenSlide takes 7 ms."""
        if self._opened is None:
            by_tifffile = self.slide.backend == "tifffile"
            self._opened = TiffPixels(self._path) if by_tifffile else OpenSlidePixels(self._path)
        return self._opened

    def _level_for(self, zoom: float) -> int:
        level = coarsest_below(self.slide.level_downsamples, zoom * (1 + SAME_SCALE))
        if level is None:
            raise ScaleError(
                f"{shown(self._path)}: would have to be enlarged by {1 / zoom:.3g}; "
                f"ask for {self.slide.mpp_l0.mean:.4g} um/px or coarser"
            )
        return level

    def _reduction_for(self, level: int, zoom: float) -> int:
        """By how much the decoder itself may reduce a level on the way to `zoom`; 1 where it must not."""
        if len(self._reductions) == 1 or self._direct is None or not self._direct.has(level):
            return 1
        by = self.slide.level_downsamples[level]
        return max(r for r in self._reductions if by * r <= zoom * (1 + SAME_SCALE))

    def _read_reduced(
        self,
        level: int,
        reduction: int,
        left: int,
        top: int,
        size_px: tuple[int, int],
        *,
        out: np.ndarray | None = None,
    ) -> np.ndarray:
        """A region from (left, top) on, in pixels of the level at 1/`reduction`."""
        if reduction == 1:
            return self._read_level(level, left, top, size_px, out=out)
        direct = self._directly(left, top, level, size_px, reduction=reduction, out=out)
        if direct is not None:
            return self._coloured(direct)
        width, height = size_px
        whole = self._read_level(level, left * reduction, top * reduction, (width * reduction, height * reduction))
        return np.asarray(Image.fromarray(whole).reduce(reduction))

    def _read_level(
        self, level: int, left: int, top: int, size_px: tuple[int, int], *, out: np.ndarray | None = None
    ) -> np.ndarray:
        """A region from (left, top) of the level's own pixels on."""
        return self.read(*self._in_level_0(level, left, top), level, size_px, out=out)

    def _in_level_0(self, level: int, left: int, top: int) -> tuple[int, int]:
        """The pixel of level 0 at which one of a level begins, rounded."""
        by = self.slide.level_downsamples[level]
        return round(left * by), round(top * by)

    def _whole_place(self, x_l0: int, y_l0: int, level: int, size_px: tuple[int, int]) -> tuple[int, int] | None:
        """Where a region begins in the level's own pixels; None where OpenSlide would read between these."""
        by = self.slide.level_downsamples[level]
        x, y = x_l0 / by, y_l0 / by
        whole = max(abs(x - round(x)), abs(y - round(y))) < _WHOLE
        one_grid = by == round(by) or max(size_px) <= _PART_PX
        return (round(x), round(y)) if whole and one_grid else None

    def _read_afresh(self, level: int, left: int, top: int, size_px: tuple[int, int]) -> np.ndarray:
        """The same, whatever went wrong before."""
        if self.failed and isinstance(self._pixels, OpenSlidePixels):
            self._pixels.reopen()
        self.failed = False
        return self._read_level(level, left, top, size_px)

    def _directly(
        self,
        x: int,
        y: int,
        level: int,
        size_px: tuple[int, int],
        *,
        reduction: int = 1,
        out: np.ndarray | None = None,
    ) -> np.ndarray | None:
        """The region without OpenSlide; None where that must read it, or tell what is wrong with it."""
        if self._direct is None or not self._direct.has(level):
            return None
        try:
            return self._direct.read(x, y, level, size_px, reduction=reduction, out=out)
        except (ValueError, OSError):
            return None

    def _coloured(self, rgb: np.ndarray) -> np.ndarray:
        """In sRGB, where that was asked for and can be done."""
        if self._to_srgb is None:
            return rgb
        return np.asarray(ImageCms.applyTransform(Image.fromarray(rgb), self._to_srgb))

    def _colours(self) -> tuple[Any, tuple[str, ...]]:
        """The transform of the slide's ICC profile to sRGB, or none and why."""
        try:
            profile = self._pixels.icc_profile
            if profile is None:
                return None, ("no colour profile in the file: its colours are taken as they are",)
            source, target = ImageCms.ImageCmsProfile(BytesIO(profile)), ImageCms.createProfile("sRGB")
            return ImageCms.buildTransform(source, target, "RGB", "RGB"), ()
        except (ImageCms.PyCMSError, SlideError, OSError):
            return None, ("its colour profile cannot be used: its colours are taken as they are",)
