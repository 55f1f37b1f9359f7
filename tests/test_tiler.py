"""Cutting tiles: the right pixels, the same bytes whoever cuts them, and a way on after every mishap."""

import errno
import hashlib
import pickle
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import openslide
import pytest
import tifffile
from small_slide import TILE, a_grid, a_slide, a_store, all_tissue

from wsi_pipeline.errors import SlideError, StoreError
from wsi_pipeline.schedulers import open_cluster
from wsi_pipeline.slide.reader import open_slide, working_mpp
from wsi_pipeline.tiles import making
from wsi_pipeline.tiles import pixels as pixels_module
from wsi_pipeline.tiles.grid import lay_grid
from wsi_pipeline.tiles.making import create_store, missing_shards
from wsi_pipeline.tiles.store import TileStore, open_store
from wsi_pipeline.tiles.tiler import _runs, cut_shard, cut_shards, cut_tiles


@pytest.fixture
def threads() -> Iterator[object]:
    with open_cluster("threads", workers=2) as cluster:
        yield cluster


class DamagedReader:
    """Reads grey, but fails on tiles whose corner is in `damaged`: for good, or once where it `heals`."""

    def __init__(self, damaged: set[tuple[float, float]], heals: bool) -> None:
        self.damaged, self.heals = damaged, heals
        self.tried: list[tuple[float, float]] = []
        self.dropped = 0

    def read_box(self, box_l0: tuple[float, ...], size_px: tuple[int, int], *, out: np.ndarray) -> np.ndarray:
        corner = box_l0[:2]
        self.tried.append(corner)
        if corner in self.damaged and not (self.heals and self.tried.count(corner) > 1):
            raise SlideError(f"tile at {corner} is damaged")
        return np.full((size_px[1], size_px[0], 3), 100, np.uint8)


@pytest.fixture
def damage(monkeypatch):
    """Put a reader in place that fails on tiles with these corners."""

    def put(*damaged: tuple[float, float], heals: bool = False) -> DamagedReader:
        reader = DamagedReader(set(damaged), heals)

        def drop(*_: object, **__: object) -> None:
            reader.dropped += 1

        monkeypatch.setattr(pixels_module, "reader_for", lambda *_, **__: reader)
        monkeypatch.setattr(pixels_module, "drop_reader", drop)
        return reader

    return put


def chunk_hashes(store: TileStore) -> dict[str, str]:
    """SHA-256 of every chunk file of pixels and of their flags, by its path in the store."""
    root = Path(store.path)
    chunks = [*root.glob("tiles/c/*/0/0/0"), *root.glob("readable/c/*")]
    return {str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest() for path in chunks}


def test_tiles_are_the_slides_own_pixels_and_white_beyond_it(tmp_path, threads):
    slide, pixels = a_slide(tmp_path, width=304)
    store = a_store(tmp_path, slide)
    result = cut_tiles(store, threads)
    tiles, readable = open_store(store.path).read(0, 80)
    assert (result.tiles, result.unreadable, result.shards_written) == (80, 0, 5)
    assert np.array_equal(tiles[23], pixels[2 * TILE : 3 * TILE, 3 * TILE : 4 * TILE])
    assert np.array_equal(tiles[9][:, :16], pixels[:TILE, 288:])
    assert (tiles[9][:, 16:] == 255).all()
    assert readable.all()


def test_the_same_bytes_with_1_2_or_8_workers_threads_or_processes(tmp_path):
    slide, _ = a_slide(tmp_path)
    found = []
    for scheduler, workers in [("threads", 1), ("threads", 2), ("threads", 8), ("local", 2)]:
        store = a_store(tmp_path, slide, name=f"{scheduler}{workers}.zarr", shard_tiles=6)
        with open_cluster(scheduler, workers=workers) as cluster:
            cut_tiles(store, cluster)
        found.append(chunk_hashes(store))
    assert len(found[0]) == 2 * 14
    assert found[1:] == [found[0]] * 3


def test_pixels_from_the_store_equal_pixels_from_the_slide_again(tmp_path, threads):
    slide, _ = a_slide(tmp_path)
    kept = a_store(tmp_path, slide)
    again = a_store(tmp_path, slide, name="b.zarr", pixels=False)
    cut_tiles(kept, threads)
    result = cut_tiles(again, threads)
    assert (result.tiles, result.shards_written) == (80, 0)
    stored, fresh = open_store(kept.path).read(3, 77), open_store(again.path).read(3, 77)
    assert np.array_equal(stored[0], fresh[0])
    assert np.array_equal(stored[1], fresh[1])


def test_an_interrupted_slide_goes_on_with_its_missing_shards(tmp_path, threads):
    slide, pixels = a_slide(tmp_path)
    store = a_store(tmp_path, slide)
    done = [cut_shard(store.path, shard).n_tiles for shard in (0, 3)]
    told: list[int] = []
    result = cut_tiles(store, threads, progress=told.append)
    assert (sum(done), sum(told), result.shards_written) == (32, 48, 3)
    assert np.array_equal(open_store(store.path).read(79, 80)[0][0], pixels[-TILE:, -TILE:])


