"""The weighted loss against values worked by hand."""

import numpy as np
import pytest
import torch
from torch.nn.functional import binary_cross_entropy_with_logits

from wsi_pipeline.errors import ConfigError
from wsi_pipeline.learn.losses import class_weights, weighted_bce

NAN = float("nan")


def loss_of(y: list, p: list, w_p: list | float, w_n: list | float) -> float:
    """The loss of probabilities, by way of their logits."""
    shares = torch.tensor(p, dtype=torch.float64)
    labels = torch.tensor(y, dtype=torch.float64)
    return weighted_bce(torch.logit(shares), labels, torch.tensor(w_p), torch.tensor(w_n)).item()


def test_class_weights_are_the_share_of_the_other_class() -> None:
    labels = np.array([[1, 0, 0], [0, 1, 1], [1, 0, 1], [1, 1, 1], [1, 0, 1]])
    w_p, w_n = class_weights(labels)
    np.testing.assert_allclose(w_n, [0.8, 0.4, 0.8], atol=1e-12)  # w_n is f_p
    np.testing.assert_allclose(w_p, [0.2, 0.6, 0.2], atol=1e-12)


def test_class_weights_count_known_labels_only() -> None:
    w_p, w_n = class_weights(np.array([[1, NAN], [NAN, NAN], [0, NAN], [0, NAN]]))
    np.testing.assert_allclose(w_n, [1 / 3, 0])
    np.testing.assert_allclose(w_p, [2 / 3, 0])


def test_class_weights_of_a_tensor_are_tensors() -> None:
    w_p, w_n = class_weights(torch.tensor([[1.0], [0.0], [0.0], [0.0]]))
    assert w_p.dtype == torch.float32
    assert (w_p.item(), w_n.item()) == (0.75, 0.25)


@pytest.mark.parametrize("labels", [[[0.5]], [[-1.0]], [1.0, 0.0]], ids=["share", "minus one", "one axis"])
def test_class_weights_refuse_other_labels(labels: list) -> None:
    with pytest.raises(ConfigError, match="give \\(N, C\\) of 0, 1 and NaN"):
        class_weights(np.array(labels))


def test_loss_of_three_tasks_is_the_sum_of_their_means() -> None:
    y = [[1, 1, 1], [1, 1, 0], [0, 1, 0], [1, 0, 1]]
    found = loss_of(y, [[0.7] * 3] * 4, [0.25, 0.25, 0.5], [0.75, 0.75, 0.5])
    assert found == pytest.approx(0.9754048427, abs=1e-6)


@pytest.mark.parametrize("p", [0.9, 0.1])
def test_balanced_weights_cost_the_same_on_either_side(p: float) -> None:
    found = loss_of([[1], [1], [1], [0]], [[p]] * 4, 0.25, 0.75)
    assert 4 * found == pytest.approx(1.8060, abs=1e-4)  # 0.75 (-ln 0.9 - ln 0.1)


@pytest.mark.parametrize(
    ("last", "expected"),
    [([0, NAN, 1], 0.5919270446), ([NAN, 0, 1], 0.6891252023)],
    ids=["unknown in the middle", "unknown at the start"],
)
def test_unknown_labels_are_left_out_of_each_mean(last: list, expected: float) -> None:
    y = [[1, NAN, 0], [0, 1, NAN], [1, 0, NAN], last]
    p = [[0.9, 0.2, 0.3], [0.2, 0.6, 0.5], [0.6, 0.4, 0.1], [0.5, 0.9, 0.8]]
    w_p, w_n = class_weights(np.array(y))
    by_task = 0.0
    for c in range(3):
        known = [(row[c], q[c]) for row, q in zip(y, p, strict=True) if row[c] == row[c]]
        share = sum(label for label, _ in known) / len(known)
        costs = [-(1 - share) * np.log(q) if label else -share * np.log(1 - q) for label, q in known]
        by_task += sum(costs) / len(known)
    assert by_task == pytest.approx(expected, abs=1e-9)
    assert loss_of(y, p, w_p.tolist(), w_n.tolist()) == pytest.approx(expected, abs=1e-6)


def test_loss_is_prevalence_times_the_loss_with_pos_weight() -> None:
    y, z = torch.tensor([[1.0], [0], [0], [0]]), torch.tensor([[0.0], [1], [-1], [2]])
    w_p, w_n = class_weights(y)
    found = weighted_bce(z, y, w_p, w_n).item()
    assert found == pytest.approx(0.3645558080, abs=1e-6)
    assert found == pytest.approx(0.25 * binary_cross_entropy_with_logits(z, y, pos_weight=torch.tensor(3.0)).item())


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float32], ids=str)
def test_a_confident_error_costs_its_logit_in_any_precision(kind: torch.dtype) -> None:
    loss = weighted_bce(torch.full((1, 1), 100.0, dtype=kind), torch.zeros(1, 1, dtype=kind), np.ones(1), np.ones(1))
    assert loss.item() == 100.0
    assert loss.dtype == torch.float32


def test_a_task_without_known_labels_adds_nothing_to_loss_or_gradient() -> None:
    z = torch.tensor([[1.0, float("inf")], [2.0, 3.0]], requires_grad=True)
    loss = weighted_bce(z, torch.tensor([[1.0, NAN], [0.0, NAN]]), np.ones(2), np.ones(2))
    loss.backward()
    assert torch.isfinite(loss)
    assert z.grad is not None and z.grad[:, 1].tolist() == [0.0, 0.0]
    assert z.grad[:, 0].abs().min() > 0


def test_the_best_constant_answer_is_a_half_at_any_prevalence() -> None:
    y = torch.tensor([[1.0]] + [[0.0]] * 9)
    z = torch.zeros(1, requires_grad=True)
    weighted_bce(z.expand(10, 1), y, *class_weights(y)).backward()
    assert z.grad is not None and z.grad.item() == pytest.approx(0.0, abs=1e-7)


def test_shapes_that_would_broadcast_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"logits \(4, 1\), labels \(4,\)"):
        weighted_bce(torch.zeros(4, 1), torch.zeros(4), np.ones(1), np.ones(1))
