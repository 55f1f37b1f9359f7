"""Two hosts on one run folder: each slide is done once, and what a host had that went down is done by the other.

A host is a process in namespaces of its own: its name, its process numbers, its network. What it shares is the folder.
"""

import json
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from outcome import leftovers

from wsi_pipeline.pipeline.begin import open_run_folder
from wsi_pipeline.pipeline.claims import EXPIRY_S, HEARTBEAT_S, open_claims
from wsi_pipeline.slide.synthetic import draw_slide

FILES = ("heatmap", "overlay", "geojson", "asap", "tiles_geojson", "geopackage")
PLAIN = [word for name in FILES for word in ("--set", f"outputs.{name}=false")]
KNOBS = ["--set", "tiles.shard_tiles=4", "--workers", "1", *PLAIN]
NAMESPACES = ["--user", "--map-root-user", "--uts", "--pid", "--net", "--fork", "--kill-child", "--mount-proc"]
BOOT = """
import fcntl, os, socket, struct, sys
socket.sethostname(sys.argv[1])
with socket.socket() as any_one:  # the loopback device is up
    fcntl.ioctl(any_one, 0x8914, struct.pack("16sh14x", b"lo", 1))
os.execv(sys.executable, [sys.executable, *sys.argv[2:]])
"""
started: list[subprocess.Popen[str]] = []


def host(name: str, *words: str) -> subprocess.Popen[str]:
    """Python as the first process of a new host; killed, all that runs there is gone."""
    command = ["unshare", *NAMESPACES, sys.executable, "-c", BOOT, name, *words]
    told = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    started.append(subprocess.Popen(command, **told))
    return started[-1]


@pytest.fixture(autouse=True)
def hosts() -> Iterator[None]:
    """Skips the test where none can be made; none is left when it ends."""
    if shutil.which("unshare") is None:
        pytest.skip("no unshare here (util-linux)")
    tried = host("tried", "-c", "import socket, os; print(socket.gethostname(), os.getpid())")
    said = tried.communicate(timeout=300)[0]
    if said != "tried 1\n":
        pytest.skip(f"no namespaces may be made here: {said.strip()}")
    yield
    while started:
        with started.pop() as one:
            one.kill()


def draw(folder: Path, slides: int) -> Path:
    folder.mkdir()
    for number in range(slides):
        draw_slide(folder / f"{number}.tif", size_px=(1000, 1000), seed=4 * number)
    return folder


def run(name: str, slides: Path, out: Path, *more: str) -> subprocess.Popen[str]:
    return host(name, "-m", "wsi_pipeline", "run", str(slides), "--out", str(out), *KNOBS, "--resume", *more)


def events(out: Path, name: str) -> list[dict[str, Any]]:
    path = out / "events.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    return [line for line in lines if line["event"] == name]


def by_host(out: Path) -> dict[str, list[str]]:
    """The slides that each host began to cut, in order."""
    began: dict[str, list[str]] = {}
    for event in events(out, "tiles_planned"):
        began.setdefault(event["job"].partition("-")[0], []).append(event["slide_id"])
    return began


@pytest.mark.slow
def test_two_hosts_do_each_slide_once(tmp_path: Path) -> None:
    slides, out = draw(tmp_path / "slides", 4), tmp_path / "run"
    claims = open_run_folder(out).claims
    with open_claims(claims) as held:
        assert held.take("3")  # by a third host, until both are at work
        both = [run(name, slides, out, "--scheduler", "threads") for name in ("ada", "bob")]
        while len(list(claims.glob(".*.now"))) < 3:
            assert all(one.poll() is None for one in both), [one.communicate() for one in both]
            time.sleep(0.05)
    said = [one.communicate(timeout=300)[0] for one in both]
    assert [one.returncode for one in both] == [0, 0], said
    done, began = Counter(event["slide_id"] for event in events(out, "scores_done")), by_host(out)
    print(f"slides by host: {began}")
    assert done == dict.fromkeys("0123", 1)
    assert sorted(slide for ids in began.values() for slide in ids) == list("0123")
    assert all("4 slides: 4 ok" in text for text in said)
    assert leftovers(out) == [] and list((out / "claims").iterdir()) == []


@pytest.mark.big  # two minutes, most of them until the dead host's claims expire
@pytest.mark.slow
def test_what_a_host_had_that_went_down_is_done_by_the_other(tmp_path: Path) -> None:
    slides, out = draw(tmp_path / "slides", 4), tmp_path / "run"
    ada, bob = run("ada", slides, out), run("bob", slides, out)
    while "ada" not in by_host(out):
        assert ada.poll() is None, ada.communicate()
        time.sleep(0.05)
    ada.kill()  # and with it all its workers, as when the power fails
    ada.communicate()
    died = time.time()
    said = bob.communicate(timeout=600)[0]
    assert bob.returncode == 0 and "4 slides: 4 ok" in said, said
    began = by_host(out)
    taken = [one for one in events(out, "tiles_planned") if one["slide_id"] in set(began["ada"]) & set(began["bob"])]
    waited = [datetime.fromisoformat(one["time"]).timestamp() - died for one in taken if "bob" in one["job"]]
    print(f"slides by host: {began}; those of ada taken over after {[round(s) for s in waited]} s")
    assert waited and min(waited) > EXPIRY_S - 2 * HEARTBEAT_S
