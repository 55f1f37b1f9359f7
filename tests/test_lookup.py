"""Single tiles of many stores: the same pixels in any order and any process, and clear words where there are none."""

import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
from small_slide import TILE, a_slide, a_store

from wsi_pipeline.errors import SlideError
from wsi_pipeline.schedulers import open_cluster
from wsi_pipeline.tiles.lookup import TileLookup
from wsi_pipeline.tiles.store import TileStore, open_store
from wsi_pipeline.tiles.tiler import cut_tiles


def cut(folder: Path, *, pixels: bool = True) -> tuple[TileStore, np.ndarray]:
    """A store of 80 tiles in shards of 16, and its tiles as they lie in the slide, row by row."""
    slide, image = a_slide(folder)
    store = a_store(folder, slide, pixels=pixels)
    with open_cluster("threads", workers=1) as cluster:
        cut_tiles(store, cluster)
    tiles = image.reshape(8, TILE, 10, TILE, 3).swapaxes(1, 2).reshape(80, TILE, TILE, 3)
    return open_store(store.path), tiles


def looked_up(store: TileStore) -> TileLookup:
    return TileLookup((store,), np.zeros(store.n_tiles, int), np.arange(store.n_tiles))


ORDERS = {
    "rows": np.arange(80),
    "backwards": np.arange(80)[::-1],
    "random": np.random.default_rng(0).permutation(80),
    "one again and again": np.array([17, 17, 17, 5, 17]),
}


@pytest.mark.parametrize("order", ORDERS.values(), ids=ORDERS)
@pytest.mark.parametrize("pixels", [True, False], ids=["pixels", "coordinates"])
def test_a_tile_is_the_same_in_every_order(tmp_path, order, pixels):
    store, tiles = cut(tmp_path, pixels=pixels)
    read = looked_up(store)
    for k in order:
        np.testing.assert_array_equal(read(k), tiles[k])


def test_a_shard_is_read_once_for_neighbours_and_single_tiles_in_random_order(tmp_path, monkeypatch):
    store, _ = cut(tmp_path)
    asked: list[tuple[int, int]] = []
    whole = TileStore.read
    monkeypatch.setattr(TileStore, "read", lambda self, a, b: asked.append((a, b)) or whole(self, a, b))
    read = looked_up(store)
    for k in (0, 1, 2, 3, 40, 70, 41):
        read(k)
    assert asked == [(0, 1), (0, 16), (40, 41), (70, 71), (41, 42)]


def test_rows_may_come_from_several_stores_in_any_order(tmp_path):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    (first, tiles), (second, _) = cut(tmp_path / "one"), cut(tmp_path / "two", pixels=False)
    read = TileLookup((first, second), np.array([1, 0, 1]), np.array([7, 3, 2]))
    for k, tile in enumerate((7, 3, 2)):
        np.testing.assert_array_equal(read(k), tiles[tile])


def test_a_lookup_is_pickled_without_what_it_has_read(tmp_path):
    store, tiles = cut(tmp_path)
    read = looked_up(store)
    read(0), read(1)
    text = pickle.dumps(read)
    assert len(text) < tiles[:16].nbytes / 4
    np.testing.assert_array_equal(pickle.loads(text)(1), tiles[1])


def test_what_a_caller_does_to_a_tile_stays_with_the_caller(tmp_path):
    store, tiles = cut(tmp_path)
    read = looked_up(store)
    read(0)
    read(1)[:] = 0
    np.testing.assert_array_equal(read(1), tiles[1])


def test_a_lost_shard_is_no_black_tile(tmp_path):
    store, _ = cut(tmp_path)
    for shard in (tmp_path / "a.zarr" / "tiles" / "c" / "0").rglob("*"):
        if shard.is_file():
            shard.unlink()
    with pytest.raises(SlideError, match=r"a\.zarr: tile 3 cannot be read .*missing"):
        looked_up(store)(3)


def test_a_store_that_went_away_is_named(tmp_path):
    store, _ = cut(tmp_path)
    shutil.rmtree(store.path)
    with pytest.raises(SlideError, match=r"a\.zarr: tile 3 cannot be read"):
        looked_up(store)(3)


def test_a_slide_that_went_away_is_named(tmp_path):
    store, _ = cut(tmp_path, pixels=False)
    (tmp_path / "a.tif").rename(tmp_path / "b.tif")
    with pytest.raises(SlideError, match=r"a\.tif"):
        looked_up(store)(3)
