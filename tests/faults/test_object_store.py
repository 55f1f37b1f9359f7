"""Slides and run folder in an object store, a real server of S3 on loopback: killed, gone on with, as on a disk."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from outcome import outcome

from wsi_pipeline.cli.group import group
from wsi_pipeline.slide.synthetic import draw_cohort
from wsi_pipeline.slide.urls import remote

moto = pytest.importorskip("moto.server")
pytest.importorskip("s3fs")

SECRET = "a-secret-of-this-test"
KNOBS = ["--scheduler", "threads", "--workers", "2", "--set", "tiles.shard_tiles=4", "--set", "outputs.overlay=false"]


@pytest.fixture
def bucket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The files of an S3 server with an empty bucket `bucket`; its keys and address are in the environment alone."""
    server = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    told = {"ENDPOINT_URL": f"http://{host}:{port}", "ACCESS_KEY_ID": "me", "SECRET_ACCESS_KEY": SECRET}
    for name, value in (told | {"DEFAULT_REGION": "us-east-1"}).items():
        monkeypatch.setenv(f"AWS_{name}", value)
    monkeypatch.setenv("WSI_PIPELINE_CACHE_DIR", str(tmp_path / "cache"))
    files, _ = remote("s3://bucket")
    files.mkdir("bucket")
    yield files
    server.stop()


def words(slides: str, out: str, *more: str) -> list[str]:
    return ["run", slides, "--out", out, *KNOBS, *more]


def start(slides: str, out: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "wsi_pipeline", *words(slides, out)]
    told = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen(command, start_new_session=True, **told)


@pytest.mark.slow
def test_a_run_from_and_to_an_object_store_killed_once_ends_as_one_on_a_disk(
    bucket: Any, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    draw_cohort(tmp_path / "slides", slides=2, size_px=(1000, 1000), mpp=0.5, seed=9)
    bucket.put(str(tmp_path / "slides"), "bucket/slides", recursive=True)
    killed = start("s3://bucket/slides", "s3://bucket/run")
    while not (bucket.exists("bucket/run/records") and bucket.ls("bucket/run/records")):
        assert killed.poll() is None, killed.communicate()
        time.sleep(0.05)
    os.killpg(killed.pid, signal.SIGKILL)
    killed.communicate()
    first = bucket.ls("bucket/run/records")
    shutil.rmtree(tmp_path / "cache" / "slides")
    assert group.main(words("s3://bucket/slides", "s3://bucket/run", "--resume"), standalone_mode=False) == 0
    said = "".join(capfd.readouterr())
    assert "s3://bucket/run/slides.csv" in said, said
    bucket.get("bucket/run", str(tmp_path / "fetched"), recursive=True)
    assert group.main(words(str(tmp_path / "slides"), str(tmp_path / "run")), standalone_mode=False) == 0
    assert outcome(tmp_path / "fetched") == outcome(tmp_path / "run")
    events = (path.read_text() for path in (tmp_path / "fetched").glob("events-*.jsonl"))
    lines = [json.loads(line) for text in events for line in text.splitlines()]
    kept = [line["slide_id"] for line in lines if line["event"] == "slide_kept"]
    print(f"records when killed: {first}; kept: {kept}")
    assert kept == [Path(name).stem for name in first]
    fetched = {path.stem for path in (tmp_path / "cache" / "slides").glob("*/*.tif")}
    assert fetched == {"synthetic_01", "synthetic_02"} - set(kept)  # what is known to be unchanged is not read
    claims = [Path(name).name for name in bucket.ls("bucket/run/claims")]
    assert all(name.startswith(".") for name in claims)  # the clock of the killed job, as on a disk
    assert not list((tmp_path / "cache" / "runs").glob("*/*"))
    for path in (tmp_path / "fetched").rglob("*"):
        if path.is_file():
            data = path.read_bytes()
            assert SECRET.encode() not in data and str(tmp_path).encode() not in data, path
    assert SECRET not in said and str(tmp_path) not in said
