"""The tissue of a slide: a thumbnail of about 8 um/px -> a bool mask of its cells, with its area in mm2."""

from dataclasses import dataclass, field

import numpy as np
import scipy.ndimage
import shapely
from PIL import Image

from wsi_pipeline.slide.outline import outline
from wsi_pipeline.slide.quality import find_pen, glass_colour, is_dark_background
from wsi_pipeline.slide.reader import SlideReader

SATURATION_RANGE = 12.0, 26.0  # Otsu alone splits the noise of bare glass, and dark tissue from pale
DENSITY_RANGE = 0.05, 0.13
PALE_SATURATION = 6  # fat and pale stroma are above, glass of real scans is at most 4 (99 %) after smoothing
PALE_DENSITY = 0.008
GREY_SHARE, MOST_GREY = 0.12, 20  # least saturation for its darkness: dust and shadows have 0.1 of it
SURE_SHARE = 0.1  # of min_piece_mm2 that must pass Otsu's thresholds; the paler rest of a piece goes with it
MUCH_PEN = 0.3
NEARLY_ALL = 0.95
LEAST_SIDE_PX = 32
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
    than LEAST_SIDE_PX cells gets finer ones, if it has them.
    """
    width, height = reader.slide.size_l0
    mpp = reader.slide.mpp_l0
    cell = min(settings.mpp, min(width * mpp.x, height * mpp.y) / LEAST_SIDE_PX)
    size_px = (
        min(width, max(1, round(width * mpp.x / cell))),
        min(height, max(1, round(height * mpp.y / cell))),
    )
    thumbnail = reader.read_thumbnail(size_px)
    cell_l0 = width / size_px[0], height / size_px[1]
    cell_um = cell_l0[0] * mpp.x, cell_l0[1] * mpp.y
    mask, thresholds, dark, found = tissue_from_rgb(thumbnail, settings, cell_um)
    tissue_mm2 = float(mask.sum()) * cell_um[0] * cell_um[1] * 1e-6
    return TissueMask(mask, cell_l0, thumbnail, thresholds, tissue_mm2, dark, (*reader.warnings, *found))


def tissue_from_rgb(
    rgb: np.ndarray, settings: TissueSettings, mpp_px: tuple[float, float]
) -> tuple[np.ndarray, dict[str, float], bool, tuple[str, ...]]:
    """(H, W, 3) uint8 at mpp_px (x, y) um/px -> mask (H, W) bool, thresholds, dark background, warnings."""
    if is_dark_background(rgb):
        return np.zeros(rgb.shape[:2], bool), {}, True, (DARK_WARNING,)
    sure, pale, thresholds = _coloured(rgb)
    pen = find_pen(rgb, mpp_px) if settings.remove_pen else {}
    ink = np.logical_or.reduce(list(pen.values())) if pen else np.zeros_like(sure)
    mask = _tidy(sure, pale, ink, settings=settings, cell_um=mpp_px)
    warnings = _pen_warnings(pen, pale, mpp_px)
    if mask.mean() > NEARLY_ALL:
        warnings.append(f"tissue covers {mask.mean():.0%} of the slide: hardly any glass, check the outline")
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
    stays if it is above the mean of its neighbours, that is, half covered. All in uint8, band by
    band and by tables: 0.3 s on 2,500 x 2,500 with all that follows, where HSV in floats takes 2 to 4 s.
    """
    glass = glass_colour(rgb)
    table = [min(255, round(value * 255 / white)) for white in glass for value in range(256)]
    own = [
        np.asarray(band) for band in Image.fromarray(rgb).point(table).split()
    ]  # bands: three times as fast
    smooth = [_smooth(band) for band in own]
    saturation, own_saturation = _spread(*smooth), _spread(*own)
    grey = np.asarray(Image.merge("RGB", [Image.fromarray(band) for band in smooth]).convert("L"))
    density = -np.log10(np.maximum(np.arange(256), 1) / 255)  # of each grey value
    otsu_saturation = otsu(_histogram(saturation), np.arange(256.0))
    otsu_density = otsu(_histogram(grey)[::-1], density[::-1])
    thresholds = {
        "saturation": float(np.clip(otsu_saturation, *SATURATION_RANGE)),
        "optical_density": float(np.clip(otsu_density, *DENSITY_RANGE)),
        "saturation_otsu": otsu_saturation,
        "optical_density_otsu": otsu_density,
    }
    least = np.clip(GREY_SHARE * (255 - np.arange(256)), PALE_SATURATION, MOST_GREY).astype(int).tolist()
    pale = (saturation > np.asarray(Image.fromarray(grey).point(least))) & (grey < _grey_at(PALE_DENSITY))
    coloured = saturation > thresholds["saturation"]
    sure = pale & (coloured | (grey < _grey_at(thresholds["optical_density"])))
    rim = _any_within(_any_within(np.pad(~pale, 1), 3, 0), 3, 1)
    return sure, pale & ((own_saturation > saturation) | ~rim), thresholds


