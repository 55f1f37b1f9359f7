"""Tiles of 256 px into a Zarr store and back: our shards against zarr-python, in turns.

`python -m benchmarks.store [--quick] [--slide FILE] [--json FOLDER]`
"""

import shutil
import tempfile
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from zarr.codecs import ZstdCodec

from benchmarks.slides import a_slide, tissue_block
from benchmarks.timing import Benchmark, Result, Way, arguments, finish, rounds, take_turns
from wsi_pipeline.slide.reader import open_slide
from wsi_pipeline.slide.tissue import TissueMask
from wsi_pipeline.tiles.codecs import ZSTD_LEVEL
from wsi_pipeline.tiles.grid import lay_grid
from wsi_pipeline.tiles.making import create_store, write_shard
from wsi_pipeline.tiles.pixels import read_tiles
from wsi_pipeline.tiles.store import TileStore
from wsi_pipeline.tiles.tiler import cut_shard

TILE, SHARD = 256, 64


def main(args: Sequence[str] | None = None) -> Benchmark:
    asked = arguments(__doc__ or "", args, slide={"help": "take the tissue from this slide, not a drawn one"})
    side = 2048 if asked.quick else 4096
    turns = rounds(asked.quick)
    benchmark = Benchmark("store", asked.quick, {"tissue": Path(asked.slide or "drawn").name})
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        path = a_slide(folder, "a.tif", tissue_block(folder, 2048, asked.slide), side_px=side)
        store = new_store(folder / "own.zarr", path)
        tiles, _ = read_tiles(store.grid, 0, store.n_tiles)
        written = write_all(store, tiles)
        by_stock = zarr.open_array(store.path, path="tiles", mode="r")[:]
        assert np.array_equal(by_stock, tiles), "stock zarr reads other pixels"
        benchmark.settings |= {"tiles": int(written), "tile_px": TILE, "shard_tiles": SHARD}
        benchmark.settings |= {"zstd_share_of_raw": round(disk(Path(store.path)) / tiles.nbytes, 3)}
        benchmark.results = [
            writing(folder, path, tiles, turns), *reading(folder, store, tiles, turns),
            copying(folder, path, store, turns),
        ]  # fmt: skip
    finish(benchmark, asked.json)
    return benchmark


def new_store(folder: Path, slide_path: Path, **options: Any) -> TileStore:
    """A store of all tiles of a slide, none written yet."""
    shutil.rmtree(folder, ignore_errors=True)
    slide = open_slide(slide_path)
    cells = (slide.size_l0[1] // 16, slide.size_l0[0] // 16)
    tissue = TissueMask(np.ones(cells, bool), (16.0, 16.0), np.full((*cells, 3), 200, np.uint8))
    grid = lay_grid(slide, tissue, tile_px=TILE, stride_px=TILE, mpp=slide.mpp_l0, min_tissue=0.5)
    return create_store(folder, grid, tissue, pixels=True, shard_tiles=SHARD, key="k", settings={}, **options)


def write_all(store: TileStore, tiles: np.ndarray) -> float:
    for shard, (start, stop) in enumerate(store.shards):
        write_shard(store, shard, tiles[start:stop], np.ones(stop - start, bool))
    return len(tiles)


def stock(folder: Path, tiles: np.ndarray, shard: int | None) -> zarr.Array:
    """zarr-python's own array for the tiles, a tile a file or in shards."""
    shutil.rmtree(folder, ignore_errors=True)
    shape = tiles.shape[1:]
    return zarr.create_array(
        folder, shape=tiles.shape, dtype="uint8", chunks=(1, *shape), shards=(shard, *shape) if shard else None,
        compressors=ZstdCodec(level=ZSTD_LEVEL, checksum=True), zarr_format=3,
    )  # fmt: skip


def writing(folder: Path, path: Path, tiles: np.ndarray, turns: int) -> Result:
    """Into stores and arrays that were laid before the clock runs, new ones each time."""
    new = range(turns + 1)
    stores = iter([new_store(folder / f"own{n}.zarr", path) for n in new])
    files = iter([stock(folder / f"files{n}.zarr", tiles, None) for n in new])
    shards = iter([stock(folder / f"shards{n}.zarr", tiles, SHARD) for n in new])

    def by_zarr(arrays: Iterator[zarr.Array]) -> float:
        array = next(arrays)
        for start in range(0, len(tiles), SHARD):
            array[start : start + SHARD] = tiles[start : start + SHARD]
        return len(tiles)

    ways: dict[str, Way] = {"own": lambda: write_all(next(stores), tiles), "zarr, file a tile": partial(by_zarr, files)}
    rates = take_turns(ways | {"zarr, shards": partial(by_zarr, shards)}, rounds=turns)
    return Result(f"write, zstd {ZSTD_LEVEL} both, batches of 64", "tile", "own", "zarr, file a tile", rates, 4.0)


def reading(folder: Path, store: TileStore, tiles: np.ndarray, turns: int) -> list[Result]:
    files = stock(folder / "files.zarr", tiles, None)
    files[:] = tiles

    def own() -> float:
        for start, stop in store.shards:
            store.read(start, stop)
        return len(tiles)

    def one_by_one() -> float:
        for index in range(len(tiles)):
            files[index]
        return len(tiles)

    def in_batches(array: zarr.Array) -> float:
        for start, stop in store.shards:
            array[start:stop]
        return len(tiles)

    ours = zarr.open_array(store.path, path="tiles", mode="r")
    tile_wise, batched, sharded = "zarr, file a tile, by tiles", "zarr, file a tile, by batches", "zarr, our shards"
    ways: dict[str, Way] = {
        "own": own, tile_wise: one_by_one, batched: partial(in_batches, files), sharded: partial(in_batches, ours)
    }  # fmt: skip
    rates = take_turns(ways, rounds=turns)
    return [
        Result("read back in batches of 64, against tile at a time", "tile", "own", tile_wise, rates, 4.0),
        Result("read back in batches of 64, both", "tile", "own", batched, rates),
    ]


def copying(folder: Path, path: Path, store: TileStore, turns: int) -> Result:
    """Slide to store, one core: its own JPEG bytes copied, against decoded and compressed without loss."""

    def cut(name: str, **options: Any) -> float:
        new = new_store(folder / name, path, **options)
        for shard in range(len(new.shards)):
            cut_shard(new.path, shard)
        return new.n_tiles

    ways = {"jpeg": lambda: cut("jpeg.zarr", codec="jpeg"), "pixels": lambda: cut("pixels.zarr")}
    rates = take_turns(ways, rounds=turns)
    sizes = [disk(folder / name) for name in ("jpeg.zarr", "pixels.zarr")]
    note = f"on disk {sizes[0] / 2**20:.0f} MiB against {sizes[1] / 2**20:.0f} MiB"
    return Result("slide to store: --tiles-store jpeg, its own grid", "tile", "jpeg", "pixels", rates, None, note)


def disk(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


if __name__ == "__main__":
    main()
