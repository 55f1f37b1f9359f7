"""Where stores lie: on a disk, in memory and in an S3 server the same store comes out, and stock zarr reads it."""

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import fsspec
import numpy as np
import pytest
import zarr
from fsspec.implementations.memory import MemoryFileSystem
from small_slide import a_grid, a_slide, all_tissue

from wsi_pipeline.cluster import Cluster
from wsi_pipeline.errors import StoreError
from wsi_pipeline.schedulers import open_cluster
from wsi_pipeline.scores.store import Scores, read_scores, write_scores
from wsi_pipeline.scores.unfinished import drop_logits, keep_logits
from wsi_pipeline.slide.urls import remote
from wsi_pipeline.tiles.codecs import Codec
from wsi_pipeline.tiles.making import create_store, delete_store, missing_shards
from wsi_pipeline.tiles.places import filled, place_of
from wsi_pipeline.tiles.store import TileStore, open_store
from wsi_pipeline.tiles.tiler import cut_shard, cut_tiles


@pytest.fixture(params=["disk", "memory", "s3"])
def folder(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A path or URL where nothing is yet."""
    monkeypatch.setenv("WSI_PIPELINE_CACHE_DIR", str(tmp_path / "cache"))
    if request.param == "disk":
        return str(tmp_path / "run")
    if request.param == "memory":
        MemoryFileSystem.store.clear()
        return "memory://bucket/run"
    request.getfixturevalue("s3")
    bucket = f"bucket-{os.urandom(4).hex()}"
    remote(f"s3://{bucket}")[0].mkdir(bucket)
    return f"s3://{bucket}/run"


@pytest.fixture
def threads() -> Iterator[Cluster]:
    with open_cluster("threads", workers=2) as cluster:
        yield cluster


def a_store(folder: str, tmp_path: Path, *, key: str = "k1", codec: Codec = "zstd") -> TileStore:
    slide, _ = a_slide(tmp_path)
    known = {"pixels": True, "shard_tiles": 16, "settings": {}}
    return create_store(f"{folder}/tiles/a.zarr", a_grid(slide), all_tissue(slide), key=key, codec=codec, **known)


def scores_of(store: TileStore) -> Scores:
    probs = np.linspace(0, 1, 2 * store.n_tiles, dtype=np.float32).reshape(-1, 2)
    known = {"class_names": ("a", "b"), "positive": ("b",), "exclusive": False, "checkpoint_id": "m" * 12}
    return Scores(rowcol=store.grid.rowcol, probs=probs, threshold=0.5, model_mpp=0.5, **known)


@pytest.mark.parametrize("codec", ["zstd", "jpeg"])
def test_a_store_is_cut_and_read_back_wherever_it_lies(
    folder: str, tmp_path: Path, threads: Cluster, codec: Codec
) -> None:
    store = a_store(folder, tmp_path, codec=codec)
    assert (store.path, store.status, missing_shards(store)) == (f"{folder}/tiles/a.zarr", "writing", [0, 1, 2, 3, 4])
    cut_shard(store.path, 3)
    result = cut_tiles(store, threads)
    assert (result.shards_written, result.unreadable) == (4, 0)  # what was there is not done again
    tiles, readable = open_store(store.path).read(7, 77)
    beside = a_store(str(tmp_path / "beside"), tmp_path, codec=codec)
    cut_tiles(beside, threads)
    np.testing.assert_array_equal(tiles, open_store(beside.path).read(7, 77)[0])
    assert readable.all() and open_store(store.path).mask().tissue_mm2 == store.tissue_mm2


def test_stock_zarr_reads_the_store_where_it_lies(folder: str, tmp_path: Path, threads: Cluster) -> None:
    store = a_store(folder, tmp_path)
    cut_tiles(store, threads)
    group = zarr.open_group(store.path, mode="r")
    np.testing.assert_array_equal(np.asarray(group["tiles"][40:44]), store.read(40, 44)[0])
    np.testing.assert_array_equal(np.asarray(group["rowcol"][:]), store.grid.rowcol)


def test_scores_and_unfinished_logits_are_kept_with_the_store(folder: str, tmp_path: Path) -> None:
    store = a_store(folder, tmp_path)
    rows = np.arange(10)
    with keep_logits(store.path, "key", n_tiles=80, shape=(2,)) as kept:
        kept.add(rows, np.ones((10, 2), np.float32))
        kept.flush()
    with keep_logits(store.path, "key", n_tiles=80, shape=(2,)) as kept:
        assert kept.resumed == 10 and kept.done(rows).all()
    write_scores(store.path, scores := scores_of(store), key="key")
    drop_logits(store.path)
    drop_logits(store.path)  # none there is no error
    np.testing.assert_array_equal(read_scores(store.path, scores.checkpoint_id, key="key").probs, scores.probs)
    with pytest.raises(StoreError, match=r"not of another: settings changed"):
        read_scores(store.path, scores.checkpoint_id, key="another")
    write_scores(store.path, scores, key="another")
    assert read_scores(store.path, scores.checkpoint_id, key="another").rows == 80


def test_scores_and_a_mask_that_lost_a_chunk_are_not_trusted(folder: str, tmp_path: Path) -> None:
    store = a_store(folder, tmp_path)
    write_scores(store.path, scores := scores_of(store))
    assert open_store(store.path, complete=False).is_whole()
    files, path = remote(store.path)
    files.rm_file(f"{path}/scores/{scores.checkpoint_id}/c/0/0")
    with pytest.raises(StoreError, match=r"scores of model m+ are not as they were written; score again"):
        read_scores(store.path, scores.checkpoint_id)
    files.rm_file(f"{path}/tissue_mask/c/0/0")
    assert not open_store(store.path, complete=False).is_whole()


def test_of_files_without_content_only_those_go_that_are_seen_to_be_gone(tmp_path: Path) -> None:
    place = place_of(tmp_path / "a.zarr")
    for name in ("mask/zarr.json", "mask/c/0", "tiles/c/0", "tiles/c/0.ab.partial"):
        place.write(name, [])
    place.write("tiles/c/1", [b"whole"])
    assert place.files(("tiles/c/",)) == {"tiles/c/1"}
    left = {path.relative_to(tmp_path / "a.zarr").as_posix() for path in tmp_path.rglob("*") if path.is_file()}
    assert left == {"mask/c/0", "tiles/c/1"}


def test_a_store_is_made_anew_whole_and_removed_whole(folder: str, tmp_path: Path) -> None:
    store = a_store(folder, tmp_path)
    cut_shard(store.path, 1)
    with pytest.raises(StoreError, match=r"made with other settings or another slide \(key k1, now k2\)"):
        a_store(folder, tmp_path, key="k2")
    delete_store(store.path)
    delete_store(store.path)
    with pytest.raises(StoreError, match="no tile store here"):
        open_store(store.path)
    assert missing_shards(a_store(folder, tmp_path, key="k2")) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("folder", ["memory", "s3"], indirect=True)
def test_a_store_without_its_marker_is_none_and_what_is_left_of_it_goes(folder: str, tmp_path: Path) -> None:
    store = a_store(folder, tmp_path)
    cut_shard(store.path, 1)
    files, path = remote(store.path)
    files.rm_file(f"{path}/zarr.json")
    assert not place_of(store.path).taken()
    assert missing_shards(a_store(folder, tmp_path)) == [0, 1, 2, 3, 4]


def test_a_missing_and_a_damaged_shard_are_told(folder: str, tmp_path: Path) -> None:
    store = a_store(folder, tmp_path)
    with pytest.raises(StoreError, match=r"tiles/c/2/0/0/0: this shard of the tile store is missing"):
        store.read(32, 33)
    place_of(store.path).write(store.shard_name(2), [b"short"])
    with pytest.raises(StoreError, match=r"tiles/c/2/0/0/0: this shard of the tile store is damaged"):
        store.read(32, 33)


def test_files_are_put_where_they_belong_and_no_draft_stays_here(folder: str, tmp_path: Path) -> None:
    place_of(folder).write("maps/x", [b"of", b" another"])
    with filled(f"{folder}/maps") as room:
        (room / "a.tif").write_bytes(b"map")
    assert place_of(f"{folder}/maps").files() == {"a.tif", "x"}
    spans = place_of(f"{folder}/maps").read("x", 3, lambda tail: [(0, 2), (3, len(tail))])
    assert spans == [b"of", b"ano"]
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.suffix != ".lock" and path.is_file()]


def test_what_a_killed_process_left_of_its_drafts_goes_with_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WSI_PIPELINE_CACHE_DIR", str(tmp_path / "cache"))
    left = tmp_path / "cache" / "drafts" / "0"
    left.mkdir(parents=True)
    (left / "half").touch()
    with filled("memory://bucket/a") as one, filled("memory://bucket/b") as other:
        assert one == left and other == left.with_name("1") and not list(one.iterdir())
    assert sorted(path.name for path in left.parent.iterdir()) == ["0.lock", "1.lock"]


def test_an_object_store_that_is_gone_is_told_by_its_url(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Gone(MemoryFileSystem):
        protocol = "gone"

        def pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **_: object) -> None:
            raise ConnectionError("no route")

    fsspec.register_implementation("gone", Gone, clobber=True)
    with pytest.raises(StoreError, match=r"^gone://bucket: cannot be reached \(no route\); check the URL, network"):
        place_of("gone://bucket").write("x", [b"y"])


def test_threads_that_come_and_go_share_one_connection_to_the_object_store(s3: str) -> None:
    with ThreadPoolExecutor(1) as one, ThreadPoolExecutor(1) as other:
        first = one.submit(lambda: place_of("s3://bucket/0").zarr).result()
        second = other.submit(lambda: place_of("s3://bucket/1").zarr).result()
    assert first.fs is second.fs and (first.path, second.path) == ("bucket/0", "bucket/1")
