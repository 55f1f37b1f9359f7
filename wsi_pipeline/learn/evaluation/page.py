"""evaluation.html: one offline page of an Evaluation, with plots, tables, mistakes and how to read it all."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from math import isnan
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from wsi_pipeline.learn.evaluation import plots
from wsi_pipeline.learn.evaluation.compare import Compared, Comparison
from wsi_pipeline.learn.evaluation.figures import Confusion, Estimate, Evaluation, LabelResult, Subgroup
from wsi_pipeline.learn.evaluation.mistakes import Mistake
from wsi_pipeline.learn.evaluation.plots import BLUE, ORANGE, Curve
from wsi_pipeline.learn.evaluation.results import replace_bytes

DASH, JOIN = "–", "\N{NO-BREAK SPACE}"
WORDS = {
    "accuracy": "accuracy",
    "balanced_accuracy": "balanced accuracy",
    "balanced_accuracy_before_calibration": "balanced accuracy before calibration",
    "quadratic_kappa": "quadratic weighted kappa",
}
_SHARES = ("sensitivity", "specificity", "ppv", "npv")
_SMALL_P = 0.001


@dataclass(frozen=True)
class Cell:
    """One figure: as shown, its interval below it, a remark on pointing at it, and a background colour."""

    text: str
    below: str = ""
    title: str = ""
    style: str = ""


@dataclass(frozen=True, eq=False)
class Material:
    """What the page draws from: labels and probabilities (N, C), those before calibration and of the other model."""

    labels: np.ndarray
    probs: np.ndarray
    ids: np.ndarray
    raw: np.ndarray | None = None
    other: np.ndarray | None = None
    mistakes: Sequence[Mistake] = ()
    facts: Mapping[str, object] = field(default_factory=dict)


def write_page(
    path: Path, evaluation: Evaluation, material: Material, *, name: str, comparison: Comparison | None = None
) -> None:
    """Write the page, which needs no network and no other file; `name` says what was judged.

    Raises StoreError when the disk refuses.
    """
    template = files(__package__).joinpath("page.html.jinja").read_text(encoding="utf-8")
    page = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    html = page.from_string(template).render(
        name=name,
        evaluation=evaluation,
        level=f"{100 * evaluation.level:g}{JOIN}%",
        unit="patient" if evaluation.by_patient else "image",
        totals=_totals(evaluation),
        facts=[(word, str(value)) for word, value in material.facts.items() if value not in (None, "")],
        ranking=_ranking(evaluation),
        deciding=[_deciding(label) for label in evaluation.labels],
        stated=any(label.prevalence is not None for label in evaluation.labels),
        calibration=_calibration(evaluation),
        calibrated="ece_before" in evaluation.mean,
        cards=[_card(material, evaluation, c) for c in range(len(evaluation.class_names))],
        confusion=evaluation.confusion and _confusion(evaluation.confusion),
        subgroups=_subgroups(evaluation),
        comparison=comparison and _comparison(comparison),
        mistakes=[_mistake(mistake, str(material.ids[mistake.row])) for mistake in material.mistakes],
        dash=DASH,
    )
    replace_bytes(path, html.encode("utf-8", "replace"))


def say(value: float, digits: int = 3) -> str:
    """A number of 0-1 with three decimals; a dash for NaN."""
    return DASH if isnan(value) else f"{value:.{digits}f}"


def say_percent(value: float) -> str:
    """A share of 0-1 in percent."""
    return DASH if isnan(value) else f"{100 * value:.1f}{JOIN}%"


def say_p(p: float) -> str:
    """A p value, from 0.001 on."""
    return DASH if isnan(p) else f"under{JOIN}{_SMALL_P}" if p < _SMALL_P else f"{p:.3f}"


def _number(estimate: Estimate, *, sign: bool = False) -> Cell:
    if isnan(estimate.value):
        return Cell(DASH)
    mark = "+" if sign else ""
    span = "" if isnan(estimate.low) else f"{estimate.low:{mark}.3f} to {estimate.high:{mark}.3f}"
    return Cell(*(text.replace("-", "−") for text in (f"{estimate.value:{mark}.3f}", span)))


def _percent(estimate: Estimate, by_formula: Estimate | None = None) -> Cell:
    if isnan(estimate.value):
        return Cell(DASH)
    span = "" if isnan(estimate.low) else f"{100 * estimate.low:.1f} to {100 * estimate.high:.1f}{JOIN}%"
    wilson = ""
    if by_formula is not None and not isnan(by_formula.low):
        wilson = f"Wilson, by image: {100 * by_formula.low:.1f} to {100 * by_formula.high:.1f} %"
    return Cell(say_percent(estimate.value), span, wilson)


def _totals(evaluation: Evaluation) -> list[tuple[str, Cell]]:
    """What the whole comes to, for the head."""
    found = [("images", Cell(f"{evaluation.images:,}"))]
    if evaluation.by_patient:
        found.append(("patients", Cell(f"{evaluation.patients:,}")))
    several = len(evaluation.labels) > 1
    found.append(("mean AUROC" if several else "AUROC", _number(evaluation.mean["auroc"])))
    found.append(("mean average precision" if several else "average precision",
                  _number(evaluation.mean["average_precision"])))  # fmt: skip
    for name, estimate in evaluation.whole.items():
        found.append((WORDS[name], _number(estimate) if name == "quadratic_kappa" else _percent(estimate)))
    found.append(("mean calibration error" if several else "calibration error", _number(evaluation.mean["ece"])))
    return found


def _ranking(evaluation: Evaluation) -> list[dict[str, Any]]:
    """Rows of the first table, the mean last."""
    lows = [label.figures["auroc"].low for label in evaluation.labels]
    known = [low for low in lows if not isnan(low)]
    low_end = 0.0 if known and min(known) < 0.4 else 0.4
    rows = [_ranked(label, low_end) for label in evaluation.labels]
    if len(rows) > 1:
        mean = evaluation.mean
        rows.append({"name": "Mean", "note": "", "positives": Cell(""), "negatives": Cell(""),
                     "auroc": _number(mean["auroc"]), "line": _line(mean["auroc"], low_end), "delong": "",
                     "precision": _number(mean["average_precision"]), "chance": ""})  # fmt: skip
    return rows


def _ranked(label: LabelResult, low_end: float) -> dict[str, Any]:
    known = label.positives + label.negatives
    unknown = f"{label.unknown:,} unknown" if label.unknown else ""
    delong = label.by_formula["auroc"]
    return {
        "name": label.name,
        "note": label.note,
        "positives": Cell(f"{label.positives:,}", f"{say_percent(label.positives / known)}" if known else ""),
        "negatives": Cell(f"{label.negatives:,}", unknown),
        "auroc": _number(label.figures["auroc"]),
        "line": _line(label.figures["auroc"], low_end),
        "delong": "" if isnan(delong.low) else f"{delong.low:.3f} to {delong.high:.3f}",
        "precision": _number(label.figures["average_precision"]),
        "chance": say(label.positives / known) if known else "",
    }


def _line(estimate: Estimate, low_end: float) -> Markup:
    return Markup(plots.draw_interval(estimate, low_end=low_end, high_end=1.0, middle=0.5))


def _deciding(label: LabelResult) -> dict[str, Any]:
    """A row of the table at the thresholds."""
    tp, fp, fn, tn = label.counts
    counted = ((tp, tp + fn), (tn, tn + fp), (tp, tp + fp), (tn, tn + fn))
    stated = label.figures.get("ppv_stated")
    return {
        "name": label.name,
        "note": label.note,
        "threshold": repr(label.threshold) if 0.9995 <= label.threshold < 1 else f"{label.threshold:.3g}",
        "shares": [
            (_percent(label.figures[name], label.by_formula[name]), f"{k:,} of {n:,}")
            for name, (k, n) in zip(_SHARES, counted, strict=True)
        ],
        "f1": _number(label.figures["f1"]),
        "stated": Cell(DASH) if stated is None else _percent(stated),
        "prevalence": "" if label.prevalence is None else f"at {100 * label.prevalence:g}{JOIN}%",
    }


def _calibration(evaluation: Evaluation) -> list[dict[str, Any]]:
    """Rows of the table of calibration: Brier score and ECE, before and after."""
    rows = [(label.name, label.figures, label.before) for label in evaluation.labels]
    if len(rows) > 1:
        mean = evaluation.mean
        before = {name: mean[f"{name}_before"] for name in ("brier", "ece") if f"{name}_before" in mean}
        rows.append(("Mean", mean, before))
    return [
        {"name": name, "cells": [_number(part.get(figure, Estimate())) for figure in ("ece", "brier")
                                 for part in ((before, now) if "ece_before" in evaluation.mean else (now,))]}
        for name, now, before in rows
    ]  # fmt: skip


def _card(material: Material, evaluation: Evaluation, c: int) -> dict[str, Any]:
    """Three plots of one label; none where there is only one class."""
    label, y, p = evaluation.labels[c], material.labels[:, c], material.probs[:, c]
    head = {"name": label.name, "auroc": _number(label.figures["auroc"]), "note": label.note, "plots": []}
    if label.note:
        return head
    shown = [(p, BLUE, False)] if material.other is None else [(material.other[:, c], ORANGE, True), (p, BLUE, False)]
    both = [_curves(y, scores, colour, dash) for scores, colour, dash in shown if _both(y, scores)]
    found, right = label.figures["sensitivity"].value, label.figures["specificity"].value
    precise = label.figures["ppv"].value
    raw = None if material.raw is None else material.raw[:, c]
    share = label.positives / (label.positives + label.negatives)
    drawn = [
        plots.draw_roc([roc for roc, _ in both], chosen=(1 - right, found), name=label.name),
        plots.draw_precision_recall([pr for _, pr in both], chosen=(found, precise), share=share, name=label.name),
        plots.draw_reliability(y, p, raw=raw, level=evaluation.level, name=label.name),
    ]
    return head | {"plots": [Markup(svg) for svg in drawn]}


def _both(labels: np.ndarray, scores: np.ndarray) -> bool:
    return len(np.unique(labels[~(np.isnan(labels) | np.isnan(scores))])) == 2


def _curves(labels: np.ndarray, scores: np.ndarray, colour: str, dash: bool) -> tuple[Curve, Curve]:
    points = plots.roc_points(labels, scores), plots.precision_recall_points(labels, scores)
    return Curve(points[0], colour, dash), Curve(points[1], colour, dash)


def _confusion(confusion: Confusion) -> dict[str, Any]:
    """Rows of cells, darker with the share of the row's images."""
    rows = []
    for name, counts in zip(confusion.names, confusion.counts, strict=True):
        total = sum(counts)
        shares = [count / total if total else 0.0 for count in counts]
        cells = [
            Cell(f"{count:,}", say_percent(share) if total else "", style=_shade(share))
            for count, share in zip(counts, shares, strict=True)
        ]
        rows.append({"name": name, "total": f"{total:,}", "cells": cells})
    return {"names": confusion.names, "rows": rows}


