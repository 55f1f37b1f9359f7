"""Slides and run folder in an object store, a real server of S3 on loopback: as on a disk, killed and on a cluster."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from outcome import outcome

from benchmarks.loopback import loopback
from wsi_pipeline.cli.group import group
from wsi_pipeline.config import load_config
from wsi_pipeline.maps.tables import write_slides_table
from wsi_pipeline.pipeline.lanes import Recipe, RemoteClassifier
from wsi_pipeline.pipeline.remote_folder import open_run
from wsi_pipeline.pipeline.run import run_cohort
from wsi_pipeline.slide.cohort import find_slides
from wsi_pipeline.slide.synthetic import draw_cohort
from wsi_pipeline.slide.urls import remote

DEMO = Recipe("demo", device="cpu", batch=None, resample=False)
KNOBS = ["--scheduler", "threads", "--workers", "2", "--set", "tiles.shard_tiles=4", "--set", "outputs.overlay=false"]


@pytest.fixture
def bucket(s3: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The files of an S3 server with an empty bucket `bucket`; its keys and address are in the environment alone."""
    monkeypatch.setenv("WSI_PIPELINE_CACHE_DIR", str(tmp_path / "cache"))
    files, _ = remote("s3://bucket")
    if files.exists("bucket"):
        files.rm("bucket", recursive=True)
    files.mkdir("bucket")
    return files


def words(slides: str, out: str, *more: str) -> list[str]:
    return ["run", slides, "--out", out, *KNOBS, *more]


def start(slides: str, out: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "wsi_pipeline", *words(slides, out)]
    told = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen(command, start_new_session=True, **told)


def shards_at(bucket: Any) -> list[str]:
    """The shards of pixels that are in the bucket."""
    return [name for name in bucket.find("bucket/run/tiles") if "/tiles/c/" in name]


def told(run: Path, name: str) -> list[dict[str, Any]]:
    """The events of that name, of all jobs."""
    texts = (path.read_text() for path in run.glob("events-*.jsonl"))
    return [found for text in texts for found in map(json.loads, text.splitlines()) if found["event"] == name]


@pytest.mark.slow
def test_a_run_from_and_to_an_object_store_killed_inside_a_slide_ends_as_one_on_a_disk(
    bucket: Any, s3: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    draw_cohort(tmp_path / "slides", slides=2, size_px=(1000, 1000), mpp=0.5, seed=9)
    bucket.put(str(tmp_path / "slides"), "bucket/slides", recursive=True)
    killed = start("s3://bucket/slides", "s3://bucket/run")
    while not (bucket.exists("bucket/run/tiles") and shards_at(bucket)):
        assert killed.poll() is None, killed.communicate()
        time.sleep(0.02)
    os.killpg(killed.pid, signal.SIGKILL)
    killed.communicate()
    first = shards_at(bucket)
    shutil.rmtree(tmp_path / "cache" / "slides")
    assert group.main(words("s3://bucket/slides", "s3://bucket/run", "--resume"), standalone_mode=False) == 0
    assert group.main(words("s3://bucket/slides", "s3://bucket/run", "--resume"), standalone_mode=False) == 0
    said = "".join(capfd.readouterr())
    assert "s3://bucket/run/slides.csv" in said, said
    bucket.get("bucket/run", str(tmp_path / "fetched"), recursive=True)
    assert group.main(words(str(tmp_path / "slides"), str(tmp_path / "run")), standalone_mode=False) == 0
    assert outcome(tmp_path / "fetched") == outcome(tmp_path / "run")
    written = sum(event["shards_written"] for event in told(tmp_path / "fetched", "tiles_done"))
    print(f"{len(first)} of {len(shards_at(bucket))} shards there when killed; {written} written after it")
    assert len(first) + written == len(shards_at(bucket))  # what was there is not done again
    assert len(told(tmp_path / "fetched", "slide_kept")) == 2  # by the third run
    claims = [Path(name).name for name in bucket.ls("bucket/run/claims")]
    assert all(name.startswith(".") for name in claims)  # the clock of the killed job, as on a disk
    assert not [path for where in ("runs", "drafts") for path in (tmp_path / "cache" / where).glob("*/*")]
    for path in (tmp_path / "fetched").rglob("*"):
        if path.is_file():
            data = path.read_bytes()
            assert s3.encode() not in data and str(tmp_path).encode() not in data, path
    assert s3 not in said and str(tmp_path) not in said


@pytest.mark.slow
def test_workers_of_a_cluster_that_share_no_disk_do_the_slides_of_a_bucket_and_one_may_die(
    bucket: Any, tmp_path: Path
) -> None:
    draw_cohort(tmp_path / "slides", slides=3, size_px=(1000, 1000), mpp=0.5, seed=9)
    bucket.put(str(tmp_path / "slides"), "bucket/slides", recursive=True)
    knobs = ["tiles.shard_tiles=4", "outputs.overlay=false"]
    with loopback(tmp_path / "cluster", readers=2, gpus=1) as cluster:

        def kill_one(name: str, facts: dict[str, Any]) -> None:
            if name == "tiles_cut" and "read-1" in cluster.workers:
                cluster.kill("read-1")

        config = load_config(None, [*knobs, f"run.scheduler={cluster.address}"])
        folder = open_run("s3://bucket/run")
        folder.check_workers(cluster.address)
        entries, classifier = find_slides("s3://bucket/slides"), RemoteClassifier(DEMO)
        rows = list(run_cohort(entries, folder, config, classifier=classifier, listen=kill_one))
    here = {path.name for path in (tmp_path / "cache").rglob("*") if path.is_file()}
    assert [row.status for row in rows] == ["ok"] * 3, rows
    assert not [name for name in here if name.endswith((".tif", ".partial")) or name.isdecimal()]  # all by the workers
    bucket.get("bucket/run", str(tmp_path / "fetched"), recursive=True)
    write_slides_table(rows, tmp_path / "fetched")
    assert group.main(words(str(tmp_path / "slides"), str(tmp_path / "run")), standalone_mode=False) == 0
    assert outcome(tmp_path / "fetched") == outcome(tmp_path / "run")
