"""What else a thumbnail shows: the colour of its glass, a dark background, pen marks. Colour rules, no model.

Both dyes of H&E absorb green the most, so green is the least channel of tissue. Ink breaks that rule: red
is the least channel of blue and green pens, green and blue are alike in red ones, all three in black ones.
"""

import numpy as np
from PIL import Image

from wsi_pipeline.slide.boxes import grown
from wsi_pipeline.slide.runs import runs_of

PEN_UM = 32.0  # side of the blocks whose mean colour is judged: wider than a nucleus, narrower than a stroke
PEN_HALO_UM = 64.0  # ink fades out over about this much around what is clearly ink
MIN_PEN_MM2 = 0.02  # less than a stroke of 0.1 x 0.2 mm is no pen mark
GLASS = (243.0, 243.0, 243.0)
DARK_GREY = 60
LEAST_GLASS = 0.005
PURE_WHITE, LEAST_SCANNED = 254, 0.2


def grey_of(rgb: np.ndarray) -> np.ndarray:
    """(H, W, 3) uint8 -> (H, W) uint8: (R + 2 G + B) / 4."""
    total = rgb[..., 1].astype(np.uint16)
    total *= 2
    total += rgb[..., 0]
    total += rgb[..., 2]
    total >>= 2
    return total.astype(np.uint8)


def channel_range(rgb: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Largest and least channel of each pixel, (H, W) each; six times faster than max over the last axis."""
    red, green, blue = rgb[..., 0], rgb[..., 1], rgb[..., 2]
    return np.maximum(np.maximum(red, green), blue), np.minimum(np.minimum(red, green), blue)


def glass_colour(rgb: np.ndarray) -> tuple[float, float, float]:
    """The colour of bare glass: the commonest bright and grey one; GLASS where hardly any pixel is so.

    Pure white is what readers fill unscanned parts with: it counts only where there is little else.
    """
    thin = _thinned(rgb)
    bright = _where(thin, _is_glass(thin))
    scanned = channel_range(bright)[1] < PURE_WHITE
    if np.count_nonzero(scanned) > LEAST_SCANNED * len(bright):
        bright = _where(bright, scanned)
    if len(bright) < LEAST_GLASS * thin[..., 0].size:
        return GLASS
    grey = grey_of(bright)
    mode = int(np.bincount(grey, minlength=256).argmax())
    red, green, blue = np.moveaxis(_where(bright, (grey >= max(0, mode - 3)) & (grey <= min(255, mode + 3))), -1, 0)
    return _median(red), _median(green), _median(blue)


def is_dark_background(rgb: np.ndarray) -> bool:
    """True for fluorescence and dark field: half the pixels nearly black and next to none like bare glass."""
    thin = _thinned(rgb)
    return bool(_median(grey_of(thin)) < DARK_GREY and _is_glass(thin).mean() < LEAST_GLASS)


def find_pen(rgb: np.ndarray, mpp_px: tuple[float, float]) -> dict[str, np.ndarray]:
    """Pen marks with their faded rim, by colour found: {"blue": (H, W) bool, ...}; empty if there are none.

    rgb (H, W, 3) uint8 at mpp_px (x, y) um/px. A mark needs blocks of clear ink of MIN_PEN_MM2 together; with
    it go all blocks of weaker ink that join it, and PEN_HALO_UM around.
    """
    step = max(1, round(PEN_UM / mpp_px[1])), max(1, round(PEN_UM / mpp_px[0]))
    blocks = np.asarray(Image.fromarray(rgb).reduce((step[1], step[0])), np.float32)
    block_um = step[0] * mpp_px[1], step[1] * mpp_px[0]
    halo = int(np.ceil(PEN_HALO_UM / block_um[0])), int(np.ceil(PEN_HALO_UM / block_um[1]))
    marks = {}
    for colour, rule in _INK.items():
        clear = rule(blocks, True)
        if clear.sum() * np.prod(block_um) * 1e-6 < MIN_PEN_MM2:
            continue
        weak = rule(blocks, False)
        pieces = runs_of(weak | clear, corners=True)
        mark = pieces.painted(pieces.cells_of(clear) * np.prod(block_um) * 1e-6 >= MIN_PEN_MM2)
        if mark.any():
            mark = grown(mark, halo)
            marks[colour] = mark.repeat(step[0], 0).repeat(step[1], 1)[: rgb.shape[0], : rgb.shape[1]]
    return marks


def _thinned(rgb: np.ndarray) -> np.ndarray:
    """At least 500 pixels of each axis, evenly taken: enough to know what is common. Channel by channel in memory."""
    thin = rgb[:: max(1, rgb.shape[0] // 500), :: max(1, rgb.shape[1] // 500)]
    return np.moveaxis(np.ascontiguousarray(np.moveaxis(thin, -1, 0)), 0, -1)


def _where(rgb: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """(n, 3) pixels of (..., 3) where the mask is True, channel by channel in memory."""
    return np.moveaxis(np.stack([rgb[..., channel][mask] for channel in range(3)]), 0, -1)


def _median(values: np.ndarray) -> float:
    """The median of uint8 as numpy has it, by counting: a tenth of the time."""
    below = np.cumsum(np.bincount(values.ravel(), minlength=256))
    low, high = np.searchsorted(below, [(values.size - 1) // 2, values.size // 2], side="right")
    return float(low + high) / 2


def _is_glass(rgb: np.ndarray) -> np.ndarray:
    most, least = channel_range(rgb)
    return (least > 190) & (most - least < 25)


def _blue_ink(rgb: np.ndarray, clear: bool) -> np.ndarray:
    red, green, blue = np.moveaxis(rgb, -1, 0)
    if clear:
        return (blue - red > 60) & (green - red > 8) & (blue > green + 15) & (red < 0.48 * blue)
    return (blue - red > 30) & (green - red > 5) & (blue > green + 5)


def _green_ink(rgb: np.ndarray, clear: bool) -> np.ndarray:
    red, green, blue = np.moveaxis(rgb, -1, 0)
    if clear:
        return (green - red > 40) & (green > blue - 15) & (red < 0.6 * green)
    return (green - red > 20) & (green > blue - 10)


def _red_ink(rgb: np.ndarray, clear: bool) -> np.ndarray:
    red, green, blue = np.moveaxis(rgb, -1, 0)
    if clear:
        return (red - green > 90) & (np.abs(blue - green) < 0.2 * (red - green)) & (green < 0.5 * red)
    return (red - green > 40) & (np.abs(blue - green) < 0.25 * (red - green))


def _black_ink(rgb: np.ndarray, clear: bool) -> np.ndarray:
    most, least = channel_range(rgb)
    if clear:
        return (most < 85) & (most - least < 25)
    return (most < 150) & (most - least < 18)


_INK = {"blue": _blue_ink, "green": _green_ink, "red": _red_ink, "black": _black_ink}
