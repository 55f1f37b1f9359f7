"""Paired comparison: differences on the same draws of patients, DeLong's p, Holm's."""

import numpy as np
import pytest
from answer_samples import NAMES, some_answers

from wsi_pipeline.errors import ConfigError
from wsi_pipeline.learn.evaluation.compare import compare
from wsi_pipeline.learn.evaluation.intervals import bootstrap, delong_paired
from wsi_pipeline.learn.evaluation.metrics import auroc


def two_models() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    labels, a, patients = some_answers()
    return labels, a, np.random.default_rng(9).random(a.shape) * 0.5 + a * 0.5, patients


def test_a_difference_is_that_of_the_two_aurocs_with_delongs_p() -> None:
    labels, a, b, patients = two_models()
    found = compare(labels, a, b, class_names=NAMES, patients=patients, rounds=50).labels[0]
    assert found.auroc.value == pytest.approx(auroc(labels[:, 0], a[:, 0]) - auroc(labels[:, 0], b[:, 0]))
    assert found.this_auroc == pytest.approx(auroc(labels[:, 0], a[:, 0]))
    assert found.p == pytest.approx(delong_paired(labels[:, 0], a[:, 0], b[:, 0], 0.95)[4])


def test_both_models_meet_the_same_draws_of_patients() -> None:
    labels, a, b, patients = two_models()
    found = compare(labels, a, b, class_names=NAMES, patients=patients, rounds=100, seed=4).labels[1].auroc

    def difference(y: np.ndarray, both: np.ndarray) -> float:
        return auroc(y, both[:, 0]) - auroc(y, both[:, 1])

    both = np.column_stack([a[:, 1], b[:, 1]])
    expected = bootstrap(difference, labels[:, 1], both, patients, rounds=100, level=0.95, seed=4)
    assert (found.low, found.high) == pytest.approx(expected[1:])


def test_a_model_does_not_differ_from_itself() -> None:
    labels, a, _, patients = two_models()
    found = compare(labels, a, a, class_names=NAMES, patients=patients, rounds=20)
    assert (found.mean.auroc.value, found.mean.auroc.low, found.mean.auroc.high) == (0, 0, 0)
    assert found.labels[0].p == 1


def test_holm_makes_up_for_the_number_of_labels() -> None:
    labels, a, b, patients = two_models()
    found = compare(labels, a, b, class_names=NAMES, patients=patients, rounds=20)
    first, second = sorted(found.labels, key=lambda label: label.p)
    assert first.p_holm == pytest.approx(min(1, 2 * first.p))
    assert second.p_holm == pytest.approx(max(first.p_holm, second.p))


def test_a_label_of_one_class_is_nan_and_left_out_of_the_mean() -> None:
    labels, a, b, patients = two_models()
    labels[:, 1] = 1
    found = compare(labels, a, b, class_names=NAMES, patients=patients, rounds=20)
    assert np.isnan(found.labels[1].auroc.value) and np.isnan(found.labels[1].p_holm)
    assert found.mean.auroc.value == found.labels[0].auroc.value


def test_an_image_that_either_model_lacks_is_left_out_of_both() -> None:
    labels, a, b, patients = two_models()
    lacking = b.copy()
    lacking[:10] = np.nan
    found = compare(labels, a, lacking, class_names=NAMES, patients=patients, rounds=20)
    assert found.labels[0].this_auroc == pytest.approx(auroc(labels[10:, 0], a[10:, 0]))


def test_tables_of_other_shapes_are_refused() -> None:
    labels, a, b, _ = two_models()
    with pytest.raises(ConfigError, match="give all as \\(N, C\\)"):
        compare(labels, a, b[:, :1], class_names=NAMES)