def test_a_task_for_a_store_that_was_made_anew_writes_nothing_into_it(tmp_path):
    store = a_store(tmp_path, a_slide(tmp_path)[0])
    with pytest.raises(StoreError, match=r"made anew meanwhile .*; run again with --resume"):
        cut_shards(store.path, [0], (), "key of the store before")
    assert len(missing_shards(store)) == len(store.shards)
    assert cut_shards(store.path, [0], (), store.key)


def test_a_task_done_once_more_cuts_only_what_its_worker_had_not(tmp_path):
    slide, _ = a_slide(tmp_path)
    store = a_store(tmp_path, slide)
    cut_shard(store.path, 0)
    file = Path(store.path, store.shard_name(0))
    before = file.stat()
    first, *others = cut_shards(store.path, range(len(store.shards)))
    assert file.stat() == before and first.seconds == 0 < min(done.seconds for done in others)
    assert missing_shards(store) == []


def test_a_stop_in_the_middle_keeps_whole_shards_and_no_marker(tmp_path, threads):
    store = a_store(tmp_path, a_slide(tmp_path)[0])

    def interrupt(_: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cut_tiles(store, threads, progress=interrupt)
    assert 0 <= len(missing_shards(store)) < 5
    with pytest.raises(StoreError, match="not complete"):
        open_store(store.path)
    assert cut_tiles(store, threads).tiles == 80


def test_a_finished_store_is_left_alone(tmp_path, threads):
    store = a_store(tmp_path, a_slide(tmp_path)[0])
    cut_tiles(store, threads)
    before = (Path(store.path) / "zarr.json").stat().st_mtime_ns
    assert cut_tiles(open_store(store.path), threads).shards_written == 0
    assert (Path(store.path) / "zarr.json").stat().st_mtime_ns == before


def test_a_slide_without_tissue_is_complete_at_once(tmp_path, threads):
    slide, _ = a_slide(tmp_path)
    tissue = replace(all_tissue(slide), mask=np.zeros((16, 20), bool))
    options = {"pixels": True, "shard_tiles": 16, "key": "k", "settings": {}}
    store = create_store(tmp_path / "e.zarr", a_grid(slide, tissue), tissue, **options)
    result = cut_tiles(store, threads)
    assert (result.tiles, result.shards_written) == (0, 0)
    assert open_store(store.path).status == "complete"


def test_a_tile_that_reads_at_the_second_try_is_readable(tmp_path, threads, damage):
    reader = damage((64.0, 32.0), heals=True)
    store = a_store(tmp_path, a_slide(tmp_path)[0])
    assert cut_tiles(store, threads).unreadable == 0
    assert reader.dropped == 1
    assert (open_store(store.path).read(12, 13)[0] == 100).all()


@pytest.mark.parametrize("pixels", [True, False], ids=["pixels", "coordinates"])
def test_a_tile_that_fails_twice_is_white_and_marked(tmp_path, threads, damage, pixels):
    reader = damage((64.0, 32.0))
    store = a_store(tmp_path, a_slide(tmp_path)[0], pixels=pixels)
    assert cut_tiles(store, threads).unreadable == int(pixels)
    tiles, readable = open_store(store.path).read(0, 80)
    assert reader.tried.count((64.0, 32.0)) == 2
    assert np.flatnonzero(~readable).tolist() == [12]
    assert (tiles[12] == 255).all() and (tiles[11] == 100).all()


def test_one_damaged_block_of_a_real_file_spares_its_neighbours(tmp_path, threads):
    path = tmp_path / "a.tif"
    pixels = np.full((256, 320, 3), 100, np.uint8)
    tifffile.imwrite(path, pixels, photometric="rgb", tile=(64, 64), compression="jpeg")
    with tifffile.TiffFile(path) as file:
        start, length = file.pages[0].dataoffsets[12], file.pages[0].databytecounts[12]
    with path.open("r+b") as file:
        file.seek(start)
        file.write(bytes(length))
    store = a_store(tmp_path, open_slide(path, mpp=(0.5, 0.5)))
    assert cut_tiles(store, threads).unreadable == 4
    readable = open_store(store.path).read(0, 80)[1].reshape(8, 10)
    assert np.argwhere(~readable).tolist() == [[4, 4], [4, 5], [5, 4], [5, 5]]


def test_too_many_unreadable_tiles_fail_the_slide_and_leave_it_unfinished(tmp_path, threads, damage):
    damage(*((32.0 * col, 0.0) for col in range(5)))
    store = a_store(tmp_path, a_slide(tmp_path)[0])
    with pytest.raises(SlideError, match=r"5 of 80 tiles cannot be read, more than 5%; the file is damaged"):
        cut_tiles(store, threads)
    assert open_store(store.path, complete=False).status == "writing"
    assert cut_tiles(store, threads, max_unreadable=0.1).unreadable == 5


def test_unreadable_tiles_of_shards_written_before_count(tmp_path, threads, damage):
    damage(*((32.0 * col, 0.0) for col in range(5)))
    store = a_store(tmp_path, a_slide(tmp_path)[0])
    assert cut_shard(store.path, 0).unreadable == 5
    with pytest.raises(SlideError, match="5 of 80 tiles"):
        cut_tiles(store, threads)


def test_shards_with_unreadable_tiles_are_read_again_each_time_and_no_others(tmp_path, threads, damage):
    damage((64.0, 32.0))
    store = a_store(tmp_path, a_slide(tmp_path)[0])
    cut_tiles(store, threads)
    for whole in (False, True):
        reader = damage() if whole else damage((64.0, 32.0))
        result = cut_tiles(open_store(store.path), threads)
        assert (result.unreadable, result.shards_written) == (int(not whole), 1)
        assert len(reader.tried) == 16 + int(not whole)
    tiles, readable = open_store(store.path).read(0, 80)
    assert readable.all() and (tiles == 100).all()


@pytest.mark.parametrize("write", [1, 2])
def test_a_kill_while_a_shard_is_cut_again_leaves_no_white_tile_that_counts_as_read(
    tmp_path, threads, damage, monkeypatch, write
):
    damage((64.0, 32.0))
    store = a_store(tmp_path, a_slide(tmp_path)[0])
    cut_tiles(store, threads)
    damage()
    writes, write_chunks = [], making.write_chunks

    def killed(*args: object, **options: int) -> None:
        writes.append(args)
        if len(writes) == write:
            raise KeyboardInterrupt
        write_chunks(*args, **options)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(making, "write_chunks", killed)
        cut_shard(store.path, 0, anew=True)
    tiles, readable = open_store(store.path).read(12, 13)
    assert not readable[0] or (tiles[0] == 100).all()
    assert cut_tiles(open_store(store.path), threads).unreadable == 0
    assert open_store(store.path).read(0, 80)[1].all()


def test_a_slide_that_is_gone_fails_and_writes_no_white_tiles(tmp_path, threads):
    slide, _ = a_slide(tmp_path)
    store = a_store(tmp_path, slide)
    Path(slide.path).unlink()
    with pytest.raises(SlideError):
        cut_tiles(store, threads)
    assert missing_shards(store) == [0, 1, 2, 3, 4]


def test_a_full_disk_arrives_as_a_store_error(tmp_path, threads, monkeypatch):
    store = a_store(tmp_path, a_slide(tmp_path)[0])

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(StoreError, match=r"disk full while writing [\d,]+ bytes, .*free; free some and run again"):
        cut_tiles(store, threads)


def test_only_small_things_travel_to_and_from_workers(tmp_path):
    sizes: list[int] = []

    class Measured:
        workers_a_slide = 2

        def map(self, function, items):
            for index, args in enumerate(items):
                result = function(*args)
                sizes.append(max(len(pickle.dumps((function, args))), len(pickle.dumps(result))))
                yield index, result

    store = a_store(tmp_path, a_slide(tmp_path)[0])
    cut_tiles(store, Measured())
    assert len(sizes) == 4  # of 2, 1, 1 and 1 shards
    assert max(sizes) < 4096


@pytest.mark.parametrize("workers", [1, 2, 7])
def test_each_shard_is_in_one_run_and_runs_get_shorter_to_end_together(workers):
    missing = [n for n in range(60) if n % 7]
    runs = list(_runs(missing, workers))
    assert [shard for run in runs for shard in run] == missing
    sizes = [len(run) for run in runs]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[-workers:] == [1] * workers


def test_workers_in_processes_tell_what_the_slide_has(tmp_path):
    slide, _ = a_slide(tmp_path)
    store = a_store(tmp_path, slide)
    Path(slide.path).write_bytes(b"II*\0 no longer a slide")
    with open_cluster("local", workers=1) as cluster, pytest.raises(SlideError):
        cut_tiles(store, cluster)


@pytest.mark.real
def test_real_tiles_equal_a_fresh_read_of_openslide(tmp_path, real_data, threads):
    slide = open_slide(real_data / "slides" / "aperio" / "CMU-1-Small-Region.svs")
    tissue = all_tissue(slide, cell=32)
    mpp = working_mpp(slide, 0.5)
    grid = lay_grid(slide, tissue, tile_px=256, stride_px=256, mpp=mpp, min_tissue=0.0)
    options = {"pixels": True, "shard_tiles": 32, "key": "k", "settings": {}}
    store = create_store(tmp_path / "r.zarr", grid, tissue, **options)
    cut_tiles(store, threads)
    tiles, _ = open_store(store.path).read(0, store.n_tiles)
    with openslide.OpenSlide(slide.path) as fresh:
        for tile, corner in list(zip(tiles, grid.xy_l0.tolist(), strict=True))[::7]:
            inside = np.asarray(fresh.read_region(corner, 0, (256, 256)))[..., 3] == 255
            region = np.asarray(fresh.read_region(corner, 0, (256, 256)).convert("RGB"))
            assert np.array_equal(tile[inside], region[inside])
            assert (tile[~inside] == 255).all()
