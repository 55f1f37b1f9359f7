"""What lies where in a tile store: grid, tissue, settings <-> attributes and arrays of a Zarr v3 group.

Everything but the arrays is one dict, under the group attribute `wsi_pipeline`. In it are checksums of the arrays that
are laid whole: where a chunk is gone, as after a power cut, zarr reads zeros without an error.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, fields
from importlib.metadata import version
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
import zarr
from zarr.codecs import ZstdCodec

from wsi_pipeline import __version__
from wsi_pipeline.geometry import Mpp
from wsi_pipeline.slide.reader import Slide
from wsi_pipeline.slide.tissue import TissueMask
from wsi_pipeline.tiles.codecs import ZSTD_LEVEL, Codec
from wsi_pipeline.tiles.grid import TileGrid

ATTRIBUTES = "wsi_pipeline"
SCHEMA = 2

_ZSTD = ZstdCodec(level=ZSTD_LEVEL, checksum=True)
_IMAGE_CHUNK = 1024
_GRID_NUMBERS = ("tile_px", "stride_px", "rows", "cols", "edge")
_TISSUE_ARRAYS = ("mask", "thumbnail")
_WHOLE: dict[str, tuple[str, ...]] = {  # the arrays that are laid whole, and their dimensions
    "x": ("tile",),
    "y": ("tile",),
    "tissue_fraction": ("tile",),
    "rowcol": ("tile", "row_col"),
    "tissue_mask": ("mask_row", "mask_col"),
    "thumbnail": ("thumbnail_row", "thumbnail_col", "rgb"),
}


def write_attributes(
    group: zarr.Group,
    grid: TileGrid,
    tissue: TissueMask,
    *,
    key: str,
    store: Mapping[str, Any],
    settings: Mapping[str, Any],
) -> None:
    """Write all that is no array, with status "writing"; `store` says whether and how pixels are kept."""
    group.attrs[ATTRIBUTES] = {
        "schema": SCHEMA,
        "status": "writing",
        "key": key,
        "versions": {name: version(name) for name in ("zarr", "numpy")} | {ATTRIBUTES: __version__},
        "tiles": len(grid),
        "slide": asdict(grid.slide),
        "grid": {name: getattr(grid, name) for name in _GRID_NUMBERS}
        | {"mpp": asdict(grid.mpp), "read_level": _read_level(grid)},
        "store": dict(store),
        "tissue": {item.name: getattr(tissue, item.name) for item in fields(tissue) if item.name not in _TISSUE_ARRAYS},
        "settings": dict(settings),
        "crc32c": {name: checksum(values) for name, values in _whole(grid, tissue).items()},
    }


def write_arrays(group: zarr.Group, grid: TileGrid, tissue: TissueMask) -> None:
    """Write the arrays of one row a tile, the tissue mask and the thumbnail."""
    for name, values in _whole(grid, tissue).items():
        _write(group, name, values, _WHOLE[name])


def lay_pixels(group: zarr.Group, n_tiles: int, tile_px: int, shard_tiles: int, codec: Codec) -> None:
    """Lay the arrays that shards fill later: one chunk a tile and one file a shard, flags likewise."""
    group.create_array(
        "readable",
        shape=(n_tiles,),
        dtype="bool",
        chunks=(shard_tiles,),
        compressors=_ZSTD,
        dimension_names=("tile",),
    )
    if codec == "jpeg":
        store: Any = group.store
        _lay_jpegs(Path(store.root), n_tiles, shard_tiles)
        return
    tile = (tile_px, tile_px, 3)
    group.create_array(
        "tiles",
        shape=(n_tiles, *tile),
        dtype="uint8",
        chunks=(1, *tile),
        shards=(shard_tiles, *tile),
        compressors=_ZSTD,
        dimension_names=("tile", "tile_row_px", "tile_col_px", "rgb"),
    )


def _lay_jpegs(group: Path, n_tiles: int, shard_tiles: int) -> None:
    """(N,) bytes, a JPEG each. By hand: zarr-python warns of the data type, which has no specification yet."""
    index_codecs = [{"name": "bytes", "configuration": {"endian": "little"}}, {"name": "crc32c"}]
    shard = {
        "chunk_shape": [1],
        "codecs": [{"name": "vlen-bytes", "configuration": {}}],
        "index_codecs": index_codecs,
        "index_location": "end",
    }
    about = {
        "zarr_format": 3,
        "node_type": "array",
        "shape": [n_tiles],
        "data_type": "variable_length_bytes",
        "fill_value": "",
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [shard_tiles]}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
        "codecs": [{"name": "sharding_indexed", "configuration": shard}],
        "dimension_names": ["tile"],
        "attributes": {"codec": "jpeg", "reads_as": "bytes of one JPEG a tile; any JPEG decoder gives its pixels"},
        "storage_transformers": [],
    }
    folder = group / "jpegs"
    folder.mkdir()
    (folder / "zarr.json").write_text(json.dumps(about, indent=2), encoding="utf-8")


def read_attributes(group: zarr.Group) -> dict[str, Any]:
    """All that is no array; KeyError in a group that is no tile store."""
    found: Any = group.attrs[ATTRIBUTES]
    return dict(found)


def read_grid(group: zarr.Group) -> TileGrid:
    """The grid that was written, its slide included."""
    found = read_attributes(group)
    numbers = {name: found["grid"][name] for name in _GRID_NUMBERS}
    return TileGrid(
        slide=slide_of(found["slide"]),
        mpp=Mpp(**found["grid"]["mpp"]),
        rowcol=read_array(group, "rowcol"),
        tissue=read_array(group, "tissue_fraction"),
        **numbers,
    )


def slide_of(found: Mapping[str, Any]) -> Slide:
    """The slide that was written as a dict of its fields; KeyError or TypeError where it is none."""
    slide = {item.name: _tuples(found[item.name]) for item in fields(Slide)}
    return Slide(**slide | {"mpp_l0": Mpp(**slide["mpp_l0"])})


def read_tissue(group: zarr.Group) -> TissueMask:
    """The tissue mask and thumbnail that were written."""
    known = _tuples(read_attributes(group)["tissue"])
    return TissueMask(mask=read_array(group, "tissue_mask"), thumbnail=read_array(group, "thumbnail"), **known)


def check_arrays(group: zarr.Group) -> None:
    """Read the arrays that are laid whole; KeyError, or what `read_array` raises, where one is not as it was."""
    for name in _WHOLE:
        read_array(group, name)


def read_array(group: zarr.Group, name: str) -> np.ndarray:
    """A whole array of the group. Raises ValueError where it is not as it was laid; older stores do not tell."""
    array: Any = group[name]
    values = np.asarray(array[:])
    found: Any = group.attrs.get(ATTRIBUTES, {})
    told = dict(dict(found).get("crc32c", {})).get(name)
    if told is not None and told != checksum(values):
        raise ValueError(f"{name}: not as it was written")
    return values


def checksum(values: np.ndarray) -> int:
    """CRC-32C of the bytes of an array."""
    return int(google_crc32c.value(values.tobytes()))


def _whole(grid: TileGrid, tissue: TissueMask) -> dict[str, np.ndarray]:
    """The arrays that are laid whole."""
    x, y = grid.xy_l0.T
    return dict(zip(_WHOLE, (x, y, grid.tissue, grid.rowcol, tissue.mask, tissue.thumbnail), strict=True))


def _read_level(grid: TileGrid) -> int:
    """The pyramid level that pixels come from: the coarsest that is no coarser than the tiles, to 2 %."""
    zoom = min(side / grid.tile_px for side in grid.footprint_l0) * 1.02
    finer = [level for level, by in enumerate(grid.slide.level_downsamples) if by <= zoom]
    return max(finer, default=0)


def _write(group: zarr.Group, name: str, values: np.ndarray, dimensions: tuple[str, ...]) -> None:
    whole = tuple(max(1, n) for n in values.shape)
    chunks = whole if dimensions[0] == "tile" else tuple(min(n, _IMAGE_CHUNK) for n in whole)
    values = np.ascontiguousarray(values)
    group.create_array(name, data=values, chunks=chunks, compressors=_ZSTD, dimension_names=dimensions)


def _tuples(value: Any) -> Any:
    """JSON lists back to tuples, at any depth."""
    if isinstance(value, list):
        return tuple(_tuples(item) for item in value)
    return {name: _tuples(item) for name, item in value.items()} if isinstance(value, dict) else value
