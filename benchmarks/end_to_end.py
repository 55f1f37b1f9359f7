"""A drawn slide from file to maps by `run`, against the plain way and other tools: whole processes, and their memory.

`python -m benchmarks.end_to_end [--quick] [--side PX] [--rounds N] [--peers FOLDER] [--only TEXT,...] [--json FOLDER]`

All use the same DenseNet-121 weights (ours in int8, too), tiles of 256 px and cores. Ours finds tissue, keeps the
tiles, draws the maps; the plain way is told where the tiles are. `--peers` names the environments of other tools
(benchmarks/others.py), which find tissue in their own way: what is compared are tiles a second, of the whole process
and of its work alone, and the peak memory of all processes. What our scoring does alone, of tiles in memory, is told
too: no whole process passes that.
"""

import csv
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.networks import random_checkpoint, save_random
from benchmarks.others import SETTINGS, Told, peer_commands, told, versions_of
from benchmarks.processes import Ran, watch
from benchmarks.slides import MPP
from benchmarks.timing import Benchmark, Result, arguments, finish
from wsi_pipeline.learn.model.checkpoint import load_checkpoint, save_checkpoint
from wsi_pipeline.scores.cores import cores
from wsi_pipeline.scores.infer import Scorer
from wsi_pipeline.scores.ranges import take_tiles, to_int8
from wsi_pipeline.scores.store import read_scores
from wsi_pipeline.slide.synthetic import draw_slide
from wsi_pipeline.tiles.store import TileStore, open_store

PX = 256
OWN, PLAIN = "wsi_pipeline run", "plain, batch 32"
PLAINS = {PLAIN: 32, "plain, batch 4": 4}
INT8, LEAN, ALONE = f"{OWN}, int8", f"{OWN}, int8 in threads", "our scoring alone"
OURS = {OWN: "run", INT8: "run8", LEAN: "run8t"}  # and the run folder of each

Commands = Mapping[str, Sequence[str]]


@dataclass(frozen=True)
class Scored:
    """One run of one way: the process, and what it told of its work (None where it told nothing)."""

    ran: Ran
    told: Told | None

    def tiles(self, ours: int) -> int:
        """A way that tells nothing was given our tiles."""
        return self.told.tiles if self.told else ours


def main(args: Sequence[str] | None = None) -> Benchmark:
    options: dict[str, dict[str, Any]] = {
        "side": {"type": int, "help": "side of the slide in px; 5,000, or 2,000 with --quick"},
        "rounds": {"type": int, "help": "how often each is run; 2, or 1 with --quick"},
        "peers": {"metavar": "FOLDER", "help": "other tools: FOLDER/<tool>/bin/python, or tool=PYTHON,..."},
        "only": {"metavar": "TEXT,...", "help": "beside ours, only ways with such a text in their name"},
        "arch": {"default": "densenet121", "help": "the network; other tools need densenet121"},
    }
    asked = arguments(__doc__ or "", args, **options)
    side, turns = asked.side or (2000 if asked.quick else 5000), asked.rounds or (1 if asked.quick else 2)
    benchmark = Benchmark("end_to_end", asked.quick, {"slide_px": side, "cores": cores(), "arch": asked.arch})
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        draw_slide(folder / "a.tif", size_px=(side, side), mpp=MPP, seed=1)
        model = save_random(folder / "model", asked.arch, PX)
        commands = {OWN: own_command(folder, model, OURS[OWN])}
        watch(commands[OWN], folder / "log.txt")  # uncounted; tells the plain way where the tiles are
        store = open_store(folder / "run" / "tiles" / "a.zarr")
        np.save(folder / "tiles.npy", store.grid.xy_l0)
        integers = save_int8(model, store, folder / "int8")
        commands[INT8] = own_command(folder, integers, OURS[INT8])
        commands[LEAN] = [*own_command(folder, integers, OURS[LEAN]), "--scheduler", "threads"]
        commands |= {way: plain_command(folder, model, batch) for way, batch in PLAINS.items()}
        if asked.peers is not None:
            commands |= peer_commands(asked.peers, folder / "a.tif", save_for_torch(folder / "weights.pt"))
            benchmark.settings["peers"] = versions_of(asked.peers)
        commands = {way: command for way, command in commands.items() if wanted(way, asked.only)}
        scorer = Scorer(load_checkpoint(model), "cpu")
        scored, alone = in_turns(commands, folder, turns, partial(score_alone, scorer))
        benchmark.settings |= {"tiles": {way: found[0].tiles(store.n_tiles) for way, found in scored.items()}}
        benchmark.settings["peak_gib"] = {way: peak(found) for way, found in scored.items()}
        benchmark.settings["largest_difference"] = difference(folder, store, model)
    benchmark.results = results(scored, alone, store.n_tiles)
    finish(benchmark, asked.json)
    return benchmark


def save_for_torch(path: Path) -> Path:
    """The same random DenseNet-121 as other tools load it."""
    state = random_checkpoint("densenet121", PX).state
    torch.save({name: torch.from_numpy(np.array(value)) for name, value in state.items()}, path)
    return path


def save_int8(model: Path, store: TileStore, folder: Path) -> Path:
    """The same model, to be scored in int8, its ranges found on tiles of the slide."""
    exact = load_checkpoint(model)
    save_checkpoint(to_int8(exact, take_tiles(exact, store.path, images=16)), folder)
    return folder


