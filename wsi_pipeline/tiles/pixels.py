"""The pixels of tiles: places on the grid -> (n, tile_px, tile_px, 3) uint8, read from the slide."""

import numpy as np

from wsi_pipeline.errors import SlideError
from wsi_pipeline.slide.reader import drop_reader, reader_for
from wsi_pipeline.tiles.grid import TileGrid

WHITE = 255


def read_tiles(grid: TileGrid, start: int, stop: int, *, icc: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Read tiles start to stop of `grid` from its slide, with this thread's handle.

    Returns (n, tile_px, tile_px, 3) uint8 RGB, white beyond the slide, and (n,) bool, False (and white)
    where a tile could not be read twice. Raises SlideError only where the slide cannot be opened.
    """
    boxes = grid.boxes_l0(start, stop)
    tiles = np.full((len(boxes), grid.tile_px, grid.tile_px, 3), WHITE, dtype=np.uint8)
    readable = np.ones(len(boxes), dtype=bool)
    for index, box in enumerate(boxes.tolist()):
        pixels = _read_twice(grid, tuple(box), icc)
        if pixels is None:
            readable[index] = False
        else:
            tiles[index] = pixels
    return tiles, readable


def _read_twice(grid: TileGrid, box_l0: tuple[float, float, float, float], icc: bool) -> np.ndarray | None:
    """One tile (tile_px, tile_px, 3), or None where neither the open handle nor a fresh one reads it."""
    size_px = (grid.tile_px, grid.tile_px)
    try:
        return reader_for(grid.slide, icc=icc).read_box(box_l0, size_px)
    except SlideError:
        drop_reader(grid.slide)  # OpenSlide keeps an error for good: this handle is lost
    reader = reader_for(grid.slide, icc=icc)
    try:
        return reader.read_box(box_l0, size_px)
    except SlideError:
        drop_reader(grid.slide)
        return None
