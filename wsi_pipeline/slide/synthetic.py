"""Drawn slides: an H&E-like pyramid with tumours of exactly known area, and labelled tiles of the same.

For tests, the demo and benchmarks. Pink stroma, pale lymphoid patches and purple tumour on white glass, every
border a formula: areas are exact, masks can be had on any grid. A model trained on it knows only drawn
tissue.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import shapely

from wsi_pipeline.slide.pyramid import through_jpeg, write_pyramid
from wsi_pipeline.slide.scene import Blob, Layer, Outside, Stroke, draw_blob, draw_ripples, paint
from wsi_pipeline.slide.texture import draw_stain, draw_textures, tiled_out

PEN_RGB = {"blue": (30, 60, 170), "green": (20, 120, 60), "red": (200, 30, 40), "black": (25, 25, 30)}


@dataclass(frozen=True)
class Tumour:
    """An ellipse on the glass: centre and half axes in micrometres from the slide's top left, y down."""

    x_um: float
    y_um: float
    rx_um: float
    ry_um: float

    @property
    def area_mm2(self) -> float:
        """Exact area, pi rx ry."""
        return self.blob.area_mm2

    @property
    def blob(self) -> Blob:
        """The same ellipse as a shape to paint."""
        return Blob(self.x_um, self.y_um, self.rx_um, self.ry_um)


@dataclass(frozen=True)
class SlideTruth:
    """What was drawn: the file, its level-0 size, um/px, tumours, and the areas that should be measured."""

    path: str
    width_l0: int
    height_l0: int
    mpp: float
    tumours: tuple[Tumour, ...]
    tissue_mm2: float
    tumour_mm2: float


def draw_slide(
    path: str | Path,
    *,
    size_px: tuple[int, int],
    mpp: float = 0.5,
    tumours: Sequence[Tumour] = (),
    seed: int = 0,
    pieces: int = 1,
    pen: str | None = None,
    with_mpp: bool = True,
) -> SlideTruth:
    """Write a pyramidal tiled JPEG TIFF of size (width, height) px at `mpp` um/px; memory stays bounded.

    Tissue is `pieces` smooth blobs side by side; with one piece and no pen, the ellipse about the centre
    whose half axes are 0.32 of the slide's sides is always tissue. `pen` (blue, green, red, black) adds a
    stroke along the top, off the tissue; with_mpp=False leaves the resolution tags out. Same seed, size,
    pieces and pen: same tissue outline. Raises ValueError for a tumour that is not wholly in tissue, or
    that touches another one.
    """
    if pen is not None and pen not in PEN_RGB:
        raise ValueError(f"pen {pen!r} is not one of {', '.join(PEN_RGB)}")
    rng = np.random.default_rng(seed)
    stain = draw_stain(rng)
    size_um = size_px[0] * mpp, size_px[1] * mpp
    outlines = _draw_outlines(rng, size_um, pieces, top=0.0 if pen is None else 0.2)
    _check_tumours(tumours, outlines)
    layers = _slide_layers(rng, outlines, tumours)
    if pen is not None:
        half = min(200.0, 0.03 * size_um[1])
        layers.append(Layer(pen, Stroke(0.1 * size_um[0], 0.9 * size_um[0], 3 * half, half, half)))
    side_px = 2048 if max(size_px) > 8192 else 1024
    textures = draw_textures(stain, mpp=mpp, side_px=side_px, variant=seed % 4)
    textures |= {name: np.full((8, 8, 3), rgb, np.uint8) for name, rgb in PEN_RGB.items() if name == pen}
    write_pyramid(path, layers, textures, base_texture="stroma", size_px=size_px, mpp=mpp, with_mpp=with_mpp)
    tissue_mm2 = sum(outline.area_mm2 for outline in outlines)
    tumour_mm2 = float(sum(t.area_mm2 for t in tumours))
    return SlideTruth(str(path), *size_px, mpp, tuple(tumours), tissue_mm2, tumour_mm2)


