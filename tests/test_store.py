"""The tile store: what is written, what stock readers see of it, and when it may be trusted."""

import errno
import shutil
import warnings
from collections import namedtuple
from dataclasses import replace
from pathlib import Path

import dask.array
import numpy as np
import pytest
import tifffile
import xarray
import zarr
from small_slide import TILE, a_grid, a_slide, a_store, all_tissue

from wsi_pipeline.errors import StoreError
from wsi_pipeline.slide.reader import PLAIN, SlideReader, open_slide
from wsi_pipeline.tiles import making as store_module
from wsi_pipeline.tiles.codecs import store_bytes
from wsi_pipeline.tiles.making import (
    create_store,
    delete_store,
    mark_complete,
    missing_shards,
    write_jpegs,
    write_shard,
)
from wsi_pipeline.tiles.store import TileStore, open_store
from wsi_pipeline.tiles.tiler import cut_shard


def shard_file(store: TileStore, shard: int) -> Path:
    return Path(store.path, "tiles", "c", str(shard), "0", "0", "0")


@pytest.fixture
def store(tmp_path) -> TileStore:
    return a_store(tmp_path, a_slide(tmp_path)[0])


def number_tiles(store: TileStore) -> np.ndarray:
    """Fill a store: tile k is all k. Returns the tiles."""
    tiles = np.empty((store.n_tiles, TILE, TILE, 3), np.uint8)
    tiles[:] = np.arange(store.n_tiles, dtype=np.uint8)[:, None, None, None]
    for shard, (start, stop) in enumerate(store.shards):
        write_shard(store, shard, tiles[start:stop], np.arange(start, stop) != 7)
    return tiles


def test_what_was_written_is_read_back(store):
    tiles = number_tiles(store)
    read, readable = mark_complete(store).read(5, 40)
    assert np.array_equal(read, tiles[5:40])
    assert np.flatnonzero(~readable).tolist() == [2]


def test_a_store_opens_as_it_was_made(store):
    number_tiles(store)
    mark_complete(store)
    opened = open_store(store.path)
    assert opened.status == "complete"
    assert opened.grid.slide == store.grid.slide
    assert (opened.grid.rows, opened.grid.cols, opened.grid.mpp) == (8, 10, store.grid.mpp)
    assert np.array_equal(opened.grid.rowcol, store.grid.rowcol)
    assert np.array_equal(opened.grid.tissue, store.grid.tissue)
    assert (opened.key, opened.pixels, opened.shard_tiles, opened.reading) == ("k1", True, 16, PLAIN)
    assert (opened.settings, opened.tissue_mm2) == ({"target_mpp": 0.5}, 0.02)


def test_the_tissue_comes_back_with_its_thresholds(store):
    tissue = store.mask()
    assert tissue.mask.dtype == bool and tissue.mask.all()
    assert tissue.mask.shape == (16, 20)
    assert tissue.cell_l0 == (16.0, 16.0)
    assert (tissue.thumbnail == 200).all()
    assert tissue.thresholds == {"saturation": 12.0}


def test_warnings_of_slide_and_tissue_come_together_once(tmp_path):
    slide = replace(a_slide(tmp_path)[0], warnings=("one level", "no bounds"))
    tissue = replace(all_tissue(slide), warnings=("pen removed", "one level"))
    options = {"pixels": False, "shard_tiles": 16, "key": "k", "settings": {}}
    store = create_store(tmp_path / "w.zarr", a_grid(slide, tissue), tissue, **options)
    assert store.warnings == ("one level", "no bounds", "pen removed")


@pytest.mark.parametrize(
    ("name", "shape", "chunks", "dimensions"),
    [
        ("tiles", (80, TILE, TILE, 3), (1, TILE, TILE, 3), ("tile", "tile_row_px", "tile_col_px", "rgb")),
        ("rowcol", (80, 2), (80, 2), ("tile", "row_col")),
        ("x", (80,), (80,), ("tile",)),
        ("y", (80,), (80,), ("tile",)),
        ("tissue_fraction", (80,), (80,), ("tile",)),
        ("readable", (80,), (16,), ("tile",)),
        ("tissue_mask", (16, 20), (16, 20), ("mask_row", "mask_col")),
        ("thumbnail", (16, 20, 3), (16, 20, 3), ("thumbnail_row", "thumbnail_col", "rgb")),
    ],
)
def test_arrays_are_laid_out_as_documented(store, name, shape, chunks, dimensions):
    array = zarr.open_group(store.path, mode="r")[name]
    assert (array.shape, array.chunks) == (shape, chunks)
    assert array.metadata.dimension_names == dimensions
    assert array.metadata.zarr_format == 3