def _shade(share: float) -> str:
    ink = "#fff" if share > 0.85 else "#1b1f24"
    return f"background: rgba(11, 87, 176, {0.9 * share:.2f}); color: {ink}"


def _subgroups(evaluation: Evaluation) -> list[dict[str, Any]]:
    """A table a column: a row a label, then the mean; a column a value, the whole first."""
    found, by = [], evaluation.by_patient
    for column in dict.fromkeys(part.column for part in evaluation.subgroups):
        parts = [part for part in evaluation.subgroups if part.column == column]
        rows = [
            {"name": label.name, "cells": [_in_subgroup(label), *(_in_subgroup(part.labels[c]) for part in parts)]}
            for c, label in enumerate(evaluation.labels)
        ]
        if len(rows) > 1:
            means = [evaluation.mean, *(part.mean for part in parts)]
            rows.append({"name": "Mean", "cells": [_number(mean["auroc"]) for mean in means]})
        found.append({"column": column, "rows": rows,
                      "heads": [_head("all", evaluation, by), *(_head(p.value, p, by) for p in parts)]})  # fmt: skip
    return found


def _head(value: str, part: Subgroup | Evaluation, by_patient: bool) -> tuple[str, str]:
    return value, f"{part.images:,} images" + (f", {part.patients:,} patients" if by_patient else "")


