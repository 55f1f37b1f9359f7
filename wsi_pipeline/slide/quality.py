"""What is wrong with a thumbnail: pen marks, a dark background; and the colour of its glass. Low resolution, colour rules.

Both dyes of H&E absorb green the most, so green is the least channel of tissue. Ink breaks that rule: red is the least
channel of blue and green pens, green and blue are alike in red ones, all three in black ones.
"""

import numpy as np
import scipy.ndimage

PEN_UM = 32.0  # side of the blocks whose mean colour is judged: wider than a nucleus, narrower than a stroke
PEN_HALO_UM = 64.0  # ink fades out over about this much around what is clearly ink
MIN_PEN_MM2 = 0.02  # less than a stroke of 0.1 x 0.2 mm is no pen mark
GLASS = (243.0, 243.0, 243.0)
DARK_GREY = 60
LEAST_GLASS = 0.005


def grey_of(rgb: np.ndarray) -> np.ndarray:
    """(H, W, 3) uint8 -> (H, W) uint8: (R + 2 G + B) / 4."""
    total = rgb[..., 1].astype(np.uint16)
    total *= 2
    total += rgb[..., 0]
    total += rgb[..., 2]
    total >>= 2
    return total.astype(np.uint8)


def glass_colour(rgb: np.ndarray) -> tuple[float, float, float]:
    """The colour of bare glass: the commonest bright and grey one; GLASS where hardly any pixel is so."""
    bright = rgb[_is_glass(rgb)]
    if len(bright) < LEAST_GLASS * rgb[..., 0].size:
        return GLASS
    grey = grey_of(bright[None])[0]
    mode = np.bincount(grey, minlength=256).argmax()
    red, green, blue = np.median(bright[np.abs(grey.astype(int) - mode) <= 3], axis=0)
    return float(red), float(green), float(blue)


def is_dark_background(rgb: np.ndarray) -> bool:
    """True for fluorescence and dark field: half the pixels nearly black and next to none like bare glass."""
    thin = rgb[:: max(1, rgb.shape[0] // 500), :: max(1, rgb.shape[1] // 500)]
    return bool(np.median(grey_of(thin)) < DARK_GREY and _is_glass(thin).mean() < LEAST_GLASS)


def find_pen(rgb: np.ndarray, mpp_px: tuple[float, float]) -> dict[str, np.ndarray]:
    """Pen marks with their faded rim, by colour found: {"blue": (H, W) bool, ...}; empty if there are none.

    rgb (H, W, 3) uint8 at mpp_px (x, y) um/px. A mark needs blocks of clear ink of MIN_PEN_MM2 together; with it
    go all blocks of weaker ink that join it, and PEN_HALO_UM around.
    """
    step = tuple(max(1, round(PEN_UM / mpp)) for mpp in reversed(mpp_px))
    blocks = block_means(rgb, step)
    block_um = step[0] * mpp_px[1], step[1] * mpp_px[0]
    halo = tuple(int(np.ceil(PEN_HALO_UM / um)) for um in block_um)
    marks = {}
    for colour, rule in _INK.items():
        clear, weak = rule(blocks, True), rule(blocks, False)
        pieces, count = scipy.ndimage.label(weak | clear, np.ones((3, 3)))
        area_mm2 = np.bincount(pieces.ravel(), clear.ravel(), minlength=count + 1) * np.prod(block_um) * 1e-6
        area_mm2[0] = 0
        mark = (area_mm2 >= MIN_PEN_MM2)[pieces]
        if mark.any():
            mark = scipy.ndimage.maximum_filter(mark, size=(2 * halo[0] + 1, 2 * halo[1] + 1))
            marks[colour] = mark.repeat(step[0], 0).repeat(step[1], 1)[: rgb.shape[0], : rgb.shape[1]]
    return marks


def block_means(rgb: np.ndarray, step: tuple[int, int]) -> np.ndarray:
    """Mean colour of blocks of `step` (rows, cols), the last ones over what is left: (ceil, ceil, 3) float32."""
    rows, cols = np.arange(0, rgb.shape[0], step[0]), np.arange(0, rgb.shape[1], step[1])
    sums = np.add.reduceat(np.add.reduceat(rgb, rows, axis=0, dtype=np.uint32), cols, axis=1)
    height = np.diff(np.append(rows, rgb.shape[0]))
    width = np.diff(np.append(cols, rgb.shape[1]))
    return sums.astype(np.float32) / (height[:, None] * width)[..., None].astype(np.float32)


def _is_glass(rgb: np.ndarray) -> np.ndarray:
    most, least = rgb.max(axis=-1), rgb.min(axis=-1)
    return (least > 190) & (most - least < 25)


def _blue_ink(rgb: np.ndarray, clear: bool) -> np.ndarray:
    red, green, blue = np.moveaxis(rgb, -1, 0)
    if clear:
        return (blue - red > 80) & (green - red > 5) & (blue > green + 15) & (red < 0.45 * blue)
    return (blue - red > 30) & (green - red > 5) & (blue > green + 5)


def _green_ink(rgb: np.ndarray, clear: bool) -> np.ndarray:
    red, green, blue = np.moveaxis(rgb, -1, 0)
    if clear:
        return (green - red > 45) & (green > blue) & (red < 0.6 * green)
    return (green - red > 20) & (green > blue - 10)


def _red_ink(rgb: np.ndarray, clear: bool) -> np.ndarray:
    red, green, blue = np.moveaxis(rgb, -1, 0)
    if clear:
        return (red - green > 100) & (np.abs(blue - green) < 0.2 * (red - green)) & (green < 0.45 * red)
    return (red - green > 40) & (np.abs(blue - green) < 0.25 * (red - green))


def _black_ink(rgb: np.ndarray, clear: bool) -> np.ndarray:
    most, least = rgb.max(axis=-1), rgb.min(axis=-1)
    if clear:
        return (most < 75) & (most - least < 25)
    return (most < 150) & (most - least < 18)


_INK = {"blue": _blue_ink, "green": _green_ink, "red": _red_ink, "black": _black_ink}
