"""A path or URL -> the place there, on a disk or in an object store."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path

from wsi_pipeline.slide.urls import is_url
from wsi_pipeline.tiles.bucket_place import Bucket, empty_room
from wsi_pipeline.tiles.disk_place import Disk
from wsi_pipeline.tiles.place import Place


def place_of(path: str | Path) -> Place:
    """The place at a path or URL, whether or not anything is there."""
    return _place(str(path) if is_url(path) else os.path.abspath(path))


@lru_cache(maxsize=64)
def _place(where: str) -> Place:
    return Bucket(where) if is_url(where) else Disk(where)


@contextmanager
def filled(where: str) -> Iterator[Path]:
    """The folder at `where` to write files into; at a URL one of this machine, whose files are put there at the end."""
    if not is_url(where):
        yield Path(where)
        return
    with empty_room() as folder:
        yield folder
        Bucket(where).put(folder)