def tumour_mask(truth: SlideTruth, shape: tuple[int, int], cell_um: float | tuple[float, float]) -> np.ndarray:
    """(rows, cols) bool, True where a cell's centre lies in a tumour; cells of cell_um (x, y) from (0, 0)."""
    width_um, height_um = (cell_um, cell_um) if isinstance(cell_um, int | float) else cell_um
    x_um = (np.arange(shape[1]) + 0.5)[None] * width_um
    y_um = (np.arange(shape[0]) + 0.5)[:, None] * height_um
    mask = np.zeros(shape, bool)
    for tumour in truth.tumours:
        mask |= tumour.blob.field(x_um, y_um) < 0
    return mask


def draw_cohort(
    folder: str | Path, *, slides: int, size_px: tuple[int, int], mpp: float, seed: int
) -> list[SlideTruth]:
    """Write synthetic_01.tif, ... with 0, 1, 2, 3, 0, ... tumours of varied size, in one or two pieces."""
    Path(folder).mkdir(parents=True, exist_ok=True)
    truths = []
    for number in range(slides):
        slide_seed, pieces = seed * 1000 + number, 1 + number % 2
        size_um = size_px[0] * mpp, size_px[1] * mpp
        rng = np.random.default_rng(slide_seed)
        draw_stain(rng)
        outlines = _draw_outlines(rng, size_um, pieces, top=0.0)
        tumours = _place_tumours(np.random.default_rng([seed, number]), outlines, number % 4)
        path = Path(folder) / f"synthetic_{number + 1:02d}.tif"
        truths.append(draw_slide(path, size_px=size_px, mpp=mpp, tumours=tumours, seed=slide_seed, pieces=pieces))
    return truths


