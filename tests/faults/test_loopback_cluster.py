"""A cluster of processes of their own, two of its workers killed under way: all slides come through, the same."""

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks.loopback import Loopback, loopback
from wsi_pipeline.config import load_config
from wsi_pipeline.pipeline.begin import open_run_folder
from wsi_pipeline.pipeline.lanes import Recipe, RemoteClassifier
from wsi_pipeline.pipeline.run import run_cohort
from wsi_pipeline.slide.cohort import find_slides
from wsi_pipeline.slide.synthetic import draw_slide

FILES = ("heatmap", "overlay", "geojson", "asap", "tiles_geojson", "geopackage")
KNOBS = ["tiles.shard_tiles=4", "run.workers=1", *(f"outputs.{name}=false" for name in FILES)]
DEMO = Recipe("demo", device="cpu", batch=None, resample=False)


def ran(slides: Path, out: Path, scheduler: str, listen: Callable[[str, dict[str, Any]], None]) -> list[str]:
    config = load_config(None, [*KNOBS, f"run.scheduler={scheduler}"])
    folder, classifier = open_run_folder(out), RemoteClassifier(DEMO)
    rows = list(run_cohort(find_slides(str(slides)), folder, config, classifier=classifier, listen=listen))
    return [str(replace(row, seconds=0)) for row in rows]  # as text: a NaN equals itself


def kill_two(cluster: Loopback) -> Callable[[str, dict[str, Any]], None]:
    """A reader as the second slide's tiles are planned, a GPU's worker as the first scores are in."""

    def listen(name: str, facts: dict[str, Any]) -> None:
        planned = name == "tiles_planned" and facts["slide_id"].endswith("2")
        for worker, moment in (("read-1", planned), ("gpu-1", name == "scores_done")):
            if moment and worker in cluster.workers:
                cluster.kill(worker)

    return listen


@pytest.mark.slow
def test_killed_workers_of_both_kinds_cost_no_slide(tmp_path: Path) -> None:
    (tmp_path / "slides").mkdir()
    draw_slide(tmp_path / "slides" / "1.tif", size_px=(1200, 1200), mpp=0.5, seed=3)
    for name in ("2.tif", "3.tif", "4.tif"):
        os.link(tmp_path / "slides" / "1.tif", tmp_path / "slides" / name)
    alone = ran(tmp_path / "slides", tmp_path / "alone", "threads", lambda name, facts: None)
    with loopback(tmp_path / "cluster", readers=2, gpus=2) as cluster:
        rows = ran(tmp_path / "slides", tmp_path / "run", cluster.address, kill_two(cluster))
        left = sorted(cluster.workers)
    same = sum(row == other for row, other in zip(rows, alone, strict=True))
    print(f"killed read-1 and gpu-1; {same} of {len(alone)} slides came out as without a cluster")
    assert left == ["gpu-0", "read-0"]
    assert rows == alone and all("status='ok'" in row for row in rows)
