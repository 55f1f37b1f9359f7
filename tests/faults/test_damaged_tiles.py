"""Slides damaged inside, through a whole run: a few bad tiles make it partial, many make it fail, in words."""

import csv
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from test_pipeline import DarkIsCancer

from wsi_pipeline.cli.job import work
from wsi_pipeline.config import load_config
from wsi_pipeline.pipeline.begin import open_run_folder
from wsi_pipeline.pipeline.run import run_cohort
from wsi_pipeline.scores.store import read_scores
from wsi_pipeline.slide.entry import SlideEntry
from wsi_pipeline.slide.synthetic import draw_slide
from wsi_pipeline.tiles.store import open_store

KNOBS = ["run.scheduler=threads", "run.workers=1", "tiles.tile_px=64", "tiles.shard_tiles=32"]


@pytest.fixture
def slides(tmp_path: Path) -> list[SlideEntry]:
    """One to be damaged and one that stays good."""
    sizes = {"bad": (2400, 2000), "good": (700, 600)}
    for name, size in sizes.items():
        draw_slide(tmp_path / f"{name}.tif", size_px=size, seed=3)
    return [SlideEntry(name, str(tmp_path / f"{name}.tif")) for name in sizes]


def flip(path: Path, at_l0: tuple[int, int]) -> tuple[int, int, int]:
    """Flip the first bytes of the JPEG tile of level 0 at (x, y); returns its left, top and side in px."""
    with tifffile.TiffFile(path) as tiff:
        page = tiff.pages[0]
        side, across = page.tilewidth, -(-page.imagewidth // page.tilewidth)
        col, row = at_l0[0] // side, at_l0[1] // side
        start = page.dataoffsets[row * across + col]
    with path.open("r+b") as file:
        file.seek(start)
        flipped = bytes(byte ^ 0xFF for byte in file.read(16))
        file.seek(start)
        file.write(flipped)
    return col * side, row * side, side


def rows_of(folder: Path) -> dict[str, dict[str, str]]:
    return {row["slide_id"]: row for row in csv.DictReader((folder / "slides.csv").read_text().splitlines())}


def test_bytes_flipped_in_a_tile_of_the_file_make_the_slide_partial(slides: list[SlideEntry], tmp_path: Path) -> None:
    left, top, side = flip(Path(slides[0].path), (1200, 1000))  # in the middle: all tissue
    folder = open_run_folder(tmp_path / "run")
    assert work(slides, folder, load_config(None, KNOBS), classifier=DarkIsCancer()) == 0
    store = open_store(folder.store("bad"))
    x, y = store.grid.xy_l0.T
    hit = (x >= left) & (x < left + side) & (y >= top) & (y < top + side)
    assert hit.sum() == (side // 64) ** 2
    np.testing.assert_array_equal(np.isnan(read_scores(store.path, "dark").probs[:, 0]), hit)
    rows = rows_of(folder.root)
    assert (rows["bad"]["status"], rows["bad"]["unreadable_tiles"]) == ("partial", str(hit.sum()))
    assert (rows["good"]["status"], rows["good"]["unreadable_tiles"]) == ("ok", "0")
    print(f"flipped: {hit.sum()} of {len(hit)} tiles unreadable, status {rows['bad']['status']}")


@pytest.mark.parametrize(
    ("moment", "words"),
    [("before", "cut short: it has"), ("tiles_planned", "tiles cannot be read, more than 5%")],
    ids=["before the run", "while it is cut"],
)
def test_a_file_truncated_at_60_percent_fails_alone_in_words(
    slides: list[SlideEntry], tmp_path: Path, moment: str, words: str
) -> None:
    def truncate(name: str, facts: dict[str, Any]) -> None:
        if name == moment and facts["slide_id"] == "bad":
            os.truncate(slides[0].path, os.path.getsize(slides[0].path) * 6 // 10)

    truncate("before", {"slide_id": "bad"})
    folder = open_run_folder(tmp_path / "run")
    ran = run_cohort(slides, folder, load_config(None, KNOBS), classifier=DarkIsCancer(), listen=truncate)
    rows = {row.slide_id: row for row in ran}
    print(f"truncated: {rows['bad'].message}")
    assert (rows["bad"].status, rows["good"].status) == ("unreadable", "ok")
    assert words in rows["bad"].message and "get a fresh copy" in rows["bad"].message
