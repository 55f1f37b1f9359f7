"""The one colour ramp of every probability picture: P in 0-1 -> red, green, blue, opacity.

The colours are viridis without its darkest fifth: perceptually uniform, rising in lightness, safe for
colour-blind readers. Green to yellow lies opposite the pink and violet of H&E, where red ramps drown.
Opacity rises with P, so tissue of low probability stays visible.
"""

import numpy as np

PROBABILITIES = np.linspace(0.0, 1.0, 11)
COLOURS = np.array(  # (11, 3) uint8, one row for each of PROBABILITIES
    [
        (65, 68, 135),
        (55, 90, 140),
        (46, 111, 142),
        (38, 130, 142),
        (31, 149, 139),
        (34, 168, 132),
        (59, 187, 117),
        (99, 203, 95),
        (149, 216, 64),
        (202, 225, 31),
        (253, 231, 37),
    ],
    dtype=np.uint8,
)
OPACITIES = np.array([0.0, 0.06, 0.16, 0.30, 0.45, 0.56, 0.64, 0.69, 0.73, 0.76, 0.78])


def ramp_rgba(probability: np.ndarray) -> np.ndarray:
    """Colours of probabilities (...): (..., 4) float32, RGB in 0-255, opacity in 0-1; NaN is clear."""
    clipped = np.clip(np.nan_to_num(probability, nan=0.0), 0.0, 1.0)
    channels = [np.interp(clipped, PROBABILITIES, COLOURS[:, k]) for k in range(3)]
    opacity = np.where(np.isnan(probability), 0.0, np.interp(clipped, PROBABILITIES, OPACITIES))
    return np.stack([*channels, opacity], axis=-1).astype(np.float32)
