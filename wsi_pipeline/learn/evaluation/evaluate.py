"""Labels and probabilities -> an Evaluation: figures with intervals for each label, their mean and subgroups.

The interval quoted is of a bootstrap by patient: images of one patient are alike, and a bootstrap by image
is up to 40 % too narrow. DeLong's and Wilson's, which count images as independent, stand beside it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from wsi_pipeline.errors import ConfigError
from wsi_pipeline.learn.evaluation.figures import Confusion, Estimate, Evaluation, LabelResult, Subgroup, estimate
from wsi_pipeline.learn.evaluation.formulas import at_ends, counts_at, shares_by_formula
from wsi_pipeline.learn.evaluation.intervals import bootstrap_ranked, bootstrap_totals, wilson
from wsi_pipeline.learn.evaluation.metrics import grade_of
from wsi_pipeline.learn.evaluation.subgroups import subgroups_of
from wsi_pipeline.learn.evaluation.sums import (
    BINARY,
    CALLED,
    binary_rows,
    binary_statistics,
    confusion_rows,
    confusion_statistics,
    mean_of_known,
)

FEW_PATIENTS = 10  # below, the percentiles of a bootstrap mean little
ONE_CLASS = "not defined: only one class"
NO_PATIENTS = (
    "No patients are named: intervals are by image. Where a patient has several images, which are alike, "
    "they are too narrow, by up to 40 %."
)
_BEFORE = ("brier", "ece")
Figures = dict[str, Estimate]


@dataclass(frozen=True, eq=False)
class _Plan:
    """How the figures of C classes are made; prevalence (C,) is NaN where none was stated."""

    names: tuple[str, ...]
    thresholds: np.ndarray
    prevalence: np.ndarray
    level: float
    rounds: int
    seed: int

    @property
    def draw(self) -> dict[str, float]:
        return {"rounds": self.rounds, "level": self.level, "seed": self.seed}


def evaluate(
    labels: np.ndarray,
    probs: np.ndarray,
    *,
    class_names: Sequence[str],
    patients: np.ndarray | None = None,
    thresholds: Sequence[float] | None = None,
    exclusive: bool = False,
    ordinal: bool = False,
    level: float = 0.95,
    rounds: int = 1000,
    seed: int = 0,
    columns: pd.DataFrame | None = None,
    by: Sequence[str] = (),
    raw: np.ndarray | None = None,
    prevalence: Sequence[float] | None = None,
) -> Evaluation:
    """Judge probabilities (N, C) in 0-1 against labels (N, C) of 1, 0 and NaN (unknown).

    Args:
        patients: (N,) ids of what is resampled as one; None takes each image for itself, with a warning.
        thresholds: (C,), positive is p >= threshold; 0.5 by default.
        exclusive: each row has one class, and is called by the largest of its `probs`.
        ordinal: the classes are grade >= 1 ... grade >= C, read back as a grade.
        columns, by: N rows of facts, and which of them part the images into subgroups.
        raw: (N, C) probabilities before calibration, so before a prior is undone. Exclusive classes are also called
            by these, as validation during training does: balanced_accuracy_before_calibration.
        prevalence: (C,), to state the PPV at; NaN for none.

    Raises ConfigError where shapes do not agree or a value is out of range. A probability of NaN is left out
    of its label's figures, and counted in a warning. The same seed gives the same intervals.
    """
    y, p = _checked(labels, probs, class_names)
    plan = _plan(class_names, thresholds, prevalence, level=level, rounds=rounds, seed=seed)
    groups = np.arange(len(y)) if patients is None else np.asarray(patients).astype(str)
    if len(groups) != len(y):
        raise ConfigError(f"patients: got {len(groups)} for {len(y)} images; give one an image")
    lacking = int((~np.isnan(y) & np.isnan(p)).any(axis=1).sum())
    y = np.where(np.isnan(p), np.nan, y)
    raw = None if raw is None else np.asarray(raw)
    results, mean = _measured(y, p, groups, plan=plan, raw=raw)
    whole, confusion = (
        _called(y, p, groups, plan=plan, ordinal=ordinal, raw=raw) if exclusive or ordinal else ({}, None)
    )
    by_patient = patients is not None
    return Evaluation(
        class_names=plan.names,
        exclusive=exclusive,
        ordinal=ordinal,
        images=len(y),
        patients=len(np.unique(groups)),
        by_patient=by_patient,
        level=level,
        rounds=rounds,
        seed=seed,
        labels=results,
        mean=mean,
        whole=whole,
        confusion=confusion,
        subgroups=tuple(
            Subgroup(column, value, len(rows), len(np.unique(groups[rows])),
                     *_measured(y[rows], p[rows], groups[rows], plan=plan))
            for column, value, rows in subgroups_of(columns, by)
        ),
        warnings=tuple(_warnings(results, groups, by_patient=by_patient, lacking=lacking)),
    )  # fmt: skip


def _checked(labels: np.ndarray, probs: np.ndarray, names: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    y, p = np.asarray(labels, np.float64), np.asarray(probs)
    p = p if np.issubdtype(p.dtype, np.floating) else p.astype(np.float64)
    if y.ndim != 2 or y.shape != p.shape or y.shape[1] != len(names):
        raise ConfigError(f"labels {y.shape}, probabilities {p.shape} for {len(names)} classes; give both as (N, C)")
    if not y.size:
        raise ConfigError(f"evaluate: got {len(y)} images of {len(names)} classes; give at least one of each")
    wrong = ~(np.isnan(y) | (y == 0) | (y == 1))
    if wrong.any():
        raise ConfigError(f"labels: got {np.unique(y[wrong])[:3].tolist()}; give 1, 0 or NaN (unknown)")
    if ((p < 0) | (p > 1)).any():
        raise ConfigError(f"probabilities: got {np.nanmin(p):g} to {np.nanmax(p):g}, logits? Give values of 0 to 1")
    return y, p


def _plan(
    names: Sequence[str],
    thresholds: Sequence[float] | None,
    prevalence: Sequence[float] | None,
    *,
    level: float,
    rounds: int,
    seed: int,
) -> _Plan:
    cut = np.asarray([0.5] * len(names) if thresholds is None else thresholds, np.float64)
    stated = np.asarray([np.nan] * len(names) if prevalence is None else prevalence, np.float64)
    for name, values in (("thresholds", cut), ("prevalence", stated)):
        if values.shape != (len(names),) or ((values < 0) | (values > 1)).any():
            raise ConfigError(f"{name}: got {values.tolist()}; give {len(names)} values of 0 to 1, one a class")
    if rounds < 2:
        raise ConfigError(f"rounds: got {rounds}; give at least 2, better 1000")
    return _Plan(tuple(names), cut, stated, level, rounds, seed)


def _measured(
    labels: np.ndarray, probs: np.ndarray, groups: np.ndarray, *, plan: _Plan, raw: np.ndarray | None = None
) -> tuple[tuple[LabelResult, ...], Figures]:
    """Each label's figures, and the means over labels."""
    columns = [*_ranked(labels, probs, groups, plan), *_summed(labels, probs, groups, plan)]
    names, classes = ("auroc", "average_precision", *BINARY), range(len(plan.names))
    figures = [dict(zip(names, (column[c] for column in columns), strict=True)) for c in (*classes, -1)]
    before: list[Figures] = [{} for _ in figures]
    if raw is not None:
        plain = dict(zip(BINARY, _summed(labels, np.where(np.isnan(probs), np.nan, raw), groups, plan), strict=True))
        before = [{name: plain[name][c] for name in _BEFORE} for c in (*classes, -1)]
    results = tuple(
        _label(labels[:, c], probs[:, c], groups, plan=plan, c=c, figures=figures[c], before=before[c]) for c in classes
    )
    del figures[-1]["ppv_stated"]
    if len(results) == 1:
        figures[-1] = {name: results[0].figures[name] for name in figures[-1]}
    return results, figures[-1] | {f"{name}_before": found for name, found in before[-1].items()}


