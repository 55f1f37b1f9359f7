"""Several jobs on one run folder at once: each slide is done by one of them, also when one of them dies."""

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
from outcome import leftovers, outcome

from wsi_pipeline.slide.synthetic import draw_cohort

KNOBS = ["--set", "tiles.stride_px=200", "--set", "tiles.shard_tiles=16", "--workers", "1"]


def start(slides: Path, out: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "wsi_pipeline", "run", str(slides), "--out", str(out), *KNOBS, "--resume"]
    quiet = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    return subprocess.Popen(command, start_new_session=True, **quiet)


def count(out: Path, event: str) -> Counter[str]:
    lines = (json.loads(line) for line in (out / "events.jsonl").read_text().splitlines())
    return Counter(line["slide_id"] for line in lines if line["event"] == event)


@pytest.mark.slow
def test_two_jobs_do_each_slide_once_and_both_give_the_whole_table(tmp_path: Path) -> None:
    draw_cohort(tmp_path / "slides", slides=6, size_px=(2000, 2000), mpp=0.5, seed=3)
    (tmp_path / "slides" / "broken.tif").write_bytes(b"II*\x00 no slide")
    jobs = [start(tmp_path / "slides", tmp_path / "run") for _ in range(2)]
    assert [job.wait(timeout=300) for job in jobs] == [3, 3]
    done = count(tmp_path / "run", "scores_done")
    print(f"scored: {dict(done)}")
    assert len(done) == 6 and set(done.values()) == {1}
    assert count(tmp_path / "run", "slide_started")["broken"] == 1
    rows = (tmp_path / "run" / "slides.csv").read_text().splitlines()
    assert len(rows) == 8 and sum("broken,unreadable" in row for row in rows) == 1
    assert leftovers(tmp_path / "run") == [] and os.listdir(tmp_path / "run" / "claims") == []
    assert len([name for name in outcome(tmp_path / "run") if name.endswith("likelihood_map.tif")]) == 6


@pytest.mark.slow
def test_what_a_dead_job_had_is_done_by_the_one_that_lives(tmp_path: Path) -> None:
    draw_cohort(tmp_path / "slides", slides=2, size_px=(2000, 2000), mpp=0.5, seed=3)
    dying = start(tmp_path / "slides", tmp_path / "run")
    while not (tmp_path / "run" / "events.jsonl").exists():
        time.sleep(0.05)
    os.killpg(dying.pid, signal.SIGKILL)
    dying.wait()
    assert list((tmp_path / "run" / "claims").glob("*.1"))
    living = start(tmp_path / "slides", tmp_path / "run")
    assert living.wait(timeout=300) == 0
    assert len((tmp_path / "run" / "slides.csv").read_text().splitlines()) == 3
