"""Objective: the loss by name, tasks weighted, and the prior that is undone."""

import numpy as np
import pytest
import torch
from bright_images import bright_images, with_labels

from wsi_pipeline.errors import ConfigError
from wsi_pipeline.learn.model.probabilities import probabilities
from wsi_pipeline.learn.training.losses import class_weights, weighted_bce
from wsi_pipeline.learn.training.objective import draw_weights, make_objective
from wsi_pipeline.learn.training.settings import LossKnobs

NAN = np.nan
RARE = np.array([[1.0, 1], [0, 1], [0, 0], [0, NAN]])  # 1 of 4, 2 of 3


def rare(labels: np.ndarray = RARE, **more):
    return with_labels(bright_images(len(labels), classes=labels.shape[1], **more), labels)


def three_to_one():
    """Four images of two classes that exclude each other, the first thrice."""
    return with_labels(bright_images(4, exclusive=True), np.array([[1.0, 0]] * 3 + [[0, 1]]))


def test_the_default_loss_is_ours():
    objective, z = make_objective(rare(), LossKnobs()), torch.randn(4, 2, generator=torch.manual_seed(0))
    expected = weighted_bce(z, torch.tensor(RARE), *class_weights(RARE))
    assert objective.loss(z, torch.tensor(RARE)).item() == pytest.approx(expected.item())
    assert objective.prior == pytest.approx((1 / 4, 2 / 3))


@pytest.mark.parametrize("name", ["weighted", "pos_weight", "focal", "asymmetric", "plain"])
def test_tasks_are_weighed_in_the_sum(name):
    z, y = torch.randn(4, 2, generator=torch.manual_seed(0)), torch.tensor(RARE)
    alone = [make_objective(rare(RARE[:, [c]]), LossKnobs(name=name)).loss(z[:, [c]], y[:, [c]]) for c in (0, 1)]
    weighed = make_objective(rare(), LossKnobs(name=name, task_weights={"class0": 3, "class1": 0.5}))
    assert weighed.loss(z, y).item() == pytest.approx((3 * alone[0] + 0.5 * alone[1]).item(), rel=1e-5)


@pytest.mark.parametrize("name", ["weighted", "pos_weight"])
def test_the_best_constant_answer_becomes_the_prevalence(name):
    objective = make_objective(rare(RARE[:, [0]]), LossKnobs(name=name))
    z = torch.zeros(1, requires_grad=True)
    objective.loss(z.expand(4, 1), torch.tensor(RARE[:, [0]])).backward()
    assert z.grad is not None and z.grad.item() == pytest.approx(0, abs=1e-6)  # so z = 0 is the best
    assert probabilities(np.zeros((1, 1)), exclusive=False, prior=objective.prior) == pytest.approx(0.25)


def test_the_best_constant_answer_to_wangs_loss_becomes_the_share_of_all_positives():
    objective = make_objective(rare(np.array([[1.0], [0], [0], [0]])), LossKnobs(name="wang"))
    z = torch.zeros(1, requires_grad=True)
    objective.loss(z.expand(4, 1), torch.tensor([[1.0], [0], [0], [0]])).backward()
    assert z.grad is not None and z.grad.item() == pytest.approx(0, abs=1e-6)
    assert objective.prior == pytest.approx((0.25,))


@pytest.mark.parametrize("name", ["plain", "focal", "asymmetric"])
def test_a_loss_that_makes_up_for_nothing_leaves_no_prior(name):
    assert make_objective(rare(), LossKnobs(name=name)).prior is None


def test_a_task_without_positives_is_named_and_the_others_are_trained():
    objective = make_objective(rare(np.array([[1.0, 0], [0, 0], [0, 0]])), LossKnobs())
    assert len(objective.warnings) == 1 and "class1: no positives among 3" in objective.warnings[0]
    assert objective.prior is not None and 0 < objective.prior[1] < 1


def test_a_training_part_of_one_class_alone_is_refused():
    with pytest.raises(ConfigError, match="no class has both present and absent images in training: class0"):
        make_objective(rare(np.ones((4, 1))), LossKnobs())


def test_an_exclusive_class_without_images_is_refused_by_name():
    images = with_labels(bright_images(4, exclusive=True), np.array([[1.0, 0]] * 4))
    with pytest.raises(ConfigError, match="class class1 has no image in training"):
        make_objective(images, LossKnobs())


