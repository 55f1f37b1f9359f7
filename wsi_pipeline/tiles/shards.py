"""The chunks of one shard <-> one file, laid out as Zarr's sharding codec has it, without zarr in between.

Stock zarr reads what is written here, and the other way round (tests/test_shards.py). By hand, since zarr-python
spends more time on a tile than the compressor does, and since bytes of a slide can be copied in as they are.

A file is the chunks, then their index: offset and length of each as little-endian uint64, all ones where there is
none, then the CRC-32C of the index. https://zarr-specs.readthedocs.io/en/latest/v3/codecs/sharding-indexed
"""

from collections.abc import Sequence

import google_crc32c
import numpy as np

from wsi_pipeline.errors import StoreError
from wsi_pipeline.tiles.place import Place, Span

_NONE = np.iinfo(np.uint64).max
_CRC_BYTES = 4


def write_shard(place: Place, name: str, chunks: Sequence[bytes | memoryview], *, slots: int) -> None:
    """Write encoded chunks as a shard of `slots`, whole or not at all."""
    lengths = np.array([len(chunk) for chunk in chunks], np.uint64)
    index = np.full((slots, 2), _NONE, "<u8")
    index[: len(chunks), 0] = np.cumsum(lengths) - lengths
    index[: len(chunks), 1] = lengths
    tail = index.tobytes()
    place.write(name, [*chunks, tail, google_crc32c.value(tail).to_bytes(_CRC_BYTES, "little")])


def read_shard(place: Place, name: str, *, slots: int, start: int, stop: int) -> list[bytes]:
    """The encoded chunks `start` to `stop` of a shard of `slots`.

    Raises StoreError where the file or a chunk is missing, or the index is not what was written.
    """
    where = f"{place.where}/{name}"

    def spans(tail: bytes) -> list[Span]:
        wanted = _index(tail, where, slots)[start:stop]
        if (wanted[:, 0] == _NONE).any():
            raise StoreError(f"{where}: a tile is missing in this shard; remove it and run again with --resume")
        return [(offset, length) for offset, length in wanted.tolist()]

    try:
        return place.read(name, slots * 16 + _CRC_BYTES, spans)
    except FileNotFoundError:
        raise StoreError(f"{where}: this shard of the tile store is missing; run again with --resume") from None


def damaged_shard(where: str) -> StoreError:
    """What to raise of a shard whose index or chunks are not as they were written."""
    return StoreError(f"{where}: this shard of the tile store is damaged; remove it and run again with --resume")


def _index(tail: bytes, where: str, slots: int) -> np.ndarray:
    """(slots, 2) uint64 offset and length of each chunk."""
    index, crc = tail[:-_CRC_BYTES], tail[-_CRC_BYTES:]
    if google_crc32c.value(index) != int.from_bytes(crc, "little") or len(index) != slots * 16:
        raise damaged_shard(where)
    return np.frombuffer(index, "<u8").reshape(slots, 2)
