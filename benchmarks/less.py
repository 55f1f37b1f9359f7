"""What adaptive and dense scoring save, and what they change of the maps: drawn slides, the small model in the box.

`python -m benchmarks.less [--quick] [--json FOLDER]`

Adaptive: tiles of 256 px every 64 px, against the same run that scores all of them. Dense: what a map at a stride of
32 px costs beside tiles that abut, and how it differs from one made tile by tile at that stride.
"""

import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from math import pi, sqrt
from pathlib import Path

import pandas as pd

from benchmarks.slides import MPP
from benchmarks.timing import Benchmark, Result, arguments, finish, rounds
from wsi_pipeline.slide.synthetic import Tumour, draw_cohort, draw_slide

ALL, ADAPTIVE, ABUT, DENSE, EACH = "all tiles", "adaptive", "tiles that abut", "dense", "tile by tile"
SLIDES, SIDE_PX, DENSE_PX = 4, 6000, 4000
QUICK_SLIDES, QUICK_PX, QUICK_DENSE_PX = 2, 3000, 2000
TUMOURS_MM2 = {"a": 0.2, "b": 0.04}  # of the slides of dense maps
KNOBS = {
    ALL: ("tiles.stride_px=64",),
    ADAPTIVE: ("tiles.stride_px=64", "model.adaptive=true"),
    ABUT: (),
    DENSE: ("model.dense=true",),
    EACH: ("tiles.stride_px=32",),
}


def main(args: Sequence[str] | None = None) -> Benchmark:
    asked = arguments(__doc__ or "", args)
    slides, side, dense = (QUICK_SLIDES, QUICK_PX, QUICK_DENSE_PX) if asked.quick else (SLIDES, SIDE_PX, DENSE_PX)
    settings = {"slides": slides, "side_px": side, "dense_px": dense, "dense_tumours_mm2": TUMOURS_MM2}
    benchmark = Benchmark("less", asked.quick, settings)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        cohort, two = folder / "cohort", folder / "two"
        draw_cohort(cohort, slides=slides, size_px=(side, side), mpp=MPP, seed=1)
        two.mkdir()
        for slide, area_mm2 in TUMOURS_MM2.items():
            middle, radius = dense * MPP / 2, 1000 * sqrt(area_mm2 / pi)
            tumour = Tumour(middle, middle, radius, radius)
            draw_slide(two / f"{slide}.tif", size_px=(dense, dense), mpp=MPP, tumours=[tumour], seed=1)
        benchmark.results = [*_adaptive(folder, cohort), *_dense(folder, two, rounds(asked.quick))]
    finish(benchmark, asked.json)
    return benchmark


def _adaptive(folder: Path, slides: Path) -> list[Result]:
    """Cells of the map for a tile scored, and areas, a number a slide; without tumour there is no area to compare."""
    every, some = (ran(folder / name, slides, name) for name in (ALL, ADAPTIVE))
    cells = {name: (found["rows"] / (found["rows"] - found["filled"])).tolist()
             for name, found in ((ALL, every), (ADAPTIVE, some))}  # fmt: skip
    ill = every["cancer_mm2"] > 0
    areas = {ALL: every["cancer_mm2"][ill].tolist(), ADAPTIVE: some["cancer_mm2"][ill].tolist()}
    healthy = some["cancer_mm2"][~ill].sum()
    return [
        Result("adaptive: cells of the map for a tile scored", "cell", ADAPTIVE, ALL, cells, 4.0,
               f"a number a slide; {every['rows'].sum():,.0f} cells in all", per="tile"),
        Result("adaptive: area of cancer", "mm2", ADAPTIVE, ALL, areas, 0.98,
               f"a number a slide with cancer, 0.98 to 1.02 wanted; on the others {healthy:g} mm2", per="slide"),
    ]  # fmt: skip


def _dense(folder: Path, slides: Path, turns: int) -> list[Result]:
    """What it costs, in turns, and its map against the one made tile by tile at the same stride."""
    rates: dict[str, list[float]] = {ABUT: [], DENSE: []}
    for turn in range(turns):
        for name in list(rates) if turn % 2 else reversed(list(rates)):
            found = ran(folder / name, slides, name)
            rates[name].append(float(found["tiles"].sum() / found["seconds"].sum()))
    each = ran(folder / EACH, slides, EACH)
    dense = ran(folder / DENSE, slides, DENSE)
    areas = {EACH: each["cancer_mm2"].tolist(), DENSE: dense["cancer_mm2"].tolist()}
    alike = ", ".join(f"{correlation(folder, slide):.3f}" for slide in TUMOURS_MM2)
    cost = {EACH: (each["seconds"] / each["tiles"]).tolist(), DENSE: (dense["seconds"] / each["tiles"]).tolist()}
    return [
        Result("dense: scoring, against tiles that abut", "tile", DENSE, ABUT, rates, 1 / 1.5),
        Result("dense: area of cancer, against tile by tile", "mm2", DENSE, EACH, areas, None,
               f"a number a slide, larger tumour first; P(cancer) of its windows correlates by {alike}", per="slide"),
        Result("tile by tile: seconds, against dense", "s", EACH, DENSE, cost, None, "a number a slide", per="window"),
    ]  # fmt: skip


def ran(out: Path, slides: Path, name: str) -> pd.DataFrame:
    """A run with the knobs of that name: a row a slide with tiles, rows, filled, scoring seconds and cancer_mm2."""
    knobs = [word for knob in KNOBS[name] for word in ("--set", knob)]
    command = [sys.executable, "-m", "wsi_pipeline", "run", str(slides), "--out", str(out), "--overwrite"]
    subprocess.run([*command, "--tiles-store", "jpeg", "--device", "cpu", *knobs], check=True, capture_output=True)
    lines = map(json.loads, (out / "events.jsonl").read_text(encoding="utf-8").splitlines())
    scored = pd.DataFrame([line for line in lines if line["event"] == "scores_done"]).set_index("slide_id")
    table = pd.read_csv(out / "slides.csv").set_index("slide_id")
    rows = pd.Series({slide: len(pd.read_parquet(_windows(out, slide))) for slide in table.index})
    return table[["cancer_mm2"]].join(scored[["tiles", "filled", "seconds"]]).assign(rows=rows)


def correlation(folder: Path, slide: str) -> float:
    """Of P(cancer) of a slide's windows, dense and tile by tile."""
    dense, each = (pd.read_parquet(_windows(folder / name, slide)).set_index(["x", "y"]) for name in (DENSE, EACH))
    column = next(name for name in dense.columns if name.startswith("prob"))
    return float(dense[column].corr(each[column]))  # by x and y; only those of both


def _windows(out: Path, slide: str) -> Path:
    return out / "maps" / f"{slide}_tiles.parquet"


if __name__ == "__main__":
    main()
