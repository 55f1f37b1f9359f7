"""Train the model in the box, `models/demo`: a small DenseNet that tells drawn tumour from other tissue.

    python workflows/train_demo_model.py                 # about 15 minutes on two cores; repeatable by seed
    python workflows/train_demo_model.py --check-only    # maps drawn slides again with the model that is there

Tiles come from `draw_tiles`; a tile is positive when its centre lies in tumour, so that a probability of
a half means a border through the centre, and mapped areas come back without bias. It never sees real tissue.
"""

import argparse
import logging
import time
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import tifffile
import torch
from numpy.lib.stride_tricks import sliding_window_view
from scipy.special import logit
from torch import Tensor, nn

from wsi_pipeline import __version__
from wsi_pipeline.learn.evaluation.calibrate import fit_temperature
from wsi_pipeline.learn.model.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from wsi_pipeline.learn.model.densenet import build_densenet, build_model
from wsi_pipeline.learn.model.probabilities import probabilities
from wsi_pipeline.learn.training.losses import class_weights, weighted_bce
from wsi_pipeline.scores.engines import pick_device
from wsi_pipeline.scores.infer import Scorer
from wsi_pipeline.slide.synthetic import Tumour, draw_slide, draw_tiles

ARCH, TILE_PX, MPP, STRIDE_PX = "densenet_demo", 256, 0.5, 64
MEAN, STD = (0.64, 0.45, 0.63), (0.20, 0.21, 0.15)  # of drawn tiles, rounded
NOTE = "knows only synthetic tissue: on real slides its map means nothing"
# Haematoxylin, eosin and residual as optical densities of red, green, blue (Ruifrok and Johnston 2001).
STAINS = ((0.650, 0.704, 0.286), (0.072, 0.990, 0.105), (0.268, 0.570, 0.776))

MODEL_CARD = """# Model card: demo

**Research use only. Not a medical device; not for diagnosis.**

| | |
|---|---|
| What | `{checkpoint.arch}`: a DenseNet of {weights:,} weights, one class `tumour`, a sigmoid |
| Input | {checkpoint.input_px} x {checkpoint.input_px} px RGB at {checkpoint.mpp} um/px |
| Output | probability that the *centre* of the tile lies in tumour, calibrated |
| Threshold | {checkpoint.threshold}; temperature {checkpoint.temperature}, prior {checkpoint.prior[0]} |
| Id | `{checkpoint.id}` |
| Licence | Apache-2.0, as the code |

## Data

Synthetic only: {checkpoint.about[data]}.
Drawn by formulas: stroma, dense stroma, lymphoid patches, tumour, glass; stain and JPEG varied. No image of a
patient was used. Training: {checkpoint.about[training]}; turns, flips, stain, light and white padding varied.

## Measured on {found[tiles]} other drawn tiles ({found[positive]} positive, a third of all across a border)

| figure | value |
|---|---|
| sensitivity | {found[sensitivity]} |
| specificity | {found[specificity]} |
| accuracy | {found[accuracy]} |
| called positive / positive | {found[called_positive]} / {found[positive]} |
| Brier score | {found[brier]} |
| expected calibration error, raw -> calibrated | {found[ece_raw]} -> {found[ece]} |

## Measured on drawn slides of 4096 px, tiles of 256 px every 64 px, one cell a tile's centre

| seed | drawn tumour, mm2 | mapped, mm2 | error |
|---|---|---|---|
{areas}

## Limits, in plain words

- It knows only synthetic tissue. On a real slide its map means nothing: it may call any dark, cell-rich
  tissue tumour, or miss every tumour there is.
- It is here so that the tool runs at once and its areas can be checked against drawn ones.
- Islands of tumour much smaller than a tile (128 um) can be missed.
- Nothing was measured on patients, scanners or stains of the real world.

Made by `workflows/train_demo_model.py`, which repeats it from a seed.
"""

log = logging.getLogger("train_demo_model")


