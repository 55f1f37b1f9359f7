"""TIAToolbox's PatchPredictor over one slide, by its own python: finds tissue, scores patches -> one line of JSON.

`PYTHON tiatoolbox.py SLIDE WEIGHTS OUT [--batch 8] [--workers 0]`; the defaults are those of `PatchPredictor`.
"""

import sys
import time

STARTED = time.perf_counter()
sys.path.append(sys.path.pop(0))  # this file has the tool's own name

import argparse  # noqa: E402
from pathlib import Path  # noqa: E402

import numpy as np  # noqa: E402
import torch  # noqa: E402
import zarr  # noqa: E402
from densenet import MEAN, MPP, PX, STD, densenet, tell  # noqa: E402
from tiatoolbox.models.engine.patch_predictor import PatchPredictor  # noqa: E402
from tiatoolbox.models.models_abc import ModelABC  # noqa: E402
from torch import Tensor, nn  # noqa: E402


class Tumour(ModelABC):
    """A network in the shape that the engine takes: (n, H, W, 3) of 0-255 in, probabilities (n, 2) out."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.register_buffer("mean", 255 * torch.tensor(MEAN)[:, None, None])
        self.register_buffer("std", 255 * torch.tensor(STD)[:, None, None])

    def forward(self, planes: Tensor) -> Tensor:
        tumour = torch.sigmoid(self.model((planes - self.mean) / self.std))
        return torch.cat([1 - tumour, tumour], dim=1)

    @staticmethod
    def infer_batch(model: nn.Module, batch_data: Tensor, device: str = "cpu") -> np.ndarray:
        with torch.inference_mode():
            return model(batch_data.to(device).float().permute(0, 3, 1, 2).contiguous()).cpu().numpy()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("slide", "weights", "out"):
        parser.add_argument(name, type=Path)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--workers", type=int, default=0)
    asked = parser.parse_args()
    began = time.perf_counter()
    predictor = PatchPredictor(
        Tumour(densenet(asked.weights)), batch_size=asked.batch, num_workers=asked.workers, device="cpu", verbose=False
    )
    written = predictor.run(
        [asked.slide], patch_mode=False, patch_input_shape=(PX, PX), stride_shape=(PX, PX), save_dir=asked.out,
        input_resolutions=[{"units": "mpp", "resolution": MPP}], output_type="zarr",
        wsireader_kwargs={"mpp": MPP, "power": 20},  # it reads no scale from plain TIFF
    )  # fmt: skip
    (path,) = written.values()
    tell(zarr.open(str(path), mode="r")["coordinates"].shape[0], began, STARTED)


if __name__ == "__main__":
    main()
