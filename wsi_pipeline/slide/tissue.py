"""The tissue of a slide: a thumbnail of about 8 um/px -> a bool mask of its cells, with its area in mm2."""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import shapely
from PIL import Image

from wsi_pipeline.errors import ScaleError
from wsi_pipeline.slide.boxes import close_gaps, inner
from wsi_pipeline.slide.colours import colours_of
from wsi_pipeline.slide.files import shown
from wsi_pipeline.slide.outline import outline
from wsi_pipeline.slide.quality import find_pen, glass_colour, is_dark_background
from wsi_pipeline.slide.reader import SlideReader
from wsi_pipeline.slide.runs import runs_of

SATURATION_RANGE = 12.0, 26.0  # Otsu alone splits the noise of bare glass, and dark tissue from pale
DENSITY_RANGE = 0.05, 0.13
PALE_SATURATION = 6  # fat and pale stroma are above, glass of real scans is at most 4 (99 %) after smoothing
PALE_DENSITY = 0.008
GREY_SHARE, MOST_GREY = 0.12, 20  # least saturation for its darkness: dust and shadows have 0.1 of it
SURE_SHARE = 0.1  # of min_piece_mm2 that must pass Otsu's thresholds; the paler rest of a piece goes with it
MUCH_PEN = 0.3
NEARLY_ALL = 0.95
LEAST_SIDE_PX = 32
MAX_CELLS = 2**27  # of an overview; 300,000 px square at 0.25 um/px has two thirds of it
LEAST_SHARE = 0.05  # of a slide so small that min_piece_mm2 would be most of it
DARK_WARNING = "dark background: fluorescence or dark field, not brightfield; nothing is taken as tissue"


@dataclass(frozen=True)
class TissueSettings:
    """How tissue is looked for; lengths in um, areas in mm2 on the glass."""

    mpp: float = 8.0  # of the thumbnail, um/px
    min_piece_mm2: float = 0.02
    max_hole_mm2: float = 0.02
    closing_um: float = 24.0
    remove_pen: bool = True


@dataclass(frozen=True, eq=False)
class TissueMask:
    """Tissue of one slide on a raster of cells from level-0 (0, 0); the last cells may reach over the slide.

    mask (H, W) bool and thumbnail (H, W, 3) uint8; cell_l0 is one cell in level-0 pixels (x, y). thresholds:
    saturation (grey values, 0-255) and optical_density (log10), as used and, with _otsu, as Otsu gave them.
    """

    mask: np.ndarray
    cell_l0: tuple[float, float]
    thumbnail: np.ndarray
    thresholds: dict[str, float] = field(default_factory=dict)
    tissue_mm2: float = 0.0
    dark_background: bool = False
    warnings: tuple[str, ...] = ()


def find_tissue(reader: SlideReader, settings: TissueSettings) -> TissueMask:
    """Tissue of an open slide.

    The thumbnail is never enlarged: a coarse slide has coarse cells. One whose shorter side would be less
    than LEAST_SIDE_PX cells gets finer ones, if it has them. Raises ScaleError for more than MAX_CELLS.
    """
    width, height = reader.slide.size_l0
    mpp = reader.slide.mpp_l0
    cell = min(settings.mpp, min(width * mpp.x, height * mpp.y) / LEAST_SIDE_PX)
    size_px = (
        min(width, max(1, round(width * mpp.x / cell))),
        min(height, max(1, round(height * mpp.y / cell))),
    )
    if size_px[0] * size_px[1] > MAX_CELLS:
        raise ScaleError(
            f"{shown(Path(reader.slide.path))}: an overview of {size_px[0]:,} x {size_px[1]:,} px, by its mpp of "
            f"{mpp.mean:.4g}; correct that, or use --set tissue.mpp with a coarser one"
        )
    thumbnail = reader.read_thumbnail(size_px)
    cell_l0 = width / size_px[0], height / size_px[1]
    cell_um = cell_l0[0] * mpp.x, cell_l0[1] * mpp.y
    mask, thresholds, dark, found = tissue_from_rgb(thumbnail, settings, cell_um)
    tissue_mm2 = np.count_nonzero(mask) * cell_um[0] * cell_um[1] * 1e-6
    return TissueMask(mask, cell_l0, thumbnail, thresholds, tissue_mm2, dark, (*reader.warnings, *found))


def tissue_from_rgb(
    rgb: np.ndarray, settings: TissueSettings, mpp_px: tuple[float, float]
) -> tuple[np.ndarray, dict[str, float], bool, tuple[str, ...]]:
    """(H, W, 3) uint8 at mpp_px (x, y) um/px -> mask (H, W) bool, thresholds, dark background, warnings."""
    if is_dark_background(rgb):
        return np.zeros(rgb.shape[:2], bool), {}, True, (DARK_WARNING,)
    sure, pale, thresholds = _coloured(rgb)
    pen = find_pen(rgb, mpp_px) if settings.remove_pen else {}
    ink = np.logical_or.reduce(list(pen.values())) if pen else None
    mask = _tidy(sure, pale, ink, settings=settings, cell_um=mpp_px)
    warnings = _pen_warnings(pen, pale, mpp_px)
    covered = np.count_nonzero(mask) / mask.size
    if covered > NEARLY_ALL:
        warnings.append(f"tissue covers {covered:.0%} of the slide: hardly any glass, check the outline")
    return mask, thresholds, False, tuple(warnings)


