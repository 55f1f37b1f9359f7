"""The plain way to score a slide, as most scripts do it: OpenSlide, a DataLoader, torch eager in batches of 32.

`python -m benchmarks.plain SLIDE MODEL TILES.npy OUT.npy [--batch 32] [--workers 0]`: TILES are level-0 corners
(N, 2) of tiles of 256 px at the slide's own scale; OUT gets their probabilities (N, C).
"""

import argparse
from pathlib import Path

import numpy as np
import openslide
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms.v2.functional import normalize, pil_to_tensor

from wsi_pipeline.learn.model.checkpoint import load_checkpoint
from wsi_pipeline.learn.model.densenet import build_model

PX = 256


class Tiles(Dataset[Tensor]):
    """The tiles of a slide as normalised float32 (3, 256, 256)."""

    def __init__(self, slide: str, corners: np.ndarray, mean: list[float], std: list[float]) -> None:
        self.slide, self.corners, self.mean, self.std = slide, corners, mean, std
        self.handle: openslide.OpenSlide | None = None

    def __len__(self) -> int:
        return len(self.corners)

    def __getitem__(self, index: int) -> Tensor:
        self.handle = self.handle or openslide.OpenSlide(self.slide)
        x, y = self.corners[index].tolist()
        picture = self.handle.read_region((x, y), 0, (PX, PX)).convert("RGB")
        return normalize(pil_to_tensor(picture).float() / 255, self.mean, self.std)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("slide", "model", "tiles", "out"):
        parser.add_argument(name)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--workers", type=int, default=0)
    asked = parser.parse_args()
    checkpoint = load_checkpoint(Path(asked.model))
    model = build_model(checkpoint)
    tiles = Tiles(asked.slide, np.load(asked.tiles), list(checkpoint.mean), list(checkpoint.std))
    found = []
    with torch.inference_mode():
        for batch in DataLoader(tiles, batch_size=asked.batch, num_workers=asked.workers):
            found.append(torch.sigmoid(model(batch)))
    np.save(asked.out, torch.cat(found).numpy())


if __name__ == "__main__":
    main()
