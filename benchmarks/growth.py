"""Slides of 10,000, 20,000 and 40,000 px through `run`: time for a tile and peak memory as the work grows.

`python -m benchmarks.growth [--quick] [--slide FILE] [--store pixels|jpeg|coordinates] [--json FOLDER]`

Tiles lie two tiles apart, else the largest slide alone would take minutes: it has 6,400 of them. The time is the
slide's own, without imports, with the small model in the box.
"""

import csv
import statistics
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.processes import watch
from benchmarks.slides import a_slide, tissue_block
from benchmarks.timing import Benchmark, Result, arguments, finish

SIDES, QUICK_SIDES = (10_000, 20_000, 40_000), (3_000, 6_000, 12_000)
STRIDE_PX = 512


@dataclass(frozen=True)
class Grown:
    """One run of one size."""

    tiles: int
    seconds: float
    peak_gib: float


def main(args: Sequence[str] | None = None) -> Benchmark:
    options = {
        "slide": {"help": "take the tissue from this slide, not a drawn one"},
        "rounds": {"type": int, "help": "how often each size is run; 2, or 1 with --quick"},
        "store": {"default": "jpeg", "help": "what of the tiles is kept"},
    }
    asked = arguments(__doc__ or "", args, **options)
    sides, turns = QUICK_SIDES if asked.quick else SIDES, asked.rounds or (1 if asked.quick else 2)
    benchmark = Benchmark("growth", asked.quick, {"tissue": Path(asked.slide).name if asked.slide else "drawn"})
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        block = tissue_block(folder, 2048, asked.slide)
        found = {side: [one(folder, block, side, asked.store) for _ in range(turns)] for side in sides}
    peak = {f"{side:,} px": round(statistics.median(run.peak_gib for run in runs), 2) for side, runs in found.items()}
    benchmark.settings |= {"peak_gib": peak, "tiles": {f"{side:,} px": runs[0].tiles for side, runs in found.items()}}
    benchmark.settings["seconds"] = {f"{side:,} px": [run.seconds for run in runs] for side, runs in found.items()}
    small, middle, large = sides
    target = None if asked.quick else 0.9  # the small sizes are mostly start
    first, then = f"{small:,} to {middle:,} px", f"{middle:,} to {large:,} px"
    rates = {first: more(found[small], found[middle]), then: more(found[middle], found[large])}
    note = f"linear is 1; peak memory {peak[f'{large:,} px']} GiB against {peak[f'{small:,} px']} GiB"
    benchmark.results = [Result("more tiles for more seconds", "tile", then, first, rates, target, note)]
    finish(benchmark, asked.json)
    return benchmark


def more(smaller: Sequence[Grown], larger: Sequence[Grown]) -> list[float]:
    """Tiles a second of what one size has more than another, a number a round: what is the same for all drops out."""
    pairs = zip(smaller, larger, strict=True)
    return [(large.tiles - small.tiles) / (large.seconds - small.seconds) for small, large in pairs]


def one(folder: Path, block: np.ndarray, side: int, store: str) -> Grown:
    """One slide drawn, run and removed."""
    slide = a_slide(folder, "a.tif", block, side_px=side)
    command = [sys.executable, "-m", "wsi_pipeline", "run", str(slide), "--out", str(folder / "run"), "--overwrite"]
    ran = watch([*command, "--tiles-store", store, "--set", f"tiles.stride_px={STRIDE_PX}"], folder / "log.txt")
    with (folder / "run" / "slides.csv").open(encoding="utf-8") as file:
        (row,) = csv.DictReader(file)
    return Grown(int(row["tiles"]), float(row["seconds"]), ran.peak_gib)


if __name__ == "__main__":
    main()
