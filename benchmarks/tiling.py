"""Tiles from slide to store through Dask, against reading alone and storing alone of the same by as many processes.

`python -m benchmarks.tiling [--quick] [--slide FILE] [--json FOLDER]`

The cluster is started once, before any clock; laying out the store and marking it complete are counted as cutting.
Reading alone and storing alone are done by the same workers, a list of shards each, with nothing handed out between;
what is stored alone was read before. A process that reads and stores by turns takes at best the sum of the two: of
`n` tiles read in r seconds and stored in s, that is r / (r + s) of the rate of the slower part, so both are told.
"""

import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from benchmarks.slides import a_slide, tissue_block
from benchmarks.store import TILE, new_store
from benchmarks.timing import Benchmark, Result, arguments, finish, rounds, take_turns
from wsi_pipeline.cluster import Cluster
from wsi_pipeline.schedulers import open_cluster
from wsi_pipeline.slide.handles import drop_reader
from wsi_pipeline.tiles.making import write_shard
from wsi_pipeline.tiles.pixels import read_tiles
from wsi_pipeline.tiles.store import open_store
from wsi_pipeline.tiles.tiler import cut_shards, cut_tiles

DASK, PARTS, READ, STORE, HELD = "through Dask", "both, nothing handed out", "reading alone", "storing alone", "sum"


def main(args: Sequence[str] | None = None) -> Benchmark:
    asked = arguments(__doc__ or "", args, slide={"help": "take the tissue from this slide, not a drawn one"})
    side, turns = (4096 if asked.quick else 8192), rounds(asked.quick)
    cores = min(2, os.cpu_count() or 1)
    benchmark = Benchmark("tiling", asked.quick, {"slide_px": side, "tile_px": TILE, "processes": cores})
    with tempfile.TemporaryDirectory() as name, open_cluster("local", workers=cores) as cluster:
        path = a_slide(Path(name), "a.tif", tissue_block(Path(name), 2048, asked.slide), side_px=side)
        rates = take_turns(ways(Path(name), path, cluster), rounds=turns)
    pairs = zip(rates[READ], rates[STORE], strict=True)
    rates[HELD] = [1 / (1 / read + 1 / store) for read, store in pairs]
    slower = READ if np.median(rates[READ]) < np.median(rates[STORE]) else STORE
    benchmark.results = [
        Result("tiling through Dask, against its parts one after the other", "tile", DASK, HELD, rates),
        Result(f"tiling through Dask, against {slower}, the slower part", "tile", DASK, slower, rates, 0.8),
        Result("tiling through Dask, against nothing handed out", "tile", DASK, PARTS, rates),
    ]
    finish(benchmark, asked.json)
    return benchmark


def ways(folder: Path, path: Path, cluster: Cluster) -> dict[str, Callable[[], float]]:
    """The same tiles cut through Dask, cut in lists, read alone, stored alone."""

    def through() -> float:
        store = new_store(folder / "e.zarr", path)
        cut_tiles(store, cluster)
        return store.n_tiles

    def in_lists() -> float:
        return by_lists(cut_batch, new_store(folder / "l.zarr", path).path, cluster)

    read = new_store(folder / "r.zarr", path).path

    def storing() -> float:
        shutil.rmtree(folder / "s.zarr", ignore_errors=True)
        return by_lists(store_batch, new_store(folder / "s.zarr", path).path, cluster)

    return {DASK: through, PARTS: in_lists, READ: lambda: by_lists(read_batch, read, cluster), STORE: storing}


def by_lists(work: Callable[[str, list[int]], int], store_path: str, cluster: Cluster) -> float:
    """`work` on every shard, a list for each worker; tiles done."""
    shards, workers = range(len(open_store(store_path, complete=False).shards)), cluster.n_workers
    lists = ((store_path, list(shards[worker::workers])) for worker in range(workers))
    return float(sum(tiles for _, tiles in cluster.map(work, lists)))


def cut_batch(store_path: str, shards: list[int]) -> int:
    return sum(done.n_tiles for done in cut_shards(store_path, shards))


def read_batch(store_path: str, shards: list[int]) -> int:
    store, tiles = open_store(store_path, complete=False), 0
    room = np.empty((store.shard_tiles, TILE, TILE, 3), np.uint8)
    for shard in shards:
        tiles += len(read_tiles(store.grid, *store.shards[shard], store.reading, out=room)[0])
    drop_reader(store.grid.slide)
    return tiles


def store_batch(store_path: str, shards: list[int]) -> int:
    """The first shard's tiles written as each of them."""
    store = open_store(store_path, complete=False)
    pixels, readable = read_tiles(store.grid, *store.shards[0], store.reading)
    for shard in shards:
        start, stop = store.shards[shard]
        write_shard(store, shard, pixels[: stop - start], readable[: stop - start])
    return sum(stop - start for start, stop in (store.shards[shard] for shard in shards))


if __name__ == "__main__":
    main()
