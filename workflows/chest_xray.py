"""ChestX-ray14: fourteen findings, cross-validation by patient, the weighted loss beside the plain one.

    python workflows/chest_xray.py --out runs/xray-cv
    python workflows/chest_xray.py --out runs/xray-plain --set loss.name=plain

Each is pooled over the folds: AUROC of every finding with its interval, calibration before and after. `--compare
runs/xray-plain/predictions.csv` sets the first against the second. On a GPU, with the whole data set and its official
parts, use `python -m wsi_pipeline train --config configs/chest_xray.yaml` as it is.
"""

from folds import cross_validate, options

SMALL = ["data.px=128", "data.cache_gib=4", "model.arch=densenet_small", "model.weights=none", "optimiser.rate=0.002"]

if __name__ == "__main__":
    chosen = options(__doc__ or "", data="xray", folds=4, epochs=25)
    knobs = [*SMALL, f"stop.epochs={chosen.epochs}", "stop.patience=10", *chosen.knobs]
    cross_validate(
        "configs/chest_xray.yaml", chosen.data, chosen.out, folds=chosen.folds, knobs=knobs, device=chosen.device,
        judge=["--by", "view,sex"],
    )  # fmt: skip
