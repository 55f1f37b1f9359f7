"""A run folder at a URL: stores lie there shard by shard, one job makes a claim, others' files stay."""

import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from map_samples import a_result
from small_slide import a_slide, a_store

from wsi_pipeline.cli import job
from wsi_pipeline.config import load_config
from wsi_pipeline.errors import ConfigError, StoreError
from wsi_pipeline.maps import report
from wsi_pipeline.maps.result import without_result
from wsi_pipeline.pipeline.claim_files import BucketFiles
from wsi_pipeline.pipeline.claims import open_claims
from wsi_pipeline.pipeline.remote_folder import RemoteFolder, account_of, check_run, open_run
from wsi_pipeline.pipeline.seen import recall, remember, source_of
from wsi_pipeline.pipeline.tile import _same_store
from wsi_pipeline.slide.entry import SlideEntry
from wsi_pipeline.tiles.making import missing_shards
from wsi_pipeline.tiles.places import filled
from wsi_pipeline.tiles.store import open_store
from wsi_pipeline.tiles.tiler import cut_shard

URL = "memory://bucket/run"


class NoAnswerError(Exception):
    """As libraries of object stores raise: no OSError."""


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[MemoryFileSystem]:
    monkeypatch.setenv("WSI_PIPELINE_CACHE_DIR", str(tmp_path / "cache"))
    MemoryFileSystem.store.clear()
    MemoryFileSystem.pseudo_dirs[:] = [""]
    yield fsspec.filesystem("memory")


def opened(**options: Any) -> RemoteFolder:
    found = open_run(URL, **options)
    assert isinstance(found, RemoteFolder)
    return found


def worked_on(folder: RemoteFolder, tmp_path: Path) -> None:
    """A store and maps of slide "a" where a run would have made them."""
    a_store(folder.store("a").removesuffix("/a.zarr"), a_slide(tmp_path)[0])
    with filled(folder.maps) as room:
        for name in ("a_overlay.png", "a_lesions.geojson"):
            (room / name).write_bytes(b"map")
    folder.event("slide_started", slide_id="a")


def test_stores_maps_and_records_are_at_the_url_and_pictures_come_for_the_report(files: Any, tmp_path: Path) -> None:
    folder = opened()
    worked_on(folder, tmp_path)
    folder.record(without_result("a", "ok", stage="map"), "key")
    assert files.exists("/bucket/run/tiles/a.zarr/zarr.json") and files.exists("/bucket/run/logs/a.log")
    assert folder.has(["a_overlay.png", "a_lesions.geojson"]) and not folder.has(["a_overlay.png", "a_tissue.png"])
    assert folder.pictures("a") == {"overlay": folder.root / "maps" / "a_overlay.png"}
    found = opened(resume=True).recorded("a")
    assert found is not None and found[0].slide_id == "a" and math.isnan(found[0].cancer_mm2) and found[1] == "key"


def test_maps_can_be_dropped_at_the_url_and_others_stay(files: Any, tmp_path: Path) -> None:
    folder = opened()
    worked_on(folder, tmp_path)
    assert folder.pictures("a")
    folder.drop(["a_overlay.png", "a_tissue.png"])
    assert not folder.has(["a_overlay.png"]) and folder.has(["a_lesions.geojson"]) and folder.pictures("a") == {}


