"""Ctrl-C, SIGTERM and SLURM's signal: the run stops within seconds, keeps what is done, and goes on from there."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from outcome import outcome

from wsi_pipeline.cli.group import group
from wsi_pipeline.slide.synthetic import draw_slide

WITHIN_S = 10
KNOBS = ["--set", "tiles.stride_px=128", "--set", "tiles.shard_tiles=16"]
WORTH = [("SIGINT", "tiles_planned"), ("SIGTERM", "tiles_planned"), ("SIGUSR1", "tiles_done")]
REST = [("SIGINT", "tiles_done"), ("SIGTERM", "tiles_done"), ("SIGUSR1", "tiles_planned")]


@pytest.fixture(scope="module")
def slide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("slides") / "a.tif"
    draw_slide(path, size_px=(2500, 2500), mpp=0.5, seed=4)
    return path


def start(slide: Path, out: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "wsi_pipeline", "run", str(slide), "--out", str(out), *KNOBS, "--workers", "1"]
    nothing, told = subprocess.DEVNULL, subprocess.PIPE
    return subprocess.Popen(
        command, stdin=nothing, stderr=told, text=True, start_new_session=True, preexec_fn=_hear_ctrl_c
    )


def _hear_ctrl_c() -> None:
    """A shell lets what it starts in the background ignore Ctrl-C, and so its children: not here."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def wait_for(out: Path, event: str, run: subprocess.Popen[str]) -> None:
    events = out / "events.jsonl"
    while not (events.exists() and f'"{event}"' in events.read_text()):
        assert run.poll() is None, run.stderr and run.stderr.read()
        time.sleep(0.1)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "moment"), [*WORTH, *(pytest.param(*pair, marks=pytest.mark.big) for pair in REST)])
def test_a_signal_ends_the_run_in_time_with_exit_code_130_and_resume_goes_on(
    slide: Path, tmp_path: Path, name: str, moment: str
) -> None:
    started = time.monotonic()
    run = start(slide, tmp_path / "run")
    wait_for(tmp_path / "run", moment, run)
    began = time.monotonic()
    os.killpg(run.pid, getattr(signal, name)) if name == "SIGINT" else run.send_signal(getattr(signal, name))
    _, said = run.communicate(timeout=300)
    took = time.monotonic() - began
    print(f"{name} {moment}: stopped after {took:.1f} s")
    assert run.returncode == 130 and "go on with --resume" in said and "Traceback" not in said
    assert took < max(WITHIN_S, began - started)  # no longer than to start, where the machine is busy
    assert os.listdir(tmp_path / "run" / "claims") == []
    again = ["run", slide, "--out", tmp_path / "run", *KNOBS, "--scheduler", "threads", "--resume"]
    assert group.main([str(word) for word in again], standalone_mode=False) == 0
    assert "a.zarr/tiles" in outcome(tmp_path / "run")
