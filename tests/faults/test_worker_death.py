"""Workers that die in a run: one killed costs nothing, a slide that kills its own each time fails alone."""

import csv
import time
from pathlib import Path

import psutil
import pytest
from sabotage import started_sabotaged

from wsi_pipeline.slide.synthetic import draw_slide


def workers(run: int) -> list[psutil.Process]:
    """Children of the server that they are copies of."""
    servers = [one for one in psutil.Process(run).children() if "forkserver" in " ".join(one.cmdline())]
    return [worker for server in servers for worker in server.children()]


@pytest.mark.slow
def test_a_killed_worker_costs_nothing_and_a_slide_that_kills_its_workers_fails_alone(tmp_path: Path) -> None:
    slides, out, began = tmp_path / "slides", tmp_path / "out", time.monotonic()
    slides.mkdir()
    for name in ("a", "deadly", "z"):
        draw_slide(slides / f"{name}.tif", size_px=(900, 800), seed=2)
    with started_sabotaged("run", slides, out) as run:
        while not (out / "events.jsonl").exists() or "tiles_planned" not in (out / "events.jsonl").read_text():
            assert run.poll() is None, run.communicate()[1]
            time.sleep(0.02)
        max(workers(run.pid), key=lambda one: one.cpu_times().user).kill()
        _, errors = run.communicate(timeout=600)
    rows = {row["slide_id"]: row for row in csv.DictReader((out / "slides.csv").read_text().splitlines())}
    print(f"workers killed, out of memory, exited: exit code {run.returncode}, {time.monotonic() - began:.0f} s")
    assert (run.returncode, "Traceback" in errors) == (3, False), errors
    ended = {name: row["status"] for name, row in rows.items()}
    assert ended == {"a": "ok", "deadly": "failed", "z": "ok"}, (out / "events.jsonl").read_text()
    assert "killed two workers, the second time alone: out of memory" in rows["deadly"]["message"]
    assert (tmp_path / "out-code" / "met").exists()
