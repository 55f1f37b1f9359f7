"""The saved state: comes back bit for bit, is whole at any moment, and goes on after a kill."""

import json
import random
import resource
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from time import monotonic, sleep

import numpy as np
import pytest
import torch
from bright_images import bright_images, parts_of, quick
from safetensors.torch import load_file
from torch.amp.grad_scaler import GradScaler

from wsi_pipeline.errors import StoreError
from wsi_pipeline.learn.model.densenet import build_densenet
from wsi_pipeline.learn.training.resume import read_state, restore, save_state
from wsi_pipeline.learn.training.train import train

SCRIPT = """
import sys
sys.path.insert(0, sys.argv[1])
from test_resume import train_on
train_on(sys.argv[2])
"""


def train_on(out) -> None:
    """Take a training of five epochs to its end, from wherever it is."""
    torch.set_num_threads(1)
    images = bright_images(80)
    settings = quick("stop.epochs=5", "model.ema=0.9", "model.freeze=head", "model.thaw={3: none}")
    train(images, parts_of(images), settings, out, resume=True)


@pytest.fixture
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def state(seed: int = 0, steps: int = 2):
    """A model, its optimiser and a scaler that have done some steps."""
    torch.manual_seed(seed)
    model = build_densenet("densenet_demo", 1)
    optimiser = torch.optim.AdamW(model.parameters(), lr=0.01)
    for _ in range(steps):
        model(torch.rand(2, 3, 32, 32)).sum().backward()
        optimiser.step()
    return model, optimiser, GradScaler("cpu", enabled=False)


def saved(folder: Path, seed: int = 0, **facts) -> None:
    model, optimiser, scaler = state(seed)
    save_state(folder, model=model, ema=None, best=model.state_dict(), optimiser=optimiser, scaler=scaler, facts=facts)


def step(model, optimiser) -> torch.Tensor:
    optimiser.zero_grad()
    model(torch.rand(2, 3, 32, 32)).sum().backward()
    optimiser.step()
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


@contextmanager
def small_disk() -> Iterator[None]:
    """No file can grow beyond 10 kB, as on a full disk; nor can pytest's own output, so for a moment only."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_the_next_step_after_restoring_is_the_same_bit_for_bit(tmp_path):
    model, optimiser, scaler = state()
    saved(tmp_path / "last", epoch=3)
    next_step = step(model, optimiser)
    found = read_state(tmp_path / "last")
    assert found is not None and found.facts["epoch"] == 3
    other, its, _ = state(seed=9, steps=0)
    restore(found, model=other, ema=None, optimiser=its, scaler=scaler)
    assert torch.equal(step(other, its), next_step)


def test_every_random_state_comes_back(tmp_path):
    saved(tmp_path / "last")
    drawn = (random.random(), np.random.random(), torch.rand(3).tolist())
    found = read_state(tmp_path / "last")
    assert found is not None
    model, optimiser, scaler = state(seed=5)  # draws, so that all is elsewhere
    random.seed(5), np.random.seed(5)
    restore(found, model=model, ema=None, optimiser=optimiser, scaler=scaler)
    assert (random.random(), np.random.random(), torch.rand(3).tolist()) == drawn


def test_a_scaler_begins_anew_where_the_training_had_none_before(tmp_path):
    saved(tmp_path / "last")
    found = read_state(tmp_path / "last")
    assert found is not None and found.facts["scaler"] == {}
    (model, optimiser, _), scaler = state(), GradScaler("cpu")
    restore(found, model=model, ema=None, optimiser=optimiser, scaler=scaler)
    assert scaler.get_scale() == GradScaler("cpu").get_scale()


def test_nothing_is_pickled(tmp_path):
    saved(tmp_path / "last")
    assert {path.suffix for path in (tmp_path / "last").iterdir()} == {".safetensors", ".json"}
    assert [path.name for path in tmp_path.iterdir()] == ["last"]


def test_a_kill_between_the_renamings_leaves_the_state_before(tmp_path):
    saved(tmp_path / "last", epoch=1)
    (tmp_path / "last").rename(tmp_path / "last.old")
    saved(tmp_path / "last.partial", epoch=2)
    found = read_state(tmp_path / "last")
    assert found is not None and found.facts["epoch"] == 1
    saved(tmp_path / "last", epoch=2)
    assert [path.name for path in tmp_path.iterdir()] == ["last"]


def test_no_state_yet_is_none(tmp_path):
    assert read_state(tmp_path / "last") is None


@pytest.mark.parametrize("name", ["state.json", "optimiser.safetensors"])
def test_a_damaged_state_says_what_to_do(tmp_path, name):
    saved(tmp_path / "last")
    (tmp_path / "last" / name).write_bytes(b"{")
    with pytest.raises(StoreError, match=r"is damaged .* start again with --overwrite"):
        read_state(tmp_path / "last")


def test_a_full_disk_keeps_the_state_before(tmp_path):
    (tmp_path / "last").mkdir()
    (tmp_path / "last" / "state.json").write_text(json.dumps({"files": [], "epoch": 1}))
    with pytest.raises(StoreError, match=r"not saved .* go on with --resume"), small_disk():
        saved(tmp_path / "last", epoch=2)
    found = read_state(tmp_path / "last")
    assert found is not None and found.facts["epoch"] == 1
    assert [path.name for path in tmp_path.iterdir()] == ["last"]


@pytest.mark.slow
def test_killed_at_any_moment_a_training_ends_with_the_same_weights_bit_for_bit(tmp_path, one_thread):
    """Killed after a random time, and once as soon as a state is being written."""
    killed, chance = 0, random.Random(7)
    for begun in ("last", "last.partial"):
        process = subprocess.Popen([sys.executable, "-c", SCRIPT, Path(__file__).parent, tmp_path / "killed"])
        limit = monotonic() + 60
        while not (tmp_path / "killed" / begun).exists() and process.poll() is None and monotonic() < limit:
            sleep(0.002)
        sleep(chance.uniform(0, 0.2) if begun == "last" else 0)
        killed += process.poll() is None
        process.kill()
        process.wait()
    train_on(tmp_path / "killed")
    train_on(tmp_path / "whole")
    assert killed >= 1
    for name in ("model.safetensors", "last/model.safetensors", "last/ema.safetensors", "last/optimiser.safetensors"):
        whole, pieces = load_file(tmp_path / "whole" / name), load_file(tmp_path / "killed" / name)
        assert whole.keys() == pieces.keys() and all(torch.equal(whole[key], pieces[key]) for key in whole)
