"""The pixels of tiles: places on the grid -> (n, tile_px, tile_px, 3) uint8, or JPEGs, read from the slide."""

import numpy as np

from wsi_pipeline.errors import SlideError
from wsi_pipeline.slide.handles import drop_reader, reader_for
from wsi_pipeline.slide.jpeg import decode_into, encode
from wsi_pipeline.slide.reader import PLAIN, Reading
from wsi_pipeline.tiles.grid import TileGrid

WHITE = 255

Box = tuple[float, float, float, float]


def read_tiles(
    grid: TileGrid, start: int, stop: int, reading: Reading = PLAIN, *, out: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Read tiles start to stop of `grid` from its slide, with this thread's handle.

    Row by row, as the grid has them, so that the reader still has what neighbours share. Returns (n, tile_px,
    tile_px, 3) uint8 RGB, white beyond the slide, and (n,) bool, False (and white) where a tile could not be
    read twice. The tiles lie in `out`, contiguous and of n tiles or more, if that is given. Raises SlideError only
    where the slide cannot be opened.
    """
    boxes = grid.boxes_l0(start, stop)
    shape = len(boxes), grid.tile_px, grid.tile_px, 3
    tiles = np.empty(shape, np.uint8) if out is None else out[: len(boxes)]
    readable = np.ones(len(boxes), dtype=bool)
    for index, (box, place) in enumerate(zip(boxes.tolist(), tiles, strict=True)):
        pixels = _read_twice(grid, tuple(box), reading, place)
        if pixels is None:
            readable[index], place[:] = False, WHITE
        elif pixels is not place:
            place[:] = pixels
    return tiles, readable


def read_jpegs(
    grid: TileGrid, start: int, stop: int, reading: Reading = PLAIN, *, quality: int, checked: bool = False
) -> tuple[list[bytes], np.ndarray]:
    """The same tiles as one JPEG each, and (n,) bool.

    Where a tile is just one of the slide's own, its bytes are copied and not decoded; else it is encoded at
    `quality` (1-100). With `checked` they are decoded, and from the first that our decoder refuses on: other readers
    take files with bytes too many, so what it refuses is read as other tiles are.
    """
    jpegs, readable = [], np.ones(stop - start, dtype=bool)
    size_px, looked = (grid.tile_px, grid.tile_px), checked
    for index, box in enumerate(grid.boxes_l0(start, stop).tolist()):
        jpeg = reader_for(grid.slide, reading).own_jpeg(tuple(box), size_px)
        if jpeg is not None and (checked or not looked):
            looked = True
            if not _decodes(jpeg, grid.tile_px):
                jpeg, checked = None, True
        if jpeg is None:
            pixels = _read_twice(grid, tuple(box), reading)
            readable[index] = pixels is not None
            jpeg = encode(np.full((*size_px, 3), WHITE, np.uint8) if pixels is None else pixels, quality)
        jpegs.append(jpeg)
    return jpegs, readable


def _decodes(jpeg: bytes, tile_px: int) -> bool:
    try:
        decode_into(jpeg, np.empty((tile_px, tile_px, 3), np.uint8))
    except ValueError:
        return False
    return True


def _read_twice(grid: TileGrid, box_l0: Box, reading: Reading, out: np.ndarray | None = None) -> np.ndarray | None:
    """One tile (tile_px, tile_px, 3), in `out` or not; None where neither the open handle nor a fresh one reads it."""
    size_px = (grid.tile_px, grid.tile_px)
    try:
        return reader_for(grid.slide, reading).read_box(box_l0, size_px, out=out)
    except SlideError:
        drop_reader(grid.slide)  # OpenSlide keeps an error for good: this handle is lost
    reader = reader_for(grid.slide, reading)
    try:
        return reader.read_box(box_l0, size_px, out=out)
    except SlideError:
        drop_reader(grid.slide)
        return None
