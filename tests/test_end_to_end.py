"""The whole way with the model in the box: drawn tumours come back with their area; a giant stays in memory."""

import csv
import json
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from wsi_pipeline.slide.synthetic import Tumour, draw_slide


def rows(folder: Path) -> list[dict[str, str]]:
    return list(csv.DictReader((folder / "slides.csv").read_text().splitlines()))


@pytest.mark.slow
def test_a_drawn_tumour_of_known_area_comes_back_within_two_percent(tmp_path):
    tumour = Tumour(x_um=768, y_um=768, rx_um=430, ry_um=360)
    truth = draw_slide(tmp_path / "a.tif", size_px=(3072, 3072), mpp=0.5, tumours=[tumour], seed=11)
    command = ["run", tmp_path / "a.tif", "--out", tmp_path / "run", "--set", "tiles.stride_px=64"]
    done = subprocess.run([sys.executable, "-m", "wsi_pipeline", *map(str, command)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "synthetic" in done.stderr  # the model says what it is
    (row,) = rows(tmp_path / "run")
    assert float(row["cancer_mm2"]) == pytest.approx(truth.tumour_mm2, rel=0.02)
    assert row["metastasis_class"] == "micro"


@pytest.mark.big
def test_a_slide_of_40000_px_runs_through_in_under_3_gib_for_all_processes(tmp_path):
    tumour = Tumour(x_um=9000, y_um=10000, rx_um=2500, ry_um=2000)
    truth = draw_slide(tmp_path / "a.tif", size_px=(40_000, 40_000), mpp=0.5, tumours=[tumour], seed=2)
    command = [sys.executable, "-m", "wsi_pipeline", "run", tmp_path / "a.tif", "--out", tmp_path / "run"]
    with subprocess.Popen([*map(str, command)]) as run:
        peak = 0
        while run.poll() is None:
            peak = max(peak, _resident(run.pid))
            time.sleep(0.5)
    (row,) = rows(tmp_path / "run")
    print(json.dumps({"peak_gib": round(peak / 2**30, 2), "tiles": row["tiles"], "seconds": row["seconds"]}))
    assert run.returncode == 0 and peak < 3 * 2**30
    assert float(row["cancer_mm2"]) == pytest.approx(truth.tumour_mm2, rel=0.05)


def _resident(pid: int) -> int:
    """Bytes held by a process and all below it: private memory and each its share of what they have in common."""
    total = 0
    try:
        parent = psutil.Process(pid)
        for process in [parent, *parent.children(recursive=True)]:
            total += process.memory_full_info().pss
    except psutil.NoSuchProcess:
        pass
    return total
