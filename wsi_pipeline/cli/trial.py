"""Small trials of the native libraries, for `doctor`: draw a slide, read it, tile it, model in the box."""

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from wsi_pipeline.errors import WsiError
from wsi_pipeline.learn.model.checkpoint import load_checkpoint
from wsi_pipeline.maps.heatmap import write_style
from wsi_pipeline.slide.reader import SlideReader, open_slide
from wsi_pipeline.slide.synthetic import draw_slide


def trials() -> Iterator[tuple[str, str]]:
    """(what was tried, what went wrong or nothing) one after the other."""
    with tempfile.TemporaryDirectory() as scratch:
        steps: tuple[tuple[str, Callable[[], object]], ...] = (
            ("OpenSlide", lambda: _read(Path(scratch))),
            ("GDAL", lambda: write_style(Path(scratch) / "a.qml")),
            ("model in the box", lambda: load_checkpoint("demo")),
        )
        for name, step in steps:
            try:
                step()
                yield name, ""
            except (WsiError, OSError, ValueError) as error:
                yield name, str(error)


def _read(folder: Path) -> None:
    draw_slide(folder / "trial.tif", size_px=(1024, 1024))
    slide = open_slide(folder / "trial.tif")
    with SlideReader(slide) as reader:
        reader.read(0, 0, 0, (64, 64))