def own_command(folder: Path, model: Path, run: str) -> list[str]:
    given = [str(folder / "a.tif"), "--out", str(folder / run), "--overwrite", "--model", str(model)]
    return [sys.executable, "-m", "wsi_pipeline", "run", *given, "--device", "cpu"]


def plain_command(folder: Path, model: Path, batch: int) -> list[str]:
    given = (folder / "a.tif", model, folder / "tiles.npy", folder / "plain.npy")
    return [sys.executable, "-m", "benchmarks.plain", *(str(place) for place in given), "--batch", str(batch)]


def wanted(way: str, only: str | None) -> bool:
    """Ours, the plain way, and those with one of the texts in `only` in their name."""
    return only is None or way in (*OURS, PLAIN) or any(text in way for text in only.split(","))


def in_turns(
    commands: Commands, folder: Path, rounds: int, alone: Callable[[], float]
) -> tuple[dict[str, list[Scored]], list[float]]:
    """Every command once a round, the order turned round from one to the next; what `alone` gives in each round."""
    scored: dict[str, list[Scored]] = {name: [] for name in commands}
    found: list[float] = []
    for turn in range(rounds):
        found.append(alone())
        for way in list(commands) if turn % 2 else reversed(list(commands)):
            with tempfile.TemporaryDirectory(dir=folder) as out:
                command = [part.format(out=Path(out) / "out") for part in commands[way]]
                ran = watch(command, folder / "log.txt")
            scored[way].append(Scored(ran, what_it_told(way, folder)))
    return scored, found


def score_alone(scorer: Scorer, tiles: int = 64) -> float:
    """Tiles a second of the network, in float32 on all cores: nothing is read, kept or drawn."""
    pixels = np.random.default_rng(0).integers(0, 256, (tiles, PX, PX, 3), dtype=np.uint8)
    scorer.logits(pixels[:2], PX)  # made ready
    began = time.perf_counter()
    scorer.logits(pixels, PX)
    return tiles / (time.perf_counter() - began)


def what_it_told(way: str, folder: Path) -> Told | None:
    """Of our own run from its table, of other tools from their output."""
    if way in SETTINGS:
        return told(folder / "log.txt")
    if way in PLAINS:
        return None
    with (folder / OURS[way] / "slides.csv").open(encoding="utf-8") as file:
        (row,) = csv.DictReader(file)
    return Told(int(row["tiles"]), float(row["seconds"]), float(row["seconds"]))


def results(scored: Mapping[str, Sequence[Scored]], alone: Sequence[float], tiles: int) -> list[Result]:
    """Ours in float32 and int8 against each other way: tiles a second of the whole process, of the work where it is
    told, and the memory, of processes and of threads."""
    whole = {way: [one.tiles(tiles) / one.ran.seconds for one in found] for way, found in scored.items()}
    whole[ALONE] = list(alone)
    work = {way: [one.told.tiles / one.told.work_s for one in found if one.told] for way, found in scored.items()}
    small = {way: [1 / one.ran.peak_gib for one in found] for way, found in scored.items()}
    made = [
        Result("int8 against float32: whole process", "tile", INT8, OWN, pair(whole, INT8, OWN)),
        Result("against our scoring alone: whole process", "tile", OWN, ALONE, pair(whole, OWN, ALONE)),
        Result("threads against processes: whole process", "tile", LEAN, INT8, pair(whole, LEAN, INT8)),
    ]
    for way in (other for other in scored if other not in OURS):
        target = SETTINGS[way].target if way in SETTINGS else 4.0 if way == PLAIN else 2.5
        most = statistics.median(own / other for own, other in zip(alone, whole[way], strict=True))
        bound = f"our scoring alone would be {most:.2g}x"
        made.append(Result(f"{way}: whole process", "tile", OWN, way, pair(whole, OWN, way), target, bound))
        made.append(Result(f"{way}: whole process, ours in int8", "tile", INT8, way, pair(whole, INT8, way), target))
        if work[way]:
            made.append(Result(f"{way}: the work", "tile", OWN, way, pair(work, OWN, way), target))
        for own, how in ((OWN, ""), (LEAN, ", ours in int8 and threads")):
            note = f"peak memory of all processes {peak(scored[own])} GiB against {peak(scored[way])} GiB"
            made.append(Result(f"{way}: slides to a GiB{how}", "slide", own, way, pair(small, own, way), 3.0, note))
    return made


def pair(rates: Mapping[str, Sequence[float]], own: str, other: str) -> dict[str, Sequence[float]]:
    return {way: rates[way] for way in (own, other)}


def peak(found: Sequence[Scored]) -> float:
    return round(statistics.median(one.ran.peak_gib for one in found), 2)


def difference(folder: Path, store: TileStore, model: Path) -> float:
    """Largest of our probabilities from the plain ones, of tiles inside the slide; beyond it ours are white."""
    card = json.loads((model / "card.json").read_text(encoding="utf-8"))
    inside = (store.grid.xy_l0 + PX <= store.grid.slide.size_l0).all(axis=1)
    own, plain = read_scores(store.path, card["id"]).probs, np.load(folder / "plain.npy")
    return float(f"{np.abs(own - plain)[inside].max():.1g}")


if __name__ == "__main__":
    main()
