"""Scoring tiles of 256 px on a CPU: our engines against torch as it is mostly used, in turns, and against SGEMM.

`python -m benchmarks.score [--quick] [--json FOLDER]`
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import torch
from torch import nn

from benchmarks.networks import MEAN, STD, operations, random_checkpoint
from benchmarks.timing import Benchmark, Result, Way, arguments, finish, rounds, take_turns
from wsi_pipeline.learn.model.densenet import build_model
from wsi_pipeline.learn.model.fold import folded
from wsi_pipeline.scores.cores import cores
from wsi_pipeline.scores.infer import Scorer
from wsi_pipeline.scores.ranges import find_ranges

PX = 256
CPU = "cpu"
OWN, THREADS, PEAK = "ONNX Runtime, a tile a core", "torch, folded, 4 tiles a core", "SGEMM"
INT8 = "ONNX Runtime, a tile a core, int8"


def main(args: Sequence[str] | None = None) -> Benchmark:
    asked = arguments(__doc__ or "", args)
    batch = 16 if asked.quick else 32
    benchmark = Benchmark("score", asked.quick, {"tile_px": PX, "tiles": batch, "cores": cores()})
    benchmark.settings |= {"gpu": gpu_line(), "difference": {}}
    for arch, target in (("densenet121", 3.0), ("densenet_demo", None)):
        ways, eager, difference = ways_of(arch, batch)
        benchmark.settings["difference"][arch] = float(f"{difference:.1g}")
        rates = take_turns(ways, rounds=rounds(asked.quick))
        benchmark.results.append(Result(f"{arch} against plain torch", "tile", OWN, eager, rates, target))
        benchmark.results.append(Result(f"{arch} against torch in lanes", "tile", OWN, THREADS, rates))
        lossy = "what it costs in AUROC: workflows/int8_loss.py"
        benchmark.results.append(Result(f"{arch} int8 against float32", "tile", INT8, OWN, rates, notes=lossy))
        if arch == "densenet121":
            note = "SGEMM counted in tiles' worth of operations, of plain convolutions; Winograd's take fewer"
            benchmark.results.append(Result(f"{arch} against SGEMM", "tile", OWN, PEAK, rates, 0.85, note))
    finish(benchmark, asked.json)
    return benchmark


def ways_of(arch: str, batch: int) -> tuple[dict[str, Way], str, float]:
    """The ways to score one batch, the name of plain torch's, and the largest difference of a probability."""
    checkpoint = random_checkpoint(arch, PX)
    tiles = np.random.default_rng(0).integers(0, 256, (batch, PX, PX, 3), dtype=np.uint8)
    integers = Scorer(replace(checkpoint, ranges=find_ranges(checkpoint, tiles[:4])[0]), CPU)
    own, lanes = Scorer(checkpoint, CPU, "onnx"), Scorer(checkpoint, CPU, "torch")
    plain, name = build_model(checkpoint), f"torch eager, NCHW, batch {batch}"
    work = operations(folded(plain), PX)
    ways: dict[str, Way] = {
        OWN: lambda: len(own.logits(tiles, PX)),
        INT8: lambda: len(integers.logits(tiles, PX)),
        THREADS: lambda: len(lanes.logits(tiles, PX)),
        name: lambda: len(by_plain_torch(plain, tiles)),
        PEAK: lambda: multiply(batch * work / 4) / work,
    }
    difference = np.abs(sigmoid(own.logits(tiles[:8], PX)) - sigmoid(by_plain_torch(plain, tiles[:8]))).max()
    return ways, name, float(difference)


def by_plain_torch(model: nn.Module, tiles: np.ndarray) -> np.ndarray:
    """What everyone does: a float batch, normalised, through the network, torch's own threads."""
    torch.set_num_threads(cores())
    planes = torch.from_numpy(tiles).permute(0, 3, 1, 2).contiguous().float() / 255
    planes = (planes - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]
    with torch.inference_mode():
        return np.asarray(model(planes).numpy())


def multiply(operations_wanted: float, side: int = 1024) -> float:
    """Float32 matrix products on every core by itself, until so many operations are done; gives how many."""
    each = 2.0 * side**3
    count = max(1, round(operations_wanted / each / cores()))
    matrices = [torch.rand(side, side) for _ in range(2)]

    def on_one_core(_: int) -> None:
        torch.set_num_threads(1)
        out = torch.empty(side, side)
        for _ in range(count):
            torch.mm(*matrices, out=out)

    with ThreadPoolExecutor(cores()) as pool:
        list(pool.map(on_one_core, range(cores())))
    return each * count * cores()


def sigmoid(z: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-z))


def gpu_line() -> str:
    return "see benchmarks.gpu" if torch.cuda.is_available() else "not measured: no GPU here"


if __name__ == "__main__":
    main()
