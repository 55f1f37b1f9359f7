"""Train the model in the box, `models/demo`: a small DenseNet that tells drawn tumour from other drawn tissue.

    python workflows/train_demo_model.py                 # about 15 minutes on two cores; the same seed, the same data
    python workflows/train_demo_model.py --check-only    # measures drawn slides again and changes no file

Tiles come from `draw_tiles`; a tile is positive when its centre lies in tumour, so that a probability of a half
means a border through the centre, and mapped areas come back without bias. It never sees real tissue.
"""

import argparse
import logging
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.special import logit
from torch import Tensor, nn

from wsi_pipeline import __version__
from wsi_pipeline.learn.calibrate import fit_temperature, probabilities
from wsi_pipeline.learn.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from wsi_pipeline.learn.losses import class_weights, weighted_bce
from wsi_pipeline.learn.models import build_densenet
from wsi_pipeline.slide.synthetic import draw_tiles

ARCH, TILE_PX, MPP = "densenet_demo", 256, 0.5
MEAN, STD = (0.64, 0.45, 0.63), (0.20, 0.21, 0.15)  # of drawn tiles, rounded
NOTE = "knows only synthetic tissue: on real slides its map means nothing"
# Haematoxylin, eosin and residual as optical densities of red, green, blue (Ruifrok and Johnston 2001).
STAINS = ((0.650, 0.704, 0.286), (0.072, 0.990, 0.105), (0.268, 0.570, 0.776))

log = logging.getLogger("train_demo_model")


@dataclass(frozen=True)
class Tiles:
    """Drawn tiles (n, px, px, 3) uint8 and whether the centre of each lies in tumour, (n, 1) float32 0 or 1."""

    rgb: np.ndarray
    labels: np.ndarray


def draw(n: int, seed: int) -> Tiles:
    """Draw n labelled tiles; other seeds draw other tissue, borders and stains."""
    rgb, _, centre = draw_tiles(n, tile_px=TILE_PX, mpp=MPP, seed=seed)
    return Tiles(rgb, centre.astype(np.float32)[:, None])


def augment(rgb: np.ndarray, rng: np.random.Generator) -> Tensor:
    """Network input (n, 3, px, px) of tiles turned, flipped, stained and lit anew, some padded with white.

    None of it moves the centre of a tile, so its label stays.
    """
    turned = np.stack([_turn(tile, int(k)) for tile, k in zip(rgb, rng.integers(0, 8, len(rgb)), strict=True)])
    density = -torch.log((torch.from_numpy(turned).float() + 1) / 256)
    basis = np.asarray(STAINS) / np.linalg.norm(STAINS, axis=1, keepdims=True)
    amounts = rng.uniform(0.85, 1.18, (len(rgb), 3, 1))
    mix = torch.tensor(np.linalg.inv(basis) @ (amounts * basis), dtype=torch.float32)
    light = torch.tensor(rng.uniform(0.92, 1.06, (len(rgb), 1, 1, 1)), dtype=torch.float32)
    lit = (torch.exp(-(density.flatten(1, 2) @ mix)).reshape(density.shape) * light).clamp(0, 1)
    for i in np.flatnonzero(rng.uniform(size=len(rgb)) < 0.1):
        lit[i, : int(rng.integers(1, TILE_PX * 0.45))] = 1.0  # as beyond the edge of a slide; turned above
    return to_input(lit)


def to_input(rgb01: Tensor) -> Tensor:
    """Normalised planes (n, 3, px, px) of (n, px, px, 3) RGB in 0-1; channels last in memory."""
    return ((rgb01 - torch.tensor(MEAN)) / torch.tensor(STD)).permute(0, 3, 1, 2)


def train(tiles: Tiles, *, epochs: int, batch: int, rate: float, seed: int) -> tuple[nn.Module, np.ndarray]:
    """The trained network and the share of positives (1,) that its loss made up for."""
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    model = build_densenet(ARCH, 1).to(memory_format=torch.channels_last)
    w_p, w_n = class_weights(tiles.labels)
    optimiser = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=1e-4)
    steps = epochs * (len(tiles.rgb) // batch)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, max_lr=rate, total_steps=steps, pct_start=0.1)
    for epoch in range(epochs):
        began, total = time.perf_counter(), 0.0
        order = rng.permutation(len(tiles.rgb))
        for rows in order[: len(order) // batch * batch].reshape(-1, batch):
            loss = weighted_bce(model(augment(tiles.rgb[rows], rng)), torch.from_numpy(tiles.labels[rows]), w_p, w_n)
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            optimiser.step()
            schedule.step()
            total += loss.item()
        mean = total / (len(order) // batch)
        log.info("epoch %2d  loss %.4f  %.0f s", epoch + 1, mean, time.perf_counter() - began)
    return model.eval(), w_n


def raw_logits(model: nn.Module, tiles: Tiles) -> np.ndarray:
    """(n, 1) float32 output for the tiles as they are."""
    with torch.inference_mode():
        parts = [model(to_input(torch.from_numpy(part).float() / 255)) for part in np.array_split(tiles.rgb, 64)]
    return torch.cat(parts).numpy()


def _turn(tile: np.ndarray, which: int) -> np.ndarray:
    """One of the eight turns and flips of a square tile."""
    turned = np.rot90(tile, which % 4)
    return turned[:, ::-1] if which >= 4 else turned
