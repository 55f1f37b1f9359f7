"""SLURM without SLURM: an sbatch that runs the job scripts here; what is missing or refused is one clear line."""

import os
import sys
from pathlib import Path

import pytest

from wsi_pipeline.cluster import Cluster
from wsi_pipeline.config import Config, load_config
from wsi_pipeline.errors import ClusterError, ConfigError
from wsi_pipeline.pipeline.begin import open_run_folder
from wsi_pipeline.pipeline.lanes import Recipe, RemoteClassifier
from wsi_pipeline.pipeline.run import run_cohort
from wsi_pipeline.schedulers import SlurmJobs, open_cluster
from wsi_pipeline.slide.entry import SlideEntry
from wsi_pipeline.slide.synthetic import draw_slide
from wsi_pipeline.slurm import SlurmSettings

SBATCH = """#!/bin/bash
number=$(($(ls "$FAKE_SLURM" | wc -l) + $$ * 100))
cp "$1" "$FAKE_SLURM/$number.sh"
setsid bash "$FAKE_SLURM/$number.sh" > "$FAKE_SLURM/$number.log" 2>&1 < /dev/null &
echo $! > "$FAKE_SLURM/$number.pid"
echo "Submitted batch job $number"
"""
SCANCEL = """#!/bin/bash
kill -TERM -- "-$(cat "$FAKE_SLURM/$1.pid")" && touch "$FAKE_SLURM/$1.cancelled"
"""
JOBS = ["run.scheduler=slurm", "slurm.jobs=1", "slurm.cores=1", "slurm.memory=1 GB", "slurm.queue=short"]
FILES = ("heatmap", "overlay", "geojson", "asap", "tiles_geojson", "geopackage")


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An sbatch and a scancel on PATH; the folder that they keep their jobs in."""
    for name, text in (("sbatch", SBATCH), ("scancel", SCANCEL)):
        (tmp_path / "bin").mkdir(exist_ok=True)
        (tmp_path / "bin" / name).write_text(text)
        (tmp_path / "bin" / name).chmod(0o755)
    (tmp_path / "slurm").mkdir()
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("FAKE_SLURM", str(tmp_path / "slurm"))
    return tmp_path / "slurm"


def knobs(*more: str) -> Config:
    return load_config(None, [*JOBS, *more])


def opened(folder: Path, *more: str) -> Cluster:
    settings = SlurmSettings(**knobs(*more).slurm.model_dump())
    with open_cluster("slurm", slurm=SlurmJobs(settings, str(folder / "logs"))) as cluster:
        return cluster


@pytest.mark.slow
def test_a_whole_run_goes_through_jobs_of_both_kinds_and_leaves_none(slurm: Path, tmp_path: Path) -> None:
    draw_slide(tmp_path / "a.tif", size_px=(1000, 1000), mpp=0.5, seed=3)
    folder = open_run_folder(tmp_path / "run")
    config = knobs("slurm.gpu_jobs=1", "slurm.prologue=[echo ready]", *(f"outputs.{name}=false" for name in FILES))
    demo = RemoteClassifier(Recipe("demo", device="cpu", batch=None, resample=False))
    entries = [SlideEntry(name, str(tmp_path / "a.tif")) for name in ("a", "b")]
    rows = list(run_cohort(entries, folder, config, classifier=demo))
    assert [(row.slide_id, row.status) for row in rows] == [("a", "ok"), ("b", "ok")]
    scripts = {"GPU=1" in text: text for text in (path.read_text() for path in slurm.glob("*.sh"))}
    assert "#SBATCH -p short" in scripts[False] and "--gres" not in scripts[False]
    assert "#SBATCH --gres=gpu:1" in scripts[True] and "export OMP_NUM_THREADS=1\n" in scripts[True]
    assert all("echo ready\n" in text and "--tls-key" in text for text in scripts.values())
    assert len(list(slurm.glob("*.cancelled"))) == 2
    assert not list((folder.root / "logs" / "slurm").glob("tls-*"))  # the run's key is gone with it


def test_without_the_extra_it_is_named(slurm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "dask_jobqueue.slurm", None)
    with pytest.raises(ConfigError, match=r"needs dask-jobqueue, .*pip install 'wsi-pipeline\[cluster\]'"):
        opened(tmp_path)


def test_without_sbatch_it_is_said_where_to_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigError, match="no sbatch on this machine; start the run where SLURM jobs can be submitted"):
        opened(tmp_path)


def test_a_refused_job_is_told_in_slurms_words(slurm: Path, tmp_path: Path) -> None:
    refusal = "sbatch: error: invalid partition specified: short"
    (tmp_path / "bin" / "sbatch").write_text(f"#!/bin/bash\necho '{refusal}' >&2\nexit 1\n")
    with pytest.raises(ClusterError, match=f"a job was refused .*{refusal}.*; see to the slurm knobs"):
        opened(tmp_path)


def test_jobs_that_stay_in_the_queue_are_told(slurm: Path, tmp_path: Path) -> None:
    (tmp_path / "bin" / "sbatch").write_text("#!/bin/bash\necho Submitted batch job 7\n")
    with pytest.raises(ClusterError, match=r"no job has started in 0\.01 minutes; see `squeue --me`"):
        opened(tmp_path, "slurm.wait_min=0.01")


@pytest.mark.parametrize("knob", ["slurm.memory=lots", "slurm.walltime=1h", "slurm.jobs=0", 'slurm.queue="a\\nb"'])
def test_knobs_that_no_job_can_have_are_refused(knob: str) -> None:
    with pytest.raises(ConfigError, match=r"slurm\."):
        knobs(knob)