@dataclass(frozen=True)
class Tiles:
    """Drawn tiles (n, px, px, 3) uint8 and whether the centre of each is tumour, (n, 1) float32 0 or 1."""

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
        side = lit[i].transpose(0, 1) if rng.uniform() < 0.5 else lit[i]
        width = int(rng.integers(1, TILE_PX // 2 - 16))  # white as beyond the edge of a slide, not to the centre
        side[slice(width) if rng.uniform() < 0.5 else slice(-width, None)] = 1.0
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


def calibrate(model: nn.Module, prior: np.ndarray, held_out: Tiles) -> float:
    """The temperature fitted on held-out tiles, after the prior is undone."""
    return fit_temperature(raw_logits(model, held_out) + logit(prior), held_out.labels)


def measure(checkpoint: Checkpoint, tiles: Tiles) -> dict[str, Any]:
    """Figures on tiles drawn with a seed of their own: counts, accuracy, calibration before and after."""
    z, truth = raw_logits(build_model(checkpoint), tiles), tiles.labels[:, 0] > 0.5
    p = probabilities(z, exclusive=False, prior=checkpoint.prior, temperature=checkpoint.temperature)[:, 0]
    called = p >= checkpoint.threshold
    return {
        "tiles": len(truth),
        "positive": int(truth.sum()),
        "called_positive": int(called.sum()),
        "sensitivity": round(float(called[truth].mean()), 4),
        "specificity": round(float((~called[~truth]).mean()), 4),
        "accuracy": round(float((called == truth).mean()), 4),
        "brier": round(float(np.mean((p - truth) ** 2)), 4),
        "ece_raw": round(_calibration_error(probabilities(z, exclusive=False)[:, 0], truth), 4),
        "ece": round(_calibration_error(p, truth), 4),
    }


def check_slide(checkpoint: Checkpoint, *, seed: int, tumour: bool) -> dict[str, float]:
    """A whole drawn slide cut at a stride of 64 px: true and mapped area in mm2, one cell a tile's centre."""
    ellipses = [Tumour(1000 + 15 * seed, 1060 - 12 * seed, 520 - 40 * seed, 380 + 30 * seed)] if tumour else []
    with TemporaryDirectory() as folder:
        truth = draw_slide(Path(folder) / "slide.tif", size_px=(4096, 4096), mpp=MPP, tumours=ellipses, seed=seed)
        rgb = tifffile.imread(truth.path, level=0)
    tiles = sliding_window_view(rgb, (TILE_PX, TILE_PX), axis=(0, 1))[::STRIDE_PX, ::STRIDE_PX]
    scorer = Scorer(checkpoint, pick_device("cpu"))
    rows = [scorer.logits(np.moveaxis(row, 1, -1), TILE_PX) for row in tiles]
    p = probabilities(np.concatenate(rows), exclusive=False, prior=checkpoint.prior, temperature=checkpoint.temperature)
    mapped = float((p >= checkpoint.threshold).sum() * (STRIDE_PX * MPP) ** 2 * 1e-6)
    error = 100 * (mapped / truth.tumour_mm2 - 1) if tumour else float("nan")
    return {"seed": seed, "true_mm2": truth.tumour_mm2, "mapped_mm2": mapped, "error_percent": error}


def main() -> None:
    """Draw, train, calibrate, measure, save; then map whole drawn slides and tell their areas."""
    logging.basicConfig(level="INFO", format="%(message)s")
    options = _options()
    torch.set_num_threads(options.threads)
    if options.check_only:
        checkpoint = load_checkpoint(options.out)
    else:
        checkpoint = make_checkpoint(options)
        save_checkpoint(checkpoint, options.out)
    slides = [check_slide(checkpoint, seed=seed, tumour=True) for seed in (1, 2, 3)]
    slides.append(check_slide(checkpoint, seed=4, tumour=False))
    for slide in slides:
        log.info("slide %(seed)d: true %(true_mm2).4f mm2, mapped %(mapped_mm2).4f, %(error_percent)+.2f %%", slide)
    (options.out / "README.md").write_text(model_card(checkpoint, slides), encoding="utf-8")


def make_checkpoint(options: argparse.Namespace) -> Checkpoint:
    """The trained and calibrated network with its figures on unseen drawn tiles."""
    seed = options.seed
    log.info("drawing %d tiles", options.tiles)
    training, held_out, unseen = draw(options.tiles, seed), draw(1500, seed + 1), draw(3000, seed + 2)
    model, prior = train(training, epochs=options.epochs, batch=32, rate=4e-3, seed=seed)
    checkpoint = Checkpoint(
        arch=ARCH,
        class_names=("tumour",),
        positive=("tumour",),
        exclusive=False,
        input_px=TILE_PX,
        mpp=MPP,
        mean=MEAN,
        std=STD,
        state=model.state_dict(),
        prior=(round(float(prior[0]), 4),),
        temperature=round(calibrate(model, prior, held_out), 4),
        threshold=0.5,
        note=NOTE,
    )
    about = {
        "data": f"{options.tiles} tiles of draw_tiles, seed {seed}; calibrated on 1500 others",
        "training": f"weighted_bce, AdamW, {options.epochs} epochs, batch 32",
        "versions": {"wsi_pipeline": __version__, "torch": torch.__version__.split("+")[0]},
        "measured": measure(checkpoint, unseen),
    }
    log.info("%s", about["measured"])
    return replace(checkpoint, about=about)


def model_card(checkpoint: Checkpoint, slides: list[dict[str, float]]) -> str:
    """The README beside the weights."""
    found = checkpoint.about["measured"]
    weights = sum(weight.numel() for weight in build_model(checkpoint).parameters())
    areas = "\n".join(
        f"| {s['seed']} | {s['true_mm2']:.4f} | {s['mapped_mm2']:.4f} | "
        + (f"{s['error_percent']:+.2f} % |" if s["true_mm2"] else "no tumour drawn |")
        for s in slides
    )
    return MODEL_CARD.format(checkpoint=checkpoint, found=found, weights=weights, areas=areas)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(__file__).resolve().parents[1] / "models" / "demo")
    parser.add_argument("--tiles", type=int, default=6000, help="drawn for training")
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--seed", type=int, default=20)
    parser.add_argument("--threads", type=int, default=2, help="another number may change the last digits")
    parser.add_argument("--check-only", action="store_true", help="train nothing; map drawn slides again")
    return parser.parse_args()


def _calibration_error(p: np.ndarray, truth: np.ndarray) -> float:
    """Expected calibration error over 15 equal bins."""
    bins = np.minimum((p * 15).astype(int), 14)
    gaps = [abs(p[bins == b].sum() - truth[bins == b].sum()) for b in range(15)]
    return float(sum(gaps) / len(p))


def _turn(tile: np.ndarray, which: int) -> np.ndarray:
    """One of the eight turns and flips of a square tile."""
    turned = np.rot90(tile, which % 4)
    return turned[:, ::-1] if which >= 4 else turned


if __name__ == "__main__":
    main()
