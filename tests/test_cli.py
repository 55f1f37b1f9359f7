"""The command line: exit codes, and what is said where nothing can be done."""

import json
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from wsi_pipeline.slide.synthetic import draw_slide


def call(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "wsi_pipeline", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["run", "nowhere", "--out", "x"], "nowhere: no such file or folder"),
        (["run", ".", "--out", "x", "--set", "tiles.mp=1"], "did you mean 'tiles.mpp'"),
        (["check", ".", "--config", "none.yaml"], "cannot be read"),
        (["run"], "Missing argument 'SLIDES'"),
        (["score", "."], "no run folder"),
    ],
    ids=["no slides", "unknown knob", "no config", "no argument", "no run"],
)
def test_a_usage_error_is_one_line_and_exit_code_2(arguments, said, tmp_path):
    done = call(*arguments)
    assert done.returncode == 2 and said in done.stderr
    assert "Traceback" not in done.stderr


def test_check_tells_what_would_fail_and_says_so_by_its_exit_code(tmp_path):
    draw_slide(tmp_path / "a.tif", size_px=(800, 800))
    assert call("check", tmp_path).returncode == 0
    (tmp_path / "b.svs").write_bytes(b"")
    done = call("check", tmp_path)
    assert done.returncode == 3
    assert "b: unreadable" in done.stdout and "empty file" in done.stdout and "0.5 x 0.5 um/px" in done.stdout


def test_check_loads_nothing_heavy_that_it_does_not_need(tmp_path):
    draw_slide(tmp_path / "a.tif", size_px=(800, 800))
    code = (
        "import sys; from wsi_pipeline.cli.group import group; group.main(sys.argv[1:], standalone_mode=False);"
        "print('loaded:', *sorted({name.split('.')[0] for name in sys.modules}))"
    )
    command = [sys.executable, "-c", code, "check", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split("loaded:")[1].split())
    assert not loaded & {"torch", "scipy", "skimage", "pandas", "dask", "distributed", "zarr", "rasterio", "requests"}


def test_config_prints_a_file_to_start_from():
    assert "tiles:" in call("config").stdout


@pytest.mark.slow
def test_the_stages_one_by_one_come_to_what_run_comes_to(tmp_path):
    draw_slide(tmp_path / "slides" / "a.tif", size_px=(1500, 1500)) if (tmp_path / "slides").mkdir() is None else None
    (tmp_path / "slides" / "bad.svs").write_bytes(b"x")
    whole = call("run", tmp_path / "slides", "--out", tmp_path / "whole")
    assert whole.returncode == 3, whole.stderr
    assert call("tile", tmp_path / "slides", "--out", tmp_path / "steps").returncode == 3
    assert call("score", tmp_path / "steps").returncode == 3
    assert call("map", tmp_path / "steps").returncode == 3
    tables = [
        pd.read_csv(tmp_path / name / "slides.csv", dtype=str).drop(columns="seconds") for name in ("whole", "steps")
    ]
    assert tables[0].equals(tables[1])
    assert json.loads((tmp_path / "whole" / "run.json").read_text())["statuses"] == {"ok": 1, "unreadable": 1}
