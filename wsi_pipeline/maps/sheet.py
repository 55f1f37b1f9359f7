"""A picture of a slide on a page: title, scale bar, colour bar, legend and caption around it -> PNG.

Every length here is in pixels of the page, y down. The picture is drawn pixel for pixel, so each level-0
point lies where it should. No pyplot: its global state is not safe in threads.
"""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from io import BytesIO
from math import floor, log10
from textwrap import wrap

import numpy as np
import shapely
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backend_bases import RendererBase
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, get_font
from matplotlib.patches import PathPatch, Rectangle
from matplotlib.path import Path as Outline
from matplotlib.patheffects import withStroke
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from wsi_pipeline.maps.palette import ramp_rgba
from wsi_pipeline.maps.wording import PICTURE_KEY
from wsi_pipeline.slide.reader import Slide

DPI = 100
PAGE_PX = 1600  # longest side of a page at most
MIN_PAGE_PX = 760  # width that the caption needs
MAX_ENLARGED = 6  # times; more only shows the thumbnail's own pixels
MIN_PICTURE_PX = 320
MIN_NUMBERED_PX = 12
LEFT, TOP, BOTTOM, RIGHT, BAR_WIDTH = 28, 62, 110, 28, 96
INK, SOFT_INK, HALO = "#1b1f24", "#57606a", "#ffffff"
FRAME = "#c9ced6"
HATCH_GREYS = (118, 205)
NOTICE = "Research use only. Not for diagnosis."


@dataclass(frozen=True)
class View:
    """The part of a slide that is shown, and the pixels that it is shown with."""

    box_l0: tuple[float, float, float, float]  # x, y, width, height
    size_px: tuple[int, int]  # width, height
    um_per_px: float

    @property
    def pixel_l0(self) -> tuple[float, float]:
        """Level-0 px (x, y) of one picture pixel."""
        return self.box_l0[2] / self.size_px[0], self.box_l0[3] / self.size_px[1]


def fit_view(slide: Slide, thumbnail_cell_l0: tuple[float, float]) -> View:
    """The slide's bounds (or all of it) as large as the page allows, but not enlarged beyond MAX_ENLARGED."""
    x, y, width, height = slide.bounds_l0 or (0, 0, *slide.size_l0)
    width_um, height_um = width * slide.mpp_l0.x, height * slide.mpp_l0.y
    room = (PAGE_PX - LEFT - BAR_WIDTH - RIGHT, PAGE_PX - TOP - BOTTOM)
    fits = max(width_um / room[0], height_um / room[1])  # um per px
    finest = thumbnail_cell_l0[0] * slide.mpp_l0.x / MAX_ENLARGED
    um_per_px = max(fits, min(finest, max(width_um, height_um) / MIN_PICTURE_PX))
    size = max(1, round(width_um / um_per_px)), max(1, round(height_um / um_per_px))
    return View((float(x), float(y), float(width), float(height)), size, um_per_px)


def resize_thumbnail(thumbnail: np.ndarray, cell_l0: tuple[float, float], view: View) -> np.ndarray:
    """Cut a thumbnail (H, W, 3) of `cell_l0` level-0 px a pixel to the view: (height, width, 3) uint8."""
    (x, y, width, height), (cell_x, cell_y) = view.box_l0, cell_l0
    rows, cols = thumbnail.shape[:2]
    box = x / cell_x, y / cell_y, min((x + width) / cell_x, cols), min((y + height) / cell_y, rows)
    enlarged = view.size_px[0] > box[2] - box[0]
    kernel = Image.Resampling.BICUBIC if enlarged else Image.Resampling.BOX
    return np.asarray(Image.fromarray(thumbnail).resize(view.size_px, kernel, box=box))


@dataclass(frozen=True)
class Sheet:
    """A page with a picture on it; made by `lay_sheet`, added to, saved once."""

    canvas: FigureCanvasAgg
    picture: Axes  # in picture pixels, y down
    view: View
    box: tuple[int, int, int, int]  # of the picture on the page: left, top, width, height

    @property
    def figure(self) -> Figure:
        """The page."""
        return self.canvas.figure

    @property
    def page_px(self) -> tuple[float, float]:
        """Width and height of the page."""
        return self.figure.bbox.width, self.figure.bbox.height


