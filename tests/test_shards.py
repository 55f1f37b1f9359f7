"""Shards written by hand: what stock zarr reads of them, what is read of stock zarr's, and what is refused."""

import os
from pathlib import Path

import numpy as np
import pytest
import zarr
from zarr.codecs import ZstdCodec

from wsi_pipeline.errors import StoreError
from wsi_pipeline.tiles.codecs import decode_jpeg, decode_zstd, encode_jpeg, encode_zstd, jpeg_chunks, jpegs_of
from wsi_pipeline.tiles.places import place_of
from wsi_pipeline.tiles.shards import read_shard, write_shard

PX, SLOTS = 16, 8


def tiles(n: int, *, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (n, PX, PX, 3), dtype=np.uint8)


def stock_array(folder: Path, n: int) -> zarr.Array:
    return zarr.create_array(
        folder, shape=(n, PX, PX, 3), dtype="uint8", chunks=(1, PX, PX, 3), shards=(SLOTS, PX, PX, 3),
        compressors=ZstdCodec(level=1), zarr_format=3,
    )  # fmt: skip


def write_shard_file(path: Path, chunks: list[bytes], slots: int) -> None:
    write_shard(place_of(path.parent), path.name, chunks, slots=slots)


def read_shard_file(path: Path, slots: int, start: int, stop: int) -> list[bytes]:
    return read_shard(place_of(path.parent), path.name, slots=slots, start=start, stop=stop)


def file_of(folder: Path, shard: int) -> Path:
    return folder / "c" / str(shard) / "0" / "0" / "0"


def test_stock_zarr_reads_what_is_written_here(tmp_path: Path) -> None:
    array, expected = stock_array(tmp_path, 13), tiles(13)
    write_shard_file(file_of(tmp_path, 0), encode_zstd(expected[:8]), SLOTS)
    write_shard_file(file_of(tmp_path, 1), encode_zstd(expected[8:]), SLOTS)  # a short last shard
    np.testing.assert_array_equal(np.asarray(array[:]), expected)


def test_what_stock_zarr_wrote_is_read_here(tmp_path: Path) -> None:
    array, expected = stock_array(tmp_path, 13), tiles(13)
    array[:] = expected
    np.testing.assert_array_equal(decode_zstd(read_shard_file(file_of(tmp_path, 0), SLOTS, 2, 8), PX), expected[2:8])
    np.testing.assert_array_equal(decode_zstd(read_shard_file(file_of(tmp_path, 1), SLOTS, 0, 5), PX), expected[8:])


def test_the_file_is_the_one_that_stock_zarr_writes_but_for_the_compressor(tmp_path: Path) -> None:
    array, expected = stock_array(tmp_path / "stock", 8), tiles(8)
    array[:] = expected
    write_shard_file(tmp_path / "own", encode_zstd(expected), SLOTS)
    stock = file_of(tmp_path / "stock", 0)
    assert stock.stat().st_size == pytest.approx((tmp_path / "own").stat().st_size, rel=0.01)


def test_a_tile_that_was_not_written_is_told(tmp_path: Path) -> None:
    write_shard_file(tmp_path / "s", encode_zstd(tiles(3)), SLOTS)
    assert len(read_shard_file(tmp_path / "s", SLOTS, 0, 3)) == 3
    with pytest.raises(StoreError, match="a tile is missing in this shard"):
        read_shard_file(tmp_path / "s", SLOTS, 2, 4)


def test_a_missing_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"missing; run again with --resume"):
        read_shard_file(tmp_path / "gone", SLOTS, 0, 1)


@pytest.mark.parametrize("change", ["cut", "flipped", "empty"])
def test_a_damaged_index_is_told(tmp_path: Path, change: str) -> None:
    path = tmp_path / "s"
    write_shard_file(path, encode_zstd(tiles(8)), SLOTS)
    data = bytearray(path.read_bytes())
    data[-20] ^= 1
    path.write_bytes({"cut": data[:-100], "flipped": data, "empty": b""}[change])
    with pytest.raises(StoreError, match="damaged"):
        read_shard_file(path, SLOTS, 0, 8)


def test_a_chunk_of_another_size_is_refused() -> None:
    with pytest.raises(ValueError, match="a tile is not of 768 bytes"):
        decode_zstd(encode_zstd(tiles(1)[:, :8]), PX)


def test_a_write_that_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(OSError):
        write_shard_file(tmp_path / "s", encode_zstd(tiles(3)), SLOTS)
    assert os.listdir(tmp_path) == []


def test_jpegs_come_back_as_near_as_their_quality_and_damage_is_white() -> None:
    smooth = np.full((3, PX, PX, 3), (200, 120, 160), np.uint8)
    jpegs = encode_jpeg(smooth, 90)
    jpegs[1] = jpegs[1][:100]
    found, readable = decode_jpeg(jpegs_of(jpeg_chunks(jpegs)), PX)
    assert readable.tolist() == [True, False, True]
    assert np.abs(found[[0, 2]].astype(int) - smooth[[0, 2]]).max() <= 2
    assert (found[1] == 255).all()
