"""The weighted loss against values worked by hand."""

import numpy as np
import pytest
import torch
from torch.nn.functional import binary_cross_entropy_with_logits
from torchvision.ops import sigmoid_focal_loss

from wsi_pipeline.errors import ConfigError
from wsi_pipeline.learn.training.losses import (
    asymmetric_bce,
    check_trainable,
    class_weights,
    cross_entropy,
    focal_bce,
    inverse_frequency,
    pos_weight_bce,
    positive_weight,
    wang_balanced_bce,
    weighted_bce,
)

NAN = float("nan")
LOSSES = {
    "weighted": lambda z, y: weighted_bce(z, y, torch.tensor(0.25), torch.tensor(0.75)),
    "pos_weight": lambda z, y: pos_weight_bce(z, y, torch.tensor(3.0)),
    "wang": wang_balanced_bce,
    "focal": lambda z, y: focal_bce(z, y, 2.0, 0.25),
    "focal, small power": lambda z, y: focal_bce(z, y, 0.3),
    "asymmetric": lambda z, y: asymmetric_bce(z, y, 4.0, 1.0, 0.05),
    "asymmetric, small power": lambda z, y: asymmetric_bce(z, y, 0.3, 0.0, 0.05),
    "asymmetric, no clip": lambda z, y: asymmetric_bce(z, y, 4.0, 1.0, 0.0),
}
every_loss = pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES.keys())


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
    assert 4 * found == pytest.approx(-0.75 * np.log(0.9 * 0.1), abs=1e-6)  # 1.8060


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


@every_loss
@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float32], ids=str)
def test_every_loss_and_its_gradient_is_finite_and_not_negative_in_any_precision(loss, kind) -> None:
    z = torch.tensor([[100.0, -100.0, 0.0], [60000.0, -60000.0, 3.0]], dtype=kind, requires_grad=True)
    for y in (torch.zeros(2, 3), torch.ones(2, 3)):
        value = loss(z, y)
        (gradient,) = torch.autograd.grad(value, z)
        assert value.dtype == torch.float32 and value.shape == ()
        assert torch.isfinite(value) and value >= 0 and torch.isfinite(gradient).all()


@every_loss
def test_every_loss_leaves_unknown_labels_out_of_value_and_gradient(loss) -> None:
    y = torch.tensor([[1.0, NAN], [0.0, NAN], [NAN, NAN]])
    z = torch.tensor([[0.3, 9.0], [-0.4, float("nan")], [float("inf"), 2.0]], requires_grad=True)
    value = loss(z, y)
    value.backward()
    assert value.item() == pytest.approx(loss(z[:2, :1].detach(), y[:2, :1]).item())
    assert z.grad is not None and z.grad[torch.isnan(y)].tolist() == [0.0] * 4


@every_loss
def test_every_loss_of_nothing_known_is_zero_with_a_gradient_of_zero(loss) -> None:
    z = torch.ones(2, 2, requires_grad=True)
    value = loss(z, torch.full((2, 2), NAN))
    value.backward()
    assert value.item() == 0 and z.grad is not None and not z.grad.any()


@every_loss
def test_every_loss_refuses_shapes_that_would_broadcast(loss) -> None:
    with pytest.raises(ConfigError, match="give equal shapes"):
        loss(torch.zeros(4, 1), torch.zeros(4))


def test_pos_weight_is_torchs_and_counted_from_known_labels() -> None:
    y, z = torch.tensor([[1.0], [0], [0], [0]]), torch.tensor([[0.0], [1], [-1], [2]])
    expected = binary_cross_entropy_with_logits(z, y, pos_weight=torch.tensor(3.0))
    assert positive_weight(y).item() == 3.0
    assert pos_weight_bce(z, y, positive_weight(y)).item() == pytest.approx(expected.item())
    np.testing.assert_allclose(positive_weight(np.array([[1, 1, NAN], [0, 1, NAN], [0, NAN, NAN]])), [2, 1, 1])


def test_wangs_loss_is_summed_over_the_batch_with_all_labels_together() -> None:
    p, y = np.array([[0.9, 0.2], [0.3, 0.6]]), [[1.0, 0.0], [0.0, 0.0]]
    expected = -4 / 1 * np.log(0.9) - 4 / 3 * np.log([0.8, 0.7, 0.4]).sum()  # P = 1, N = 3
    assert wang_balanced_bce(torch.logit(torch.tensor(p)), torch.tensor(y)).item() == pytest.approx(expected, abs=1e-9)


def test_wangs_loss_of_a_batch_of_one_class_is_the_plain_sum() -> None:
    assert wang_balanced_bce(torch.zeros(3, 2), torch.zeros(3, 2)).item() == pytest.approx(6 * np.log(2))


@pytest.mark.parametrize("alpha", [None, 0.25])
def test_focal_loss_is_torchvisions(alpha: float | None) -> None:
    torch.manual_seed(0)
    z, y = 3 * torch.randn(20, 4), (torch.rand(20, 4) < 0.3).float()
    expected = sigmoid_focal_loss(z, y, alpha=-1 if alpha is None else alpha, gamma=2.0).mean(dim=0).sum()
    assert focal_bce(z, y, 2.0, alpha).item() == pytest.approx(expected.item(), rel=1e-5)


