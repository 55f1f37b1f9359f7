"""Moles and their like on HAM10000: seven diagnoses, cross-validation by lesion, from random weights.

    python workflows/skin.py --out runs/skin-cv

Pooled over the folds: balanced accuracy of the seven, and malignant (melanoma, basal cell carcinoma, actinic
keratosis) or not, as the sum of the three. On a GPU use
`--set data.px=224 --set model.arch=densenet121 --set model.weights=imagenet --epochs 40`.
"""

from pathlib import Path

import pandas as pd
from folds import call, cross_validate, options

SMALL = ["data.px=96", "model.arch=densenet_small", "model.weights=none", "optimiser.rate=0.002"]
MALIGNANT = ("mel", "bcc", "akiec")


def judge_malignant(out: Path) -> None:
    """Malignant or not from the seven, judged as a table of one class."""
    for name in ("predictions", "labels"):
        table = pd.read_csv(out / f"{name}.csv", dtype={"image": str, "patient_id": str})
        table["malignant"] = table[list(MALIGNANT)].sum(axis=1).clip(upper=1)
        kept = [column for column in ("image", "patient_id", "malignant", "sex", "age") if column in table]
        table[kept].to_csv(out / f"malignant-{name}.csv", index=False)
    call("evaluate", "--predictions", out / "malignant-predictions.csv", "--labels", out / "malignant-labels.csv",
         "--patient-column", "patient_id", "--classes", "malignant", "--by", "sex", "--only-common",
         "--out", out / "report-malignant")  # fmt: skip


if __name__ == "__main__":
    chosen = options(__doc__ or "", data="skin", folds=4, epochs=30)
    knobs = [*SMALL, f"stop.epochs={chosen.epochs}", "stop.patience=12", *chosen.knobs]
    cross_validate(
        "configs/skin.yaml", chosen.data, chosen.out, folds=chosen.folds, knobs=knobs, device=chosen.device,
        judge=["--exclusive"],
    )  # fmt: skip
    judge_malignant(chosen.out)
