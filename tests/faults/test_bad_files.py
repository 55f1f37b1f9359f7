"""Files that are no slides, in a folder with one that is: one clear line each, and the rest goes on."""

import csv
import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from wsi_pipeline.cli.job import work
from wsi_pipeline.config import load_config
from wsi_pipeline.pipeline.begin import open_run_folder
from wsi_pipeline.pipeline.run import run_cohort
from wsi_pipeline.slide.cohort import find_slides
from wsi_pipeline.slide.entry import SlideEntry
from wsi_pipeline.slide.synthetic import draw_slide

KNOBS = ["run.scheduler=threads", "run.workers=2", "tiles.shard_tiles=8"]
SAID = {
    "empty": "empty file (0 bytes)",
    "text": "in no slide format known",
    "header": "cannot be read as TIFF",
    "cut": "cut short",
    "png": "in no slide format known",
    "folder": "a folder, not a slide file",
    "closed": "no permission to read it",
    "link": "a broken link",
    "loop": "cannot be reached",
    "pipe": "no regular file",
    "pipelink": "no regular file",
    "socket": "no regular file",
    "device": "no regular file",
}


def write_bad(folder: Path, good: Path) -> None:
    """One file for each key of SAID."""
    whole = good.read_bytes()
    contents = {"empty.svs": b"", "text.svs": b"no slide\n" * 99, "header.tif": whole[:60], "cut.tif": whole[:20000]}
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    Image.new("RGB", (64, 64)).save(folder / "png.svs", format="PNG")
    (folder / "folder.svs").mkdir()
    shutil.copy(good, folder / "closed.tif")
    (folder / "closed.tif").chmod(0)
    for name, target in {"link": "gone.svs", "loop": "loop.svs", "pipelink": "pipe.svs", "device": "/dev/zero"}.items():
        (folder / f"{name}.svs").symlink_to(target)
    os.mkfifo(folder / "pipe.svs")
    with socket.socket(socket.AF_UNIX) as server:
        here = os.open(folder, os.O_RDONLY)
        server.bind(f"/proc/self/fd/{here}/socket.svs")  # the path of a socket may have 108 bytes at most
        os.close(here)


def without_rights() -> list[str]:
    """What a command starts with so that file modes hold for it, also where the tests run as root."""
    if os.geteuid():
        return []
    start = ["setpriv", "--bounding-set", "-all", "--inh-caps", "-all"]
    if shutil.which("setpriv") is None or subprocess.run([*start, "true"], check=False, capture_output=True).returncode:
        pytest.skip("root reads files of mode 0, and there is no setpriv to give that right up")
    return start


def test_each_bad_file_has_one_clear_line_and_the_good_slide_comes_through(tmp_path: Path) -> None:
    slides, out = tmp_path / "slides", tmp_path / "out"
    slides.mkdir()
    draw_slide(slides / "good.tif", size_px=(700, 600), seed=1)
    write_bad(slides, slides / "good.tif")
    tile = [sys.executable, "-m", "wsi_pipeline", "tile", str(slides), "--out", str(out), "--scheduler", "threads"]
    began = time.monotonic()
    done = subprocess.run([*without_rights(), *tile], check=False, capture_output=True, text=True, timeout=120)
    print(f"{len(SAID)} bad files beside a good slide: exit code {done.returncode}, {time.monotonic() - began:.0f} s")
    assert done.returncode == 3, done.stderr
    rows = list(csv.DictReader((out / "failures.csv").read_text().splitlines()))
    assert {row["slide_id"]: row["status"] for row in rows} == dict.fromkeys(SAID, "unreadable")
    for row in rows:
        assert SAID[row["slide_id"]] in row["message"] and row["message"].startswith(f"{row['slide_id']}.")
        assert "\n" not in row["message"] and str(tmp_path) not in row["message"]
    assert "Traceback" not in done.stderr and "1 ok, 13 unreadable" in done.stdout


@pytest.mark.parametrize("moment", ["listed", "tiles_planned"])
def test_a_slide_that_vanishes_under_way_ends_alone(tmp_path: Path, moment: str) -> None:
    slides = tmp_path / "slides"
    slides.mkdir()
    for name in ("a", "b", "c"):
        draw_slide(slides / f"{name}.tif", size_px=(900, 800), seed=1)
    entries = find_slides(slides)

    def vanish(name: str, facts: dict[str, Any]) -> None:
        if name == moment and facts["slide_id"] == "b":
            (slides / "b.tif").unlink()

    vanish("listed", {"slide_id": "b"})
    folder = open_run_folder(tmp_path / "out")
    rows = {row.slide_id: row for row in run_cohort(entries, folder, knobs(), until="tile", listen=vanish)}
    assert {name: row.status for name, row in rows.items()} == {"a": "ok", "b": "unreadable", "c": "ok"}
    assert "no such file" in rows["b"].message


def test_a_slide_of_coordinates_that_is_gone_when_it_is_scored_ends_alone(tmp_path: Path) -> None:
    from wsi_pipeline.pipeline.score import Classifier

    entries = [SlideEntry(name, str(tmp_path / f"{name}.tif")) for name in ("a", "b")]
    for entry in entries:
        draw_slide(entry.path, size_px=(700, 600), seed=1)
    classifier = Classifier("demo", device="cpu", batch=8, resample=False)
    config = knobs("tiles.store=coordinates")

    def vanish(name: str, facts: dict[str, Any]) -> None:
        if name == "tiles_done" and facts["slide_id"] == "a":
            Path(entries[0].path).unlink()

    ran = run_cohort(entries, open_run_folder(tmp_path / "out"), config, classifier=classifier, listen=vanish)
    rows = {row.slide_id: row for row in ran}
    assert (rows["a"].status, rows["b"].status) == ("unreadable", "ok")
    assert "no such file" in rows["a"].message


def test_pipes_that_stand_where_files_are_looked_for_stop_no_search(tmp_path: Path) -> None:
    (tmp_path / "series").mkdir()
    for name in ("run.json", "series/1.dcm", "series/2.dcm"):
        os.mkfifo(tmp_path / name)
    assert [entry.slide_id for entry in find_slides(tmp_path)] == ["1", "2"]


def test_where_no_slide_can_be_used_the_code_is_that_of_a_failure(tmp_path: Path) -> None:
    (tmp_path / "a.svs").write_bytes(b"no slide")
    folder = open_run_folder(tmp_path / "out")
    assert work(find_slides(tmp_path), folder, knobs(), until="tile") == 1
    assert (tmp_path / "out" / "failures.csv").read_text().count("\n") == 2


def knobs(*more: str) -> Any:
    return load_config(None, [*KNOBS, *more])
