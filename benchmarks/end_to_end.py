"""A drawn slide from file to maps by `run`, against the plain way and other tools: whole processes, and their memory.

`python -m benchmarks.end_to_end [--quick] [--side PX] [--rounds N] [--peers FILE.json] [--json FOLDER]`

All use the same DenseNet-121 weights, tiles of 256 px and cores. Ours finds tissue, keeps the tiles, draws the maps;
the plain way is told where the tiles are. `--peers` names a JSON file {"name": ["command", "{slide}", ...]}: commands
in environments of their own, {slide}, {model} (safetensors and card), {tiles} (.npy of corners), {out} filled in.
"""

import json
import statistics
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from benchmarks.networks import save_random
from benchmarks.processes import Ran, watch
from benchmarks.slides import MPP
from benchmarks.timing import Benchmark, Result, arguments, finish
from wsi_pipeline.scores.cores import cores
from wsi_pipeline.scores.store import read_scores
from wsi_pipeline.slide.synthetic import draw_slide
from wsi_pipeline.tiles.store import TileStore, open_store

PX = 256
OWN, PLAIN = "wsi_pipeline run", "plain, batch 32"

Commands = Mapping[str, Sequence[str]]


def main(args: Sequence[str] | None = None) -> Benchmark:
    options = {
        "side": {"type": int, "help": "side of the slide in px; 10,000, or 3,000 with --quick"},
        "rounds": {"type": int, "help": "how often each is run; 2, or 1 with --quick"},
        "peers": {"type": Path, "metavar": "FILE", "help": "JSON of other tools' commands"},
        "arch": {"default": "densenet121", "help": "the network"},
    }
    asked = arguments(__doc__ or "", args, **options)
    side, turns = asked.side or (3000 if asked.quick else 10_000), asked.rounds or (1 if asked.quick else 2)
    benchmark = Benchmark("end_to_end", asked.quick, {"slide_px": side, "cores": cores(), "arch": asked.arch})
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        draw_slide(folder / "a.tif", size_px=(side, side), mpp=MPP, seed=1)
        model = save_random(folder / "model", asked.arch, PX)
        commands = {OWN: own_command(folder, model)}
        watch(commands[OWN], folder / "log.txt")  # uncounted; tells the others where the tiles are
        store = open_store(folder / "run" / "tiles" / "a.zarr")
        np.save(folder / "tiles.npy", store.grid.xy_l0)
        commands |= other_commands(folder, model, asked.peers)
        ran = in_turns(commands, folder, turns)
        benchmark.settings |= {"tiles": store.n_tiles, "peak_gib": peaks(ran)}
        benchmark.settings["largest_difference"] = difference(folder, store, model)
    rates = {way: [store.n_tiles / one.seconds for one in found] for way, found in ran.items()}
    benchmark.results = [
        Result(f"{OWN}, whole process", "tile", OWN, other, rates, 4.0 if other == PLAIN else None, memory(ran, other))
        for other in rates if other != OWN
    ]  # fmt: skip
    finish(benchmark, asked.json)
    return benchmark


def own_command(folder: Path, model: Path) -> list[str]:
    given = [str(folder / "a.tif"), "--out", str(folder / "run"), "--overwrite", "--model", str(model)]
    return [sys.executable, "-m", "wsi_pipeline", "run", *given]


def other_commands(folder: Path, model: Path, peers: Path | None) -> dict[str, list[str]]:
    """The plain way, and the peers with their places filled in."""
    places = {"slide": folder / "a.tif", "model": model, "tiles": folder / "tiles.npy", "out": folder / "plain.npy"}
    commands = {PLAIN: [sys.executable, "-m", "benchmarks.plain", *(str(place) for place in places.values())]}
    if peers is not None:
        for name, command in json.loads(peers.read_text(encoding="utf-8")).items():
            commands[name] = [part.format(**places | {"out": folder / name}) for part in command]
    return commands


def in_turns(commands: Commands, folder: Path, rounds: int) -> dict[str, list[Ran]]:
    """Every command once a round, the order turned round from one to the next."""
    ran: dict[str, list[Ran]] = {name: [] for name in commands}
    for turn in range(rounds):
        for name in list(commands) if turn % 2 else reversed(list(commands)):
            ran[name].append(watch(commands[name], folder / "log.txt"))
    return ran


def peaks(ran: Mapping[str, Sequence[Ran]]) -> dict[str, float]:
    return {name: round(statistics.median(one.peak_gib for one in found), 2) for name, found in ran.items()}


def memory(ran: Mapping[str, Sequence[Ran]], other: str) -> str:
    peak = peaks(ran)
    return f"peak memory of all processes {peak[OWN]} GiB against {peak[other]} GiB"


def difference(folder: Path, store: TileStore, model: Path) -> float:
    """Largest of our probabilities from the plain ones, of tiles inside the slide; beyond it ours are white."""
    card = json.loads((model / "card.json").read_text(encoding="utf-8"))
    inside = (store.grid.xy_l0 + PX <= store.grid.slide.size_l0).all(axis=1)
    own, plain = read_scores(store.path, card["id"]).probs, np.load(folder / "plain.npy")
    return float(f"{np.abs(own - plain)[inside].max():.1g}")


if __name__ == "__main__":
    main()
