"""What drawn tissue looks like: periodic H&E-like textures (side, side, 3) uint8, from a seed and a scale.

Each kind of tissue is two maps of dye concentration, haematoxylin and eosin, on a torus, so that a texture
can be laid over a slide of any size without seams. A stain turns the maps into colour by the law of Beer
and Lambert. Nothing here imitates a real tumour: its nuclei are larger, denser and lie on purple ground,
that is all.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import scipy.fft

KINDS = ("glass", "stroma", "dense", "lymphoid", "tumour")
FINEST_UM = 0.5  # structure is drawn at this scale or finer, and reduced to coarser ones
CONCENTRATION_STEP = 1 / 100  # of one grey value of a concentration map


@dataclass(frozen=True)
class Stain:
    """Optical density (R, G, B) of one unit of each dye, and the grey of the bare glass, 0-255."""

    haematoxylin: tuple[float, float, float]
    eosin: tuple[float, float, float]
    glass: tuple[float, float, float]


@dataclass(frozen=True)
class Cells:
    """Nuclei of one kind: size in um and its spread, length to width, number per mm2, dye."""

    radius_um: float
    spread: float
    stretch: float
    per_mm2: float
    darkness: float
    nucleoli: int = 0


def draw_stain(rng: np.random.Generator) -> Stain:
    """A stain as laboratories differ: hue and strength of both dyes, and the warmth of the lamp."""
    strength = rng.uniform((0.72, 0.55), (1.0, 0.85))
    haematoxylin = np.array([0.70, 0.74, 0.36]) + rng.uniform(-0.07, 0.07, 3)
    eosin = np.array([0.14, 0.72, 0.40]) + rng.uniform((-0.05, -0.06, -0.10), (0.05, 0.06, 0.08))
    glass = rng.uniform(238, 248) + rng.uniform(-2.5, 2.5, 3)
    return Stain(tuple(haematoxylin * strength[0]), tuple(eosin * strength[1]), tuple(glass))


def draw_textures(stain: Stain, *, mpp: float, side_px: int, variant: int) -> dict[str, np.ndarray]:
    """One periodic texture (side, side, 3) uint8 of each kind at `mpp` um/px; side is a power of two.

    The structure is drawn about side_px (a power of two) wide at FINEST_UM or finer; a coarser `mpp` is
    reached by means over whole blocks of colour, as a scanner sees it, and its side is smaller by as much.
    """
    reduction = max(1, int(np.ceil(mpp / FINEST_UM - 1e-9)))
    side = max(side_px >> (reduction - 1).bit_length(), 1)
    colours = _colour_table(stain)
    textures = {}
    for kind in KINDS:
        haematoxylin, eosin = _structure(kind, side * reduction, mpp / reduction, variant)
        textures[kind] = reduce_blocks(colours[haematoxylin, eosin], reduction)
    return textures


def reduce_blocks(rgb: np.ndarray, factor: int) -> np.ndarray:
    """Mean of factor x factor blocks, rounded: (H, W, 3) uint8 -> (H // factor, W // factor, 3) uint8."""
    if factor == 1:
        return rgb
    height, width = rgb.shape[0] // factor, rgb.shape[1] // factor
    blocks = rgb[: height * factor, : width * factor].reshape(height, factor, width, factor, 3)
    return np.rint(blocks.mean(axis=(1, 3), dtype=np.float32)).astype(np.uint8)


def tiled_out(texture: np.ndarray, side_px: int) -> np.ndarray:
    """The periodic texture (side, side, 3) repeated over (side_px, side_px, 3), from its top left corner."""
    repeats = -(-side_px // texture.shape[0])
    return np.tile(texture, (repeats, repeats, 1))[:side_px, :side_px]


def _colour_table(stain: Stain) -> np.ndarray:
    """(256, 256, 3) uint8: the colour of every pair of concentrations, haematoxylin first."""
    amount = np.arange(256) * CONCENTRATION_STEP
    density = amount[:, None, None] * np.array(stain.haematoxylin) + amount[None, :, None] * np.array(stain.eosin)
    return np.rint(np.array(stain.glass) * 10.0**-density).astype(np.uint8)


@lru_cache(maxsize=45)
def _structure(kind: str, side_px: int, mpp: float, variant: int) -> tuple[np.ndarray, np.ndarray]:
    """Concentration maps (haematoxylin, eosin) of one kind: (side, side) uint8, periodic, read-only."""
    rng = np.random.default_rng([KINDS.index(kind), variant])
    haematoxylin, eosin = _DRAW[kind](rng, side_px, mpp)
    grain = rng.normal(0, 0.012, (side_px, side_px)).astype(np.float32)
    maps = []
    for dye in (haematoxylin, eosin):
        maps.append(np.clip((dye + grain) / CONCENTRATION_STEP, 0, 255).astype(np.uint8))
        maps[-1].flags.writeable = False
    return maps[0], maps[1]


def _draw_glass(rng: np.random.Generator, side: int, mpp: float) -> tuple[np.ndarray, np.ndarray]:
    empty = np.zeros((side, side), np.float32)
    return empty, empty


def _draw_stroma(rng: np.random.Generator, side: int, mpp: float) -> tuple[np.ndarray, np.ndarray]:
    fibres, angle = _fibres(rng, side, mpp)
    thickness = _noise(rng, side, mpp, 60)
    eosin = np.clip(0.50 + 0.20 * fibres + 0.06 * thickness, 0.05, 1.2)
    eosin = np.where(fibres < -1.5, eosin * 0.3, eosin)  # clefts between bundles
    haematoxylin = np.clip(0.07 + 0.03 * fibres, 0, 0.2)
    _add_nuclei(haematoxylin, rng, mpp, Cells(2.6, 0.25, 2.6, 900, 1.05), angle)
    _add_nuclei(haematoxylin, rng, mpp, Cells(3.2, 0.1, 1.1, 180, 1.25))
    return haematoxylin, eosin


def _draw_dense(rng: np.random.Generator, side: int, mpp: float) -> tuple[np.ndarray, np.ndarray]:
    fibres, angle = _fibres(rng, side, mpp)
    eosin = np.clip(0.78 + 0.13 * fibres, 0.1, 1.4)
    haematoxylin = np.clip(0.05 + 0.02 * fibres, 0, 0.2)
    _add_nuclei(haematoxylin, rng, mpp, Cells(2.2, 0.2, 3.2, 450, 0.95), angle)
    return haematoxylin, eosin


def _draw_lymphoid(rng: np.random.Generator, side: int, mpp: float) -> tuple[np.ndarray, np.ndarray]:
    eosin = np.clip(0.28 + 0.07 * _noise(rng, side, mpp, 6), 0.02, 1)
    haematoxylin = np.clip(0.10 + 0.04 * _noise(rng, side, mpp, 5), 0, 0.3)
    _add_nuclei(haematoxylin, rng, mpp, Cells(3.1, 0.10, 1.1, 11000, 1.15))
    return haematoxylin, eosin


def _draw_tumour(rng: np.random.Generator, side: int, mpp: float) -> tuple[np.ndarray, np.ndarray]:
    eosin = np.clip(0.34 + 0.07 * _noise(rng, side, mpp, 8), 0.05, 1)
    haematoxylin = np.clip(0.34 + 0.06 * _noise(rng, side, mpp, 12), 0.1, 0.7)
    _add_nuclei(haematoxylin, rng, mpp, Cells(5.8, 0.20, 1.3, 4600, 0.85, nucleoli=2))
    return haematoxylin, eosin


_DRAW = {
    "glass": _draw_glass,
    "stroma": _draw_stroma,
    "dense": _draw_dense,
    "lymphoid": _draw_lymphoid,
    "tumour": _draw_tumour,
}


def _noise(
    rng: np.random.Generator,
    side: int,
    mpp: float,
    across_um: float,
    *,
    along_um: float = 0.0,
    angle: float = 0.0,
) -> np.ndarray:
    """Smooth periodic noise (side, side) float32, mean 0, deviation 1; features of across_um x along_um."""
    spectrum = scipy.fft.rfft2(rng.standard_normal((side, side), dtype=np.float32))
    fy = scipy.fft.fftfreq(side, mpp).astype(np.float32)[:, None]
    fx = scipy.fft.rfftfreq(side, mpp).astype(np.float32)[None]
    along = fx * np.cos(angle) + fy * np.sin(angle)
    across = fy * np.cos(angle) - fx * np.sin(angle)
    spectrum *= np.exp(-2 * ((along * (along_um or across_um)) ** 2 + (across * across_um) ** 2))
    spectrum[0, 0] = 0
    noise = scipy.fft.irfft2(spectrum, s=(side, side))
    return noise / max(float(noise.std()), 1e-6)


def _fibres(rng: np.random.Generator, side: int, mpp: float) -> tuple[np.ndarray, np.ndarray]:
    """Wavy bundles: brightness (side, side), about -3 to 3, and their angle in radians (side, side)."""
    angles = rng.uniform(0, np.pi) + np.array([-0.5, 0.0, 0.6])
    bundles = [_noise(rng, side, mpp, 2.2, along_um=26, angle=a) for a in angles]
    share = np.stack([_noise(rng, side, mpp, 45) for _ in angles])
    share = np.exp(2.5 * (share - share.max(axis=0)))
    share /= np.sqrt((share**2).sum(axis=0))
    fibres = sum(s * b for s, b in zip(share, bundles, strict=True))
    rows, cols = np.ogrid[:side, :side]
    sway = [np.rint(_noise(rng, side, mpp, 22) * 3 / mpp).astype(int) for _ in "yx"]  # 3 um: bundles are wavy
    where = (rows + sway[0]) % side, (cols + sway[1]) % side
    return fibres[where], angles[share.argmax(axis=0)][where]


def _add_nuclei(
    dye: np.ndarray, rng: np.random.Generator, mpp: float, cells: Cells, angle: np.ndarray | None = None
) -> None:
    """Stamp nuclei into `dye` (side, side) in place, on a shaken hexagonal grid; long ones along `angle`."""
    side = dye.shape[0]
    pitch = np.sqrt(2e6 / (np.sqrt(3) * cells.per_mm2)) / mpp
    rows = max(2, round(side / (pitch * np.sqrt(3) / 2)))
    cols = max(1, round(side / pitch))
    y, x = np.mgrid[:rows, :cols].reshape(2, -1).astype(float)
    x = (x + 0.5 * (y % 2) + rng.uniform(-0.34, 0.34, x.size)) * side / cols
    y = (y + rng.uniform(-0.34, 0.34, y.size)) * side / rows
    centres = np.rint(np.stack([y, x], 1)).astype(int) % side
    stamps = _stamps(rng, mpp, cells)
    shapes, turns = stamps.shape[:2]
    for row, col in centres[rng.uniform(size=len(centres)) < 0.9]:
        turn = rng.integers(turns) if angle is None else int(angle[row, col] / np.pi * turns + rng.normal(0, 0.7))
        stamp = stamps[rng.integers(shapes), turn % turns]
        reach = stamp.shape[0] // 2
        where = np.ix_(np.arange(row - reach, row + reach + 1) % side, np.arange(col - reach, col + reach + 1) % side)
        dye[where] = np.maximum(dye[where], stamp)


def _stamps(rng: np.random.Generator, mpp: float, cells: Cells, shapes: int = 10, turns: int = 12) -> np.ndarray:
    """Nuclei (shapes, turns, size, size) float32, odd size: rim, grain of chromatin, nucleoli; 0 outside."""
    longest = cells.radius_um * (1 + 2 * cells.spread) * np.sqrt(cells.stretch) * 1.15
    reach = int(np.ceil(longest / mpp)) + 1
    y, x = np.mgrid[-reach : reach + 1, -reach : reach + 1] * mpp
    stamps = np.empty((shapes, turns, 2 * reach + 1, 2 * reach + 1), np.float32)
    for shape in range(shapes):
        radius = cells.radius_um * np.exp(np.clip(rng.normal(0, cells.spread), -1.5 * cells.spread, 1.5 * cells.spread))
        stretch = 1 + (cells.stretch - 1) * rng.uniform(0.3, 1.3)
        wobble, phase = rng.uniform(0.02, 0.09), rng.uniform(0, 2 * np.pi)
        spots = rng.uniform(-0.45, 0.45, (rng.integers(1, cells.nucleoli + 1) if cells.nucleoli else 0, 2)) * radius
        dark = cells.darkness * rng.uniform(0.8, 1.15)
        for turn in range(turns):
            a = turn * np.pi / turns
            along, across = x * np.cos(a) + y * np.sin(a), y * np.cos(a) - x * np.sin(a)
            u, v = along / np.sqrt(stretch), across * np.sqrt(stretch)
            rho = np.hypot(u, v) / (radius * (1 + wobble * np.cos(3 * np.arctan2(v, u) + phase)))
            inside = np.clip(0.5 + (1 - rho) * radius / 0.6, 0, 1)  # edge soft over 0.6 um, as optics leave it
            grain = 1 + 0.2 * rng.standard_normal(rho.shape)
            body = (0.70 + 0.30 * np.clip(rho, 0, 1) ** 4) * grain
            for spot_x, spot_y in spots:
                body += 0.6 * np.exp(-((along - spot_x) ** 2 + (across - spot_y) ** 2) / 0.9)
            stamps[shape, turn] = dark * inside * body
    return stamps
