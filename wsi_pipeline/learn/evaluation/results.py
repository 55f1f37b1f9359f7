"""evaluation.json, evaluation.csv and predictions.csv from an Evaluation; each is written whole or not at all."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import pandas as pd

from wsi_pipeline.errors import StoreError
from wsi_pipeline.learn.evaluation.compare import Comparison
from wsi_pipeline.learn.evaluation.figures import Estimate, Evaluation, LabelResult, plain

FIGURES = ("auroc", "average_precision", "sensitivity", "specificity", "ppv", "npv", "f1", "brier", "ece")
_FORMULAS = {"auroc": "delong", "sensitivity": "wilson", "specificity": "wilson", "ppv": "wilson", "npv": "wilson"}


def write_json(
    path: Path, evaluation: Evaluation, *, facts: Mapping[str, Any], comparison: Comparison | None = None
) -> None:
    """All figures, with `facts` of how they came about; what is not defined is null."""
    found = {"use": "Research use only. Not for diagnosis.", "facts": plain(dict(facts)), **plain(evaluation)}
    if comparison is not None:
        found["comparison"] = plain(comparison)
    replace_bytes(path, json.dumps(found, indent=1, ensure_ascii=False, allow_nan=False).encode() + b"\n")


def write_csv(path: Path, evaluation: Evaluation) -> None:
    """A row a label, then a row of means; X_low and X_high are of the bootstrap by patient, the one to quote."""
    rows = [_row(label) for label in evaluation.labels]
    means = {name: f"{name}_calibration" if name.endswith("_before") else name for name in evaluation.mean}
    rows.append({"label": "mean"} | _spans(evaluation.mean, means))
    table = pd.DataFrame(rows)
    whole = [name for name, value in rows[0].items() if isinstance(value, int)]
    table[whole] = table[whole].astype("Int64")  # beside the means, which have none, they would be rounded, too
    replace_bytes(path, table.to_csv(index=False, float_format="%.6g").encode())


def write_predictions(
    path: Path, ids: np.ndarray, patients: np.ndarray | None, probs: np.ndarray, names: tuple[str, ...]
) -> None:
    """image, patient_id where it is known, and a column of probabilities for each class; `evaluate` reads it back."""
    table = pd.DataFrame({"image": ids} if patients is None else {"image": ids, "patient_id": patients})
    columns = pd.DataFrame(probs, columns=list(names))
    replace_bytes(path, pd.concat([table, columns], axis=1).to_csv(index=False).encode())


def replace_bytes(path: Path, data: bytes) -> None:
    """Write a file whole; StoreError when the disk refuses, and what was there before is kept."""
    partial = path.with_name(f".{uuid4().hex}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_bytes(data)
        partial.replace(path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise StoreError(f"{path}: not written ({error.strerror}); free the disk, or name another folder") from None


def _row(label: LabelResult) -> dict[str, Any]:
    tp, fp, fn, tn = label.counts
    counts = {
        "label": label.name,
        "positives": label.positives,
        "negatives": label.negatives,
        "unknown": label.unknown,
        "positive_patients": label.positive_patients,
        "negative_patients": label.negative_patients,
        "threshold": repr(label.threshold),  # whole: rounded, it may lie beyond the images that it was set between
        "true_positive": tp,
        "false_positive": fp,
        "false_negative": fn,
        "true_negative": tn,
    }
    formula = _spans(label.by_formula, {name: f"{name}_{by}" for name, by in _FORMULAS.items()})
    stated = {} if label.prevalence is None else {"stated_prevalence": label.prevalence}
    stated |= _spans(label.figures, {"ppv_stated": "ppv_at_stated_prevalence"})
    before = _spans(label.before, {name: f"{name}_before_calibration" for name in label.before})
    figures = _spans(label.figures, {name: name for name in FIGURES})
    return counts | figures | formula | before | stated | {"note": label.note}


def _spans(figures: Mapping[str, Estimate], names: Mapping[str, str]) -> dict[str, float]:
    """Three columns for each figure that there is: value, low, high."""
    found: dict[str, float] = {}
    for name, column in names.items():
        if name in figures:
            estimate = figures[name]
            found |= {column: estimate.value, f"{column}_low": estimate.low, f"{column}_high": estimate.high}
    return found
