"""A disk that is full, on a real tmpfs: one clear line with bytes, nothing half-written, and --resume goes on."""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import shapely
from outcome import leftovers, outcome
from small_slide import a_slide
from test_pipeline import DarkIsCancer
from test_train import trained

from wsi_pipeline.cli.job import work
from wsi_pipeline.config import Config, load_config
from wsi_pipeline.errors import ModelError, StoreError
from wsi_pipeline.learn.model.checkpoint import load_checkpoint
from wsi_pipeline.maps.geopackage import write_geopackage
from wsi_pipeline.pipeline.begin import open_run_folder
from wsi_pipeline.pipeline.claims import open_claims
from wsi_pipeline.pipeline.run import run_cohort
from wsi_pipeline.slide.entry import SlideEntry
from wsi_pipeline.slide.synthetic import draw_slide

SPARE = 48 * 1024  # enough for events, logs and records, not for a shard of tiles
LITTLE = 4096  # enough for a record, not for a heatmap
ONLY_HEATMAP = [f"outputs.{name}=false" for name in ("asap", "geojson", "geopackage")]  # what is written before it
TOLD = r"disk full while writing [\d,]+ bytes, [\d,]+ bytes are free; free some"


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 32 MiB, empty."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=32m", "tmpfs", str(place)]
    if shutil.which("mount") is None or subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("no right to mount a tmpfs here")
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


@pytest.fixture(scope="module")
def entries(tmp_path_factory: pytest.TempPathFactory) -> list[SlideEntry]:
    path = tmp_path_factory.mktemp("slides") / "a.tif"
    draw_slide(path, size_px=(1000, 900), mpp=0.5, seed=3)
    return [SlideEntry("a", str(path))]


@pytest.fixture(scope="module")
def whole(entries: list[SlideEntry], tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What a run on a disk with room comes to."""
    out = tmp_path_factory.mktemp("whole")
    assert work(entries, open_run_folder(out), knobs(), classifier=DarkIsCancer()) == 0
    return outcome(out)


def knobs(*more: str) -> Config:
    known = ["run.scheduler=threads", "run.workers=1", "tiles.tile_px=64", "tiles.shard_tiles=16"]
    return load_config(None, [*known, *more])


def fill(disk: Path, spare: int) -> None:
    """Take all of the disk but `spare` bytes."""
    free = shutil.disk_usage(disk).free - spare
    with (disk / "ballast").open("wb") as file, suppress(OSError):
        os.posix_fallocate(file.fileno(), 0, free)
    assert shutil.disk_usage(disk).free <= spare


def ran(entries: list[SlideEntry], disk: Path, moment: str, spare: int, *more: str) -> Any:
    """The slide's row of a run beside which something else fills the disk at a moment."""

    def hear(name: str, facts: dict[str, Any]) -> None:
        if name == moment:
            fill(disk, spare)

    folder, config = open_run_folder(disk / "run"), knobs(*more)
    (row,) = run_cohort(entries, folder, config, classifier=DarkIsCancer(), listen=hear)
    return row


def ends_well(entries: list[SlideEntry], disk: Path, whole: dict[str, str]) -> None:
    """Nothing is left half-written; with the ballast gone a resumed run comes to what a whole one comes to."""
    assert leftovers(disk) == []
    (disk / "ballast").unlink()
    assert work(entries, open_run_folder(disk / "run", resume=True), knobs(), classifier=DarkIsCancer()) == 0
    assert outcome(disk / "run") == whole


@pytest.mark.parametrize(
    ("moment", "spare", "stage", "what"),
    [("tiles_planned", SPARE, "tiles", "a.zarr"), ("scores_done", LITTLE, "map", "a_likelihood_map.tif")],
    ids=["store", "heatmap"],
)
def test_a_slide_that_finds_no_room_fails_with_the_bytes_and_resume_does_it(
    entries: list[SlideEntry], disk: Path, whole: dict[str, str], moment: str, spare: int, stage: str, what: str
) -> None:
    row = ran(entries, disk, moment, spare, *ONLY_HEATMAP)
    print(f"{stage}: {row.message}")
    assert (row.status, row.stage) == ("failed", stage)
    assert re.search(rf"{what}: {TOLD}", row.message) and "\n" not in row.message
    ends_well(entries, disk, whole)


class Crowded(DarkIsCancer):
    """A classifier beside which the disk is filled to the last byte while it scores."""

    def __init__(self, disk: Path) -> None:
        super().__init__()
        self._disk = disk

    def score(self, store_path: str, key: str, progress: Any = None) -> Any:
        fill(self._disk, 0)
        return super().score(store_path, key, progress)


@pytest.mark.parametrize("moment", ["slide_started", "tiles_done", "scoring"])
def test_a_disk_full_to_the_last_byte_ends_the_run_in_one_error_and_resume_goes_on(
    entries: list[SlideEntry], disk: Path, whole: dict[str, str], moment: str
) -> None:
    with pytest.raises(StoreError, match=TOLD) as told:
        if moment == "scoring":
            work(entries, open_run_folder(disk / "run"), knobs(), classifier=Crowded(disk))
        else:
            ran(entries, disk, moment, 0)
    print(f"{moment}: {told.value}")
    ends_well(entries, disk, whole)


@pytest.mark.slow
def test_the_command_line_tells_of_a_full_disk_in_one_line(entries: list[SlideEntry], disk: Path) -> None:
    fill(disk, 0)
    command = [sys.executable, "-m", "wsi_pipeline", "tile", entries[0].path, "--out", str(disk / "run")]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=300)
    print(f"exit code {done.returncode}: {done.stderr.strip()}")
    assert done.returncode == 1 and re.search(TOLD, done.stderr)
    assert done.stderr.count("\n") == 1


