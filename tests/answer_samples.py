"""Small sets of labels and probabilities for tests of evaluation."""

import numpy as np
import pandas as pd

from wsi_pipeline.learn.evaluation.evaluate import evaluate
from wsi_pipeline.learn.evaluation.figures import Evaluation

NAMES = ("mass", "edema")


def some_answers(n: int = 60, *, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(labels (n, 2), probabilities (n, 2) that rank them well but not perfectly, patients of two images each)."""
    rng = np.random.default_rng(seed)
    labels = (rng.random((n, 2)) < 0.4).astype(float)
    probs = 1 / (1 + np.exp(-(2 * labels - 1 + rng.normal(0, 1.2, (n, 2)))))
    return labels, probs, np.array([f"p{k // 2}" for k in range(n)])


def an_evaluation(**options: object) -> Evaluation:
    labels, probs, patients = some_answers()
    return evaluate(labels, probs, **({"class_names": NAMES, "patients": patients, "rounds": 50} | options))  # type: ignore[arg-type]


def write_tables(folder, *, n: int = 60) -> tuple[list[str], pd.DataFrame, pd.DataFrame]:
    """(options of `evaluate`, predictions, labels), both tables written into `folder`."""
    labels, probs, patients = some_answers(n)
    ids = [f"i{k:03d}" for k in range(n)]
    said = pd.DataFrame({"image": ids} | {name: probs[:, c] for c, name in enumerate(NAMES)})
    true = pd.DataFrame({"image": ids, "patient_id": patients, "sex": ["f", "m", "m"] * (n // 3)})
    true = true.assign(**{name: labels[:, c].astype(int) for c, name in enumerate(NAMES)})
    said.to_csv(folder / "preds.csv", index=False)
    true.to_csv(folder / "labels.csv", index=False)
    options = ["--predictions", str(folder / "preds.csv"), "--labels", str(folder / "labels.csv")]
    return [*options, "--rounds", "50", "--out", str(folder / "report")], said, true