def _ranked(labels: np.ndarray, probs: np.ndarray, groups: np.ndarray, plan: _Plan) -> list[list[Estimate]]:
    """AUROC and average precision, each as C estimates and their mean."""
    scores = np.where(np.isnan(probs), 0, probs)  # their labels are NaN
    found = bootstrap_ranked(labels, scores, groups, **plan.draw)  # type: ignore[arg-type]
    pairs = (found.auroc, found.mean_auroc), (found.average_precision, found.mean_average_precision)
    return [[estimate(*row) for row in (*by_class, mean)] for by_class, mean in pairs]


def _summed(labels: np.ndarray, probs: np.ndarray, groups: np.ndarray, plan: _Plan) -> list[list[Estimate]]:
    """The figures of BINARY, each as C estimates and their mean."""
    rows = binary_rows(labels, probs, plan.thresholds)
    shape = rows.shape[1:]

    def statistic(sums: np.ndarray) -> np.ndarray:
        found = binary_statistics(sums.reshape(len(sums), *shape), plan.prevalence)
        return _recentred(np.concatenate([found, mean_of_known(found, axis=1)[:, None]], axis=1))

    parts = bootstrap_totals(statistic, rows.reshape(len(rows), -1), groups, **plan.draw)  # type: ignore[arg-type]
    table = np.stack(parts, axis=-1)  # (C + 1, figures, 3)
    return [[estimate(*row) for row in table[:, k]] for k in range(table.shape[1])]


