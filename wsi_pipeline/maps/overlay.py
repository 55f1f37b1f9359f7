"""Pictures of a slide: its thumbnail with the probability map and lesions, or with the tissue's edge."""

from collections.abc import Sequence
from functools import partial
from math import isnan
from pathlib import Path

import numpy as np

from wsi_pipeline.maps.atomic import replace_file
from wsi_pipeline.maps.extent import ExtentMap
from wsi_pipeline.maps.lesions import Lesion
from wsi_pipeline.maps.palette import ramp_rgba
from wsi_pipeline.maps.raster import cell_under, pixel_centres_l0, sample
from wsi_pipeline.maps.sheet import (
    View,
    draw_colour_bar,
    draw_legend,
    draw_scale_bar,
    encode_png,
    fit_view,
    hatch,
    lay_sheet,
    outline_shape,
    resize_thumbnail,
    write_caption,
    write_number,
)
from wsi_pipeline.maps.wording import say_area, say_length, say_number, say_share, say_span
from wsi_pipeline.slide.outline import outline
from wsi_pipeline.slide.reader import Slide
from wsi_pipeline.slide.tissue import TissueMask

LESION_COLOUR = "#0b0b0b"
TISSUE_COLOUR = "#0057b7"
HATCH_OPACITY = 0.75
VEIL_GREY, VEIL_OPACITY = 0x8C, 0.45
NUMBERED_LESIONS = 20
_STRIP_PX = 64


def draw_overlay(
    path: str | Path,
    thumbnail: np.ndarray,
    tissue: TissueMask,
    extent: ExtentMap,
    lesions: Sequence[Lesion],
    slide: Slide,
    *,
    title: str,
) -> Path:
    """Write the overlay PNG: probability on tissue only, lesion outlines, colour bar, scale bar, areas.

    Args:
        thumbnail: (H, W, 3) uint8 over the same ground as `tissue.mask`, as fine or finer.
        title: one line above the picture, mostly the slide's id.

    Raises:
        OSError: the file cannot be written.
    """
    cell = _thumbnail_cell(thumbnail, tissue)
    view = fit_view(slide, cell)
    base = resize_thumbnail(thumbnail, cell, view)
    pixels = blend(base, tissue, extent, view)
    sheet = lay_sheet(pixels, view, title=title, colour_bar=True)
    for lesion in lesions:
        outline_shape(sheet, lesion.polygon, colour=LESION_COLOUR, width=1.3)
    for lesion in lesions[:NUMBERED_LESIONS]:
        write_number(sheet, lesion.polygon, lesion.number)
    draw_colour_bar(sheet, _ground(base, tissue, view), label="P(tumour)", threshold=extent.threshold)
    draw_scale_bar(sheet)
    draw_legend(sheet, _legend(extent, lesions))
    write_caption(sheet, _say_extent(extent, lesions))
    return replace_file(path, encode_png(sheet))


def _thumbnail_cell(thumbnail: np.ndarray, tissue: TissueMask) -> tuple[float, float]:
    """Level-0 px (x, y) of one thumbnail pixel."""
    (rows, cols), (height, width) = tissue.mask.shape, thumbnail.shape[:2]
    return tissue.cell_l0[0] * cols / width, tissue.cell_l0[1] * rows / height


def blend(base: np.ndarray, tissue: TissueMask, extent: ExtentMap, view: View) -> np.ndarray:
    """Lay the probability map over (height, width, 3) uint8 pixels of the view, where there is tissue.

    Each pixel takes the cell under its centre, unsmoothed. Tissue that could not be read is hatched, tissue
    under no tile (too little for one, or a strip at the edge) is veiled in grey.
    """
    strips = [_blend(base[rows], tissue, extent, view, rows) for rows in _strips(view.size_px[1])]
    return np.concatenate(strips)


def _strips(height: int) -> list[slice]:
    """Rows in parts: the colours of a whole page at once, in float64, took 0.3 GB."""
    return [slice(top, min(top + _STRIP_PX, height)) for top in range(0, height, _STRIP_PX)]


def _blend(base: np.ndarray, tissue: TissueMask, extent: ExtentMap, view: View, rows: slice) -> np.ndarray:
    on_tissue = _under(tissue.mask, view, tissue.cell_l0, outside=False, rows=rows)
    under = partial(_under, view=view, cell_l0=extent.cell_l0, origin_l0=extent.origin_l0, rows=rows)
    probability = under(extent.probability, outside=np.nan)
    colour = ramp_rgba(probability)
    unscored = np.isnan(probability) & (under(extent.tissue, outside=0.0) > 0)
    colour[unscored, :3] = VEIL_GREY
    colour[unscored, 3] = VEIL_OPACITY
    unread = under(extent.unread, outside=False)
    if unread.any():
        colour[unread, :3] = hatch(view.size_px)[rows][unread, None]
        colour[unread, 3] = HATCH_OPACITY
    opacity = np.where(on_tissue, colour[..., 3], 0.0)[..., None]
    return np.rint(base * (1 - opacity) + colour[..., :3] * opacity).astype(np.uint8)


