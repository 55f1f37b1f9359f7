"""A square image of a kind -> another that bears the same label; a sheet of samples, for a person to judge.

What is drawn comes from torch's global generator alone, so a seeded worker repeats itself.
"""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from skimage.color import rgb_from_hed
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample
from torchvision.transforms import v2

from wsi_pipeline.errors import ConfigError
from wsi_pipeline.learn.data.images import Fit, fit_square
from wsi_pipeline.learn.data.labels import LabelledImages
from wsi_pipeline.learn.model.card import Kind

Fill = Sequence[float] | None

_BLACK = (0.0, 0.0, 0.0)
_CAPTION_PX = 14
_GAP_PX = 4


def augmentation(kind: Kind, *, fill: Fill = None) -> Callable[[Tensor], Tensor]:
    """(3, px, px) uint8 -> (3, px, px) uint8, changed as the labels of `kind` allow.

    histology: flips, quarter turns, stain, blur. chest_xray: turns to 7 degrees, shift, zoom, contrast, and no mirror:
    the heart would change sides. retina: flips, turns about the centre, light. skin: flips, turns, zoom, light and a
    little colour. plain: what harms hardly any label, a small shift, zoom and light.

    Uncovered corners get `fill` (3 values, 0-255); with None black in radiographs and retinas, elsewhere the colour
    of each image's own border. As normalisation follows, it is the background there too. Raises ConfigError for
    another kind.
    """
    if kind not in _STEPS:
        raise ConfigError(f"kind {kind!r}: give one of {', '.join(_STEPS)}")
    return v2.Compose(_STEPS[kind](fill))


