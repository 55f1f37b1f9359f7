"""From what `evaluate` judges to its figures, its files and its words."""

import os
from dataclasses import replace
from datetime import UTC, datetime
from math import isnan
from pathlib import Path
from typing import Any

import click
import numpy as np

from wsi_pipeline import __version__
from wsi_pipeline.cli.judged import TABLES, Judged, probs_of_table
from wsi_pipeline.cli.places import make_folder, one_place, refuse_file
from wsi_pipeline.errors import ConfigError
from wsi_pipeline.learn.evaluation.compare import Comparison, compare
from wsi_pipeline.learn.evaluation.evaluate import evaluate
from wsi_pipeline.learn.evaluation.figures import Estimate, Evaluation
from wsi_pipeline.learn.evaluation.mistakes import Mistake, thumbnail, worst_mistakes
from wsi_pipeline.learn.evaluation.page import DASH, Material, say, write_page
from wsi_pipeline.learn.evaluation.results import write_csv, write_json, write_predictions
from wsi_pipeline.learn.evaluation.stated import stated_prevalence, stated_thresholds

NAMES = ("evaluation.html", "evaluation.json", "evaluation.csv", "predictions.csv")
_READ = ("predictions", "labels", "compare", "thresholds", "checkpoint")  # options that may name a file


def check_out(out: str, given: dict[str, Any]) -> None:
    """Make --out. ConfigError where it is no folder, or where a file of the report would replace one that is read for
    it, StoreError where no file can be made in it."""
    refuse_file(out)
    data = given["data"] or ""
    if data and one_place(data, out):
        raise ConfigError(f"--data {data}: is --out too, and the report's tables would lie there; name another --out")
    read = [(f"--{option}", given[option]) for option in _READ if given[option]]
    read += [("--set", os.path.join(data, text.partition("=")[2])) for text in given["overrides"]]  # label tables
    for option, path in read:
        for name in NAMES:
            if one_place(path, Path(out) / name):
                raise ConfigError(f"{option} {path}: the report's own {name} would replace it; name another --out")
    make_folder(out)


def judge(judged: Judged, given: dict[str, Any]) -> tuple[Evaluation, np.ndarray | None, Comparison | None]:
    """The figures, the other model's probabilities and the comparison with it, where there is one."""
    answers, names = judged.answers, judged.answers.class_names
    draw = {"patients": answers.patients, **{name: given[name] for name in ("level", "rounds", "seed")}}
    thresholds = judged.thresholds
    if given["thresholds"]:
        thresholds = stated_thresholds(given["thresholds"], names)
    other, more = _other(judged, given) if given["compare"] else (None, [])
    evaluation = evaluate(
        answers.labels,
        answers.probs,
        class_names=names,
        thresholds=thresholds,  # type: ignore[arg-type]
        exclusive=judged.exclusive,
        ordinal=judged.ordinal,
        columns=answers.columns,
        by=[name.strip() for name in (given["by"] or "").split(",") if name.strip()],
        raw=answers.raw,
        prevalence=stated_prevalence(given["prevalence"], names),  # type: ignore[arg-type]
        **draw,
    )
    evaluation = replace(evaluation, warnings=(*answers.warnings, *more, *evaluation.warnings))
    if other is None:
        return evaluation, None, None
    words = "this model", _name_beside(given["compare"], given["predictions"] or given["checkpoint"])
    compared = compare(answers.labels, answers.probs, other, class_names=names, names=words, **draw)
    return replace(evaluation, warnings=(*evaluation.warnings, *_uncompared(judged, other, words[1]))), other, compared