def draw_tiles(n: int, *, tile_px: int, mpp: float, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Tiles of drawn tissue for training, in random order of kind.

    Returns tiles (n, tile_px, tile_px, 3) uint8 as they come off a drawn slide (JPEG and all), the tumour
    share of each (n,) float32 0-1, and whether its centre lies in tumour (n,) bool. A third normal, a third
    tumour, a third across a border of tumour; some across the edge of the tissue. The stain changes every
    24 tiles.
    """
    rng = np.random.default_rng([seed, 7])
    tiles = np.empty((n, tile_px, tile_px, 3), np.uint8)
    share, centre = np.empty(n, np.float32), np.empty(n, bool)
    textures: dict[str, np.ndarray] = {}
    along = (np.arange(tile_px) + 0.5) * mpp
    x_um, y_um = along[None], along[:, None]
    for i in range(n):
        if i % 24 == 0:
            textures = draw_textures(draw_stain(rng), mpp=mpp, side_px=1024, variant=4 + int(rng.integers(8)))
            side = textures["glass"].shape[0]
            textures = {kind: tiled_out(texture, side + tile_px) for kind, texture in textures.items()}
        layers, tumour, tissue = _tile_scene(rng, tile_px * mpp)
        start = rng.integers(0, side, 2)
        crops = {kind: texture[start[0] :, start[1] :][:tile_px, :tile_px] for kind, texture in textures.items()}
        tiles[i] = through_jpeg(paint(layers, crops, base=crops["stroma"], x_um=x_um, y_um=y_um))
        inside = np.full((tile_px, tile_px), tumour is not None)
        for shape in (tumour, tissue):
            if shape is not None:
                inside &= shape.field(x_um, y_um) < 0
        share[i], centre[i] = inside.mean(), inside[tile_px // 2, tile_px // 2]
    return tiles, share, centre


def _draw_outlines(
    rng: np.random.Generator, size_um: tuple[float, float], pieces: int, *, top: float
) -> tuple[Blob, ...]:
    """Tissue outlines side by side along the longer side of the slide, leaving its share `top` free."""
    width, height = size_um[0], size_um[1] * (1 - top)
    outlines = []
    for piece in range(pieces):
        box = np.array([0.025, 0.025, 0.95, 0.95])
        axis = 0 if width >= height else 1
        box[axis], box[axis + 2] = (piece + 0.025) / pieces, 0.95 / pieces
        x, y, w, h = box * (width, height, width, height)
        outlines.append(draw_blob(rng, (x, size_um[1] * top + y, w, h)))
    return tuple(outlines)


def _check_tumours(tumours: Sequence[Tumour], outlines: Sequence[Blob]) -> None:
    """Raise ValueError unless each tumour lies wholly in one outline and touches no other tumour."""
    rings = [shapely.Polygon(tumour.blob.border()) for tumour in tumours]
    for number, tumour in enumerate(tumours):
        x, y = tumour.blob.border().T
        if not any((outline.field(x, y) < 0).all() for outline in outlines):
            raise ValueError(f"{tumour} is not wholly in tissue; move it inwards, or give a smaller one")
        if any(rings[number].intersects(other) for other in rings[:number]):
            raise ValueError(f"{tumour} touches another tumour; areas would not add up, move it away")


def _place_tumours(rng: np.random.Generator, outlines: Sequence[Blob], count: int) -> list[Tumour]:
    """`count` tumours of varied size at random places that _check_tumours accepts."""
    tumours: list[Tumour] = []
    largest = 0.55  # of the shorter half axis of their piece; less with each try, so that there is always room
    while len(tumours) < count:
        home = outlines[int(rng.integers(len(outlines)))]
        x, y = rng.uniform(-0.8, 0.8, 2) * (home.rx_um, home.ry_um) + (home.x_um, home.y_um)
        rx = np.exp(rng.uniform(np.log(0.3 * largest), np.log(largest))) * min(home.rx_um, home.ry_um)
        largest *= 0.97
        candidate = Tumour(float(x), float(y), float(rx), float(rx * rng.uniform(0.6, 1.4)))
        try:
            _check_tumours([*tumours, candidate], outlines)
        except ValueError:
            continue
        tumours.append(candidate)
    return tumours


def _slide_layers(rng: np.random.Generator, outlines: tuple[Blob, ...], tumours: Sequence[Tumour]) -> list[Layer]:
    """Over stroma: denser and lymphoid patches, glass around the outlines, tumours on top."""
    size_um = max(max(o.rx_um, o.ry_um) for o in outlines)
    patch_um = float(np.clip(size_um / 6, 80, 1500))
    layers = [
        Layer("dense", draw_ripples(rng, size_um=patch_um, level=0.1)),
        Layer("lymphoid", draw_ripples(rng, size_um=patch_um / 2, level=0.45)),
        Layer("glass", Outside(outlines)),
    ]
    return layers + [Layer("tumour", tumour.blob) for tumour in tumours]


def _tile_scene(rng: np.random.Generator, side_um: float) -> tuple[list[Layer], Blob | None, Blob | None]:
    """What a training tile shows over stroma; its tumour, if any; its tissue, if that has an edge in it."""
    kind = rng.choice(["normal", "tumour", "border"])
    at_edge = rng.uniform() < {"normal": 0.35, "tumour": 0.0, "border": 0.15}[kind]
    layers = []
    for texture, level in (("dense", 0.1), ("lymphoid", 0.3)):
        layers.append(Layer(texture, draw_ripples(rng, size_um=side_um * rng.uniform(0.7, 4), level=level)))
    everywhere = Blob(side_um / 2, side_um / 2, 9 * side_um, 9 * side_um)
    tumour = {"normal": None, "tumour": everywhere, "border": _blob_across(rng, side_um)}[kind]
    tissue = _blob_across(rng, side_um) if at_edge else None
    if tumour is not None:
        layers.append(Layer("tumour", tumour))
    if tissue is not None:
        layers.append(Layer("glass", Outside((tissue,))))
    return layers, tumour, tissue


def _blob_across(rng: np.random.Generator, side_um: float) -> Blob:
    """An ellipse whose border crosses a tile of side_um: from small islands to all but straight borders."""
    rx = np.exp(rng.uniform(np.log(0.25), np.log(12))) * side_um
    ry = rx * rng.uniform(0.6, 1.6)
    angle = rng.uniform(0, 2 * np.pi)
    on_border = rng.uniform(0.05, 0.95, 2) * side_um
    x, y = on_border - (rx * np.cos(angle), ry * np.sin(angle))
    return Blob(float(x), float(y), float(rx), float(ry))