def _recentred(found: np.ndarray) -> np.ndarray:
    """Rounds (R, C + 1, figures), row 0 the sample, with the calibration errors moved so that their median is its own.

    A sample's noise adds to its calibration error, and each round adds as much again: on small sets the plain
    percentiles would lie above the value itself.
    """
    k = BINARY.index("ece")
    errors = found[1:, :, k]
    shift = np.median(np.nan_to_num(errors), axis=0) - np.nan_to_num(found[0, :, k])
    found[1:, :, k] = np.maximum(errors - shift, 0)
    return found


def _label(
    labels: np.ndarray, probs: np.ndarray, groups: np.ndarray, *, plan: _Plan, c: int, figures: Figures, before: Figures
) -> LabelResult:
    counts = tp, fp, fn, tn = counts_at(labels, probs, plan.thresholds[c])
    by_formula = shares_by_formula(labels, probs, counts, level=plan.level)
    certain = at_ends(labels, probs, groups, plan.thresholds[c], figures, level=plan.level)
    stated = float(plan.prevalence[c])
    figures = {name: found for name, found in figures.items() if name != "ppv_stated" or not np.isnan(stated)}
    return LabelResult(
        name=plan.names[c],
        threshold=float(plan.thresholds[c]),
        positives=tp + fn,
        negatives=fp + tn,
        unknown=int(np.isnan(labels).sum()),
        positive_patients=len(np.unique(groups[labels == 1])),
        negative_patients=len(np.unique(groups[labels == 0])),
        counts=counts,
        figures=figures | certain,
        by_formula=by_formula,
        before=before,
        prevalence=None if np.isnan(stated) else stated,
        note="" if tp + fn and fp + tn else ONE_CLASS,
    )


def _called(
    labels: np.ndarray, probs: np.ndarray, groups: np.ndarray, *, plan: _Plan, ordinal: bool, raw: np.ndarray | None
) -> tuple[Figures, Confusion]:
    """What the images were called as wholes, by largest probability or as a grade: figures, confusion matrix."""
    known = ~np.isnan(labels).any(axis=1)
    y, p = labels[known], probs[known]
    if ordinal:
        truth, called = y.sum(axis=1).astype(np.intp), grade_of(p, plan.thresholds)
        words = tuple(f"grade {grade}" for grade in range(len(plan.names) + 1))
    else:
        truth, called, words = y.argmax(axis=1), p.argmax(axis=1), plan.names
    if not known.any():
        return {}, Confusion(words, ((0,) * len(words),) * len(words))
    rows = confusion_rows(truth, called, len(words))
    figures = _of_calls(rows, groups[known], plan)
    if not ordinal:
        del figures["quadratic_kappa"]
    if raw is not None and not ordinal:
        before = _of_calls(confusion_rows(truth, raw[known].argmax(axis=1), len(words)), groups[known], plan)
        figures["balanced_accuracy_before_calibration"] = before["balanced_accuracy"]
    table = rows.sum(axis=0).astype(int).reshape(len(words), -1).tolist()
    return figures, Confusion(words, tuple(map(tuple, table)))


def _of_calls(rows: np.ndarray, groups: np.ndarray, plan: _Plan) -> Figures:
    """The figures of CALLED, of the `confusion_rows` of images."""
    parts = bootstrap_totals(confusion_statistics, rows, groups, **plan.draw)  # type: ignore[arg-type]
    found = {name: estimate(*row) for name, row in zip(CALLED, np.stack(parts, axis=-1), strict=True)}
    if found["accuracy"].at_end:
        right, patients = found["accuracy"].value, len(np.unique(groups))
        found["accuracy"] = Estimate(right, *wilson(right * patients, patients, plan.level))
    return found


def _warnings(results: Sequence[LabelResult], groups: np.ndarray, *, by_patient: bool, lacking: int) -> list[str]:
    """What must be read before the figures."""
    found = [] if by_patient else [NO_PATIENTS]
    units, what = len(np.unique(groups)), "patients" if by_patient else "images"
    if units < FEW_PATIENTS:
        counted = f"{units} {what if units > 1 else what[:-1]}"
        found.append(f"Only {counted}: intervals from so few say little, and are too narrow.")
    if one := [result.name for result in results if result.note]:
        found.append(f"{_listed(one)}: {ONE_CLASS}; left out of the means.")
    fewest = {result.name: min(result.positive_patients, result.negative_patients) for result in results}
    few = [
        f"{result.name} ({fewest[result.name]})"
        for result in results
        if not result.note and fewest[result.name] < FEW_PATIENTS <= units
    ]
    if few:
        found.append(f"Fewer than {FEW_PATIENTS} {what} with one of the two labels: {_listed(few)}; "
                     f"read these intervals with care.")  # fmt: skip
    if lacking:
        found.append(f"{lacking:,} of {len(groups):,} images lack a prediction and are left out of the figures.")
    return found


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:20]) + (f" and {len(names) - 20} more" if len(names) > 20 else "")
