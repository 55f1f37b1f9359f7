"""Where drawn tissue lies: shapes in micrometres, painted one over the other with textures -> RGB pixels.

A shape is known by its field: negative inside, 0 exactly on the border, and never farther from 0 than the
distance to the border in um. So one value of the field tells whether a whole neighbourhood is inside or
outside.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np


class Shape(Protocol):
    """Anything with a field over micrometres."""

    def field(self, x_um: np.ndarray, y_um: np.ndarray) -> np.ndarray:
        """Negative inside, 0 on the border, at most the distance to it in um; x and y broadcast."""
        ...


@dataclass(frozen=True)
class Blob:
    """An ellipse whose radius is multiplied by 1 + sum(a cos(k angle + phase)) over `waves` (k, a, phase)."""

    x_um: float
    y_um: float
    rx_um: float
    ry_um: float
    waves: tuple[tuple[int, float, float], ...] = ()

    @property
    def area_mm2(self) -> float:
        """Exact area: pi rx ry (1 + sum(a^2) / 2), from the integral of the squared radius."""
        return float(np.pi * self.rx_um * self.ry_um * (1 + sum(a * a for _, a, _ in self.waves) / 2) * 1e-6)

    def border(self, points: int = 720) -> np.ndarray:
        """Points (points, 2) [x_um, y_um] on the border."""
        turn = np.exp(1j * np.linspace(0, 2 * np.pi, points, endpoint=False))
        edge = turn * self._radius(turn)
        return np.stack([self.x_um + self.rx_um * edge.real, self.y_um + self.ry_um * edge.imag], axis=1)

    def field(self, x_um: np.ndarray, y_um: np.ndarray) -> np.ndarray:
        u, v = (x_um - self.x_um) / self.rx_um, (y_um - self.y_um) / self.ry_um
        short = min(self.rx_um, self.ry_um)
        if not self.waves:
            return (np.hypot(u, v) - 1) * short
        least = 1 - sum(abs(a) for _, a, _ in self.waves)
        steepest = sum(abs(a) * k for k, a, _ in self.waves)
        slope = np.hypot(1 / least, steepest / least**2)  # of rho / radius, the largest anywhere
        reach = np.maximum(np.hypot(u, v), 1e-12)
        return (reach / self._radius((u + 1j * v) / reach) - 1) * (short / slope)

    def _radius(self, turn: np.ndarray) -> np.ndarray:
        """Radius at unit complex numbers: cos(k angle) is Re(turn^k), twice as fast as cosines."""
        weights = np.zeros(1 + max((k for k, _, _ in self.waves), default=0), complex)
        for k, a, phase in self.waves:
            weights[k] += a * np.exp(1j * phase)
        total = np.full_like(turn, weights[-1])
        for weight in weights[-2::-1]:
            total = total * turn + weight
        return 1 + total.real


@dataclass(frozen=True)
class Ripples:
    """Organic patches all over: where the mean of plane waves (kx, ky per um, phase) exceeds `level`."""

    waves: tuple[tuple[float, float, float], ...]
    level: float

    def field(self, x_um: np.ndarray, y_um: np.ndarray) -> np.ndarray:
        slope = sum(np.hypot(kx, ky) for kx, ky, _ in self.waves)
        height = np.float32(0)
        for kx, ky, phase in self.waves:  # cos(a + b) taken apart: cosines along two axes, not over the plane
            across, down = kx * x_um + phase, ky * y_um
            height = height + np.cos(across) * np.cos(down) - np.sin(across) * np.sin(down)
        return (self.level * len(self.waves) - height) / slope


@dataclass(frozen=True)
class Stroke:
    """A wavy pen stroke: half width around y = y_um + sway sin(x / 300 um), from x0 to x1."""

    x0_um: float
    x1_um: float
    y_um: float
    sway_um: float
    half_um: float

    def field(self, x_um: np.ndarray, y_um: np.ndarray) -> np.ndarray:
        middle = self.y_um + self.sway_um * np.sin(x_um / 300)
        across = (np.abs(y_um - middle) - self.half_um) / np.hypot(1, self.sway_um / 300)
        return np.maximum(across, np.maximum(self.x0_um - x_um, x_um - self.x1_um))


@dataclass(frozen=True)
class Outside:
    """Everything that lies in none of the shapes: the glass around pieces of tissue."""

    shapes: tuple[Shape, ...]

    def field(self, x_um: np.ndarray, y_um: np.ndarray) -> np.ndarray:
        return -np.minimum.reduce([shape.field(x_um, y_um) for shape in self.shapes])


@dataclass(frozen=True)
class Layer:
    """A texture, by name, painted inside a shape."""

    texture: str
    shape: Shape


def draw_blob(rng: np.random.Generator, box_um: tuple[float, float, float, float], *, wobble: float = 0.16) -> Blob:
    """A smooth random blob inside the box (x, y, width, height); waves sum to at most `wobble`."""
    orders = np.array([2, 3, 4, 5, 7])
    sizes = rng.uniform(0.2, 1, orders.size) / orders
    sizes *= wobble / sizes.sum() * rng.uniform(0.6, 1)
    waves = tuple((int(k), float(a), float(rng.uniform(0, 2 * np.pi))) for k, a in zip(orders, sizes, strict=True))
    x, y, width, height = box_um
    reach = 2 * (1 + float(sizes.sum()))
    return Blob(x + width / 2, y + height / 2, width / reach, height / reach, waves)


def draw_ripples(rng: np.random.Generator, *, size_um: float, level: float, waves: int = 6) -> Ripples:
    """Random patches about `size_um` across; the higher `level` (0 = half the plane), the fewer."""
    angle = rng.uniform(0, 2 * np.pi, waves)
    pace = np.pi / (size_um * rng.uniform(0.6, 1.6, waves))
    phase = rng.uniform(0, 2 * np.pi, waves)
    return Ripples(tuple(zip(pace * np.cos(angle), pace * np.sin(angle), phase, strict=True)), level)


def coverage(shape: Shape, x_um: np.ndarray, y_um: np.ndarray) -> np.ndarray:
    """Share of each pixel inside the shape, float32 0-1; x (1, W) and y (H, 1) are evenly spaced centres."""
    distance = shape.field(x_um, y_um).astype(np.float32)
    down, across = np.gradient(distance)
    slope = np.sqrt(down * down + across * across)  # per pixel: turns the field into pixels from the border
    return np.clip(0.5 - distance / np.maximum(slope, 1e-9), 0, 1)


def paint(
    layers: Sequence[Layer],
    textures: dict[str, np.ndarray],
    *,
    base: np.ndarray,
    x_um: np.ndarray,
    y_um: np.ndarray,
) -> np.ndarray:
    """Layers over `base`, first to last -> (H, W, 3) uint8; x (1, W) and y (H, 1) in um."""
    canvas = base.astype(np.float32)
    for layer in layers:
        share = coverage(layer.shape, x_um, y_um)
        if share.any():
            canvas += share[..., None] * (textures[layer.texture] - canvas)
    return np.rint(canvas).astype(np.uint8)
