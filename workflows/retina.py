"""Diabetic retinopathy on IDRiD: cross-validation by patient, from random weights, small enough for two cores.

    python workflows/retina.py --out runs/retina-cv

Pooled over the folds: AUROC of grade >= 2 (referable) and quadratic kappa, with intervals. On a GPU use
`--set data.px=512 --set model.arch=densenet121 --set model.weights=imagenet --epochs 40`.
"""

from folds import cross_validate, options

SMALL = ["data.px=160", "data.cache_gib=4", "model.arch=densenet_small", "model.weights=none", "optimiser.rate=0.002"]

if __name__ == "__main__":
    chosen = options(__doc__ or "", data="retina/idrid", folds=5, epochs=30)
    knobs = [*SMALL, f"stop.epochs={chosen.epochs}", "stop.patience=12", *chosen.knobs]
    cross_validate(
        "configs/retina.yaml", chosen.data, chosen.out, folds=chosen.folds, knobs=knobs, device=chosen.device,
        judge=["--ordinal"],
    )  # fmt: skip