def lay_sheet(pixels: np.ndarray, view: View, *, title: str, colour_bar: bool) -> Sheet:
    """Put (height, width, 3) uint8 pixels on a page just large enough, with a title above."""
    (width, height), right = view.size_px, RIGHT + (BAR_WIDTH if colour_bar else 0)
    page = max(width + LEFT + right, MIN_PAGE_PX), max(height, 90) + TOP + BOTTOM
    left = max(LEFT, (page[0] - width - (right - RIGHT)) // 2)
    figure = Figure(figsize=(page[0] / DPI, page[1] / DPI), dpi=DPI, facecolor="white")
    bottom = page[1] - TOP - height
    axes = figure.add_axes((left / page[0], bottom / page[1], width / page[0], height / page[1]))
    axes.set(xlim=(0, width), ylim=(height, 0))
    axes.set_axis_off()
    figure.add_artist(_Pixels(pixels, left, bottom))
    sheet = Sheet(FigureCanvasAgg(figure), axes, view, (left, TOP, width, height))
    frame = Rectangle((left - 0.5, bottom - 0.5), width + 1, height + 1, transform=None, fill=False)
    frame.set(edgecolor=FRAME, snap=False, linewidth=72 / DPI)  # one pixel, just outside of the picture's own
    figure.add_artist(frame)
    write_text(sheet, LEFT, 24, _fit_title(sheet, title), size=12, weight="bold")
    return sheet


class _Pixels(Artist):
    """(height, width, 3) uint8 pixels as they are, below all else; imshow takes a quarter of a gigabyte on its way."""

    def __init__(self, pixels: np.ndarray, left: int, bottom: int) -> None:
        super().__init__()
        self.set_zorder(-1)
        self._pixels, self._corner = pixels, (left, bottom)

    def draw(self, renderer: RendererBase) -> None:
        """Called by the canvas."""
        opaque = np.dstack([self._pixels, np.full(self._pixels.shape[:2], 255, np.uint8)])
        renderer.draw_image(renderer.new_gc(), *self._corner, opaque[::-1])


def write_text(
    sheet: Sheet,
    x: float,
    y: float,
    text: str,
    *,
    size: float = 9,
    colour: str = INK,
    weight: str = "normal",
) -> None:
    """Write text with its left middle at (x, y); marks that the font lacks become boxes, `$` is a dollar."""
    sheet.figure.text(
        x,
        sheet.page_px[1] - y,
        _drawable(text),
        transform=None,
        parse_math=False,
        color=colour,
        va="center",
        fontproperties=FontProperties(size=size, weight=weight),
    )


@lru_cache(maxsize=1)
def _glyphs() -> frozenset[int]:
    return frozenset(get_font(findfont(FontProperties())).get_charmap())


def _drawable(text: str) -> str:
    """The text on one line, of marks that the font has: emoji or CJK letters would warn and draw nothing."""
    known = _glyphs()
    return "".join(mark if ord(mark) in known else "\N{WHITE SQUARE}" for mark in " ".join(text.split()))


def _fit_title(sheet: Sheet, title: str) -> str:
    """Shorten a title in its middle until it fits: names of slides differ at both ends."""
    font, shown = FontProperties(size=12, weight="bold"), title
    room, half = sheet.page_px[0] - 2 * LEFT, len(title) // 2
    while _text_width(sheet, shown, font) > room:
        half = min(half - 1, int(half * 0.95))
        shown = f"{title[:half]}…{title[-half:]}"
    return shown


def _text_width(sheet: Sheet, text: str, font: FontProperties) -> float:
    return float(sheet.canvas.get_renderer().get_text_width_height_descent(_drawable(text), font, ismath=False)[0])


def outline_shape(sheet: Sheet, shape: shapely.Geometry, *, colour: str, width: float) -> None:
    """Draw the rings of a level-0 (multi)polygon, holes too, with a white halo."""
    rings = [ring for part in shapely.get_parts(shape) for ring in shapely.get_rings(part)]
    if not rings:
        return
    origin, pixel = sheet.view.box_l0[:2], sheet.view.pixel_l0
    paths = [Outline((shapely.get_coordinates(ring) - origin) / pixel, closed=True) for ring in rings]
    halo = withStroke(linewidth=width + 1.6, foreground=HALO, alpha=0.85)
    look = {"facecolor": "none", "edgecolor": colour, "linewidth": width, "joinstyle": "round"}
    path = Outline.make_compound_path(*paths)
    sheet.picture.add_patch(PathPatch(path, path_effects=[halo], **look))


def write_number(sheet: Sheet, shape: shapely.Geometry, number: int) -> None:
    """A lesion's number at the top right of its outline, within it at the picture's edge; none where little shows."""
    corners = np.reshape(shape.bounds, (2, 2))
    places = (corners - sheet.view.box_l0[:2]) / sheet.view.pixel_l0
    (left, top), (right, bottom) = np.clip(places, 0, sheet.view.size_px)
    if min(right - left, bottom - top) < MIN_NUMBERED_PX:
        return
    halo = withStroke(linewidth=2.5, foreground=HALO)
    font, text = FontProperties(size=9, weight="bold"), str(number)
    place = min(right + 3, sheet.view.size_px[0] - 3 - _text_width(sheet, text, font)), max(top + 3, MIN_NUMBERED_PX)
    sheet.picture.text(*place, text, path_effects=[halo], color=INK, fontproperties=font, clip_on=True)


def round_length_um(longest_um: float) -> float:
    """The largest of 1, 2, 5 times a power of ten that is not above `longest_um`."""
    power = 10.0 ** floor(log10(longest_um))
    return max(digit * power for digit in (1, 2, 5) if digit * power <= longest_um)


def draw_scale_bar(sheet: Sheet) -> None:
    """A bar of a round length below the picture's left end, at most half as long as the picture or 200 px."""
    width = sheet.box[2]
    length_um = round_length_um(sheet.view.um_per_px * min(200, max(60, width / 2)))
    length_px = length_um / sheet.view.um_per_px
    y = _below(sheet)
    bar = Rectangle((LEFT, sheet.page_px[1] - y - 2), length_px, 4, transform=None, color=INK)
    sheet.figure.add_artist(bar)
    label = f"{length_um / 1000:g} mm" if length_um >= 1000 else f"{length_um:g} µm"
    write_text(sheet, LEFT + length_px + 8, y, label, size=9.5)


def _below(sheet: Sheet) -> float:
    """Page y of the row right below the picture."""
    return sheet.page_px[1] - BOTTOM + 26


def draw_colour_bar(sheet: Sheet, ground: np.ndarray, *, label: str, threshold: float) -> None:
    """The ramp right of the picture, 0 at its foot, over the colour `ground` (3,) as in the picture."""
    left, _, width, height = sheet.box
    page_width, page_height = sheet.page_px
    tall = min(360, max(height, 90) - 24)
    corner = left + width + 26, page_height - TOP - 24 - tall
    place = corner[0] / page_width, corner[1] / page_height, 16 / page_width, tall / page_height
    axes = sheet.figure.add_axes(place)
    colour = ramp_rgba(np.linspace(1.0, 0.0, 256)[:, None])
    opacity = colour[..., 3:]
    blended = (colour[..., :3] * opacity + ground * (1 - opacity)).astype(np.uint8)
    axes.imshow(blended, extent=(0, 1, 0, 1), aspect="auto", interpolation="bilinear")
    axes.set(xlim=(0, 1), ylim=(0, 1), xticks=[], yticks=[0, 0.25, 0.5, 0.75, 1])
    axes.set_yticks([0, 0.25, 0.5, 0.75, 1], ["0", "0.25", "0.5", "0.75", "1"], fontsize=8.5, color=INK)
    axes.yaxis.tick_right()
    axes.tick_params(length=3, color=SOFT_INK)
    axes.spines[:].set(color=SOFT_INK, linewidth=0.6)
    axes.annotate("", (0, threshold), (-0.55, threshold), arrowprops={"arrowstyle": "-|>", "color": INK})
    write_text(sheet, left + width + 20, TOP + 8, label, size=9.5, weight="bold")


def draw_legend(sheet: Sheet, entries: Sequence[tuple[str, str]]) -> None:
    """Entries (sample, text) right of the scale bar; a sample is "#rrggbb" (line), "#rrggbb!" (area) or "hatch"."""
    widths = [28 + _text_width(sheet, text, FontProperties(size=9)) + 16 for _, text in entries]
    x, y = min(LEFT + 330.0, sheet.page_px[0] - sum(widths)), _below(sheet)  # three fill the narrowest page
    for (sample, text), width in zip(entries, widths, strict=True):
        swatch = _swatch(sample)
        sheet.figure.figimage(swatch, round(x), round(sheet.page_px[1] - y - 6))
        write_text(sheet, x + 28, y, text, colour=SOFT_INK)
        x += width


def _swatch(sample: str) -> np.ndarray:
    """A 20 x 12 px sample of an outline's or an area's colour, or of the hatching."""
    if sample == "hatch":
        return np.repeat(hatch((20, 12))[..., None], 3, axis=-1).astype(np.uint8)
    swatch = np.full((12, 20, 3), 255, dtype=np.uint8)
    swatch[slice(None) if sample.endswith("!") else slice(5, 7)] = [int(sample[k : k + 2], 16) for k in (1, 3, 5)]
    return swatch


def hatch(size_px: tuple[int, int]) -> np.ndarray:
    """Grey diagonal stripes 4 px wide: (height, width) float32."""
    x, y = np.arange(size_px[0]), np.arange(size_px[1])
    stripe = ((x[None, :] + y[:, None]) // 4) % 2
    return np.asarray(HATCH_GREYS, dtype=np.float32)[stripe]


def write_caption(sheet: Sheet, sentences: Sequence[str]) -> None:
    """Sentences below the scale bar, wrapped to the page, three lines at most; the research notice last."""
    letters = int((sheet.page_px[0] - 2 * LEFT) / 7.0)
    lines = [line for sentence in sentences for line in wrap(sentence, letters)][:2]
    y = _below(sheet) + 30
    for line in lines:
        write_text(sheet, LEFT, y, line, size=9.5)
        y += 19
    write_text(sheet, LEFT, y, NOTICE, colour=SOFT_INK)


def encode_png(sheet: Sheet) -> bytes:
    """The page as PNG bytes, the picture's place in its text; no date: equal pages are equal bytes."""
    sheet.canvas.draw()
    text, stream = PngInfo(), BytesIO()
    text.add_text(PICTURE_KEY, " ".join(map(str, sheet.box)))
    page = Image.fromarray(np.ascontiguousarray(np.asarray(sheet.canvas.buffer_rgba())[..., :3]))
    page.save(stream, format="PNG", pnginfo=text, compress_type=zlib.Z_RLE)  # on tissue a third of the time, as small
    return stream.getvalue()
