"""Several ways to do one thing, run in turns -> rates, the ratio of two of them, a table, and JSON.

The machine is shared, so only ratios of runs that took turns are worth anything: each round runs every way once,
the order turned round from one to the next, and gives one ratio. Told are the median and the whole spread.
"""

import argparse
import datetime
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import psutil

ROUNDS, QUICK_ROUNDS = 5, 3
LIBRARIES = (
    "wsi-pipeline", "numpy", "openslide-python", "openslide-bin", "tifffile", "imagecodecs", "simplejpeg", "pillow",
    "zarr", "scikit-image", "torch", "onnxruntime",
)  # fmt: skip

Way = Callable[[], float]  # does its work once, gives how many units that was


@dataclass(frozen=True)
class Result:
    """What one comparison gave.

    Attributes:
        name: what was done; `unit` is what was counted.
        way, against: which of `rates` is ours, and which it is held against.
        rates: units a second of each way, one number a round.
        target: the least ratio of `way` to `against`; None where it is only told.
        notes: one line on what it means, if it needs one.
        per: what the units are counted by, where it is not a second.
    """

    name: str
    unit: str
    way: str
    against: str
    rates: Mapping[str, Sequence[float]]
    target: float | None = None
    notes: str = ""
    per: str = "s"

    @property
    def ratios(self) -> list[float]:
        """One a round."""
        pairs = zip(self.rates[self.way], self.rates[self.against], strict=True)
        return [own / other for own, other in pairs]

    @property
    def ratio(self) -> float:
        """The median of the rounds."""
        return statistics.median(self.ratios)

    @property
    def reached(self) -> bool | None:
        """Whether the median reaches the target; None where there is none."""
        return None if self.target is None else self.ratio >= self.target


@dataclass
class Benchmark:
    """The results of one file, and what they were made with."""

    name: str
    quick: bool
    settings: dict[str, Any] = field(default_factory=dict)
    results: list[Result] = field(default_factory=list)


def take_turns(
    ways: Mapping[str, Way], *, rounds: int, clock: Callable[[], float] = time.perf_counter
) -> dict[str, list[float]]:
    """Units a second of each way, (rounds,) each; every way is run once before, uncounted.

    With `time.process_time` as the clock, a second is one that this process had a processor for: the right one
    for work of one thread that waits for nothing, as what else the machine does takes nothing from it.
    """
    rates: dict[str, list[float]] = {name: [] for name in ways}
    for run in range(rounds + 1):
        for name in list(ways) if run % 2 else reversed(list(ways)):
            started = clock()
            units = ways[name]()
            if run:
                rates[name].append(units / (clock() - started))
    return rates


def arguments(about: str, args: Sequence[str] | None = None, **more: dict[str, Any]) -> argparse.Namespace:
    """--quick, --json FOLDER, and `more` options by name."""
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument("--quick", action="store_true", help="under a minute, fewer rounds")
    parser.add_argument("--json", metavar="FOLDER", type=Path, help="where to write the results")
    for name, options in more.items():
        parser.add_argument(f"--{name.replace('_', '-')}", **options)
    return parser.parse_args(args)


def rounds(quick: bool) -> int:
    """How often each way is run."""
    return QUICK_ROUNDS if quick else ROUNDS


def table(results: Sequence[Result]) -> str:
    """One line a comparison: median ratio, spread, target, and the median rate of every way."""
    lines = [f"{'what':<54} {'ratio':>7} {'spread':>15} {'target':>7}   rates, median"]
    for result in results:
        spread = f"{min(result.ratios):.2f} to {max(result.ratios):.2f}"
        target = "" if result.target is None else f"{result.target:g}"
        verdict = {None: " ", True: "+", False: "-"}[result.reached]
        rates = ", ".join(f"{way} {_short(statistics.median(found))}" for way, found in result.rates.items())
        figures = f"{result.ratio:>7.2f} {spread:>15} {target:>7} {verdict}"
        lines.append(f"{result.name:<54} {figures} {rates} {result.unit}/{result.per}")
        if result.notes:
            lines.append(f"    {result.notes}")
    return "\n".join(lines)


def finish(benchmark: Benchmark, folder: Path | None) -> None:
    """Print the table and, where a folder is given, write `<name>.json` into it."""
    print(f"\n{benchmark.name}: {benchmark.settings}\n{table(benchmark.results)}", flush=True)
    if folder is None:
        return
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(as_dict(benchmark), indent=2)
    (folder / f"{benchmark.name}.json").write_text(text + "\n", encoding="utf-8")


def as_dict(benchmark: Benchmark) -> dict[str, Any]:
    """Everything that is known of a benchmark, JSON-able."""
    return {
        "benchmark": benchmark.name,
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "quick": benchmark.quick,
        "machine": machine(),
        "versions": versions(),
        "settings": benchmark.settings,
        "results": [_result_as_dict(result) for result in benchmark.results],
    }


def machine() -> dict[str, Any]:
    """Processor, cores that this process may use, memory, load: no name of the machine."""
    return {
        "system": f"{platform.system()} {platform.machine()}",
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "load_1min": round(psutil.getloadavg()[0], 2),
    }


def versions() -> dict[str, str]:
    """Python and the libraries that decide the speed, those that are installed."""
    found = {"python": sys.version.split()[0]}
    for name in LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _result_as_dict(result: Result) -> dict[str, Any]:
    found = result.ratios
    ratio: dict[str, Any] = {"median": result.ratio, "low": min(found), "high": max(found), "rounds": found}
    return {
        "name": result.name,
        "unit": f"{result.unit}/{result.per}",
        "way": result.way,
        "against": result.against,
        "ratio": {key: _rounded(value) for key, value in ratio.items()},
        "target": result.target,
        "reached": result.reached,
        "rates": {way: _rounded(list(rates)) for way, rates in result.rates.items()},
        "notes": result.notes,
    }


def _rounded(value: float | list[float]) -> float | list[float]:
    return [float(f"{each:.4g}") for each in value] if isinstance(value, list) else float(f"{value:.4g}")


def _short(rate: float) -> str:
    return f"{rate:,.0f}" if rate >= 100 else f"{rate:.3g}"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    named = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.processor())