def test_focal_and_asymmetric_loss_without_powers_are_the_plain_loss() -> None:
    z, y = torch.tensor([[2.0, -1.0], [0.5, 3.0]]), torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    plain = weighted_bce(z, y, torch.tensor(1.0), torch.tensor(1.0)).item()
    assert focal_bce(z, y, 0.0).item() == pytest.approx(plain)
    assert asymmetric_bce(z, y, 0.0, 0.0, 0.0).item() == pytest.approx(plain)


def test_asymmetric_loss_is_the_formula_of_its_paper() -> None:
    z, y = torch.logit(torch.tensor([[0.8], [0.3]], dtype=torch.float64)), torch.tensor([[1.0], [0.0]])
    expected = (-(0.2**1) * np.log(0.8) - 0.25**4 * np.log(1 - 0.25)) / 2  # 0.3 - 0.05 = 0.25
    assert asymmetric_bce(z, y, 4.0, 1.0, 0.05).item() == pytest.approx(expected, abs=1e-9)


def test_asymmetric_loss_costs_nothing_on_negatives_below_the_clip() -> None:
    z = torch.tensor([[-4.0], [1.0]], requires_grad=True)
    asymmetric_bce(z, torch.zeros(2, 1), 0.5, 0.0, 0.05).backward()
    assert z.grad is not None and z.grad[0].item() == 0.0 and z.grad[1].item() > 0


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda z: focal_bce(z, z, -1.0), "gamma: got -1.0"),
        (lambda z: asymmetric_bce(z, z, 1.0, NAN, 0.0), "gamma_pos: got nan"),
        (lambda z: asymmetric_bce(z, z, 1.0, 1.0, 1.0), "clip: got 1.0"),
    ],
    ids=["gamma", "nan", "clip"],
)
def test_powers_and_clips_out_of_range_are_refused(call, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        call(torch.zeros(1, 1))


def test_inverse_frequency_has_mean_one_over_the_classes_that_occur() -> None:
    labels = np.eye(4)[[0, 0, 0, 1, 1, 2]]  # 3, 2, 1 and no images: 1/3, 1/2, 1 over their mean 11/18
    np.testing.assert_allclose(inverse_frequency(labels), [6 / 11, 9 / 11, 18 / 11, 0])
    with pytest.raises(ConfigError, match="no class has an image"):
        inverse_frequency(np.zeros((3, 2)))


def test_cross_entropy_is_the_mean_over_images_of_the_weighted_costs() -> None:
    z = torch.tensor([[1.0, 2.0, 0.0], [0.0, 0.0, 3.0]])
    p = torch.softmax(z, dim=1)
    expected = -(0.5 * torch.log(p[0, 1]) + 1.5 * torch.log(p[1, 2])) / 2
    found = cross_entropy(z, torch.tensor([[0.0, 1, 0], [0, 0, 1]]), torch.tensor([1.0, 0.5, 1.5]))
    assert found.item() == pytest.approx(expected.item())


def test_cross_entropy_leaves_images_without_a_known_class_out() -> None:
    z = torch.tensor([[1.0, 2.0], [NAN, NAN]], dtype=torch.float16, requires_grad=True)
    y = torch.tensor([[1.0, 0.0], [NAN, NAN]])
    value = cross_entropy(z, y, np.ones(2))
    value.backward()
    assert value.item() == pytest.approx(np.log(1 + np.e))
    assert z.grad is not None and z.grad[1].tolist() == [0.0, 0.0]
    assert cross_entropy(z[1:], y[1:], np.ones(2)).item() == 0


def test_cross_entropy_of_a_confident_error_is_its_logit_in_half_precision() -> None:
    z = torch.tensor([[60000.0, 0.0]], dtype=torch.float16)
    assert cross_entropy(z, torch.tensor([[0.0, 1.0]]), np.ones(2)).item() == z[0, 0].item()
    assert cross_entropy(torch.zeros(0, 2), torch.zeros(0, 2), np.ones(2)).item() == 0


def test_a_task_that_cannot_be_learned_is_named() -> None:
    labels = np.array([[1, 0, 1, NAN], [0, 0, 1, NAN]])
    assert check_trainable(labels, ["Mass", "Hernia", "Edema", "Fibrosis"]) == [
        "Hernia: no positives among 2 training labels; its weight is 0, it is not trained",
        "Edema: no negatives among 2 training labels; its weight is 0, it is not trained",
        "Fibrosis: no known labels among 0 training labels; its weight is 0, it is not trained",
    ]
    assert check_trainable(labels, ["Mass", "Hernia", "Edema", "Fibrosis"], weighted=False) == [
        "Hernia: no positives among 2 training labels; it learns the other answer alone",
        "Edema: no negatives among 2 training labels; it learns the other answer alone",
        "Fibrosis: no known labels among 0 training labels; its weight is 0, it is not trained",
    ]
