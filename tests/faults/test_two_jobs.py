"""Several jobs on one run folder at once: each slide is done by one of them, also when one of them dies."""

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from itertools import product
from pathlib import Path

import pytest
from outcome import leftovers, outcome
from test_damaged_tiles import flip

from wsi_pipeline.cli.group import group
from wsi_pipeline.config import load_config
from wsi_pipeline.maps.result import without_result
from wsi_pipeline.pipeline.begin import open_run_folder
from wsi_pipeline.pipeline.claims import open_claims
from wsi_pipeline.pipeline.run import run_cohort
from wsi_pipeline.slide.entry import SlideEntry
from wsi_pipeline.slide.synthetic import draw_slide

KNOBS = ["--set", "tiles.stride_px=200", "--set", "tiles.shard_tiles=16", "--workers", "1", "--scheduler", "threads"]


@pytest.fixture(scope="module")
def slides(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("slides")
    for number in range(6):  # every fourth seed has the same textures
        draw_slide(folder / f"{number}.tif", size_px=(1200, 1200), seed=4 * number)
    return folder


def words(slides: Path, out: Path) -> list[str]:
    return ["run", str(slides), "--out", str(out), *KNOBS, "--resume"]


def start(slides: Path, out: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "wsi_pipeline", *words(slides, out)]
    told = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen(command, start_new_session=True, **told)


def count(out: Path, event: str) -> Counter[str]:
    lines = (json.loads(line) for line in (out / "events.jsonl").read_text().splitlines())
    return Counter(line["slide_id"] for line in lines if line["event"] == event)


@pytest.mark.slow
def test_two_jobs_do_each_slide_once_and_both_give_the_whole_table(slides: Path, tmp_path: Path) -> None:
    (slides / "broken.tif").write_bytes(b"II*\x00 no slide")
    draw_slide(slides / "damaged.tif", size_px=(1200, 1200), seed=24)
    for x, y in product((300, 600, 900), repeat=2):  # its tissue, of which the overview is on another level
        flip(slides / "damaged.tif", (x, y))
    claims = open_run_folder(tmp_path / "run").claims
    with open_claims(claims) as held:
        assert held.take("damaged")  # until both are at work: a job that came later would try it again
        jobs = [start(slides, tmp_path / "run") for _ in range(2)]
        while len(list(claims.glob(".*.now"))) < 3:
            assert all(job.poll() is None for job in jobs)
            time.sleep(0.05)
    said = [job.communicate(timeout=300)[0] for job in jobs]
    assert [job.returncode for job in jobs] == [3, 3], said
    done = count(tmp_path / "run", "scores_done")
    print(f"scored: {dict(done)}")
    assert len(done) == 6 and set(done.values()) == {1}
    started = count(tmp_path / "run", "slide_started")
    assert (started["damaged"], started["broken"]) == (1, 2)  # what does not open each job finds out for itself
    rows = (tmp_path / "run" / "slides.csv").read_text().splitlines()
    assert len(rows) == 9
    assert all(sum(f"{name},unreadable" in row for row in rows) == 1 for name in ("broken", "damaged"))
    assert leftovers(tmp_path / "run") == [] and os.listdir(tmp_path / "run" / "claims") == []
    assert len([name for name in outcome(tmp_path / "run") if name.endswith("likelihood_map.tif")]) == 6


@pytest.mark.parametrize(
    ("status", "stage", "error", "stands"),
    [
        ("unreadable", "tiles", "SlideError", True),
        ("no_mpp", "open", "ScaleError", True),
        ("unreadable", "open", "SlideError", False),  # the other may lack the mount
        ("unreadable", "tiles", "StalledError", False),
        ("failed", "tiles", "ClusterError", False),
        ("failed", "score", "ModelError", False),
    ],
)
def test_a_failure_in_another_job_stands_only_where_the_file_is_at_fault(
    slides: Path, tmp_path: Path, status: str, stage: str, error: str, stands: bool
) -> None:
    folder = open_run_folder(tmp_path / "run")
    folder.record_failure(without_result("0", status, stage=stage, error=error, message="why"))
    later = time.time() + 3600
    os.utime(tmp_path / "run" / "records" / "0.failed", (later, later))  # after this job began
    config = load_config(None, ["run.scheduler=threads", "run.workers=1"])
    (row,) = run_cohort([SlideEntry("0", str(slides / "0.tif"))], folder, config, until="tile")
    assert (row.status, row.message) == ((status, "why") if stands else ("ok", ""))


@pytest.mark.slow
def test_what_a_dead_job_had_is_done_by_the_one_that_lives(slides: Path, tmp_path: Path) -> None:
    two = slides / "[01].tif"
    dying = start(two, tmp_path / "run")
    while not (tmp_path / "run" / "events.jsonl").exists():
        assert dying.poll() is None, dying.communicate()
        time.sleep(0.05)
    os.killpg(dying.pid, signal.SIGKILL)
    dying.communicate()
    assert list((tmp_path / "run" / "claims").glob("*.1"))
    assert group.main(words(two, tmp_path / "run"), standalone_mode=False) == 0
    assert len((tmp_path / "run" / "slides.csv").read_text().splitlines()) == 3