def test_attributes_tell_the_slide_the_scale_and_the_settings(store):
    found = zarr.open_group(store.path, mode="r").attrs["wsi_pipeline"]
    assert (found["schema"], found["status"], found["tiles"]) == (2, "writing", 80)
    assert found["slide"]["id"] == "a"
    assert found["slide"]["mpp_l0"] == {"x": 0.5, "y": 0.5, "source": "manifest"}
    assert found["grid"]["read_level"] == 0
    assert set(found["versions"]) == {"wsi_pipeline", "zarr", "numpy"}


def test_stock_dask_and_xarray_open_the_store_without_a_warning(store):
    tiles = number_tiles(store)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        dataset = xarray.open_zarr(store.path, consolidated=False)
        lazy = dask.array.from_array(zarr.open_array(store.path, path="tiles", mode="r"))
    assert dict(dataset.sizes)["tile"] == 80
    assert np.array_equal(dataset["tiles"][20:30].values, tiles[20:30])
    assert np.array_equal(lazy[60:].compute(scheduler="synchronous"), tiles[60:])


def test_one_file_a_shard_even_where_all_pixels_are_the_fill_value(store):
    for shard, (start, stop) in enumerate(store.shards):
        black = np.zeros((stop - start, TILE, TILE, 3), np.uint8)
        write_shard(store, shard, black, np.zeros(stop - start, bool))
    files = [path for path in Path(store.path, "tiles", "c").rglob("*") if path.is_file()]
    assert len(files) == 5
    assert mark_complete(store).status == "complete"


def test_a_part_of_a_shard_is_refused(store):
    with pytest.raises(ValueError, match="shard 0 has 16 tiles, got 15: write whole shards only"):
        write_shard(store, 0, np.zeros((15, TILE, TILE, 3), np.uint8), np.ones(15, bool))


def test_shards_cover_all_tiles_and_the_last_may_be_short(tmp_path):
    store = a_store(tmp_path, a_slide(tmp_path)[0], shard_tiles=30)
    assert store.shards == [(0, 30), (30, 60), (60, 80)]


def test_missing_shards_are_those_without_a_file(store):
    number_tiles(store)
    shard_file(store, 3).unlink()
    shutil.rmtree(Path(store.path, "tiles", "c", "1"))
    assert missing_shards(store) == [1, 3]


def test_what_a_kill_or_a_power_cut_leaves_is_removed(store):
    number_tiles(store)
    half_written = shard_file(store, 2).with_name("0.9f3b.partial")
    half_written.write_bytes(b"half a shard")
    shard_file(store, 4).write_bytes(b"")
    assert missing_shards(store) == [4]
    assert not half_written.exists()
    assert not shard_file(store, 4).exists()


def test_a_store_with_a_missing_shard_is_not_marked_complete(store):
    number_tiles(store)
    shard_file(store, 3).unlink()
    with pytest.raises(StoreError, match="1 of 5 shards missing, first 3"):
        mark_complete(store)
    assert open_store(store.path, complete=False).status == "writing"


def test_a_store_not_marked_complete_does_not_open(store):
    number_tiles(store)
    with pytest.raises(StoreError, match="'writing', not complete; run again with --resume"):
        open_store(store.path)


def test_a_slide_without_tissue_has_a_valid_empty_store(tmp_path):
    slide, _ = a_slide(tmp_path)
    tissue = replace(all_tissue(slide), mask=np.zeros((16, 20), bool))
    options = {"pixels": True, "shard_tiles": 16, "key": "k", "settings": {}}
    store = create_store(tmp_path / "e.zarr", a_grid(slide, tissue), tissue, **options)
    opened = open_store(mark_complete(store).path)
    assert (opened.n_tiles, opened.shards, missing_shards(opened)) == (0, [], [])
    assert opened.grid.rowcol.shape == (0, 2) and opened.grid.rowcol.dtype == np.int32
    assert opened.read(0, 0)[0].shape == (0, TILE, TILE, 3)
    assert xarray.open_zarr(opened.path, consolidated=False).sizes["tile"] == 0