def contact_sheet(
    images: LabelledImages,
    kind: Kind,
    px: int,
    path: Path,
    *,
    seed: int = 0,
    fit: Fit = "pad",
    samples: int = 8,
    versions: int = 5,
) -> None:
    """A PNG, a line for each of `samples` images drawn: itself, `versions` of it augmented, its labels below.

    Torch's generator is left as found.
    """
    rows = np.sort(np.random.default_rng(seed).permutation(len(images))[:samples])
    change = augmentation(kind)
    line = px + _CAPTION_PX + _GAP_PX
    sheet = Image.new("RGB", ((versions + 1) * (px + _GAP_PX), max(1, len(rows)) * line), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(_CAPTION_PX - 3)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for top, row in zip(range(0, len(rows) * line, line), rows, strict=True):
            square = fit_square(images.image(int(row)), px, fit)
            pixels = torch.from_numpy(square.copy()).permute(2, 0, 1)
            cells = [square, *(change(pixels).permute(1, 2, 0).numpy() for _ in range(versions))]
            for left, cell in zip(range(0, sheet.width, px + _GAP_PX), cells, strict=True):
                sheet.paste(Image.fromarray(cell), (left, top))
            draw.text((2, top + px), _caption(images, int(row)), fill="black", font=font)
    sheet.save(path, format="PNG")


def _caption(images: LabelledImages, row: int) -> str:
    labels = images.labels[row]
    present = [name for name, label in zip(images.class_names, labels, strict=True) if label == 1]
    unknown = int(np.isnan(labels).sum())
    return f"{images.ids[row]}: {', '.join(present) or 'none'}{f' ({unknown} unknown)' if unknown else ''}"


class _Move(v2.Transform):
    """Turn, zoom and shift about the centre in one resampling, what is uncovered filled."""

    def __init__(self, degrees: float, *, fill: Fill, zoom: tuple[float, float], shift: float = 0.0) -> None:
        super().__init__()
        self.degrees, self.shift, self.zoom, self.fill = degrees, shift, zoom, fill

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        angle, scale, *shift = torch.rand(4).tolist()
        turn = math.radians(self.degrees * (2 * angle - 1))
        zoom = self.zoom[0] + scale * (self.zoom[1] - self.zoom[0])
        across, down = (2 * self.shift * (2 * part - 1) for part in shift)  # the grid spans -1 to 1
        cos, sin = math.cos(turn) / zoom, math.sin(turn) / zoom
        return {"grid": [[cos, -sin, across], [sin, cos, down]]}

    def transform(self, inpt: Tensor, params: dict[str, Any]) -> Tensor:
        fill = _border(inpt) if self.fill is None else torch.tensor(self.fill, dtype=torch.float32)
        image = (inpt.float() - fill[:, None, None])[None]
        grid = affine_grid(torch.tensor([params["grid"]]), list(image.shape), align_corners=False)
        moved = grid_sample(image, grid, mode="bilinear", padding_mode="zeros", align_corners=False)[0]
        return _to_uint8(moved + fill[:, None, None])


class _QuarterTurn(v2.Transform):
    """0, 90, 180 or 270 degrees; no pixel is resampled."""

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        return {"turns": int(torch.randint(4, ()))}

    def transform(self, inpt: Tensor, params: dict[str, Any]) -> Tensor:
        return torch.rot90(inpt, params["turns"], (-2, -1))


class _Light(v2.Transform):
    """Contrast about the image's mean, brightness, and one gain a channel, each 1 within its share."""

    def __init__(self, *, contrast: float, brightness: float, colour: float = 0.0) -> None:
        super().__init__()
        self.contrast, self.brightness, self.colour = contrast, brightness, colour

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        draws = 2 * torch.rand(5) - 1
        gain = (1 + self.brightness * draws[1]) * (1 + self.colour * draws[2:])
        return {"contrast": 1 + self.contrast * draws[0], "gain": gain[:, None, None]}

    def transform(self, inpt: Tensor, params: dict[str, Any]) -> Tensor:
        image = inpt.float()
        mean = image.mean()
        return _to_uint8(((image - mean) * params["contrast"] + mean) * params["gain"])


class _Stain(v2.Transform):
    """Haematoxylin, eosin and rest, each scaled and shifted (Tellez 2018, arXiv 1808.05896, HED-light).

    The way to stains, the change and the way back are one matrix on the optical densities.
    """

    def __init__(self, *, scale: float, shift: float) -> None:
        super().__init__()
        self.scale, self.shift = scale, shift
        stains = torch.from_numpy(np.asarray(rgb_from_hed)).double()  # stains (3,) @ this: densities of R, G, B
        self.stains, self.unmix = stains, torch.linalg.inv(stains)

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        draws = (2 * torch.rand(2, 3) - 1).double()
        mix = self.unmix @ torch.diag(1 + self.scale * draws[0]) @ self.stains
        return {"mix": mix.T.float(), "shift": ((self.shift * draws[1]) @ self.stains).float()}

    def transform(self, inpt: Tensor, params: dict[str, Any]) -> Tensor:
        density = torch.log(inpt.float().clamp_(min=1).flatten(1) / 255)  # negative
        changed = params["mix"] @ density - params["shift"][:, None]
        return _to_uint8(changed.exp_().mul_(255)).view_as(inpt)


def _border(image: Tensor) -> Tensor:
    """The median colour of the outermost pixels of (3, H, W) -> (3,) float32."""
    edges = torch.cat([image[:, 0], image[:, -1], image[:, :, 0], image[:, :, -1]], dim=1)
    return edges.median(dim=1).values.float()


def _to_uint8(image: Tensor) -> Tensor:
    return image.round_().clamp_(0, 255).to(torch.uint8)


def _flips() -> list[v2.Transform]:
    return [v2.RandomHorizontalFlip(), v2.RandomVerticalFlip()]


def _histology(fill: Fill) -> list[v2.Transform]:
    blur = v2.RandomApply([v2.GaussianBlur(3, sigma=(0.1, 1.0))], p=0.2)
    return [*_flips(), _QuarterTurn(), _Stain(scale=0.1, shift=0.03), blur]


def _chest_xray(fill: Fill) -> list[v2.Transform]:
    return [_Move(7, shift=0.05, zoom=(0.92, 1.08), fill=fill or _BLACK), _Light(contrast=0.2, brightness=0.1)]


def _retina(fill: Fill) -> list[v2.Transform]:
    return [*_flips(), _Move(180, zoom=(0.92, 1.0), fill=fill or _BLACK), _Light(contrast=0.15, brightness=0.15)]


def _skin(fill: Fill) -> list[v2.Transform]:
    light = _Light(contrast=0.1, brightness=0.1, colour=0.05)
    return [*_flips(), _Move(180, shift=0.05, zoom=(0.9, 1.2), fill=fill), light]


def _plain(fill: Fill) -> list[v2.Transform]:
    return [_Move(5, shift=0.05, zoom=(0.95, 1.05), fill=fill), _Light(contrast=0.1, brightness=0.1)]


_STEPS: dict[str, Callable[[Fill], list[v2.Transform]]] = {
    "histology": _histology,
    "chest_xray": _chest_xray,
    "retina": _retina,
    "skin": _skin,
    "plain": _plain,
}