def test_half_a_line_in_the_events_spoils_no_other(tmp_path: Path) -> None:
    folder = open_run_folder(tmp_path / "run")
    (tmp_path / "run" / "events.jsonl").write_text('{"event": "cut o')
    folder.event("whole")
    assert json.loads((tmp_path / "run" / "events.jsonl").read_text().splitlines()[1])["event"] == "whole"


def test_a_claim_that_finds_no_room_is_told_and_blocks_nobody(disk: Path) -> None:
    with open_claims(disk / "claims") as claims:
        fill(disk, 0)
        with pytest.raises(StoreError, match=TOLD):
            claims.take("a")
        (disk / "ballast").unlink()
        assert claims.take("a")


def test_scratch_without_room_is_told_with_its_place(
    disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(disk))
    fill(disk, 4096)
    slide, _ = a_slide(tmp_path)
    square = shapely.MultiPolygon([shapely.box(0, 0, 9, 9)])
    words = rf"a.gpkg: its draft in {disk} failed, where [\d,]+ bytes are free .*TMPDIR"
    with pytest.raises(StoreError, match=words) as told:
        write_geopackage(tmp_path / "a.gpkg", [], square, slide)
    assert told.value.__context__ is None and capfd.readouterr().err == ""
    assert not (tmp_path / "a.gpkg").exists() and os.listdir(disk) == ["ballast"]


@pytest.mark.slow
def test_a_training_keeps_the_best_so_far_and_is_resumed(disk: Path, tmp_path: Path) -> None:
    kept: list[str] = []

    def hear(name: str, facts: dict[str, Any]) -> None:
        if name == "validated" and not kept:
            kept.append(load_checkpoint(disk / "run").id)
            fill(disk, SPARE)

    with pytest.raises((StoreError, ModelError), match=r"not saved \(disk full while writing [\d,]+ bytes, .*--resume"):
        trained(disk / "run", listen=hear)
    assert load_checkpoint(disk / "run").id == kept[0] and leftovers(disk) == []
    (disk / "ballast").unlink()
    assert trained(disk / "run", resume=True).id == trained(tmp_path / "whole").id