def test_coordinates_alone_hold_no_pixels_and_read_them_from_the_slide(tmp_path):
    slide, pixels = a_slide(tmp_path)
    store = a_store(tmp_path, slide, pixels=False)
    tiles, readable = open_store(mark_complete(store).path).read(11, 13)
    assert "tiles" not in zarr.open_group(store.path, mode="r")
    assert np.array_equal(tiles[0], pixels[TILE : 2 * TILE, TILE : 2 * TILE])
    assert readable.all()


def test_the_same_key_opens_what_is_there(store, tmp_path):
    number_tiles(store)
    again = a_store(tmp_path, store.grid.slide)
    assert missing_shards(again) == []


def test_another_key_is_refused_and_touches_nothing(store, tmp_path):
    with pytest.raises(StoreError, match=r"made with other settings .*key k1, now k2"):
        a_store(tmp_path, store.grid.slide, key="k2")
    assert open_store(store.path, complete=False).key == "k1"


def test_a_creation_killed_half_way_leaves_no_store(tmp_path, monkeypatch):
    slide, _ = a_slide(tmp_path)

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(store_module, "write_arrays", killed)
        with pytest.raises(KeyboardInterrupt):
            a_store(tmp_path, slide)
    with pytest.raises(StoreError, match="no tile store here"):
        open_store(tmp_path / "a.zarr")
    assert a_store(tmp_path, slide).n_tiles == 80
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.tif", "a.zarr"]


def test_bytes_needed_and_free_are_told_when_the_disk_cannot_hold_the_pixels(tmp_path, monkeypatch):
    slide, _ = a_slide(tmp_path)
    usage = namedtuple("usage", "total used free")(10, 9, 1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    needed = f"{store_bytes(80, TILE):,}"
    with pytest.raises(StoreError, match=f"take up to {needed} bytes, 1,000 are free"):
        a_store(tmp_path, slide)
    assert a_store(tmp_path, slide, pixels=False).n_tiles == 80


def test_a_disk_that_fills_up_while_writing_is_a_store_error(store, monkeypatch):
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(StoreError, match="disk full while writing"):
        number_tiles(store)


def test_store_bytes_bounds_what_the_worst_pixels_take(tmp_path):
    store = a_store(tmp_path, a_slide(tmp_path)[0])
    noise = np.random.default_rng(1).integers(0, 256, (16, TILE, TILE, 3), dtype=np.uint8)
    for shard in range(5):
        write_shard(store, shard, noise, np.ones(16, bool))
    written = sum(path.stat().st_size for path in Path(store.path, "tiles", "c").rglob("*") if path.is_file())
    assert 0.95 * store_bytes(80, TILE) < written <= store_bytes(80, TILE)


def test_another_schema_is_refused(store):
    group = zarr.open_group(store.path, mode="r+")
    group.attrs["wsi_pipeline"] = {**group.attrs["wsi_pipeline"], "schema": 99}
    with pytest.raises(StoreError, match="schema 99, this version reads 2"):
        open_store(store.path)


def test_a_foreign_zarr_group_is_refused_and_never_deleted(tmp_path):
    zarr.create_group(tmp_path / "b.zarr")
    with pytest.raises(StoreError, match="no tile store of this package"):
        open_store(tmp_path / "b.zarr")
    with pytest.raises(StoreError, match="no tile store of this package"):
        delete_store(tmp_path / "b.zarr")
    assert (tmp_path / "b.zarr").is_dir()


def test_a_damaged_store_is_told_apart_from_a_missing_one(store):
    Path(store.path, "rowcol", "zarr.json").write_text("{")
    with pytest.raises(StoreError, match=r"or damaged .*; remove it, or use another --out"):
        open_store(store.path, complete=False)


def test_a_folder_that_cannot_be_written_is_a_store_error(tmp_path):
    slide, _ = a_slide(tmp_path)
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StoreError, match=r"cannot be written \(.*File exists"):
        a_store(tmp_path / "file", slide)


def test_delete_store_leaves_nothing(store, tmp_path):
    number_tiles(store)
    delete_store(store.path)
    delete_store(store.path)
    assert [path.name for path in tmp_path.iterdir()] == ["a.tif"]