def report(
    judged: Judged,
    evaluation: Evaluation,
    other: np.ndarray | None,
    comparison: Comparison | None,
    out: Path,
    given: dict[str, Any],
) -> None:
    """Write the four files into `out`, and say on the screen what must be known."""
    answers = judged.answers
    facts = judged.facts | {
        "Thresholds": given["thresholds"] or ("the model's own" if judged.thresholds is not None else "0.5 for all"),
        "Compared with": comparison.other if comparison else None,
        "Version": __version__,
        "Date": datetime.now(UTC).date().isoformat(),
    }
    write_predictions(out / NAMES[3], answers.ids, answers.patients, answers.probs, answers.class_names)
    write_csv(out / NAMES[2], evaluation)
    write_json(out / NAMES[1], evaluation, facts=facts, comparison=comparison)
    material = Material(
        labels=np.where(np.isnan(answers.probs), np.nan, answers.labels),
        probs=answers.probs,
        ids=answers.ids,
        raw=answers.raw,
        other=other,
        mistakes=_mistakes(judged, evaluation, given["mistakes"]),
        facts=facts,
    )
    write_page(out / NAMES[0], evaluation, material, name=judged.name, comparison=comparison)
    for warning in evaluation.warnings:
        click.echo(f"warning: {warning}", err=True)
    click.echo(told(evaluation, comparison))
    click.echo(f"page: {out / NAMES[0]}")


def told(evaluation: Evaluation, comparison: Comparison | None) -> str:
    """The figures of most weight, a line a label."""
    width = max(len(name) for name in (*evaluation.class_names, "mean"))
    counted = f"{evaluation.images:,} images" + (f", {evaluation.patients:,} patients" if evaluation.by_patient else "")
    lines = [f"{counted}; AUROC with its {100 * evaluation.level:g} % interval, positive / negative images"]
    for label in evaluation.labels:
        area = label.figures["auroc"]
        lines.append(f"  {label.name:{width}}  {label.note or _span(area)}  {label.positives:,} / {label.negatives:,}")
    if len(evaluation.labels) > 1:
        lines.append(f"  {'mean':{width}}  {_span(evaluation.mean['auroc'])}")
    for name, found in evaluation.whole.items():
        lines.append(f"{name.replace('_', ' ')}: {_span(found)}")
    if comparison is not None:
        gain, other = comparison.mean.auroc, comparison.other
        value = DASH if isnan(gain.value) else f"{gain.value:+.3f}"
        span = "(no interval)" if isnan(gain.low) else f"({gain.low:+.3f} to {gain.high:+.3f})"
        lines.append(f"mean AUROC minus that of {other}: {value} {span}")
    return "\n".join(lines)


def _span(found: Estimate) -> str:
    return f"{say(found.value)} " + (
        "(no interval)" if isnan(found.low) else f"({say(found.low)} to {say(found.high)})"
    )


def _name_beside(other: str, this: str) -> str:
    """What the other model is called: its file or folder, with the folder above where this one is called alike."""
    parts, mine = (Path(os.path.abspath(where)).parts for where in (other, this))
    return os.path.join(*parts[-2:]) if parts[-1] == mine[-1] else parts[-1]


def _other(judged: Judged, given: dict[str, Any]) -> tuple[np.ndarray, list[str]]:
    """The other model's probabilities (N, C), and what must be said of it."""
    where = str(given["compare"])
    if Path(where).suffix.lower() in TABLES:
        return probs_of_table(where, judged, given), []
    from wsi_pipeline.cli.predicted import probs_of_checkpoint

    return probs_of_checkpoint(where, judged, given)


def _uncompared(judged: Judged, other: np.ndarray, name: str) -> list[str]:
    """A line where the other model says nothing of some labels: the comparison is without them."""
    answers = judged.answers
    mine = ~np.isnan(answers.labels) & ~np.isnan(answers.probs)
    count = int((mine & np.isnan(other)).any(axis=1).sum())
    if not count:
        return []
    return [
        f"{count:,} of {len(mine):,} images lack a prediction of {name} and are left out of the comparison, so its "
        f"AUROCs of this model are not those of all images."
    ]


def _mistakes(judged: Judged, evaluation: Evaluation, count: int) -> list[Mistake]:
    """The worst mistakes, with pictures where the images are at hand."""
    answers, images = judged.answers, judged.images
    found = worst_mistakes(
        answers.labels,
        answers.probs,
        class_names=answers.class_names,
        thresholds=np.array([label.threshold for label in evaluation.labels]),
        exclusive=judged.exclusive,
        count=count,
    )
    if images is None:
        return found
    return [replace(mistake, picture=thumbnail(images.image, mistake.row)) for mistake in found]
