"""A run over a Dask cluster of processes on this machine: what the scheduler costs, and time against workers.

`python -m benchmarks.scaling [--quick] [--json FOLDER]`

Overhead is measured with tasks that do nothing: wall time, which a busy machine stretches, and processor time of the
scheduler. Bytes are those through the scheduler's sockets, in and out: nothing but paths and numbers should pass.
A machine that has fewer cores than there are workers shows no gain beyond its cores.
"""

import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from benchmarks.loopback import Loopback, loopback
from benchmarks.timing import Benchmark, Result, arguments, finish
from wsi_pipeline.config import load_config
from wsi_pipeline.pipeline.begin import open_run_folder
from wsi_pipeline.pipeline.run import run_cohort
from wsi_pipeline.schedulers import open_cluster
from wsi_pipeline.slide.entry import SlideEntry
from wsi_pipeline.slide.synthetic import draw_slide

WORKERS, QUICK_WORKERS = (1, 2, 4), (1, 2)
SLIDES, QUICK_SLIDES = 6, 3
TASKS, QUICK_TASKS = 1000, 300
SHARD_TILES = 64  # the default of tiles.shard_tiles: tiles in a task


@dataclass(frozen=True)
class Ran:
    """A cohort that was cut over a cluster."""

    slides: int
    tiles: int
    seconds: float
    scheduler_bytes: int
    scheduler_cpu_s: float


@dataclass(frozen=True)
class Overhead:
    """Of one task: wall time, processor time of the scheduler, bytes through it."""

    seconds: float
    scheduler_cpu_s: float
    scheduler_bytes: float


def main(args: Sequence[str] | None = None) -> Benchmark:
    asked = arguments(__doc__ or "", args)
    workers, slides, tasks = (QUICK_WORKERS, QUICK_SLIDES, QUICK_TASKS) if asked.quick else (WORKERS, SLIDES, TASKS)
    benchmark = Benchmark("scaling", asked.quick, {"slides": slides, "tiles a task": SHARD_TILES})
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        slide = folder / "a.tif"
        draw_slide(slide, size_px=(4000, 4000), mpp=0.5, seed=3)
        found, costs = {}, []
        for count in workers:
            with loopback(folder / f"cluster{count}", readers=count) as cluster:
                found[f"{count} workers"] = cut(cluster, slide, folder / f"run{count}", slides)
                costs.append(overhead(cluster, tasks))
    told(benchmark, found, costs)
    finish(benchmark, asked.json)
    return benchmark


def told(benchmark: Benchmark, found: dict[str, Ran], costs: Sequence[Overhead]) -> None:
    """The figures as settings, and the rates as a comparison."""
    one, *_, most = found
    seconds = statistics.median(cost.seconds for cost in costs)
    bytes_a_slide = {name: ran.scheduler_bytes / ran.slides for name, ran in found.items()}
    benchmark.settings |= {
        "us_a_task": round(seconds * 1e6),
        "us_a_tile": round(seconds * 1e6 / SHARD_TILES, 1),
        "scheduler_cpu_us_a_task": round(statistics.median(cost.scheduler_cpu_s for cost in costs) * 1e6),
        "scheduler_bytes_a_task": round(statistics.median(cost.scheduler_bytes for cost in costs)),
        "scheduler_kib_a_slide": {name: round(value / 2**10, 1) for name, value in bytes_a_slide.items()},
        "scheduler_cpu_ms_a_slide": {
            name: round(1000 * ran.scheduler_cpu_s / ran.slides, 1) for name, ran in found.items()
        },
        "seconds": {name: round(ran.seconds, 2) for name, ran in found.items()},
    }
    rates = {name: [ran.tiles / ran.seconds] for name, ran in found.items()}
    cores = len(psutil.Process().cpu_affinity())
    note = f"{cores} cores for workers, scheduler and run together; largest against one worker"
    megabyte = [2**20 / max(bytes_a_slide.values())]
    benchmark.results = [
        Result("tiles cut a second over a cluster", "tile", most, one, rates, None, note),
        Result("1 MiB against bytes a slide by the scheduler", "slide", "1 MiB", "measured",
               {"1 MiB": megabyte, "measured": [1.0]}, 1.0),
    ]  # fmt: skip


def cut(cluster: Loopback, slide: Path, out: Path, slides: int) -> Ran:
    """The same slide under several names, cut into stores over the cluster."""
    entries = [SlideEntry(f"slide{number}", str(slide)) for number in range(slides + 1)]
    config = load_config(None, ["tiles.stride_px=128", f"run.scheduler={cluster.address}"])
    run = run_cohort(entries, open_run_folder(out), config, until="tile")
    scheduler, tiles = psutil.Process(cluster.scheduler.pid), 0
    next(run)  # the first slide pays for what workers import, and for the connection
    began, before, cpu_s = time.perf_counter(), cluster.moved(), busy_s(scheduler)
    for row in run:
        tiles += row.tiles
    seconds = time.perf_counter() - began
    return Ran(slides, tiles, seconds, cluster.moved() - before, busy_s(scheduler) - cpu_s)


def overhead(cluster: Loopback, tasks: int) -> Overhead:
    """Of a task that does nothing, with as many under way as a run has."""
    scheduler = psutil.Process(cluster.scheduler.pid)
    with open_cluster(cluster.address) as workers:
        list(workers.map(abs, [(-1,)] * 50))
        began, before, cpu_s = time.perf_counter(), cluster.moved(), busy_s(scheduler)
        for _ in workers.map(abs, [(-1,)] * tasks, window=256):
            pass
        seconds = time.perf_counter() - began
    return Overhead(seconds / tasks, (busy_s(scheduler) - cpu_s) / tasks, (cluster.moved() - before) / tasks)


def busy_s(process: psutil.Process) -> float:
    """Processor time that a process has had."""
    times = process.cpu_times()
    return float(times.user + times.system)


if __name__ == "__main__":
    main()