def tissue_polygons(tissue: TissueMask) -> shapely.MultiPolygon:
    """The outline of the mask with its holes, exactly along cell edges, in level-0 pixels."""
    return outline(tissue.mask, cell_l0=tissue.cell_l0)


def otsu(histogram: np.ndarray, values: np.ndarray) -> float:
    """Otsu's threshold (1979): the value after which two classes differ most; `values` ascend, one a bin.

    A pixel above the threshold is in the upper class. One filled bin alone gives its own value.
    """
    weight = histogram.astype(np.float64)
    below, total = np.cumsum(weight), weight.sum()
    sum_below, total_sum = np.cumsum(weight * values), (weight * values).sum()
    above = total - below
    with np.errstate(divide="ignore", invalid="ignore"):
        between = below * above * (sum_below / below - (total_sum - sum_below) / above) ** 2
    between[~np.isfinite(between)] = 0
    best = np.flatnonzero(between == between.max())
    return float(values[(best[0] + best[-1]) // 2])  # a plateau of empty bins: its middle


def _coloured(rgb: np.ndarray) -> tuple[np.ndarray, np.ndarray, dict[str, float]]:
    """Surely tissue (H, W) bool, at least pale tissue (H, W) bool, and the thresholds.

    Sure is what is coloured and dense against the glass by Otsu's thresholds, held within sane bounds; grey
    alone is dust, a shadow or the edge of a coverslip. Smoothing widens a piece by a cell; a cell on its rim
    stays if it is above the mean of its neighbours, that is, half covered. All in uint8 and
    by tables: with all that follows a twentieth of what HSV in floats takes (benchmarks/tissue.py).
    """
    least = np.clip(GREY_SHARE * (255 - np.arange(256)), PALE_SATURATION, MOST_GREY).astype(np.uint8)
    least[np.arange(256) >= _grey_at(PALE_DENSITY)] = 255  # as good as glass, whatever its colour
    found = colours_of(rgb, glass_colour(rgb), least)
    density = -np.log10(np.maximum(np.arange(256), 1) / 255)  # of each grey value
    otsu_saturation = otsu(_histogram(found.saturation), np.arange(256.0))
    otsu_density = otsu(_histogram(found.grey)[::-1], density[::-1])
    thresholds = {
        "saturation": float(np.clip(otsu_saturation, *SATURATION_RANGE)),
        "optical_density": float(np.clip(otsu_density, *DENSITY_RANGE)),
        "saturation_otsu": otsu_saturation,
        "optical_density_otsu": otsu_density,
    }
    sure = found.saturation > np.uint8(thresholds["saturation"])
    sure |= found.grey < np.uint8(np.ceil(_grey_at(thresholds["optical_density"])))
    sure &= found.pale
    above = found.above
    above |= inner(found.pale, (1, 1))
    above &= found.pale
    return sure, above, thresholds


def _histogram(values: np.ndarray) -> np.ndarray:
    """Counts (256,) of uint8, by Pillow in four tables at once: bincount first copies all to eight bytes each."""
    flat = values.ravel()
    fours = len(flat) // 4 * 4
    counts = np.bincount(flat[fours:], minlength=256)
    if fours:
        counts += np.array(Image.fromarray(flat[:fours].reshape(1, -1, 4)).histogram()).reshape(4, 256).sum(0)
    return counts


def _grey_at(density: float) -> float:
    """The grey value of an optical density against glass of 255."""
    return 255 * 10**-density


def _tidy(
    sure: np.ndarray,
    pale: np.ndarray,
    ink: np.ndarray | None,
    *,
    settings: TissueSettings,
    cell_um: tuple[float, float],
) -> np.ndarray:
    """Pale tissue, gaps closed, small holes filled, ink cut out; without pieces too small or nowhere sure."""
    cell_mm2 = cell_um[0] * cell_um[1] * 1e-6
    radius = round(settings.closing_um / cell_um[1]), round(settings.closing_um / cell_um[0])
    if ink is not None:
        pale, sure = pale & ~ink, sure & ~ink
    mask = fill_holes(close_gaps(pale, radius), settings.max_hole_mm2 / cell_mm2)
    if ink is not None:
        mask &= ~ink
    pieces = runs_of(mask, corners=True)
    least = min(settings.min_piece_mm2 / cell_mm2, LEAST_SHARE * mask.size)
    return pieces.painted((pieces.areas() >= least) & (pieces.cells_of(sure) >= SURE_SHARE * least))


def fill_holes(mask: np.ndarray, most_cells: float) -> np.ndarray:
    """Fill holes of at most this many cells, (H, W) bool; what touches the border is no hole."""
    gaps = runs_of(~mask, corners=False)
    return mask | gaps.painted((gaps.areas() <= most_cells) & ~gaps.at_border())


def _pen_warnings(pen: dict[str, np.ndarray], mask: np.ndarray, cell_um: tuple[float, float]) -> list[str]:
    """One line for each colour of ink found, with its area."""
    cell_mm2, stained = cell_um[0] * cell_um[1] * 1e-6, max(int(np.count_nonzero(mask)), 1)
    warnings = []
    for colour, mark in pen.items():
        what = f"{colour} pen marks" + (", or areas that were not scanned," if colour == "black" else "")
        line = f"{what} of {mark.sum() * cell_mm2:.2f} mm2 left out"
        if (mark & mask).sum() > MUCH_PEN * stained:
            line += "; they are much of what is coloured: if it is a stain and no ink, switch pen removal off"
        warnings.append(line)
    return warnings
