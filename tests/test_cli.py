"""The command line: exit codes, and what is said where nothing can be done."""

import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pandas as pd
import pytest

from wsi_pipeline import schedulers
from wsi_pipeline.cli.group import main
from wsi_pipeline.learn.model.checkpoint import shipped_models
from wsi_pipeline.slide.synthetic import draw_slide

Call = Callable[..., tuple[int, str, str]]


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Call]:
    """A command in this process, which has loaded torch once: (exit code, stdout, stderr)."""
    before = {name: signal.getsignal(name) for name in (signal.SIGTERM, signal.SIGUSR1)}

    def run(*arguments: str | Path) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["wsi_pipeline", *map(str, arguments)])
        return main(), *capsys.readouterr()

    yield run
    for name, handler in before.items():
        signal.signal(name, handler)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["run", "nowhere", "--out", "x"], "nowhere: no such file or folder"),
        (["run", ".", "--out", "x", "--set", "tiles.mp=1"], "did you mean 'tiles.mpp'"),
        (["check", ".", "--config", "none.yaml"], "cannot be read"),
        (["run"], "Missing argument 'SLIDES'"),
        (["demo", "--slides", "0", "--overwrite"], "0 is not in the range"),
        (["demo", "--size", "0", "--overwrite"], "0 is not in the range"),
        (["demo", "--seed", "-1", "--overwrite"], "-1 is not in the range"),
        (["run", ".", "--out", "."], "--out .: is the folder of slides itself; name another, such as run"),
        (["tile", ".", "--out", str(Path.cwd())], "is the folder of slides itself"),
        (["score", "."], "no run folder"),
    ],
    ids=["no slides", "unknown knob", "no config", "no argument", "none", "no size", "seed", "out", "twice", "no run"],
)
def test_a_usage_error_is_one_line_and_exit_code_2(arguments, said, call):
    code, _, told = call(*arguments)
    assert code == 2 and said in told
    assert "Traceback" not in told