def test_a_picture_that_cannot_be_fetched_is_left_out(
    files: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = opened()
    worked_on(folder, tmp_path)
    assert folder.pictures("a")

    def away(*_: object, **__: object) -> None:
        raise ConnectionError("no route")

    monkeypatch.setattr(MemoryFileSystem, "cat_file", away)
    assert folder.pictures("a") == {}  # not the one that was fetched before, either


def test_a_report_that_fails_is_told_and_costs_no_table(files: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object, **__: object) -> None:
        raise StoreError("report.html: no room")

    monkeypatch.setattr(report, "write_report", fails)
    monkeypatch.setattr(job, "run_cohort", lambda *_, **__: iter([a_result("a")]))
    with pytest.raises(StoreError, match=r"^report\.html: no room"):
        job.work([SlideEntry("a", "a.tif")], opened(), load_config(None, ["run.scheduler=threads"]))
    assert b"\na,ok," in files.cat_file("/bucket/run/slides.csv")
    assert account_of(URL)["statuses"] == {"ok": 1}


def test_tables_that_a_run_does_not_write_stay_at_the_url(files: Any) -> None:
    opened()
    files.pipe_file("/bucket/run/slides.csv", b"slide_id\na\n")
    opened(resume=True).publish()
    assert files.cat_file("/bucket/run/slides.csv") == b"slide_id\na\n"


def test_what_was_cut_of_a_slide_is_there_for_the_next_job(files: Any, tmp_path: Path) -> None:
    folder = opened()
    worked_on(folder, tmp_path)
    cut_shard(folder.store("a"), 2)
    del folder
    store = open_store(opened(resume=True).store("a"), complete=False)
    assert missing_shards(store) == [0, 1, 3, 4]


def test_a_store_that_cannot_be_reached_for_a_moment_is_kept(
    files: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = opened()
    worked_on(folder, tmp_path)
    there, asked = type(files).exists, iter(range(9))

    def exists(self: MemoryFileSystem, path: str, **_: object) -> bool:
        if next(asked) == 1:  # the first tells that there is a store
            raise NoAnswerError("read timed out")
        return bool(there(self, path))

    monkeypatch.setattr("wsi_pipeline.slide.urls._FOREIGN", {__name__: "NoAnswerError"})
    with monkeypatch.context() as patch, pytest.raises(StoreError, match=r"cannot be reached \(read timed out\)"):
        patch.setattr(type(files), "exists", exists)
        _same_store(folder.store("a"), "k1")
    assert _same_store(folder.store("a"), "k1") is not None


def test_what_a_killed_job_had_under_way_is_found_again_and_a_living_job_has_a_folder_of_its_own(files: Any) -> None:
    first = opened()
    second = opened(resume=True)
    assert first.root != second.root
    place = first.root
    del first  # as a kill does: its lock is free
    assert opened(resume=True).root == place


def test_a_run_that_is_over_leaves_nothing_here_and_its_tables_there(files: Any, tmp_path: Path) -> None:
    folder = opened()
    worked_on(folder, tmp_path)
    folder.record(without_result("a", "ok", stage="map"), "key")
    (folder.root / "slides.csv").write_text("slide_id\na\n")
    folder.publish()
    assert files.cat_file("/bucket/run/slides.csv") == b"slide_id\na\n"
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.suffix != ".lock" and path.is_file()]
    del folder
    opened(resume=True).publish()
    (events,) = files.glob("/bucket/run/events-*.jsonl")
    assert files.cat_file(events).count(b"slide_started") == 1  # a later job here adds to them


def test_a_forgotten_slide_has_no_record_anywhere_and_a_failure_is_told_to_other_jobs(files: Any) -> None:
    mine, theirs = opened(), opened(resume=True)
    mine.record_failure(without_result("a", "failed", stage="map", message="why"))
    failed = theirs.failed_since("a", 0.0)
    assert failed is not None and failed.message == "why" and theirs.failed_since("a", 2e9) is None
    theirs.record(without_result("a", "ok", stage="map"), "key")
    assert mine.recorded_since("a", 0.0) and not mine.recorded_since("a", 2e9) and not mine.recorded_since("b", 0.0)
    theirs.forget("a", record=False)
    assert mine.failed_since("a", 0.0) is None and mine.recorded("a") is not None
    theirs.forget("a")
    assert mine.recorded("a") is None and mine.last_told("a") is None


def test_other_files_at_a_url_are_never_touched_and_a_run_only_when_that_is_said(files: Any) -> None:
    files.pipe_file("/bucket/run/mine.txt", b"mine")
    with pytest.raises(ConfigError, match=f"^{URL}: holds other files"):
        opened(overwrite=True)
    files.rm("/bucket/run/mine.txt")
    opened()
    for ask in (opened, lambda: check_run(URL)):
        with pytest.raises(ConfigError, match="holds a run already"):
            ask()
    files.pipe_file("/bucket/run/tiles/a.zarr/zarr.json", b"{}")
    files.pipe_file("/bucket/run/mine.txt", b"mine")
    opened(overwrite=True)
    assert sorted(files.find("/bucket/run")) == ["/bucket/run/mine.txt", "/bucket/run/run.json"]
    assert account_of(URL) == opened(resume=True).account() and account_of("memory://bucket/no") == {}


def test_a_run_that_cannot_begin_removes_nothing_at_the_url(files: Any) -> None:
    opened()
    files.pipe_file("/bucket/run/tiles/a.zarr/zarr.json", b"{}")
    with pytest.raises(ConfigError, match=f"^{URL}: jobs of slurm write their logs to a folder"):
        opened(overwrite=True, ready=lambda folder: folder.check_workers("slurm"))
    assert files.exists("/bucket/run/tiles/a.zarr/zarr.json")


def test_overwrite_removes_nothing_under_a_job_at_work_at_the_url(files: Any) -> None:
    folder = opened()
    folder.record(without_result("a", "ok", stage="map"), "key")
    with open_claims(folder.claims) as claims:
        assert claims.take("a")
        with pytest.raises(ConfigError, match=f"^{URL}: a job .* is at work in it"):
            opened(overwrite=True)
    assert folder.recorded("a")
    assert opened(overwrite=True).recorded("a") is None


def test_the_account_at_a_url_is_read_without_a_cache_folder(
    files: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    account = opened().account()
    (tmp_path / "none").write_text("a file, no folder")
    monkeypatch.setenv("WSI_PIPELINE_CACHE_DIR", str(tmp_path / "none"))
    assert account_of(URL) == account_of(f"{URL}/") == account
    files.pipe_file("/bucket/run/run.json", b"{")
    with pytest.raises(StoreError, match=f"^{URL}/run.json: cannot be read .*; use another --out, or --overwrite"):
        account_of(URL)
    files.pipe_file("/bucket/run/run.json", b"{}")
    with pytest.raises(StoreError, match=f"^{URL}/run.json: not written by this package"):
        account_of(URL)


def test_workers_that_cannot_reach_the_url_are_refused(files: Any) -> None:
    folder = opened()
    folder.check_workers("threads")
    with pytest.raises(ConfigError, match=r"is this process's own memory, which no worker sees; use s3:// or a path"):
        folder.check_workers("tcp://h:1")
    with pytest.raises(ConfigError, match=r"jobs of slurm write their logs to a folder .* --scheduler tcp://host:port"):
        folder.check_workers("slurm")


def test_messages_tell_the_url_for_the_folder_here(files: Any) -> None:
    folder = opened()
    assert folder.told(f"{folder.root}/records/a.json: disk full") == f"{URL}/records/a.json: disk full"
    folder.event("traceback", text=str(folder.root / "x"))
    assert str(folder.root) not in (folder.root / "events.jsonl").read_text()


def test_claims_at_a_url_are_one_jobs_alone_and_pass_on_when_they_are_not_touched(files: Any) -> None:
    place = BucketFiles(files, "/bucket/claims", "memory://bucket/claims")
    quick = {"heartbeat_s": 0.05, "expiry_s": 0.4}
    files.pipe_file("/bucket/claims/b.3", b"{}")
    with open_claims(place, **quick) as mine, open_claims(place, **quick) as theirs:
        assert mine.take("a") and not theirs.take("a") and theirs.owner("a") == mine.job
        assert not theirs.take("b")
        mine._stop.wait(0.6)
        assert theirs.take("b") and not mine.take("b") and mine.holds("a") and not theirs.take("a")
        mine.free("a")
        assert theirs.take("a")
    assert files.find("/bucket/claims") == []


def test_a_store_that_lets_two_make_one_file_cannot_hold_a_run(files: Any) -> None:
    class Careless(MemoryFileSystem):
        def pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **_: Any) -> None:
            super().pipe_file(path, value)

    place = BucketFiles(Careless(), "/bucket/claims", "memory://bucket/claims")
    with pytest.raises(ConfigError, match="lets two jobs make the same file"):
        place.prepare()


def test_a_slide_that_is_the_same_at_its_url_is_known_without_fetching_it(files: Any, tmp_path: Path) -> None:
    slide, _ = a_slide(tmp_path)
    files.pipe_file("/bucket/a.tif", b"content")
    entry = SlideEntry("a", "memory://bucket/a.tif", mpp=(0.5, 0.5))
    written = remember(slide, source_of(entry, None))
    assert recall(written, source_of(entry, None)) == slide
    assert recall(written, source_of(replace(entry, mpp=(0.25, 0.25)), None)) is None
    files.pipe_file("/bucket/a.tif", b"other content")
    assert recall(written, source_of(entry, None)) is None
    assert source_of(SlideEntry("a", slide.path), None) is None