def _spread(red: np.ndarray, green: np.ndarray, blue: np.ndarray) -> np.ndarray:
    """Largest less least channel, (H, W) uint8 each: saturation without a division."""
    return np.maximum(np.maximum(red, green), blue) - np.minimum(np.minimum(red, green), blue)


def _smooth(band: np.ndarray) -> np.ndarray:
    """(H, W) uint8 weighted 1 2 1 along both axes; by shifts, four times as fast as a box blur."""
    padded = np.pad(band, 1, mode="edge").astype(np.uint16)
    down = padded[:-2] + 2 * padded[1:-1] + padded[2:]
    return ((down[:, :-2] + 2 * down[:, 1:-1] + down[:, 2:] + 8) >> 4).astype(np.uint8)


def _histogram(values: np.ndarray) -> np.ndarray:
    """Counts (256,) of (H, W) uint8; by Pillow, as bincount first copies all to eight bytes each."""
    return np.array(Image.fromarray(values).histogram())


def _grey_at(density: float) -> float:
    """The grey value of an optical density against glass of 255."""
    return 255 * 10**-density


def _tidy(
    sure: np.ndarray,
    pale: np.ndarray,
    ink: np.ndarray,
    *,
    settings: TissueSettings,
    cell_um: tuple[float, float],
) -> np.ndarray:
    """Pale tissue, gaps closed, small holes filled, ink cut out; without pieces too small or nowhere sure."""
    cell_mm2 = cell_um[0] * cell_um[1] * 1e-6
    radius = round(settings.closing_um / cell_um[1]), round(settings.closing_um / cell_um[0])
    mask = close_gaps(pale & ~ink, radius)
    mask = fill_holes(mask, settings.max_hole_mm2 / cell_mm2) & ~ink
    pieces, count = scipy.ndimage.label(mask, np.ones((3, 3)), output=np.intp)
    cells = np.bincount(pieces.ravel(), minlength=count + 1)
    sure_cells = np.bincount(pieces[sure & ~ink], minlength=count + 1)
    least = min(settings.min_piece_mm2 / cell_mm2, LEAST_SHARE * mask.size)
    keep = (cells >= least) & (sure_cells >= SURE_SHARE * least)
    keep[0] = False
    return keep[pieces]


def close_gaps(mask: np.ndarray, radius: tuple[int, int]) -> np.ndarray:
    """Morphological closing of (H, W) bool by a box of 2 radius + 1 cells (rows, cols); nothing is lost."""
    grown = np.pad(mask, [(2 * r, 2 * r) for r in radius])
    for axis, r in enumerate(radius):
        grown = _any_within(grown, 2 * r + 1, axis)
    shrunk = ~grown
    for axis, r in enumerate(radius):
        shrunk = _any_within(shrunk, 2 * r + 1, axis)
    return ~shrunk


def fill_holes(mask: np.ndarray, most_cells: float) -> np.ndarray:
    """Fill holes of at most this many cells, (H, W) bool; what touches the border is no hole."""
    gaps, count = scipy.ndimage.label(~mask, output=np.intp)
    fill = np.bincount(gaps.ravel(), minlength=count + 1) <= most_cells
    for border in (gaps[0], gaps[-1], gaps[:, 0], gaps[:, -1]):
        fill[border] = False
    fill[0] = True  # what is no gap at all
    return fill[gaps]


def _any_within(mask: np.ndarray, window: int, axis: int) -> np.ndarray:
    """True where any of `window` neighbours is; the axis gets window - 1 shorter. In doubling steps."""
    mask, width = np.moveaxis(mask, axis, 0), 1
    while width < window:
        step = min(width, window - width)
        mask = mask[:-step] | mask[step:]
        width += step
    return np.moveaxis(mask, 0, axis)


def _pen_warnings(pen: dict[str, np.ndarray], mask: np.ndarray, cell_um: tuple[float, float]) -> list[str]:
    """One line for each colour of ink found, with its area."""
    cell_mm2, stained = cell_um[0] * cell_um[1] * 1e-6, max(int(mask.sum()), 1)
    warnings = []
    for colour, mark in pen.items():
        line = f"{colour} pen marks of {mark.sum() * cell_mm2:.2f} mm2 left out"
        if (mark & mask).sum() > MUCH_PEN * stained:
            line += "; they are much of what is coloured: if it is a stain and no ink, switch pen removal off"
        warnings.append(line)
    return warnings
