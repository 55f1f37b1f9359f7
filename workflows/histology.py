"""Tumour in tiles of lung (LC25000) and of lymph node (CAMELYON16), and what pre-training on the one gives the other.

    python workflows/histology.py lung --out runs/lung              # the model in the box: three classes, DenseNet-121
    python workflows/histology.py transfer --out runs/transfer      # CAMELYON16, a slide left out at a time

`transfer` first trains a small network on LC25000, then on CAMELYON16's few tiles four ways: from random weights,
and from LC25000's with all layers trained, with the early ones frozen, and with the head alone.
"""

import argparse

from folds import call, cross_validate, options, set_all

SMALL = ["data.px=128", "model.arch=densenet_small", "model.weights=none", "optimiser.rate=0.002"]
CAMELYON = [
    "data.options.kind=histology",
    "data.options.positive=[tumor]",
    "data.options.patient_pattern='(tumor_[0-9]+)_'",  # files are named slide_x_y, of both classes
    "stop.metric=loss",
    "run.batch=16",
    "optimiser.rate=0.0005",
    "stop.patience=30",
]
WAYS = {
    "random": [],
    "all": ["model.weights={pretrained}", "data.normalise=auto"],
    "late": ["model.weights={pretrained}", "model.freeze=denseblock3"],
    "head": ["model.weights={pretrained}", "model.freeze=head"],
}


def lung(chosen: argparse.Namespace) -> None:
    """Train, judge on groups of duplicates that training has not seen, and export as the model in the box."""
    run = chosen.out / "lung"
    knobs = ["data.options.mpp=0.5", f"stop.epochs={chosen.epochs}", "run.batch=16", *chosen.knobs]
    call("train", "--config", "configs/lung_lc25000.yaml", "--data", chosen.data / "lc25000_lung", "--out", run,
         "--resume", "--device", chosen.device, *set_all(knobs))  # fmt: skip
    call("evaluate", "--checkpoint", run, "--data", chosen.data / "lc25000_lung", "--out", chosen.out / "report")


def transfer(chosen: argparse.Namespace) -> None:
    """The same 89 tiles of four slides, four ways."""
    pretrained = chosen.out / "lc25000"
    knobs = [*SMALL, f"stop.epochs={chosen.epochs}"]
    call("train", "--config", "configs/lung_lc25000.yaml", "--data", chosen.data / "lc25000_lung", "--out", pretrained,
         "--resume", "--device", chosen.device, *set_all([*knobs, *chosen.knobs]))  # fmt: skip
    for way, more in WAYS.items():
        print(f"\n== CAMELYON16, {way} ==")
        own = [knob.format(pretrained=pretrained.absolute()) for knob in more]
        cross_validate(
            "configs/folder.yaml", chosen.data / "camelyon16_256", chosen.out / way, folds=chosen.folds,
            knobs=[*SMALL, *CAMELYON, f"stop.epochs={2 * chosen.epochs}", *own, *chosen.knobs],
            device=chosen.device, judge=["--exclusive"],
        )  # fmt: skip


if __name__ == "__main__":
    parsed = options(__doc__ or "", data="histology", folds=4, epochs=12, what=("lung", "transfer"))
    {"lung": lung, "transfer": transfer}[parsed.what](parsed)
