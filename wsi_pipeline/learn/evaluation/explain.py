"""Explanation: a network and an image -> where in the image its answer comes from (Grad-CAM), as a picture."""

import csv
import gzip
import io
import textwrap
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from matplotlib import colormaps
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import Tensor, nn
from torch.nn.functional import interpolate, pad, relu

from wsi_pipeline.errors import ConfigError, ModelError
from wsi_pipeline.learn.evaluation.results import replace_bytes
from wsi_pipeline.learn.model.card import RESEARCH_USE

Box = tuple[float, float, float, float]  # x, y of the upper left corner, width, height, in px of the map
TITLE_WIDTH = 78  # letters on a line
CELL_PX = 32  # from one cell of a DenseNet's last maps to the next: five halvings
COLOURS, OPACITY = "viridis", 0.7  # green and yellow stand out from grey, from H&E and from a retina's red


def grad_cam(model: nn.Module, image: Tensor, class_index: int) -> np.ndarray:
    """Where a DenseNet sees a class: (H, W) float32 in 0-1, the largest value 1; all 0 where nothing speaks for it.

    Selvaraju et al. 2017 (arXiv 1610.02391): the last feature maps, each weighted by the mean gradient of the
    class's logit (of that logit alone), summed, negative parts cut off. The maps are taken *after* the last
    ReLU, as the head gets them: before it (the output of torchvision's `features`) negative values, which the
    head never sees, would count. With a linear head on global means the weights then are the head's own by the
    number of cells, and the summed map is what the logit without its bias is made of.

    Args:
        image: (C, H, W) or (1, C, H, W), normalised as the model expects it.

    The model is run in eval mode; modes, gradients, flags and hooks are left as found. Raises ModelError for
    another network than a DenseNet, a class that it has not, and feature maps that are not finite.
    """
    features, head = getattr(model, "features", None), getattr(model, "classifier", None)
    if not isinstance(features, nn.Module) or not isinstance(head, nn.Module):
        raise ModelError(f"Grad-CAM: {type(model).__name__} has no features and classifier; give a DenseNet")
    first = next(model.parameters())
    batch = (image if image.ndim == 4 else image[None]).to(first.device, first.dtype)
    if batch.ndim != 4 or len(batch) != 1:
        raise ModelError(f"Grad-CAM: image of shape {tuple(image.shape)}; give one, (C, H, W)")
    with _in_eval_mode(model), torch.inference_mode(False):
        with torch.no_grad():
            maps = relu(features(batch.clone()))  # a copy: the image may come from inference mode
        logits, gradient = _head_gradient(head, maps, class_index)
    if not (torch.isfinite(logits).all() and torch.isfinite(maps).all()):
        raise ModelError("Grad-CAM: the feature maps are not finite; check the image and the weights")
    weights = gradient.mean(dim=(2, 3), keepdim=True)
    heat = relu((weights * maps).sum(dim=1, keepdim=True))
    heat = _laid_over(heat, batch.shape[-2:])[0, 0].float()
    peak = heat.max()
    return (heat / peak if peak > 0 else torch.zeros_like(heat)).cpu().numpy()


def pointing_hit(heat: np.ndarray, boxes: Sequence[Box]) -> bool:
    """Whether the middle of the highest pixels of `heat` (H, W) lies in one of the boxes, edges included.

    The pointing game of Zhang et al. 2018 (doi 10.1007/s11263-017-1059-x), without its tolerance of 15 px. A map
    that is 0 everywhere points nowhere: a miss.
    """
    if not heat.max() > 0:
        return False
    rows, cols = np.nonzero(heat == heat.max())  # several where bilinear enlargement leaves a flat top
    x, y = cols.mean() + 0.5, rows.mean() + 0.5
    return any(left <= x <= left + width and top <= y <= top + height for left, top, width, height in boxes)


def read_boxes(path: str | Path) -> dict[str, dict[str, list[Box]]]:
    """Boxes by image name and finding, in px of the original, of a CSV such as BBox_List_2017.csv (.gz) of NIH.

    Columns: Image Index, Finding Label, Bbox [x,y,w,h]. Raises ConfigError, naming the row, on anything else.
    """
    path = Path(path)
    found: dict[str, dict[str, list[Box]]] = {}
    try:
        opened = gzip.open if path.suffix == ".gz" else open
        with opened(path, "rt", encoding="utf-8-sig", newline="") as file:
            rows = list(csv.reader(file))
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read ({error}); give the CSV of boxes") from None
    if not rows or [name.strip() for name in rows[0][:3]] != ["Image Index", "Finding Label", "Bbox [x"]:
        raise ConfigError(f"{path}: columns {rows[0] if rows else []}; give Image Index, Finding Label, Bbox [x,y,w,h]")
    for number, row in enumerate(rows[1:], start=2):
        if not any(row):  # an empty line, as at the end
            continue
        try:
            x, y, width, height = (float(value) for value in row[2:6])
        except ValueError:
            raise ConfigError(f"{path}, row {number}: {row[2:6]} is no box; give x, y, width, height in px") from None
        finding = "Infiltration" if row[1] == "Infiltrate" else row[1]  # the list's own word for that label
        found.setdefault(row[0], {}).setdefault(finding, []).append((x, y, width, height))
    return found


