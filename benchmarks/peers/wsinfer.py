"""wsinfer over one slide, by its own python: finds tissue, cuts patches, scores them -> one line of JSON.

`PYTHON wsinfer.py SLIDE WEIGHTS OUT [--batch 32] [--workers N] [--speedup]`; its defaults are those of `wsinfer run`.
Its command line asks the network for a list of models when it is loaded, so its functions are called here.
"""

import sys
import time

STARTED = time.perf_counter()
sys.path.append(sys.path.pop(0))  # this file has the tool's own name

import argparse  # noqa: E402
import os  # noqa: E402
from pathlib import Path  # noqa: E402

import torch  # noqa: E402
from densenet import MEAN, MPP, PX, STD, densenet, tell  # noqa: E402
from wsinfer.modellib.models import LocalModelTorchScript  # noqa: E402
from wsinfer.modellib.run_inference import run_inference  # noqa: E402
from wsinfer.patchlib import segment_and_patch_directory_of_slides  # noqa: E402
from wsinfer_zoo.client import ModelConfiguration  # noqa: E402

TRANSFORM = [
    {"name": "Resize", "arguments": {"size": PX}},
    {"name": "ToTensor"},
    {"name": "Normalize", "arguments": {"mean": MEAN, "std": STD}},
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("slide", "weights", "out"):
        parser.add_argument(name, type=Path)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--workers", type=int, default=min(len(os.sched_getaffinity(0)), 8))
    parser.add_argument("--speedup", action="store_true")
    asked = parser.parse_args()
    network = saved(asked.weights, asked.weights.with_suffix(".script.pt"))
    began = time.perf_counter()
    slides = asked.out / "slides"
    slides.mkdir(parents=True)
    (slides / asked.slide.name).symlink_to(asked.slide.absolute())
    results = asked.out / "results"
    segment_and_patch_directory_of_slides(
        wsi_dir=slides, save_dir=results, patch_size_px=PX, patch_spacing_um_px=MPP, thumbsize=(2048, 2048)
    )
    failed = run_inference(
        slides, results, network,
        batch_size=asked.batch, num_workers=asked.workers, speedup=asked.speedup,
    )  # fmt: skip
    if any(failed):
        raise SystemExit(f"wsinfer failed: {failed}")
    rows = (results / "model-outputs-csv" / asked.slide.with_suffix(".csv").name).read_text().splitlines()
    tell(len(rows) - 1, began, STARTED)


def saved(weights: Path, path: Path) -> LocalModelTorchScript:
    """The network as TorchScript, the one form that wsinfer takes; made by the first run, as its users are given it."""
    if not path.exists():
        torch.jit.script(densenet(weights)).save(str(path))
    known = {
        "spec_version": "1.0", "architecture": "densenet121", "num_classes": 1, "class_names": ["tumour"],
        "patch_size_pixels": PX, "spacing_um_px": MPP, "transform": TRANSFORM,
    }  # fmt: skip
    return LocalModelTorchScript(config=ModelConfiguration.from_dict(known), model_path=str(path))


if __name__ == "__main__":
    main()
