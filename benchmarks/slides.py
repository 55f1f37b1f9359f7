"""The slides that are read in benchmarks: tissue, drawn or from a given slide, repeated to the size wanted."""

from pathlib import Path
from typing import Any

import numpy as np

from wsi_pipeline.slide.mosaic import write_mosaic
from wsi_pipeline.slide.reader import SlideReader, open_slide
from wsi_pipeline.slide.synthetic import Tumour, draw_slide

MPP = 0.5


def tissue_block(folder: Path, side_px: int, given: str | None = None) -> np.ndarray:
    """(side_px, side_px, 3) uint8 of tissue: from the middle of a given slide, mirrored if small, else drawn."""
    if given is None:
        path = folder / "drawn.tif"
        if not path.exists():
            side = 4096
            half = side * MPP / 2
            tumours = [Tumour(half, half, side * MPP / 8, side * MPP / 8)]
            draw_slide(path, size_px=(side, side), mpp=MPP, tumours=tumours, seed=1)
    else:
        path = Path(given)
    slide = open_slide(path, mpp_default=MPP)
    with SlideReader(slide) as reader:
        width, height = (min(size, side_px) for size in slide.size_l0)
        left, top = (slide.size_l0[0] - width) // 2, (slide.size_l0[1] - height) // 2
        found = reader.read(left, top, 0, (width, height))
    return np.pad(found, ((0, side_px - height), (0, side_px - width), (0, 0)), mode="symmetric")


def a_slide(folder: Path, name: str, block: np.ndarray, *, side_px: int, **options: Any) -> Path:
    """A square slide of the block; `options` of `write_mosaic`."""
    path = folder / name
    write_mosaic(path, block, size_px=(side_px, side_px), **options)
    return path
