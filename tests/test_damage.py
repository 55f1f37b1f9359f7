"""A damaged slide and a fresh copy of it under its name: a resumed run sees what of it is whole now."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from small_slide import a_grid, a_slide, all_tissue
from test_pipeline import GONE, DarkIsCancer, hashes, knobs, ran

from wsi_pipeline.config import Config
from wsi_pipeline.maps.result import SlideResult
from wsi_pipeline.pipeline.begin import open_run_folder
from wsi_pipeline.pipeline.damage import missed_tiles
from wsi_pipeline.pipeline.folder import RunFolder
from wsi_pipeline.scores.store import Scores, write_scores
from wsi_pipeline.slide.entry import SlideEntry
from wsi_pipeline.slide.synthetic import draw_slide
from wsi_pipeline.tiles.making import create_store, mark_complete
from wsi_pipeline.tiles.store import open_store

COPIED = ["tiles.store=jpeg", "tiles.tile_px=256", "tiles.shard_tiles=5"]  # each tile one of the slide's own
WAYS = {"pixels": [], "jpeg": ["tiles.store=jpeg"], "copied": COPIED, "coordinates": ["tiles.store=coordinates"]}
MUCH = "tiles.max_unreadable=0.5"


@pytest.fixture
def slide(tmp_path: Path) -> SlideEntry:
    draw_slide(tmp_path / "a.tif", size_px=(1500, 1200), mpp=0.5, seed=3)
    return SlideEntry("a", str(tmp_path / "a.tif"))


def damaged(slide: SlideEntry, way: str) -> bytes:
    """Spoil the JPEG tile in the middle of level 0: its first bytes, or, where it is to be copied, its pixels.

    Returns the file as it was.
    """
    path = Path(slide.path)
    whole = path.read_bytes()
    with tifffile.TiffFile(path) as tiff:
        page: Any = tiff.pages[0]
        across = -(-page.imagewidth // page.tilewidth)
        number = 600 // page.tilelength * across + 750 // page.tilewidth
        at, length = page.dataoffsets[number], page.databytecounts[number]
    bad = bytes(byte ^ 0xFF for byte in whole[at : at + 16])
    if way == "copied":
        at, bad = at + length // 2, b"\xff\x01" * 40
    path.write_bytes(whole[:at] + bad + whole[at + len(bad) :])
    return whole


def shards_written(folder: RunFolder) -> list[int]:
    """By each run."""
    events = map(json.loads, (folder.root / "events.jsonl").read_text().splitlines())
    return [event["shards_written"] for event in events if event["event"] == "tiles_done"]


def timeless(row: SlideResult) -> SlideResult:
    return replace(row, seconds=0)


def config_of(way: str, *more: str) -> Config:
    return knobs(*WAYS[way], *more)


@pytest.mark.parametrize("until", ["tile", "score"])
@pytest.mark.parametrize("way", WAYS)
def test_a_row_tells_of_damage_and_tissue_before_there_are_maps(slide, tmp_path, way, until):
    damaged(slide, way)
    folder, config = open_run_folder(tmp_path / "run"), config_of(way, MUCH)
    (row,), classifier = ran([slide], folder, config, until=until)
    seen = until == "score" or way in ("pixels", "jpeg")  # what is copied or not kept is read when it is scored
    expected = 0 if not seen else 1 if way == "copied" else 16
    assert (row.status, row.stage) == ("partial" if expected else "ok", {"tile": "tiles", "score": "score"}[until])
    (mapped,), _ = ran([slide], folder, config, classifier)
    assert (row.tiles, row.warnings) == (mapped.tiles, mapped.warnings)
    assert row.tissue_mm2 == pytest.approx(mapped.tissue_mm2)
    assert row.unreadable_tiles == expected and mapped.unreadable_tiles in (1, 16)


@pytest.mark.parametrize("way", WAYS)
def test_a_resumed_run_takes_a_fresh_copy_of_a_damaged_file(slide, tmp_path, way):
    whole, config = damaged(slide, way), config_of(way, MUCH)
    (before,), classifier = ran([slide], open_run_folder(tmp_path / "run"), config)
    assert (before.status, before.unreadable_tiles) == ("partial", 1 if way == "copied" else 16)
    Path(slide.path).write_bytes(whole)
    folder = open_run_folder(tmp_path / "run", resume=True)
    (row,), _ = ran([slide], folder, config, classifier)
    (fresh,), _ = ran([slide], open_run_folder(tmp_path / "fresh"), config)
    assert (row.status, timeless(row)) == ("ok", timeless(fresh))
    first, second = shards_written(folder)
    assert second < first or way == "coordinates"  # of the same store: the others were kept
    (kept,), _ = ran([slide], folder, config, classifier)
    assert kept == row and classifier.scored == ["a", "a"]


@pytest.mark.parametrize("way", WAYS)
def test_a_slide_still_damaged_ends_as_before_and_only_its_damaged_shards_are_read_again(slide, tmp_path, way):
    damaged(slide, way)
    config = config_of(way, MUCH)
    (before,), classifier = ran([slide], open_run_folder(tmp_path / "run"), config)
    folder = open_run_folder(tmp_path / "run", resume=True)
    for _ in range(2):
        (row,), _ = ran([slide], folder, config, classifier)
        assert (row.status, timeless(row)) == ("partial", timeless(before))
    assert classifier.scored == ["a"]
    store = open_store(folder.store("a"))
    flags = store.flags(0, store.n_tiles) if store.pixels else np.ones(store.n_tiles, bool)
    again = len(np.unique(np.flatnonzero(~flags) // store.shard_tiles))
    assert shards_written(folder)[1:] == [again, again] and bool(again) == store.pixels


@pytest.mark.parametrize("way", ["pixels", "jpeg", "copied"])
def test_maps_of_a_damaged_slide_that_is_gone_are_drawn_anew_too(slide, tmp_path, way):
    damaged(slide, way)
    folder, other = open_run_folder(tmp_path / "run"), "maps.threshold=0.4"
    (first,), classifier = ran([slide], folder, config_of(way, MUCH))
    ran([slide], fresh := open_run_folder(tmp_path / "fresh"), config_of(way, MUCH, other))
    Path(slide.path).unlink()
    (kept,), _ = ran([slide], folder, config_of(way, MUCH), classifier)
    assert kept == replace(first, warnings=(*first.warnings, GONE))
    (row,), _ = ran([slide], folder, config_of(way, MUCH, other), classifier)
    assert (row.status, row.unreadable_tiles, row.warnings) == ("partial", first.unreadable_tiles, kept.warnings)
    assert hashes(Path(folder.maps)) == hashes(Path(fresh.maps)) and classifier.scored == ["a"]
    (anew,), _ = ran([slide], folder, config_of(way, MUCH, other), DarkIsCancer("another"))
    assert timeless(anew) == timeless(row)


@pytest.mark.parametrize("way", ["pixels", "copied"])
def test_a_slide_that_is_gone_and_too_damaged_by_now_loses_neither_tiles_nor_scores(slide, tmp_path, way):
    damaged(slide, way)
    folder = open_run_folder(tmp_path / "run")
    (first,), classifier = ran([slide], folder, config_of(way, MUCH))
    Path(slide.path).unlink()
    (row,), _ = ran([slide], folder, config_of(way, "tiles.max_unreadable=0.01", "maps.threshold=0.4"), classifier)
    assert row.status == "unreadable" and "tiles cannot be read, more than 1%" in row.message
    (row,), _ = ran([slide], folder, config_of(way, MUCH), classifier)
    assert timeless(row) == timeless(replace(first, warnings=(*first.warnings, GONE))) and classifier.scored == ["a"]


@pytest.mark.parametrize("way", ["coordinates", "copied"])
def test_damage_that_shows_when_tiles_are_scored_fails_a_slide_as_any_other_does(slide, tmp_path, way):
    whole, config = damaged(slide, way), config_of(way, "tiles.max_unreadable=0.01")
    folder = open_run_folder(tmp_path / "run")
    (row,), classifier = ran([slide], folder, config)
    assert (row.status, row.stage) == ("unreadable", "score")
    assert "tiles cannot be read, more than 1%; the file is damaged, get a fresh copy" in row.message
    (row,), _ = ran([slide], folder, config, classifier)
    assert row.status == "unreadable" and classifier.scored == ["a"]
    Path(slide.path).write_bytes(whole)
    (row,), _ = ran([slide], folder, config, classifier)
    assert (row.status, classifier.scored) == ("ok", ["a", "a"])


def test_the_scores_tell_which_tiles_they_missed_of_a_dense_map_too(tmp_path):
    slide, _ = a_slide(tmp_path)
    grid, windows = a_grid(slide, tile=64), a_grid(slide, tile=64, stride_px=32)
    options = {"pixels": False, "shard_tiles": 16, "key": "k", "settings": {}}
    store = mark_complete(create_store(tmp_path / "a.zarr", grid, all_tissue(slide), **options))
    probs = np.full((len(windows), 1), 0.5, np.float32)
    about = {"windows": windows, "tried": len(grid), "missed": (7,)}
    scores = Scores(windows.rowcol, ("tumour",), ("tumour",), False, probs, "dark", 0.3, 0.5, **about)
    write_scores(store.path, scores, key="k")
    assert missed_tiles(store, "dark", "k").tolist() == [7]
    write_scores(store.path, replace(scores, missed=None), key="k")  # as older versions wrote them
    assert len(missed_tiles(store, "dark", "k")) == 0
    assert len(missed_tiles(store, "dark", "of other settings")) == len(missed_tiles(store, "", "")) == 0
