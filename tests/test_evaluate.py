"""Evaluation against values worked by hand, and against the plain metrics it is a faster form of."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from answer_samples import NAMES, an_evaluation, some_answers

from wsi_pipeline.errors import ConfigError
from wsi_pipeline.learn.evaluation.evaluate import NO_PATIENTS, ONE_CLASS, evaluate
from wsi_pipeline.learn.evaluation.figures import Estimate, plain
from wsi_pipeline.learn.evaluation.intervals import bootstrap, wilson
from wsi_pipeline.learn.evaluation.metrics import (
    auroc,
    average_precision,
    balanced_accuracy,
    brier,
    expected_calibration_error,
    ppv_at,
    quadratic_kappa,
)
from wsi_pipeline.learn.evaluation.results import write_csv, write_json, write_predictions
from wsi_pipeline.learn.model.probabilities import probabilities

NAN = float("nan")


def test_the_fourteen_images_of_the_notes_come_to_their_counts_and_auroc() -> None:
    labels = np.array([1, 1, *[0] * 7, *[1] * 5], float)[:, None]
    probs = np.array([0.8, 0.7, 0.4, 0.3, 0.2, 0.5, 0.6, 0.7, 0.8, 0.1, 0.2, 0.3, 0.4, 0])[:, None]
    found = evaluate(labels, probs, class_names=["x"], rounds=20).labels[0]
    assert found.counts == (2, 4, 5, 3)  # 0.5 itself counts as positive
    assert found.figures["auroc"].value == pytest.approx(0.3367347, abs=1e-6)
    assert found.figures["f1"].value == pytest.approx(2 * 2 / (2 * 2 + 4 + 5))


def test_every_figure_is_that_of_the_plain_metric() -> None:
    labels, probs, _ = some_answers()
    for c, found in enumerate(an_evaluation().labels):
        y, p = labels[:, c], probs[:, c]
        values = {name: estimate.value for name, estimate in found.figures.items()}
        assert values["auroc"] == pytest.approx(auroc(y, p))
        assert values["average_precision"] == pytest.approx(average_precision(y, p))
        assert values["brier"] == pytest.approx(brier(y, p))
        assert values["ece"] == pytest.approx(expected_calibration_error(y, p, 15))
        assert values["sensitivity"] == pytest.approx((p[y == 1] >= 0.5).mean())
        assert values["ppv"] == pytest.approx(y[p >= 0.5].mean())


def test_the_interval_quoted_is_the_bootstrap_by_patient() -> None:
    labels, probs, patients = some_answers()
    found = an_evaluation(rounds=200, seed=3).labels[0].figures
    expected = bootstrap(auroc, labels[:, 0], probs[:, 0], patients, rounds=200, level=0.95, seed=3)
    assert (found["auroc"].low, found["auroc"].high) == pytest.approx(expected[1:])

    def sensitivity(y: np.ndarray, p: np.ndarray) -> float:
        return float((p[y == 1] >= 0.5).mean())

    expected = bootstrap(sensitivity, labels[:, 0], probs[:, 0], patients, rounds=200, level=0.95, seed=3)
    assert (found["sensitivity"].low, found["sensitivity"].high) == pytest.approx(expected[1:])


def test_images_that_are_copies_of_each_other_widen_the_interval_by_patient_alone() -> None:
    labels, probs, patients = (np.repeat(values, 4, axis=0) for values in some_answers())
    by_patient = evaluate(labels, probs, class_names=NAMES, patients=patients, rounds=200).mean["auroc"]
    by_image = evaluate(labels, probs, class_names=NAMES, rounds=200).mean["auroc"]
    assert by_patient.value == by_image.value
    assert by_patient.high - by_patient.low > 1.5 * (by_image.high - by_image.low)  # 2 for four copies of each


def test_shares_have_wilsons_interval_beside_the_bootstrap() -> None:
    found = an_evaluation().labels[0]
    tp, _, fn, _ = found.counts
    formula = found.by_formula["sensitivity"]
    assert (formula.low, formula.high) == wilson(tp, tp + fn, 0.95)


def test_a_share_of_exactly_one_has_wilsons_interval_as_its_own() -> None:
    labels = np.array([[1.0]] * 8 + [[0.0]] * 8)
    found = evaluate(labels, labels, class_names=["x"], rounds=20).labels[0].figures
    assert found["sensitivity"] == Estimate(1.0, *wilson(8, 8, 0.95))
    low = wilson(8, 8, 0.95)[0]  # of hits among hits, misses and false alarms; F1 = 2 J / (1 + J)
    assert found["f1"].low == pytest.approx(2 * low / (1 + low)) and found["f1"].high == 1.0


def test_what_is_perfect_has_an_interval_by_formula_or_none() -> None:
    labels = np.eye(2)[np.arange(24) % 2]
    probs = np.where(labels == 1, 0.6, 0.3) + np.arange(24)[:, None] / 2400
    right = evaluate(labels, probs, class_names="ab", exclusive=True, rounds=50)
    for label in right.labels:
        assert label.figures["auroc"] == label.by_formula["auroc"] == Estimate(1.0, *wilson(12, 12, 0.95))
        assert str(label.figures["average_precision"]) == str(Estimate(1.0))
    assert right.whole["accuracy"] == Estimate(1.0, *wilson(24, 24, 0.95))
    for found in (right.mean["auroc"], right.mean["average_precision"], right.whole["balanced_accuracy"]):
        assert str(found) == str(Estimate(1.0))  # NaN is not equal to itself
    wrong = evaluate(labels, 1 - probs, class_names="ab", exclusive=True, rounds=50)
    assert wrong.labels[0].figures["auroc"] == Estimate(0.0, *wilson(0, 12, 0.95))
    assert wrong.whole["accuracy"] == Estimate(0.0, *wilson(0, 24, 0.95))


def test_what_is_perfect_counts_patients_not_their_images() -> None:
    labels = np.eye(2)[np.arange(240) % 2]
    patients = np.arange(240) % 12  # the even ones have the first class, the odd ones the second
    found = evaluate(labels, labels * 0.8 + 0.1, class_names="ab", exclusive=True, patients=patients, rounds=50)
    low = wilson(6, 6, 0.95)[0]
    for name in ("auroc", "sensitivity", "specificity", "ppv", "npv"):
        assert found.labels[0].figures[name] == Estimate(1.0, low, 1.0)
    assert found.labels[0].figures["f1"] == Estimate(1.0, 2 * low / (1 + low), 1.0)
    assert found.whole["accuracy"] == Estimate(1.0, *wilson(12, 12, 0.95))
    assert found.labels[0].by_formula["sensitivity"] == Estimate(1.0, *wilson(120, 120, 0.95))


def test_perfect_grades_have_a_kappa_without_an_interval() -> None:
    labels = (np.arange(24)[:, None] % 3 >= [1, 2]) * 1.0
    found = evaluate(labels, labels * 0.8 + 0.1, class_names="ab", ordinal=True, rounds=50).whole
    assert str(found["quadratic_kappa"]) == str(Estimate(1.0)) and found["accuracy"].low < 1


def test_the_mean_of_one_label_is_that_label() -> None:
    labels = np.array([[1.0]] * 8 + [[0.0]] * 8)
    found = evaluate(labels, labels, class_names=["x"], rounds=20)
    assert found.mean["auroc"] == found.labels[0].figures["auroc"] == Estimate(1.0, *wilson(8, 8, 0.95))
    assert found.mean["f1"] == found.labels[0].figures["f1"]


def test_one_class_only_is_not_defined_named_and_left_out_of_the_mean() -> None:
    labels, probs, patients = some_answers()
    labels[:, 1] = 0
    found = an_evaluation(), evaluate(labels, probs, class_names=NAMES, patients=patients, rounds=50)
    lone = found[1].labels[1]
    assert lone.note == ONE_CLASS and np.isnan(lone.figures["auroc"].value) and np.isnan(lone.figures["ppv"].value)
    assert lone.figures["specificity"].value == pytest.approx((probs[:, 1] < 0.5).mean())
    assert found[1].mean["auroc"].value == found[0].labels[0].figures["auroc"].value
    assert any("edema: not defined" in warning for warning in found[1].warnings)


def test_unknown_labels_and_missing_predictions_are_left_out_and_counted() -> None:
    labels, probs, patients = some_answers()
    labels[0, 0], probs[1] = NAN, NAN
    found = evaluate(labels, probs, class_names=NAMES, patients=patients, rounds=50)
    known = np.arange(2, 60)
    assert found.labels[0].figures["auroc"].value == pytest.approx(auroc(labels[known, 0], probs[known, 0]))
    assert (found.labels[0].unknown, found.labels[1].unknown) == (2, 1)
    assert any("1 of 60 images lack a prediction" in warning for warning in found.warnings)


def test_a_float32_probability_that_prints_as_the_threshold_is_positive() -> None:
    probs = np.array([[0.7], [0.2], [0.7], [0.1]], np.float32)
    found = evaluate(np.array([[1], [0], [0], [1]]), probs, class_names=["x"], thresholds=[0.7], rounds=10)
    assert found.labels[0].counts == (1, 1, 1, 1)


def test_exclusive_classes_are_called_by_the_largest_probability() -> None:
    labels = np.eye(3)[[0, 0, 1, 1, 2, 2]]
    probs = np.array([[5, 3, 2], [2, 5, 3], [1, 8, 1], [1, 6, 3], [4, 3, 3], [0, 1, 9]]) / 10
    found = evaluate(labels, probs, class_names="abc", exclusive=True, rounds=20)
    assert found.confusion is not None and found.confusion.counts == ((1, 1, 0), (0, 2, 0), (1, 0, 1))
    assert found.whole["accuracy"].value == pytest.approx(4 / 6)
    expected = balanced_accuracy([0, 0, 1, 1, 2, 2], [0, 1, 1, 1, 0, 2])
    assert found.whole["balanced_accuracy"].value == pytest.approx(expected)


def test_exclusive_classes_are_also_called_before_the_prior_is_undone() -> None:
    labels = np.eye(2)[[0, 0, 0, 1] * 3]
    raw = np.array([[0.6, 0.4], [0.6, 0.4], [0.3, 0.7], [0.4, 0.6]] * 3)
    probs = probabilities(np.log(raw), exclusive=True, prior=(0.75, 0.25))  # the first class is the likelier in all
    found = evaluate(labels, probs, class_names="ab", exclusive=True, raw=raw, rounds=20).whole
    assert found["balanced_accuracy"].value == pytest.approx(1 / 2)
    assert found["balanced_accuracy_before_calibration"].value == pytest.approx((2 / 3 + 1) / 2)
    without = evaluate(labels, probs, class_names="ab", exclusive=True, rounds=20).whole
    assert without.keys() == {"accuracy", "balanced_accuracy"}


def test_grades_are_read_back_from_cumulative_tasks_and_judged_by_kappa() -> None:
    truth, said = np.array([0, 0, 1, 2, 3, 3]), np.array([0, 1, 1, 2, 3, 1])
    steps = np.arange(1, 4)
    labels, probs = (truth[:, None] >= steps) * 1.0, np.where(said[:, None] >= steps, 0.9, 0.1)
    found = evaluate(labels, probs, class_names=["grade >= 1", "grade >= 2", "grade >= 3"], ordinal=True, rounds=20)
    assert found.whole["quadratic_kappa"].value == pytest.approx(quadratic_kappa(truth, said))
    assert found.confusion is not None and found.confusion.counts[3] == (0, 1, 0, 1)
    assert found.labels[1].figures["auroc"].value == pytest.approx(auroc(truth >= 2, probs[:, 1]))  # referable


def test_the_stated_prevalence_moves_the_ppv_by_bayes() -> None:
    found = an_evaluation(prevalence=[0.01, NAN]).labels
    figures = {name: estimate.value for name, estimate in found[0].figures.items()}
    assert figures["ppv_stated"] == pytest.approx(ppv_at(figures["sensitivity"], figures["specificity"], 0.01))
    assert "ppv_stated" not in found[1].figures and found[1].prevalence is None


def test_subgroups_are_the_evaluations_of_their_rows() -> None:
    labels, probs, patients = some_answers()
    columns = pd.DataFrame({"view": ["AP", "PA", ""] * 20, "age": np.arange(60)})
    found = an_evaluation(columns=columns, by=["view", "age"]).subgroups
    assert [(part.column, part.value) for part in found] == [
        ("view", "AP"), ("view", "PA"), ("view", "unknown"),
        ("age", "0 to 14"), ("age", "15 to 29"), ("age", "30 to 44"), ("age", "45 to 59"),
    ]  # fmt: skip
    rows = np.arange(0, 60, 3)
    alone = evaluate(labels[rows], probs[rows], class_names=NAMES, patients=patients[rows], rounds=50)
    assert found[0].mean == alone.mean and found[0].images == 20


def test_quarters_of_large_numbers_stay_apart_and_missing_numbers_are_unknown() -> None:
    columns = pd.DataFrame({"when": 1_700_000_000 + 37 * np.arange(60), "age": ["NA", *map(str, range(59))]})
    found = an_evaluation(columns=columns, by=["when", "age"]).subgroups
    assert [(part.column, part.value, part.images) for part in found] == [
        ("when", "1700000000 to 1700000518", 15), ("when", "1700000555 to 1700001073", 15),
        ("when", "1700001110 to 1700001628", 15), ("when", "1700001665 to 1700002183", 15),
        ("age", "0 to 14", 15), ("age", "15 to 29", 15), ("age", "30 to 43", 14), ("age", "44 to 58", 15),
        ("age", "unknown", 1),
    ]  # fmt: skip


def test_raw_probabilities_give_the_errors_before_calibration() -> None:
    labels, _, _ = some_answers()
    raw = np.full((60, 2), 0.9)
    found = an_evaluation(raw=raw)
    assert found.labels[0].before["brier"].value == pytest.approx(brier(labels[:, 0], raw[:, 0]))
    assert found.mean["ece_before"].value == pytest.approx(np.mean([abs(labels[:, c].mean() - 0.9) for c in (0, 1)]))


def test_the_interval_of_a_calibration_error_holds_the_error() -> None:
    for seed in range(5):
        labels, probs, patients = some_answers(seed=seed)
        found = evaluate(labels, probs, class_names=NAMES, patients=patients, rounds=100).labels
        assert all(one.figures["ece"].low <= one.figures["ece"].value <= one.figures["ece"].high for one in found)


def test_few_patients_and_no_patients_are_said() -> None:
    labels, probs, patients = some_answers(16)
    few = evaluate(labels, probs, class_names=NAMES, patients=patients, rounds=20).warnings
    assert any("Only 8 patients" in warning for warning in few)
    assert evaluate(labels, probs, class_names=NAMES, rounds=20).warnings[0] == NO_PATIENTS


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"labels": [[2.0]]}, "got \\[2.0\\]; give 1, 0 or NaN"),
        ({"probs": [[1.5]]}, "got 1.5 to 1.5, logits"),
        ({"probs": [[0.1, 0.2]]}, "give both as \\(N, C\\)"),
        ({"labels": np.empty((0, 1)), "probs": np.empty((0, 1))}, "got 0 images"),
        ({"thresholds": [2]}, "thresholds: got \\[2.0\\]"),
        ({"patients": ["a", "b"]}, "patients: got 2 for 1 images"),
        ({"rounds": 1}, "rounds: got 1"),
        ({"level": 95}, "level: got 95"),
        ({"by": ["sex"], "columns": pd.DataFrame({"six": [1]})}, "did you mean 'six'"),
    ],
    ids=["label", "logit", "shape", "empty", "threshold", "patients", "rounds", "level", "column"],
)
def test_what_cannot_be_judged_is_named(change: dict, said: str) -> None:
    given = {"labels": [[1.0]], "probs": [[0.5]], "class_names": ["x"], "rounds": 5} | change
    with pytest.raises(ConfigError, match=said):
        evaluate(np.array(given.pop("labels")), np.array(given.pop("probs")), **given)


def test_the_same_seed_gives_the_same_evaluation_and_another_seed_another() -> None:
    assert an_evaluation(seed=1) == an_evaluation(seed=1)
    assert an_evaluation(seed=1).mean["auroc"].low != an_evaluation(seed=2).mean["auroc"].low


def test_the_json_holds_every_figure_and_null_for_what_is_not_defined(tmp_path) -> None:
    found = an_evaluation()
    lone = replace(found, mean={"auroc": Estimate()})
    write_json(tmp_path / "a" / "evaluation.json", lone, facts={"Version": "1"})
    read = json.loads((tmp_path / "a" / "evaluation.json").read_text())
    assert read["mean"] == {"auroc": {"value": None, "low": None, "high": None}}
    assert read["labels"] == plain(found.labels) and "Research use only" in read["use"]


def test_the_csv_has_a_row_a_label_with_intervals_and_a_row_of_means(tmp_path) -> None:
    found = an_evaluation()
    write_csv(tmp_path / "evaluation.csv", found)
    table = pd.read_csv(tmp_path / "evaluation.csv", index_col="label")
    assert list(table.index) == ["mass", "edema", "mean"]
    mass = found.labels[0]
    assert table.loc["mass", "auroc_low"] == pytest.approx(mass.figures["auroc"].low, rel=1e-5)
    assert table.loc["mass", "sensitivity_wilson_low"] == pytest.approx(mass.by_formula["sensitivity"].low, rel=1e-5)
    assert table.loc["edema", "positives"] + table.loc["edema", "negatives"] == 60


def test_predictions_come_back_from_their_table_as_they_were(tmp_path) -> None:
    _, probs, patients = some_answers()
    kept = probs.astype(np.float32)
    write_predictions(tmp_path / "p.csv", np.arange(60).astype(str), patients, kept, NAMES)
    table = pd.read_csv(tmp_path / "p.csv")
    assert list(table.columns) == ["image", "patient_id", *NAMES]
    assert (table[list(NAMES)].to_numpy().astype(np.float32) == kept).all()


def test_counts_of_a_table_are_whole_whatever_their_size(tmp_path) -> None:
    found = an_evaluation()
    many = replace(found.labels[0], negatives=1_234_567, counts=(18, 0, 0, 1_234_567))
    write_csv(tmp_path / "e.csv", replace(found, labels=(many, found.labels[1])))
    table = pd.read_csv(tmp_path / "e.csv", dtype=str)
    assert table["negatives"][0] == table["true_negative"][0] == "1234567" and table["positives"][0] == "18"
    assert table["negatives"].isna().tolist() == [False, False, True]
