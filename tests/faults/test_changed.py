"""Inputs that change between two runs of one folder: what hangs on them is done again, the rest kept, nothing mixed."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from outcome import outcome, shards

from wsi_pipeline.cli.group import group
from wsi_pipeline.learn.model.checkpoint import load_checkpoint, save_checkpoint
from wsi_pipeline.slide.synthetic import draw_slide

ALWAYS = ["--scheduler", "threads", "--workers", "1"]
ALWAYS += [part for name in ("overlay", "geopackage", "asap") for part in ("--set", f"outputs.{name}=false")]
SMALLER = ["--set", "tiles.tile_px=128", "--set", "model.resample=true"]


class Place:
    """Two slides, a manifest, and a run folder over them."""

    def __init__(self, root: Path) -> None:
        self.root, self.knobs = root, list(ALWAYS)
        for name, seed in {"a": 1, "b": 2}.items():
            self.draw(name, seed)
        self.manifest(mpp=0.5)

    def draw(self, name: str, seed: int) -> None:
        draw_slide(self.root / f"{name}.tif", size_px=(600, 500), seed=seed)

    def manifest(self, mpp: float) -> None:
        """What says the scale of a; b's is 0.5 um/px."""
        (self.root / "cohort.csv").write_text(f"slide_id,path,mpp\na,a.tif,{mpp}\nb,b.tif,0.5\n")

    def ran(self, out: str, *more: str) -> Path:
        folder = self.root / out
        command = ["run", str(self.root / "cohort.csv"), "--out", str(folder), *self.knobs, *more]
        assert group.main(command, standalone_mode=False) == 0
        return folder


def other_model(place: Place) -> None:
    demo = load_checkpoint("demo")
    save_checkpoint(replace(demo, temperature=2 * demo.temperature), place.root / "other")
    place.knobs += ["--model", str(place.root / "other")]


CHANGES: dict[str, tuple[Callable[[Place], object], dict[str, str]]] = {
    "nothing": (lambda place: None, {"a": "kept", "b": "kept"}),
    "threshold": (lambda place: place.knobs.extend(["--set", "maps.threshold=0.3"]), {"a": "mapped", "b": "mapped"}),
    "model": (other_model, {"a": "scored", "b": "scored"}),
    "slide": (lambda place: place.draw("a", 7), {"a": "cut", "b": "kept"}),
    "mpp": (lambda place: place.manifest(mpp=0.4), {"a": "cut", "b": "kept"}),
    "tile size": (lambda place: place.knobs.extend(SMALLER), {"a": "cut", "b": "cut"}),
    "tissue": (lambda place: place.knobs.extend(["--set", "tissue.mpp=16"]), {"a": "cut", "b": "cut"}),
}


def done(folder: Path, before: int) -> dict[str, str]:
    """How far back each slide was done again, by the events since line `before`."""
    found = {}
    for line in (folder / "events.jsonl").read_text().splitlines()[before:]:
        event = json.loads(line)
        if event["event"] == "slide_kept":
            found[event["slide_id"]] = "kept"
        elif event["event"] == "tiles_done":
            found[event["slide_id"]] = "cut" if event["shards_written"] else "scored"
    return found


@pytest.mark.slow
def test_what_hangs_on_a_change_is_done_again_and_the_rest_is_kept(tmp_path: Path) -> None:
    place = Place(tmp_path)
    folder = place.ran("run")
    for name, (change, expected) in CHANGES.items():
        change(place)
        before = len((folder / "events.jsonl").read_text().splitlines())
        tiles, scores = shards(folder), scored(folder)
        place.ran("run", "--resume")
        found = done(folder, before)
        if scores == scored(folder):
            found = {slide: "mapped" if how == "scored" else how for slide, how in found.items()}
        print(f"{name}: {found}")
        assert found == expected
        assert (shards(folder) == tiles) == ("cut" not in expected.values())
        if name != "nothing":
            fresh = outcome(place.ran(f"fresh {name}"))
            assert fresh.items() <= outcome(folder).items()  # scores of the other model are there too


def scored(folder: Path) -> dict[str, tuple[int, int]]:
    """Inode and time of every array of scores."""
    paths = [path for path in folder.glob("tiles/*.zarr/scores/**/c/**/*") if path.is_file()]
    return {str(path): (path.stat().st_ino, path.stat().st_mtime_ns) for path in paths}
