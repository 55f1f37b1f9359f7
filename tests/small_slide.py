"""A small slide for the tests of tiles: a TIFF of noise, a mask all tissue, and stores laid over it."""

from pathlib import Path

import numpy as np
import tifffile

from wsi_pipeline.slide.reader import Slide, open_slide
from wsi_pipeline.slide.tissue import TissueMask
from wsi_pipeline.tiles.grid import TileGrid, lay_grid
from wsi_pipeline.tiles.making import create_store
from wsi_pipeline.tiles.store import TileStore

TILE = 32


def a_slide(folder: Path, *, width: int = 320, height: int = 256) -> tuple[Slide, np.ndarray]:
    """An uncompressed tiled TIFF at 0.5 um/px, and its pixels (height, width, 3) uint8."""
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    path = folder / "a.tif"
    tifffile.imwrite(path, pixels, photometric="rgb", tile=(64, 64))
    return open_slide(path, mpp=(0.5, 0.5)), pixels


def all_tissue(slide: Slide, cell: int = 16) -> TissueMask:
    width, height = slide.size_l0
    cells = (-(-height // cell), -(-width // cell))
    thumbnail = np.full((*cells, 3), 200, np.uint8)
    return TissueMask(np.ones(cells, bool), (float(cell), float(cell)), thumbnail, {"saturation": 12.0}, 0.02)


def a_grid(slide: Slide, tissue: TissueMask | None = None, *, tile: int = TILE, **options: object) -> TileGrid:
    """80 tiles of 32 px on the slide of `a_slide`, all of it tissue."""
    known = {"tile_px": tile, "stride_px": tile, "mpp": slide.mpp_l0, "min_tissue": 0.5} | options
    return lay_grid(slide, tissue or all_tissue(slide), **known)


def a_store(folder: Path | str, slide: Slide, *, name: str = "a.zarr", **options: object) -> TileStore:
    """A store of 80 tiles in 5 shards of 16, nothing written yet."""
    known = {"pixels": True, "shard_tiles": 16, "key": "k1", "settings": {"target_mpp": 0.5}} | options
    return create_store(f"{folder}/{name}", a_grid(slide), all_tissue(slide), **known)
