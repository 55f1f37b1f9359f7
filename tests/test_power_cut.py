"""What a power cut takes of a store: files are gone or without content, and what is left is not read as it lies."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import zarr
from small_slide import a_grid, a_slide, a_store, all_tissue

from wsi_pipeline.errors import StoreError
from wsi_pipeline.pipeline.tile import _same_store
from wsi_pipeline.tiles.making import create_store, missing_shards
from wsi_pipeline.tiles.store import TileStore, open_store
from wsi_pipeline.tiles.tiler import cut_shards


@pytest.fixture
def store(tmp_path: Path) -> TileStore:
    """80 readable tiles in 5 shards, all cut, not yet marked complete."""
    made = a_store(tmp_path, a_slide(tmp_path)[0])
    cut_shards(made.path, range(5))
    return made


def lose(path: Path, how: str) -> None:
    if how == "gone":
        path.unlink()
    else:
        path.write_bytes(b"")


@pytest.mark.parametrize("lost", ["gone", "emptied"])
@pytest.mark.parametrize("name", ["readable/c/2", "tiles/c/2/0/0/0"])
def test_a_shard_without_its_flags_or_its_pixels_is_cut_again(store: TileStore, name: str, lost: str) -> None:
    lose(Path(store.path, name), lost)
    assert missing_shards(store) == [2]
    assert store.flags(48, 80).all()
    done = cut_shards(store.path, range(5))
    assert [shard.seconds > 0 for shard in done] == [False, False, True, False, False]
    assert [shard.unreadable for shard in done] == [0] * 5
    assert missing_shards(store) == [] and store.flags(0, 80).all()


def test_looking_for_shards_takes_no_chunk_of_another_array(store: TileStore) -> None:
    emptied = [Path(store.path, name) for name in ("tissue_mask/c/0/0", "readable/c/1", "x/zarr.json")]
    for path in emptied:
        path.write_bytes(b"")
    assert missing_shards(store) == [1]
    assert [path.exists() for path in emptied] == [True, False, False]  # without its chunk a mask reads as no tissue


@pytest.mark.parametrize("lost", ["gone", "emptied"])
@pytest.mark.parametrize("name", ["tissue_mask/c/0/0", "thumbnail/c/0/0/0", "rowcol/c/0/0", "x/c/0", "y/zarr.json"])
def test_a_store_that_lacks_part_of_its_grid_or_tissue_is_removed_and_made_anew(
    store: TileStore, name: str, lost: str
) -> None:
    assert store.is_whole() and _same_store(store.path, "k1") is not None
    lose(Path(store.path, name), lost)
    assert not store.is_whole()
    assert _same_store(store.path, "k1") is None and not Path(store.path).exists()


def test_a_mask_without_its_chunk_is_not_read_as_no_tissue(store: TileStore) -> None:
    Path(store.path, "tissue_mask", "c", "0", "0").unlink()
    with pytest.raises(StoreError, match=r"damaged .*tissue_mask: not as it was written.*; remove it"):
        store.mask()


@pytest.mark.parametrize("older", [False, True], ids=["now", "of an older version"])
def test_a_mask_without_tissue_has_no_chunk_and_is_whole(tmp_path: Path, older: bool) -> None:
    slide, _ = a_slide(tmp_path)
    tissue = replace(all_tissue(slide), mask=np.zeros((16, 20), bool))
    options = {"pixels": True, "shard_tiles": 16, "key": "k", "settings": {}}
    store = create_store(tmp_path / "e.zarr", a_grid(slide, tissue), tissue, **options)
    assert not Path(store.path, "tissue_mask", "c").exists()
    if older:  # it has no checksums
        group = zarr.open_group(store.path, mode="r+")
        group.attrs["wsi_pipeline"] = {k: v for k, v in group.attrs["wsi_pipeline"].items() if k != "crc32c"}
    assert open_store(store.path, complete=False).is_whole() and not store.mask().mask.any()


@pytest.mark.parametrize("text", [None, "", '{"zarr_format": 3, "node'], ids=["gone", "emptied", "cut off"])
@pytest.mark.parametrize("name", ["zarr.json", "readable/zarr.json", "tiles/zarr.json"])
def test_a_store_without_its_metadata_is_removed_and_made_anew(store: TileStore, name: str, text: str | None) -> None:
    path = Path(store.path, name)
    path.unlink() if text is None else path.write_text(text)
    assert _same_store(store.path, "k1") is None and not Path(store.path).exists()


def test_a_store_of_jpegs_without_their_metadata_is_not_whole(tmp_path: Path) -> None:
    store = a_store(tmp_path, a_slide(tmp_path)[0], codec="jpeg")
    assert store.is_whole()
    Path(store.path, "jpegs", "zarr.json").write_text("{")
    assert not store.is_whole()


def test_a_hole_in_the_pixels_of_a_shard_names_the_shard(store: TileStore) -> None:
    path = Path(store.path, "tiles/c/2/0/0/0")
    whole = path.read_bytes()
    path.write_bytes(whole[:200] + bytes(300) + whole[500:])
    with pytest.raises(StoreError, match=r"tiles/c/2/0/0/0: this shard .* is damaged; remove it and run again with"):
        open_store(store.path, complete=False).read(32, 48)
