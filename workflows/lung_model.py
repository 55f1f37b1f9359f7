"""The model in the box `lung-lc25000` from a finished training and its report: float16 weights, card, model card.

    python workflows/histology.py lung --out runs/lung
    python workflows/lung_model.py --run runs/lung/lung --report runs/lung/report --data DIR

Beside the network's figures stands what colour alone reaches on the same parts, so nobody takes them for more.
"""

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from folds import ROOT
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from wsi_pipeline.learn.data.labels import LabelledImages
from wsi_pipeline.learn.datasets import open_dataset
from wsi_pipeline.learn.evaluation.metrics import auroc, balanced_accuracy
from wsi_pipeline.learn.model.checkpoint import Checkpoint, load_checkpoint, save_checkpoint

NOTE = "learnt on one set of photographs of lung (LC25000) that colour nearly sorts; not shown to work on any slide"
OPTIONS = {"kind": "histology", "groups": "labels.csv", "positive": ["lung_aca", "lung_scc"]}
MODEL_CARD = """# Model card: lung-lc25000

**Research use only. Not a medical device; not for diagnosis.**

| | |
|---|---|
| What | DenseNet-121 with 3 classes that exclude each other: `lung_aca` (adenocarcinoma), `lung_n` (benign), \
`lung_scc` (squamous cell carcinoma); the two carcinomas count as cancer |
| Input | {input_px} x {input_px} px RGB at {mpp} um/px (see Limits) |
| Output | calibrated probabilities of the three; P(cancer) is the sum of the carcinomas |
| Threshold | {threshold:.3f}; temperature {temperature:.3f} |
| Weights | float16, trained from random weights; id `{id}` |
| Use | `python -m wsi_pipeline run SLIDES --model lung-lc25000 --set tiles.tile_px={input_px}` |

## Data

LC25000 (Borkowski et al. 2019, arXiv 1912.12142), its lung part: {n} images of {groups} groups. The set was made from
few photographs by turning and flipping, so images of one source were grouped, and a group is in one part only:
{train} images trained, {val} chose the epoch, the temperature and the thresholds, {test} were kept for the test.

## Measured on the {test} test images ({test_groups} groups); 95 % intervals resample groups

| figure | this model | colour alone |
|---|---|---|
| balanced accuracy of the three | {balanced} | {colour_balanced:.3f} |
| AUROC of cancer against benign | {benign} | {colour_cancer:.3f} |
{rows}
| expected calibration error, mean of the three | {ece:.3f} | |

"Colour alone" is a logistic regression on the mean and spread of red, green and blue, fitted on the same training
images.

## Limits, in plain words

- Colour alone tells benign from cancer in this set almost without a mistake. A high figure here says little
  about the network, and nothing about other laboratories, scanners or stains.
- Few sources, one laboratory, photographs and not slides. Nothing was measured on a whole slide with known truth.
- The set states no scale. The images are taken as {mpp} um/px because red blood cells, 7 to 8 um wide, are about
  13 px wide in them; that may be off by a fifth, and areas do not depend on it, but what the network sees does.
- Only three kinds of lung tissue. Anything else (other tumours, lymph node, ink, folds) gets one of the three names.
- It is here to show the whole way with a network that learnt from real tissue.

Made by `workflows/histology.py lung` and `workflows/lung_model.py`; {epochs} epochs at most, seed {seed}.
"""


def colours(images: LabelledImages) -> np.ndarray:
    """(N, 6): mean and spread of red, green and blue of each image."""
    pixels = (images.image(row).reshape(-1, 3) for row in range(len(images)))
    return np.array([[*image.mean(axis=0), *image.std(axis=0)] for image in pixels])


def colour_alone(images: LabelledImages, parts: np.ndarray) -> tuple[float, float]:
    """Balanced accuracy of the classes and AUROC of cancer that colour alone reaches on the test part."""
    found, truth = colours(images), images.labels.argmax(axis=1)
    train, test = parts == "train", parts == "test"
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000)).fit(found[train], truth[train])
    probs = model.predict_proba(found[test])
    cancer = [images.class_names.index(name) for name in images.positive]
    return (
        balanced_accuracy(truth[test], probs.argmax(axis=1)),
        auroc(images.labels[test][:, cancer].sum(axis=1), probs[:, cancer].sum(axis=1)),
    )


def say(figure: dict[str, float]) -> str:
    return f"{figure['value']:.3f} ({figure['low']:.3f} to {figure['high']:.3f})"


def model_card(checkpoint: Checkpoint, report: dict[str, Any], colour: tuple[float, float]) -> str:
    """The README beside the weights."""
    labels, images = report["labels"], checkpoint.about["data"]["images"]
    training = checkpoint.about["training"]
    rows = [f"| AUROC of {label['name']} against the rest | {say(label['figures']['auroc'])} | |" for label in labels]
    return MODEL_CARD.format(
        input_px=checkpoint.input_px,
        mpp=checkpoint.mpp,
        threshold=checkpoint.threshold,
        temperature=checkpoint.temperature,
        id=checkpoint.id,
        n=sum(images.values()),
        groups=checkpoint.about["data"]["patients"],
        **images,
        test_groups=report["patients"],
        balanced=say(report["whole"]["balanced_accuracy"]),
        benign=say(next(label for label in labels if label["name"] == "lung_n")["figures"]["auroc"]),
        colour_balanced=colour[0],
        colour_cancer=colour[1],
        rows="\n".join(rows),
        ece=float(np.mean([label["figures"]["ece"]["value"] for label in labels])),
        epochs=training["stop"]["epochs"],
        seed=training["run"]["seed"],
    )


def main() -> None:
    """Round the weights to float16, write them with card and model card."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, required=True, help="folder of the training")
    parser.add_argument("--report", type=Path, required=True, help="folder that `evaluate` wrote for its test part")
    parser.add_argument("--data", type=Path, required=True, help="folder of LC25000's lung images")
    parser.add_argument("--out", type=Path, default=ROOT / "models" / "lung-lc25000")
    chosen = parser.parse_args()
    report = json.loads((chosen.report / "evaluation.json").read_text(encoding="utf-8"))
    checkpoint = load_checkpoint(chosen.run)
    images = open_dataset("folder", chosen.data, **OPTIONS)
    split = pd.read_csv(chosen.run / "split.csv", dtype=str, keep_default_na=False).set_index("id")["part"]
    colour = colour_alone(images, split.loc[images.ids].to_numpy())
    measured = {"whole": report["whole"], "colour_alone": {"balanced_accuracy": colour[0], "auroc_cancer": colour[1]}}
    about = {**checkpoint.about, "measured": measured}
    saved = save_checkpoint(replace(checkpoint, note=NOTE, about=about), chosen.out, half=True)
    (chosen.out / "README.md").write_text(model_card(saved, report, colour), encoding="utf-8")
    print(f"{chosen.out}: {saved.id}")


if __name__ == "__main__":
    main()