def _legend(extent: ExtentMap, lesions: Sequence[Lesion]) -> list[tuple[str, str]]:
    """What the picture shows beside the colours of the bar: (sample, text)."""
    untiled = np.isnan(extent.probability) & (extent.tissue > 0) & ~extent.unread
    told = ((LESION_COLOUR, "Lesion outline", bool(lesions)), ("hatch", "Could not be read", bool(extent.unread.any())),
            (f"#{VEIL_GREY:x}{VEIL_GREY:x}{VEIL_GREY:x}!", "Tissue under no tile", bool(untiled.any())))  # fmt: skip
    return [(sample, text) for sample, text, there in told if there]


def _under(
    cells: np.ndarray,
    view: View,
    cell_l0: tuple[float, float],
    *,
    outside: float,
    origin_l0: tuple[float, float] = (0.0, 0.0),
    rows: slice = slice(None),
) -> np.ndarray:
    """The value of a cell raster under every pixel of these rows of the picture: (height, width)."""
    pixel, (down_cells, across_cells) = view.pixel_l0, cells.shape
    across = pixel_centres_l0(view.size_px[0], pixel[0], origin_l0=view.box_l0[0])
    down = pixel_centres_l0(view.size_px[1], pixel[1], origin_l0=view.box_l0[1])
    return sample(
        cells,
        cell_under(down[rows], cell_l0[1], origin_l0=origin_l0[1], cells=down_cells),
        cell_under(across, cell_l0[0], origin_l0=origin_l0[0], cells=across_cells),
        outside=outside,
    )


def _ground(base: np.ndarray, tissue: TissueMask, view: View) -> np.ndarray:
    """Mean colour (3,) of the tissue shown, white where there is none: what the colour bar is laid over."""
    on_tissue = _under(tissue.mask, view, tissue.cell_l0, outside=False)
    return base[on_tissue].mean(axis=0) if on_tissue.any() else np.full(3, 255.0)


def _say_extent(extent: ExtentMap, lesions: Sequence[Lesion]) -> list[str]:
    """The caption: areas with their interval, share, lesions, threshold."""
    if np.isnan(extent.probability).all():
        return ["Nothing was scored: no tile lies on tissue, or none could be read."]
    span = say_span(extent.cancer_mm2_low, extent.cancer_mm2_high, unit="mm²")
    share = "" if isnan(extent.share) else f" = {say_share(extent.share)}"
    cancer = f"Tumour {say_area(extent.cancer_mm2)}{f' ({span})' if span else ''}"
    longest = max((lesion.longest_um for lesion in lesions), default=0.0)
    plural = "" if len(lesions) == 1 else "s"
    found = f"{len(lesions)} lesion{plural}, longest {say_length(longest)}" if lesions else "no lesion"
    areas = f"{cancer} of {say_area(extent.tissue_mm2)} tissue{share}; {found}."
    mark = "\N{BLACK RIGHT-POINTING SMALL TRIANGLE}"
    return [f"{areas}  Threshold {say_number(extent.threshold)} ({mark} on the scale)."]


def draw_tissue(path: str | Path, tissue: TissueMask, slide: Slide, *, title: str) -> Path:
    """Write the tissue PNG: the thumbnail with the outline of what counts as tissue, its area, a scale bar.

    Raises:
        OSError: the file cannot be written.
    """
    view = fit_view(slide, tissue.cell_l0)
    pixels = resize_thumbnail(tissue.thumbnail, tissue.cell_l0, view)
    sheet = lay_sheet(pixels, view, title=title, colour_bar=False)
    outline_shape(sheet, outline(tissue.mask, cell_l0=tissue.cell_l0), colour=TISSUE_COLOUR, width=1.3)
    draw_scale_bar(sheet)
    draw_legend(sheet, [(TISSUE_COLOUR, "Tissue outline")])
    found = [f"{name.replace('_', ' ')} {say_number(value)}" for name, value in tissue.thresholds.items()]
    thresholds = f"  Thresholds: {', '.join(found)}." if found else ""
    write_caption(sheet, [f"Tissue {say_area(tissue.tissue_mm2)}.{thresholds}"])
    return replace_file(path, encode_png(sheet))
