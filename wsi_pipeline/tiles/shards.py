"""The chunks of one shard <-> one file, laid out as Zarr's sharding codec has it, without zarr in between.

Stock zarr reads what is written here, and the other way round (tests/test_shards.py). By hand, since zarr-python
spends more time on a tile than the compressor does, and since bytes of a slide can be copied in as they are.

A file is the chunks, then their index: offset and length of each as little-endian uint64, all ones where there is
none, then the CRC-32C of the index. https://zarr-specs.readthedocs.io/en/latest/v3/codecs/sharding-indexed
"""

import os
import uuid
from collections.abc import Sequence
from pathlib import Path

import google_crc32c
import numpy as np

from wsi_pipeline.errors import StoreError

_NONE = np.iinfo(np.uint64).max
_CRC_BYTES = 4


def write_shard_file(path: Path, chunks: Sequence[bytes | memoryview], slots: int) -> None:
    """Write encoded chunks as a shard of `slots`, whole or not at all."""
    lengths = np.array([len(chunk) for chunk in chunks], np.uint64)
    index = np.full((slots, 2), _NONE, "<u8")
    index[: len(chunks), 0] = np.cumsum(lengths) - lengths
    index[: len(chunks), 1] = lengths
    tail = index.tobytes()
    write_whole(path, [*chunks, tail, google_crc32c.value(tail).to_bytes(_CRC_BYTES, "little")])


def write_whole(path: Path, parts: Sequence[bytes | memoryview]) -> None:
    """Write a file, whole or not at all: under another name first, then renamed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f"{path.name}.{uuid.uuid4().hex}.partial")
    try:
        with draft.open("wb") as file:
            file.writelines(parts)
        draft.replace(path)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise


def read_shard_file(path: Path, slots: int, start: int, stop: int) -> list[bytes]:
    """The encoded chunks `start` to `stop` of a shard of `slots`.

    Raises StoreError where the file or a chunk is missing, or the index is not what was written.
    """
    try:
        with path.open("rb", buffering=0) as file:
            index = _index(file.fileno(), path, slots)[start:stop]
            return [_chunk(file.fileno(), path, offset, length) for offset, length in index.tolist()]
    except FileNotFoundError:
        raise StoreError(f"{path}: this shard of the tile store is missing; run again with --resume") from None


def _index(file: int, path: Path, slots: int) -> np.ndarray:
    """(slots, 2) uint64 offset and length of each chunk."""
    size = slots * 16 + _CRC_BYTES
    try:
        os.lseek(file, -size, os.SEEK_END)
        tail = os.read(file, size)
    except OSError:  # shorter than an index
        tail = b""
    index, crc = tail[:-_CRC_BYTES], tail[-_CRC_BYTES:]
    if google_crc32c.value(index) != int.from_bytes(crc, "little") or len(tail) != size:
        raise StoreError(f"{path}: this shard of the tile store is damaged; remove it and run again with --resume")
    return np.frombuffer(index, "<u8").reshape(slots, 2)


def _chunk(file: int, path: Path, offset: int, length: int) -> bytes:
    if offset == _NONE:
        raise StoreError(f"{path}: a tile is missing in this shard; remove it and run again with --resume")
    os.lseek(file, offset, os.SEEK_SET)
    return os.read(file, length)