def test_an_error_leaves_the_process_with_its_exit_code_and_one_line():
    command = [sys.executable, "-m", "wsi_pipeline", "check", "nowhere"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    assert done.returncode == 2 and done.stderr.startswith("error: nowhere: no such") and done.stderr.count("\n") == 1


def test_check_tells_what_would_fail_and_says_so_by_its_exit_code(tmp_path, call):
    draw_slide(tmp_path / "a.tif", size_px=(800, 800))
    assert call("check", tmp_path)[0] == 0
    (tmp_path / "b.svs").write_bytes(b"")
    code, told, _ = call("check", tmp_path)
    assert code == 3
    assert "b: unreadable" in told and "empty file" in told and "0.5 x 0.5 um/px" in told


def test_check_reads_slides_as_a_run_would(tmp_path, call):
    draw_slide(tmp_path / "a.tif", size_px=(800, 800))
    assert "no colour profile in the file" in call("check", tmp_path, "--set", "slide.icc=true")[1]


def test_check_goes_on_after_a_slide_whose_url_cannot_be_used(tmp_path, call):
    draw_slide(tmp_path / "b.tif", size_px=(800, 800))
    manifest = tmp_path / "m.csv"
    manifest.write_text("slide_id,path\na,nothing-reads-this://x/a.svs\nb,b.tif\n")
    code, told, _ = call("check", manifest)
    assert code == 3
    assert "a: failed" in told and "b: ok" in told and "2 slides, 1 would fail" in told


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


def test_config_prints_a_file_to_start_from(call):
    assert "tiles:" in call("config")[1]


def test_the_stages_one_by_one_come_to_what_run_comes_to(tmp_path, call):
    slides, whole, steps = (tmp_path / name for name in ("slides", "whole", "steps"))
    slides.mkdir()
    draw_slide(slides / "a.tif", size_px=(1000, 1000))
    (slides / "bad.svs").write_bytes(b"x")
    threads = ["--scheduler", "threads"]
    assert call("run", slides, "--out", whole, *threads)[0] == 3
    assert call("tile", slides, "--out", steps, *threads)[0] == 3
    assert call("score", steps)[0] == call("map", steps)[0] == 3
    tables = [pd.read_csv(out / "slides.csv", dtype=str).drop(columns="seconds") for out in (whole, steps)]
    assert tables[0].equals(tables[1])
    assert json.loads((whole / "run.json").read_text())["statuses"] == {"ok": 1, "unreadable": 1}


@pytest.fixture
def begun(tmp_path: Path, call: Call) -> tuple[Path, Path]:
    """A folder of one slide, and a run folder in which its tiles of 64 px are cut."""
    slides, out = tmp_path / "slides", tmp_path / "run"
    slides.mkdir()
    draw_slide(slides / "a.tif", size_px=(600, 600))
    assert call("tile", slides, "--out", out, "--scheduler", "threads", "--set", "tiles.tile_px=128")[0] == 0
    return slides, out


def knobs_of(run: Path) -> dict[str, dict[str, object]]:
    return json.loads((run / "run.json").read_text())["config"]


def test_a_resumed_run_goes_on_with_its_own_knobs_and_tells_which_are_others_now(tmp_path, begun, call):
    slides, out = begun
    resume = ["tile", slides, "--out", out, "--resume", "--scheduler", "threads"]
    code, _, told = call(*resume)
    assert code == 0 and "changed since" not in told and knobs_of(out)["tiles"]["tile_px"] == 128
    (tmp_path / "a.yaml").write_text("tiles:\n  min_tissue: 0.2\n")
    code, _, told = call(*resume, "--config", tmp_path / "a.yaml")
    assert code == 0 and "changed since: tiles.min_tissue 0.05 -> 0.2; what hangs on it is done again" in told
    assert knobs_of(out)["tiles"]["tile_px"] == 128
    assert call("tile", slides, "--out", out, "--resume")[0] == 0
    assert knobs_of(out)["run"]["scheduler"] == "local"  # a machine's knob, not the run's


def test_a_file_of_knobs_goes_over_the_runs_own(tmp_path, begun, call):
    (tmp_path / "a.yaml").write_text("model:\n  resample: true\nmaps:\n  threshold: 0.7\nrun:\n  scheduler: threads\n")
    code, _, told = call("map", begun[1], "--config", tmp_path / "a.yaml")
    assert code == 0 and "maps.threshold None -> 0.7" in told
    assert (knobs_of(begun[1])["tiles"]["tile_px"], knobs_of(begun[1])["maps"]["threshold"]) == (128, 0.7)


def test_a_run_of_relative_paths_is_gone_on_with_from_another_folder(tmp_path, begun, call, monkeypatch):
    shutil.copytree(shipped_models()["demo"], tmp_path / "models" / "mine")
    knobs = ["--scheduler", "threads", "--set", "tiles.store=coordinates"]  # the slide itself is read again
    monkeypatch.chdir(tmp_path)
    assert call("run", "slides", "--out", "b", "--model", "models/mine", *knobs)[0] == 0
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    code, _, told = call("map", "../b", "--scheduler", "threads", "--set", "tiles.stride_px=128")
    assert code == 0 and "model mine" in told, told
    assert pd.read_csv("../b/slides.csv")["warnings"].isna().all()
    monkeypatch.chdir(tmp_path)
    code, _, told = call("run", "slides", "--out", "b", "--model", "models/mine", "--resume", *knobs)
    assert code == 0 and "changed since" not in told


@pytest.mark.parametrize("command", ["run", "tile"])
def test_resume_and_overwrite_do_not_go_together(command, begun, call):
    code, _, told = call(command, begun[0], "--out", begun[1], "--resume", "--overwrite")
    assert code == 2 and "give one of the two" in told
    assert any((begun[1] / "tiles").iterdir())


@pytest.mark.parametrize("scheduler", ["slurm", "tcp://127.0.0.1:1"])
@pytest.mark.parametrize("command", ["run", "tile"])
def test_overwrite_removes_nothing_for_a_run_that_cannot_begin(command, scheduler, tmp_path, begun, call, monkeypatch):
    monkeypatch.setattr(schedulers, "CONNECT_S", 0.2)
    monkeypatch.setenv("PATH", str(tmp_path))  # no sbatch
    before = sorted(begun[1].rglob("*"))
    code, _, told = call(command, begun[0], "--out", begun[1], "--overwrite", "--scheduler", scheduler)
    assert code in (1, 2) and "error:" in told and "Traceback" not in told
    assert sorted(begun[1].rglob("*")) == before


@pytest.mark.parametrize("command", ["run", "tile"])
def test_a_run_that_cannot_begin_leaves_no_folder_in_the_way_of_the_next(command, tmp_path, begun, call, monkeypatch):
    monkeypatch.setattr(schedulers, "CONNECT_S", 0.2)
    words = [command, begun[0], "--out", tmp_path / "new", "--set", "model.resample=true", "--scheduler"]
    code, _, told = call(*words, "tcp://127.0.0.1:1")
    assert code == 1 and "no Dask scheduler answers" in told and not (tmp_path / "new").exists()
    assert call(*words, "threads")[0] == 0


def test_a_dry_run_refuses_the_folder_that_the_run_would_refuse_and_touches_none(tmp_path, begun, call):
    slides, out = begun
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "a.txt").write_text("")
    before, plain = sorted(tmp_path.rglob("*")), ["run", slides, "--dry-run", "--set", "model.resample=true", "--out"]
    for folder, said in (
        (out, "holds a run already"),
        (tmp_path / "mine", "holds other files"),
        (slides / "a.tif", "is a file"),
    ):
        code, _, told = call(*plain, folder)
        assert code == 2 and said in told
    assert (
        call(*plain, tmp_path / "new")[0]
        == call(*plain, out, "--overwrite")[0]
        == call(*plain, out, "--resume")[0]
        == 0
    )
    assert sorted(tmp_path.rglob("*")) == before


