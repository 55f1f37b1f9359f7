"""The tissue of a slide: a thumbnail of about 8 um/px -> a bool mask of its cells, with its area in mm2."""

from dataclasses import dataclass, field

import numpy as np
import scipy.ndimage
import shapely

from wsi_pipeline.slide.outline import outline
from wsi_pipeline.slide.quality import find_pen, glass_colour, grey_of, is_dark_background
SlideReader = object

SATURATION_RANGE = 12.0, 26.0  # Otsu alone splits the noise of bare glass, and dark tissue from pale
DENSITY_RANGE = 0.05, 0.13
LEAST_SATURATION = 6.0  # dense but grey is dust, a shadow, the coverslip's edge
LEAST_DENSITY = 0.015  # coloured but not dense is a reflection
MOST_PEN = 0.3  # of what would be tissue: a stain of that colour, not ink
NEARLY_ALL = 0.95


@dataclass(frozen=True)
class TissueSettings:
    """How tissue is looked for; lengths in um, areas in mm2 on the glass."""

    mpp: float = 8.0  # of the thumbnail, um/px
    min_piece_mm2: float = 0.02
    max_hole_mm2: float = 0.05
    closing_um: float = 24.0
    remove_pen: bool = True


@dataclass(frozen=True, eq=False)
class TissueMask:
    """Tissue of one slide on a raster of cells from level-0 (0, 0); the last cells may reach over the slide.

    mask (H, W) bool and thumbnail (H, W, 3) uint8; cell_l0 is one cell in level-0 pixels (x, y). thresholds are
    those found by Otsu and used: saturation in grey values, optical density as log10.
    """

    mask: np.ndarray
    cell_l0: tuple[float, float]
    thumbnail: np.ndarray
    thresholds: dict[str, float] = field(default_factory=dict)
    tissue_mm2: float = 0.0
    dark_background: bool = False
    warnings: tuple[str, ...] = ()


def find_tissue(reader: SlideReader, settings: TissueSettings) -> TissueMask:
    """Tissue of an open slide; its thumbnail is never enlarged, so a coarse or small slide has coarse cells."""
    width, height = reader.slide.size_l0
    mpp = reader.slide.mpp_l0
    size_px = (
        min(width, max(1, round(width * mpp.x / settings.mpp))),
        min(height, max(1, round(height * mpp.y / settings.mpp))),
    )
    thumbnail = reader.read_thumbnail(size_px)
    cell_l0 = width / size_px[0], height / size_px[1]
    cell_um = cell_l0[0] * mpp.x, cell_l0[1] * mpp.y
    mask, thresholds, dark, warnings = tissue_from_rgb(thumbnail, settings, cell_um)
    tissue_mm2 = float(mask.sum()) * cell_um[0] * cell_um[1] * 1e-6
    return TissueMask(mask, cell_l0, thumbnail, thresholds, tissue_mm2, dark, warnings)


def tissue_from_rgb(
    rgb: np.ndarray, settings: TissueSettings, mpp_px: tuple[float, float]
) -> tuple[np.ndarray, dict[str, float], bool, tuple[str, ...]]:
    """(H, W, 3) uint8 at mpp_px (x, y) um/px -> mask (H, W) bool, thresholds, dark background, warnings."""
    if is_dark_background(rgb):
        warning = "dark background: a fluorescence or dark-field image, not brightfield; nothing taken as tissue"
        return np.zeros(rgb.shape[:2], bool), {}, True, (warning,)
    mask, thresholds = _coloured(rgb)
    warnings = []
    if settings.remove_pen:
        mask, warnings = _without_pen(mask, rgb, mpp_px)
    mask = _tidy(mask, settings, mpp_px)
    if mask.mean() > NEARLY_ALL:
        warnings.append(f"tissue covers {mask.mean():.0%} of the slide: no glass to compare with, check the outline")
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


def _coloured(rgb: np.ndarray) -> tuple[np.ndarray, dict[str, float]]:
    """Pixels that are coloured and dense against the glass, (H, W) bool, and both thresholds used.

    Both are judged through tables of 256 entries, so no array of floats is made: a thumbnail of 2,500 x 2,500
    takes a tenth of a second, not the four of HSV in floats.
    """
    glass = glass_colour(rgb)
    channels = [_balance(glass[c])[rgb[..., c]] for c in range(3)]
    saturation = np.maximum(np.maximum(channels[0], channels[1]), channels[2])
    saturation -= np.minimum(np.minimum(channels[0], channels[1]), channels[2])
    grey = grey_of(np.stack(channels, axis=-1))
    density_of = -np.log10(np.maximum(np.arange(256), 1) / 255)  # of balanced grey, 255 is glass
    found_saturation = otsu(np.bincount(saturation.ravel(), minlength=256), np.arange(256.0))
    found_density = otsu(np.bincount(grey.ravel(), minlength=256)[::-1], density_of[::-1])
    thresholds = {
        "saturation": float(np.clip(found_saturation, *SATURATION_RANGE)),
        "optical_density": float(np.clip(found_density, *DENSITY_RANGE)),
        "saturation_otsu": found_saturation,
        "optical_density_otsu": found_density,
    }
    dense, hardly_dense = (density_of > t for t in (thresholds["optical_density"], LEAST_DENSITY))
    coloured = (saturation > thresholds["saturation"]) & hardly_dense[grey]
    coloured |= (saturation > LEAST_SATURATION) & dense[grey]
    return coloured, thresholds


def _balance(glass: float) -> np.ndarray:
    """Table (256,) uint8 that takes the glass of one channel to 255."""
    return np.minimum(np.rint(np.arange(256) * (255 / glass)), 255).astype(np.uint8)
