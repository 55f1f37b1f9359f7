"""Thresholds: of every cut between probabilities the one that the rule asks for, found by trying all."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsi_pipeline.errors import ConfigError
from wsi_pipeline.learn.evaluation.metrics import confusion
from wsi_pipeline.learn.evaluation.thresholds import choose_thresholds

NAN = float("nan")
Y = [[1], [0], [1], [0], [0]]
P = [[0.9], [0.8], [0.6], [0.4], [0.2]]


def rates(y: np.ndarray, p: np.ndarray, threshold: float) -> tuple[float, float, float]:
    """(sensitivity, specificity, f1)."""
    tp, tn, fp, fn = confusion(y, p, threshold)
    return tp / (tp + fn), tn / (tn + fp), 2 * tp / (2 * tp + fp + fn)


@pytest.mark.parametrize(
    ("how", "expected"),
    [
        ("youden", 0.5),  # sensitivity 1, specificity 2/3; at 0.85 it is 1/2 and 1
        ("f1", 0.5),  # 4/5; at 0.85 2/3
        ("sensitivity=0.5", 0.85),
        ("sensitivity=0.51", 0.5),
        ("specificity=1", 0.85),
        ("specificity=0.5", 0.5),
        ("0.3", 0.3),
    ],
)
def test_the_rule_picks_the_cut_worked_out_by_hand(how: str, expected: float) -> None:
    np.testing.assert_allclose(choose_thresholds(Y, P, how), [expected])


@given(
    st.lists(st.tuples(st.booleans(), st.integers(0, 10)), min_size=2, max_size=30),
    st.sampled_from([np.float16, np.float32, np.float64]),
)
def test_no_other_cut_is_better(pairs: list[tuple[bool, int]], kind: type) -> None:
    y, p = np.array([pair[0] for pair in pairs], float), np.array([pair[1] / 10 for pair in pairs], kind)
    if not 0 < y.sum() < len(y):
        return
    found = {how: rates(y, p, choose_thresholds(y[:, None], p[:, None], how)[0])
             for how in ("youden", "f1", "sensitivity=0.8", "specificity=0.8")}  # fmt: skip
    tried = np.array([rates(y, p, cut) for cut in [*np.unique(p), 2.0]])
    assert sum(found["youden"][:2]) == pytest.approx(tried[:, :2].sum(axis=1).max())
    assert found["f1"][2] == pytest.approx(tried[:, 2].max())
    assert found["sensitivity=0.8"][1] == pytest.approx(tried[tried[:, 0] >= 0.8 - 1e-9, 1].max())
    assert found["specificity=0.8"][0] == pytest.approx(tried[tried[:, 1] >= 0.8 - 1e-9, 0].max())


def test_of_equally_good_cuts_the_most_sensitive_is_taken() -> None:
    # Both 0.7 (1/2 and 1) and 0.2 (1 and 1/2) have Youden 1/2.
    np.testing.assert_allclose(choose_thresholds([[1], [0], [1], [0]], [[0.9], [0.5], [0.3], [0.1]]), [0.2])


def test_a_specificity_that_only_calling_nobody_reaches_calls_nobody() -> None:
    for kind in (np.float32, np.float64):
        p = np.array([[1.0], [0.5]], kind)
        (cut,) = choose_thresholds([[0], [1]], p, "specificity=1")
        assert confusion([0, 1], p[:, 0], cut) == (0, 1, 0, 1)


def test_neighbours_in_half_precision_are_kept_apart() -> None:
    low = np.float16(0.5)
    p = np.array([[low], [np.nextafter(low, np.float16(1))]])
    (cut,) = choose_thresholds([[0], [1]], p)
    assert confusion([0, 1], p[:, 0], cut) == (1, 1, 0, 0)


def test_a_class_without_both_labels_keeps_a_half_and_unknown_labels_are_left_out() -> None:
    y = np.array([[1, 0, NAN, 1], [1, NAN, NAN, 0], [1, 0, NAN, NAN]])
    p = np.array([[0.9, 0.1, 0.2, 0.8], [0.8, NAN, 0.3, 0.4], [0.7, 0.3, 0.4, NAN]])
    np.testing.assert_allclose(choose_thresholds(y, p), [0.5, 0.5, 0.5, 0.6])
    assert choose_thresholds(np.zeros((0, 2)), np.zeros((0, 2))).tolist() == [0.5, 0.5]


@pytest.mark.parametrize("how", ["best", "recall", "youden=1", "sensitivity=90", "specificity=", "1.5", "nan", ""])
def test_a_rule_that_is_not_known_is_refused_with_those_that_are(how: str) -> None:
    with pytest.raises(ConfigError, match='give "youden", "f1"'):
        choose_thresholds(Y, P, how)


def test_other_shapes_and_logits_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"give twice \(N, C\)"):
        choose_thresholds([1, 0], [0.2, 0.3])
    with pytest.raises(ConfigError, match="not logits"):
        choose_thresholds(Y, np.array(P) * 3)