def test_a_model_that_does_not_fit_the_tiles_asked_for_is_refused_before_any_is_cut(tmp_path, call):
    draw_slide(tmp_path / "a.tif", size_px=(600, 600), mpp=0.25)
    for more in ([], ["--dry-run"]):
        code, _, told = call("run", tmp_path, "--out", tmp_path / "run", "--set", "tiles.mpp=0.25", *more)
        assert code == 1 and "tiles are 256 px at 0.25 x 0.25 um/px" in told and "Traceback" not in told
    dense = ("--set", "model.dense=true", "--set", "tiles.tile_px=512")  # might be reduced, but not for a dense map
    code, _, told = call("run", tmp_path, "--out", tmp_path / "run", "--set", "tiles.mpp=0.25", *dense)
    assert code == 1 and "dense maps need tiles at the model's scale; use --set tiles.mpp=0.5" in told
    code, _, told = call("run", tmp_path, "--out", tmp_path / "run", *dense[:2], "--set", "tiles.tile_px=100")
    assert code == 1 and "dense maps need multiples of 32 px; use --set tiles.tile_px=96" in told
    assert not (tmp_path / "run").exists()


def test_a_folder_that_cannot_be_entered_is_one_line(monkeypatch, call):
    def refused(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied", "/slides")

    monkeypatch.setattr("wsi_pipeline.slide.cohort.find_slides", refused)
    code, _, told = call("check", "slides")
    assert code == 1 and told == "error: /slides: Permission denied\n"


def test_tile_and_score_over_a_finished_folder_leave_its_table_and_its_maps(tmp_path, call):
    slides, out = tmp_path / "slides", tmp_path / "run"
    slides.mkdir()
    draw_slide(slides / "a.tif", size_px=(1000, 1000))
    threads = ["--scheduler", "threads"]
    assert call("run", slides, "--out", out, *threads)[0] == 0
    table = (out / "slides.csv").read_text()
    assert call("tile", slides, "--out", out, "--resume", *threads)[0] == call("score", out)[0] == 0
    assert (out / "slides.csv").read_text() == table
    assert call("run", slides, "--out", out, "--resume", *threads)[0] == 0
    assert '"slide_kept"' in (out / "events.jsonl").read_text()
