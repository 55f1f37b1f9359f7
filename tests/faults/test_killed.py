"""kill -9 of the whole run, again and again at random moments: what comes out in the end is as if nothing had been."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from outcome import leftovers, outcome, shards

from wsi_pipeline.slide.synthetic import draw_cohort

KNOBS = ["--set", "tiles.shard_tiles=8", "--set", "tiles.stride_px=200", "--workers", "2"]
KILLS = 20


def start(slides: Path, out: Path, *more: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "wsi_pipeline", "run", str(slides), "--out", str(out), *KNOBS, *more]
    return subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )


@pytest.mark.big  # about ten minutes
@pytest.mark.slow
def test_a_run_killed_twenty_times_ends_as_one_that_never_was(tmp_path: Path) -> None:
    slides = tmp_path / "slides"
    draw_cohort(slides, slides=4, size_px=(2400, 2400), mpp=0.5, seed=9)
    began = time.monotonic()
    assert start(slides, tmp_path / "whole").wait() == 0
    whole_s = time.monotonic() - began
    chance, redone, kept, killed, finished = random.Random(20), 0, 0, 0, 0
    while True:
        before = shards(tmp_path / "killed")
        run = start(slides, tmp_path / "killed", "--resume")
        try:  # a moment anywhere in a whole run, so that later ones fall into work that earlier ones left
            code = run.wait(timeout=chance.uniform(0.1, 1.0) * whole_s if killed < KILLS else None)
        except subprocess.TimeoutExpired:
            os.killpg(run.pid, signal.SIGKILL)
            run.wait()
            killed += 1
        else:
            assert code == 0
            if killed >= KILLS:
                break
            finished += 1  # before its moment came: anew
            (tmp_path / "killed").rename(tmp_path / f"finished-{finished}")
            continue
        after = shards(tmp_path / "killed")
        redone += sum(after.get(path) != stamp for path, stamp in before.items())
        kept += len(before)
    print(f"{killed} kills, {kept} shards found done, {redone} of them done again; a whole run takes {whole_s:.0f} s")
    assert redone == 0
    assert outcome(tmp_path / "killed") == outcome(tmp_path / "whole")
    assert leftovers(tmp_path / "killed") == []