def blend(rgb: np.ndarray, heat: np.ndarray) -> np.ndarray:
    """The map (H, W) in 0-1 laid over (H, W, 3) uint8: bluish to yellow, the more opaque the higher, clear at 0."""
    opacity = (OPACITY * np.sqrt(heat))[..., None]
    return np.rint(rgb * (1 - opacity) + 255 * colormaps[COLOURS](heat)[..., :3] * opacity).astype(np.uint8)


def draw_explanation(
    rgb: np.ndarray, heat: np.ndarray, path: str | Path, *, title: str, boxes: Sequence[Box] = ()
) -> None:
    """Write a PNG: the image beside itself under its map, with a colour bar, boxes if any, and the title.

    rgb: (H, W, 3) uint8; heat: (H, W) in 0-1. Raises ModelError when they differ in size, StoreError when the
    disk refuses.
    """
    if rgb.shape[:2] != heat.shape:
        raise ModelError(f"an image of {rgb.shape[:2]} px and a map of {heat.shape}: give both in one size")
    figure = Figure(figsize=(8.6, 4.7), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    plain, under, bar = figure.subplots(1, 3, width_ratios=(1, 1, 0.04))
    for axes, pixels in ((plain, rgb), (under, blend(rgb, heat))):
        axes.imshow(pixels)
        axes.set_axis_off()
        for left, top, width, height in boxes:
            axes.add_patch(Rectangle((left - 0.5, top - 0.5), width, height, fill=False, color="cyan", linewidth=1.5))
    # The bar lies over the image's mean colour: what is mixed with it looks as in the picture.
    ramp = np.linspace(1, 0, 256)[:, None]
    bar.imshow(blend(np.full((256, 1, 3), rgb.mean(axis=(0, 1))), ramp), extent=(0, 1, 0, 1), aspect="auto")
    bar.set_box_aspect(20)
    bar.set_xticks([])
    bar.yaxis.tick_right()
    bar.set_ylabel("for the class, as a share of the most in this image", fontsize=8)
    bar.tick_params(labelsize=8)
    figure.suptitle(textwrap.fill(title, TITLE_WIDTH), fontsize=11, parse_math=False)  # a $ of a file's name is a $
    figure.supxlabel(RESEARCH_USE + (" Boxes: drawn by a reader." if boxes else ""), fontsize=7, color="0.4")
    png = io.BytesIO()
    figure.savefig(png, format="png")
    replace_bytes(Path(path), png.getvalue())


def _laid_over(heat: Tensor, size: Sequence[int]) -> Tensor:
    """Cells (1, 1, h, w) -> (1, 1, *size), each where it lies: CELL_PX apart, what is left at the end as the last.

    Halving drops odd pixels there. Stretched over the whole, a map of 250 px would be off by 24 px at its end.
    """
    large = interpolate(heat, scale_factor=CELL_PX, mode="bilinear", align_corners=False)
    down, right = (max(0, wanted - there) for wanted, there in zip(size, large.shape[-2:], strict=True))
    return pad(large, (0, right, 0, down), mode="replicate")[..., : size[0], : size[1]]


def _head_gradient(head: nn.Module, maps: Tensor, class_index: int) -> tuple[Tensor, Tensor]:
    """(logits (1, C), gradient of one of them on the feature maps) through the head alone."""
    with torch.enable_grad():
        leaf = maps.detach().requires_grad_(True)
        logits = head(leaf.mean(dim=(2, 3)))
        if not 0 <= class_index < logits.shape[1]:
            raise ModelError(f"Grad-CAM: class {class_index} of a model with {logits.shape[1]} classes, counted from 0")
        # Not backward(): that would leave gradients on the head's weights.
        (gradient,) = torch.autograd.grad(logits[0, class_index], leaf)
    return logits.detach(), gradient


@contextmanager
def _in_eval_mode(model: nn.Module) -> Iterator[None]:
    """Every module in eval mode, and afterwards each in its own again: frozen blocks may differ from the rest."""
    modes = [(module, module.training) for module in model.modules()]
    try:
        for module, _ in modes:
            module.training = False
        yield
    finally:
        for module, training in modes:
            module.training = training
