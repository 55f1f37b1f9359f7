"""A slide whose path never answers: it fails after its time limit, the rest goes on, and the run ends."""

import csv
import time
from pathlib import Path

import pytest
from sabotage import started_sabotaged

from wsi_pipeline.slide.synthetic import draw_slide

LIMIT_S = 3


@pytest.mark.slow
def test_a_slide_that_stalls_fails_in_time_and_the_rest_goes_on(tmp_path: Path) -> None:
    slides, out, began = tmp_path / "slides", tmp_path / "out", time.monotonic()
    slides.mkdir()
    for name in ("stalls", "z"):
        draw_slide(slides / f"{name}.tif", size_px=(900, 800), seed=2)
    knobs = ["--set", f"run.stall_s={LIMIT_S}", "--set", "tiles.shard_tiles=2"]  # many shards: most of them queue
    with started_sabotaged("tile", slides, out, *knobs) as run:
        _, errors = run.communicate(timeout=600)
    rows = {row["slide_id"]: row for row in csv.DictReader((out / "slides.csv").read_text().splitlines())}
    assert (run.returncode, "Traceback" in errors) == (3, False), errors
    assert {name: row["status"] for name, row in rows.items()} == {"stalls": "unreadable", "z": "ok"}
    assert rows["stalls"]["message"].startswith(f"stalls.tif: no answer for {LIMIT_S} s from cut_shards: a disk or")
    took, whole = float(rows["stalls"]["seconds"]), time.monotonic() - began
    print(f"given up after {took:.1f} s with a limit of {LIMIT_S} s; exit code {run.returncode}, {whole:.0f} s in all")