def _in_subgroup(label: LabelResult) -> Cell:
    """AUROC, its interval, and how many are positive."""
    found = _number(label.figures["auroc"])
    counted = f"{label.positives:,} positive, {label.negatives:,} negative"
    return Cell(found.text, found.below, f"{counted}; {label.note}" if label.note else counted)


def _comparison(comparison: Comparison) -> dict[str, Any]:
    rows: Iterable[Compared] = (*comparison.labels, *([comparison.mean] if len(comparison.labels) > 1 else []))
    return {"this": comparison.this, "other": comparison.other, "rows": [_compared(row) for row in rows]}


def _compared(row: Compared) -> dict[str, Any]:
    formula = row.by_formula
    return {
        "name": row.name.capitalize() if row.name == "mean" else row.name,
        "this": say(row.this_auroc),
        "other": say(row.other_auroc),
        "auroc": _number(row.auroc, sign=True),
        "decided": not isnan(row.auroc.low) and (row.auroc.low > 0 or row.auroc.high < 0),
        "precision": _number(row.average_precision, sign=True),
        "formula": "" if isnan(formula.low) else f"{formula.low:+.3f} to {formula.high:+.3f}".replace("-", "−"),
        "p": say_p(row.p),
        "p_holm": say_p(row.p_holm),
    }


def _mistake(mistake: Mistake, image: str) -> dict[str, str]:
    return {"image": image, "kind": mistake.kind, "true": mistake.true, "said": mistake.said,
            "probability": say(mistake.probability), "picture": mistake.picture}  # fmt: skip
