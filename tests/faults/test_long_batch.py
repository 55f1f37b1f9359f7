"""Three hundred slides in one run: memory and open files of each process stay flat, and so does the time of a slide."""

import json
import subprocess
import sys
import time
from datetime import datetime
from pathlib import Path

import numpy as np
import psutil
import pytest

from wsi_pipeline.slide.synthetic import draw_slide

SLIDES, DRAWN, STRETCH = 300, 10, 40
MIB = 2**20
Sample = tuple[int, float, int]  # slides done, MiB, open files


def sample(process: psutil.Process, done: int, seen: dict[int, list[Sample]]) -> None:
    """Note memory and open files of the run and all its workers."""
    for one in (process, *process.children(recursive=True)):
        try:
            seen.setdefault(one.pid, []).append((done, one.memory_info().rss / MIB, one.num_fds()))
        except psutil.Error:
            continue


def finished(out: Path) -> list[float]:
    """When each slide ended, in seconds, in order."""
    events = out / "events.jsonl"
    lines = events.read_text().splitlines() if events.exists() else []
    told = [json.loads(line) for line in lines if '"slide_done"' in line and line.endswith("}")]
    return [datetime.fromisoformat(event["time"]).timestamp() for event in told]


def slope(samples: list[Sample], column: int) -> float:
    """Growth a slide: the median over stretches of 40 slides, so that what a worker loads once, for its first map,
    counts in one of them alone. Of the last two thirds: before, caches fill."""
    grown = []
    for start in range(SLIDES // 3, SLIDES, STRETCH):
        part = np.array([row for row in samples if start <= row[0] < start + STRETCH], float)
        grown.append(float(np.polyfit(part[:, 0], part[:, column], 1)[0]))
    return float(np.median(grown))


@pytest.mark.big
def test_three_hundred_slides_leave_memory_files_and_time_flat(tmp_path: Path) -> None:
    slides, out = tmp_path / "slides", tmp_path / "out"
    slides.mkdir()
    for number in range(SLIDES):
        path = slides / f"s{number:03}.tif"
        if number < DRAWN:
            draw_slide(path, size_px=(700, 600), seed=number)
        else:
            path.write_bytes((slides / f"s{number % DRAWN:03}.tif").read_bytes())
    command = [sys.executable, "-m", "wsi_pipeline", "run", str(slides), "--out", str(out), "--workers", "2"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as run:
        process, seen = psutil.Process(run.pid), {}
        while run.poll() is None:
            sample(process, len(finished(out)), seen)
            time.sleep(1)
    assert run.returncode == 0
    ends = finished(out)
    lasting = {pid: rows for pid, rows in seen.items() if rows[-1][0] > 0.9 * SLIDES and rows[0][0] < SLIDES / 3}
    for rows in lasting.values():
        memory, files = slope(rows, 1), slope(rows, 2)
        print(f"{rows[-1][1]:.0f} MiB, {10 * memory:+.2f} a 10 slides; {rows[-1][2]} files, {100 * files:+.2f} a 100")
        assert 10 * memory < 1 and 100 * files < 1
    took = np.diff(ends)
    first, last = np.median(took[: SLIDES // 3]), np.median(took[-SLIDES // 3 :])
    print(f"{len(ends)} slides in {ends[-1] - ends[0]:.0f} s; a slide {first:.2f} s at first, {last:.2f} s at last")
    assert len(ends) == SLIDES and len(lasting) >= 3 and last < 2 * first
