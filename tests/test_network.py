"""The network's rate, its moving average, and what is frozen when."""

import numpy as np
import pytest
import torch

from wsi_pipeline.learn.model.transfer import freeze
from wsi_pipeline.learn.training.network import (
    follow,
    frozen_at,
    make_average,
    make_network,
    make_optimiser,
    rate_share,
    set_rate,
)  # fmt: skip
from wsi_pipeline.learn.training.settings import ModelKnobs, OptimiserKnobs, ScheduleKnobs

CPU = torch.device("cpu")


def shares(schedule: ScheduleKnobs, steps: int = 100, lowered: int = 0) -> list[float]:
    return [rate_share(schedule, step, epochs=10, per_epoch=steps // 10, lowered=lowered) for step in range(steps)]


def test_the_rate_warms_up_in_a_line_and_falls_along_a_cosine():
    found = shares(ScheduleKnobs(warmup=1))
    np.testing.assert_allclose(found[:10], np.arange(1, 11) / 11)
    assert found[10] == 1.0 and found[55] == pytest.approx(0.01 + 0.99 / 2)  # half-way from 10 to 100
    assert 0.01 < found[-1] < 0.02


def test_a_plateau_steps_down_by_its_factor():
    assert shares(ScheduleKnobs(name="plateau", factor=0.3), lowered=2)[50] == pytest.approx(0.09)


def test_a_constant_rate_is_constant_after_its_warm_up():
    assert set(shares(ScheduleKnobs(name="constant", warmup=0))) == {1.0}


def test_a_short_trial_is_not_all_warm_up():
    found = [rate_share(ScheduleKnobs(warmup=5), step, epochs=1, per_epoch=10, lowered=0) for step in range(10)]
    assert max(found) == 1.0


def test_thawing_goes_by_the_last_entry_that_has_come():
    knobs = ModelKnobs(freeze="head", thaw={3: "denseblock4", 5: "none"})
    assert [frozen_at(knobs, epoch) for epoch in range(1, 7)] == ["head"] * 2 + ["denseblock4"] * 2 + ["none"] * 2


def test_earlier_blocks_get_lower_rates_at_every_step():
    model = make_network(ModelKnobs(arch="densenet_demo", block_decay=0.5), 1, CPU)
    optimiser = make_optimiser(model, OptimiserKnobs(rate=1.0), 0.5, None)
    highest = set_rate(optimiser, ScheduleKnobs(name="constant", warmup=0), 0, 1, 1, 0)
    rates = sorted({group["lr"] for group in optimiser.param_groups}, reverse=True)
    assert highest == rates[0] == 1.0 and rates[1] == 0.5 and len(rates) > 5


def test_a_new_optimiser_after_thawing_keeps_what_had_moved():
    model = freeze(make_network(ModelKnobs(arch="densenet_demo"), 1, CPU), "head")
    before = make_optimiser(model, OptimiserKnobs(), 1.0, None)
    model(torch.zeros(2, 3, 32, 32)).sum().backward()
    before.step()
    after = make_optimiser(freeze(model, "none"), OptimiserKnobs(), 1.0, before)
    assert torch.equal(after.state[model.classifier.bias]["exp_avg"], before.state[model.classifier.bias]["exp_avg"])
    assert sum(len(group["params"]) for group in after.param_groups) == len(list(model.parameters()))


def test_the_moving_average_follows_weights_and_running_statistics():
    model = make_network(ModelKnobs(arch="densenet_demo"), 1, CPU)
    average = make_average(model, 0.5)
    assert average is not None
    before = {name: value.clone() for name, value in average.state_dict().items()}
    with torch.no_grad():
        for value in model.state_dict().values():
            value.add_(1)
    follow(average, model, decay=0.5, step=100)  # half-way; (1 + 100) / (10 + 100) is no limit here
    for name, value in average.state_dict().items():
        moved = 1 if name.endswith("num_batches_tracked") else 0.5
        torch.testing.assert_close(value, before[name] + moved)


def test_the_average_is_a_copy():
    model = make_network(ModelKnobs(arch="densenet_demo"), 1, CPU)
    average = make_average(model, 0.9)
    assert average is not None and make_average(model, None) is None
    own = {value.data_ptr() for value in model.state_dict().values()}
    assert not own & {value.data_ptr() for value in average.state_dict().values()}