def test_exclusive_classes_get_inverse_frequency_weights_of_mean_one():
    objective = make_objective(three_to_one(), LossKnobs())
    assert objective.weights["weights"] == pytest.approx([0.5, 1.5])  # 1/3 : 1
    assert objective.prior == pytest.approx((0.75, 0.25))


@pytest.mark.parametrize("name", ["weighted", "plain"])
def test_weights_of_exclusive_classes_are_undone_too(name):
    objective = make_objective(three_to_one(), LossKnobs(name=name, task_weights={"class1": 5}))
    best = torch.tensor(np.log(np.multiply(objective.weights["weights"], [3, 1])), dtype=torch.float32)
    best.requires_grad_()
    objective.loss(best.expand(4, 2), torch.from_numpy(three_to_one().labels)).backward()
    assert best.grad is not None and best.grad.tolist() == pytest.approx([0, 0], abs=1e-5)  # so no constant is better
    found = probabilities(best.detach().numpy()[None], exclusive=True, prior=objective.prior)
    assert found[0].tolist() == pytest.approx([0.75, 0.25])


def test_a_balancing_sampler_and_weights_of_exclusive_classes_are_undone_together():
    knobs = LossKnobs(name="plain", sampler="balanced", task_weights={"class1": 5})
    prior = make_objective(three_to_one(), knobs).prior
    answer = np.log([[1.0, 5.0]])  # the best constant where both are drawn alike often
    assert probabilities(answer, exclusive=True, prior=prior)[0].tolist() == pytest.approx([0.75, 0.25])


@pytest.mark.parametrize("weights", [{}, {"class0": 2, "class1": 2}], ids=["none", "alike"])
def test_exclusive_classes_that_are_weighed_alike_leave_no_prior(weights):
    assert make_objective(three_to_one(), LossKnobs(name="plain", task_weights=weights)).prior is None


def test_an_exclusive_class_of_weight_0_is_refused():
    with pytest.raises(ConfigError, match="task_weights: got 0 for class1, one of several exclusive classes"):
        make_objective(three_to_one(), LossKnobs(task_weights={"class1": 0}))


@pytest.mark.parametrize(
    ("labels", "weights", "named"),
    [
        (RARE, {"class0": 0, "class1": 0}, "class0, class1"),
        (np.array([[1.0, 0], [0, 0]]), {"class0": 0}, "class0"),
    ],
    ids=["all", "all but one that is never present"],
)
def test_weights_that_leave_no_task_to_train_are_refused(labels, weights, named):
    with pytest.raises(ConfigError, match=rf"task_weights: got 0 for all that can be trained \({named}\)"):
        make_objective(rare(labels), LossKnobs(task_weights=weights))


@pytest.mark.parametrize(("name", "exclusive"), [("cross_entropy", False), ("wang", True)], ids=["tasks", "exclusive"])
def test_a_loss_for_other_classes_is_refused(name, exclusive):
    with pytest.raises(ConfigError, match=f"loss.name={name} is for"):
        make_objective(bright_images(8, exclusive=exclusive), LossKnobs(name=name))


def test_an_unknown_task_weight_is_refused():
    with pytest.raises(ConfigError, match="'class7' is no class; the classes are class0, class1"):
        make_objective(rare(), LossKnobs(task_weights={"class7": 2}))


def test_a_balancing_sampler_draws_both_classes_alike_and_its_prior_is_undone():
    images = rare(np.array([[1.0], [0], [0], [0]]))
    np.testing.assert_allclose(draw_weights(images), [1 / 2, 1 / 6, 1 / 6, 1 / 6])
    objective = make_objective(images, LossKnobs(name="plain", sampler="balanced"))
    assert objective.prior == pytest.approx((0.25,))


def test_a_balancing_sampler_moves_no_task_without_known_labels():
    images = rare(np.array([[1.0, NAN], [0, NAN], [0, NAN], [0, NAN]]))
    objective = make_objective(images, LossKnobs(name="plain", sampler="balanced"))
    assert objective.prior == pytest.approx((0.25, 0.5))


def test_a_balancing_sampler_draws_exclusive_classes_alike():
    np.testing.assert_allclose(draw_weights(three_to_one()), [1 / 6, 1 / 6, 1 / 6, 1 / 2])
