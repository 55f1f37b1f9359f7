"""LazySlide over one slide, by its own python: finds tissue, cuts tiles, scores them -> one line of JSON.

`PYTHON lazyslide.py SLIDE WEIGHTS OUT [--batch 16] [--workers 0] [--bfloat16]`; the defaults are those
of `tl.tile_prediction`.
"""

import sys
import time

STARTED = time.perf_counter()
sys.path.append(sys.path.pop(0))  # this file has the tool's own name

import argparse  # noqa: E402
from pathlib import Path  # noqa: E402

import lazyslide  # noqa: E402
import torch  # noqa: E402
from densenet import MEAN, MPP, PX, STD, densenet, tell  # noqa: E402
from torch import Tensor, nn  # noqa: E402
from torchvision.transforms import v2  # noqa: E402
from wsidata import open_wsi  # noqa: E402


class Tumour:
    """A network in the shape that `tile_prediction` takes."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model

    def to(self, device: str) -> None:
        self.model.to(device)

    def get_transform(self) -> v2.Compose:
        return v2.Compose([v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(MEAN, STD)])

    def predict(self, images: Tensor) -> dict[str, list[float]]:
        return {"tumour": torch.sigmoid(self.model(images))[:, 0].tolist()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("slide", "weights", "out"):
        parser.add_argument(name, type=Path)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--bfloat16", action="store_true")
    asked = parser.parse_args()
    began = time.perf_counter()
    asked.out.mkdir(parents=True)
    wsi = open_wsi(asked.slide, store=str(asked.out / "slide.zarr"))
    lazyslide.pp.find_tissues(wsi)
    lazyslide.pp.tile_tissues(wsi, PX, mpp=MPP)
    model = Tumour(densenet(asked.weights))
    lazyslide.tl.tile_prediction(
        wsi, model, batch_size=asked.batch, num_workers=asked.workers, device="cpu", pbar=False,
        **({"amp": True, "autocast_dtype": torch.bfloat16} if asked.bfloat16 else {}),
    )  # fmt: skip
    wsi.write()
    tell(len(wsi.shapes["tiles"]), began, STARTED)


if __name__ == "__main__":
    main()