def jpeg_store(folder: Path, *, tile: int = 64, stride: int | None = None) -> tuple[TileStore, np.ndarray]:
    """A store of JPEGs over a slide of 64 px JPEG tiles, 300 x 256 px; and the slide's pixels."""
    y, x = np.mgrid[:256, :300]
    drawn = np.stack([128 + 90 * np.sin(x / 9), 128 + 90 * np.cos(y / 7), (x + y) % 256], -1).astype(np.uint8)
    tifffile.imwrite(folder / "j.tif", drawn, photometric="ycbcr", tile=(64, 64), compression="jpeg")
    slide = open_slide(folder / "j.tif", mpp=(0.5, 0.5))
    with SlideReader(slide) as reader:
        pixels = reader.read(0, 0, 0, (320, 256))
    grid = a_grid(slide, tile=tile, stride_px=stride or tile)
    options = {"pixels": True, "shard_tiles": 16, "key": "k", "settings": {}, "codec": "jpeg", "quality": 95}
    return create_store(folder / "j.zarr", grid, all_tissue(slide), **options), pixels


def cut(store: TileStore) -> TileStore:
    for shard in range(len(store.shards)):
        cut_shard(store.path, shard)
    return mark_complete(store)


def test_a_store_of_jpegs_holds_the_slides_own_tiles_bit_for_bit(tmp_path):
    store, pixels = jpeg_store(tmp_path)
    tiles, readable = cut(store).read(0, store.n_tiles)
    assert store.n_tiles == 20 and readable.all()
    for tile, (row, col) in zip(tiles, store.grid.rowcol.tolist(), strict=True):
        own = pixels[row * 64 : row * 64 + 64, col * 64 : col * 64 + 64]
        if col < 4:
            assert np.array_equal(tile, own)
        else:  # over the edge: encoded anew, white beyond it
            assert np.abs(tile.astype(int) - own).mean() < 3


def test_the_bytes_of_a_jpeg_store_are_those_of_the_slide(tmp_path):
    store, _ = jpeg_store(tmp_path)
    cut(store)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # zarr: bytes have no specification yet
        jpegs = zarr.open_group(store.path, mode="r")["jpegs"]
        jpeg = bytes(jpegs[0:1][0])
        assert jpegs.attrs["codec"] == "jpeg" and jpegs.shape == (20,)
        assert xarray.open_zarr(store.path, consolidated=False).sizes["tile"] == 20
    with tifffile.TiffFile(store.grid.slide.path) as tiff:
        page = tiff.pages[0]
        with open(store.grid.slide.path, "rb") as file:
            file.seek(page.dataoffsets[0])
            own = file.read(page.databytecounts[0])
    scan = own.index(b"\xff\xda")
    assert jpeg.endswith(own[scan:])


def test_a_grid_of_its_own_is_encoded_at_the_quality_asked_for(tmp_path):
    store, pixels = jpeg_store(tmp_path, tile=48)
    tiles, readable = cut(store).read(0, store.n_tiles)
    assert readable.all()
    assert 0 < np.abs(tiles[7].astype(int) - pixels[48:96, :48]).mean() < 3
    assert open_store(store.path).quality == 95


def test_damage_in_a_copied_jpeg_is_unreadable_when_read(tmp_path):
    store, _ = jpeg_store(tmp_path)
    with tifffile.TiffFile(store.grid.slide.path) as tiff:
        start, count = tiff.pages[0].dataoffsets[6], tiff.pages[0].databytecounts[6]
    with open(store.grid.slide.path, "r+b") as file:
        file.seek(start + count // 2)
        file.write(b"\xff\x01" * 40)
    tiles, readable = cut(store).read(0, store.n_tiles)
    assert np.flatnonzero(~readable).tolist() == [6]
    assert (tiles[6] == 255).all()


def test_jpegs_are_written_only_where_they_belong(store, tmp_path):
    with pytest.raises(ValueError, match="shard 0 has 16 tiles in zstd, got 16 in jpeg"):
        write_jpegs(store, 0, [b""] * 16, np.ones(16, bool))


def test_tiles_of_several_shards_are_read_together(store):
    tiles = number_tiles(store)
    for start, stop in [(0, 80), (15, 17), (16, 32), (79, 80), (40, 40)]:
        read, readable = store.read(start, stop)
        assert np.array_equal(read, tiles[start:stop])
        assert len(readable) == stop - start


def test_a_lost_shard_is_told_and_not_read_as_black(store):
    number_tiles(store)
    shard_file(store, 3).unlink()
    with pytest.raises(StoreError, match="this shard of the tile store is missing"):
        store.read(40, 60)
