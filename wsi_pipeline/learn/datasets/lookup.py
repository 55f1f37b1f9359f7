"""Names in a label table -> image files below a folder, and a reader of them that tells the row of a bad one."""

import os
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from wsi_pipeline.errors import ConfigError, SlideError
from wsi_pipeline.learn.data.images import read_image
from wsi_pipeline.learn.datasets.table import PARTS, Places, Table

Missing = Literal["error", "skip"]

SUFFIXES = frozenset([".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp", ".dcm"])


@dataclass(frozen=True, eq=False)
class ImageFiles:
    """Reads image k of N files; can be pickled.

    Attributes:
        paths: N files.
        places: N rows of the label table ("labels.csv row 7"), named when a file cannot be read.
    """

    paths: Sequence[str]
    places: Sequence[str]

    def __call__(self, index: int) -> np.ndarray:
        try:
            return read_image(self.paths[index])
        except SlideError as error:
            raise SlideError(f"{self.places[index]}: {error}") from error


def find_images(
    table: Table, names: Sequence[str], folder: Path, *, images: Places, missing: Missing
) -> tuple[np.ndarray, ImageFiles]:
    """Which of N names have a file, (N,) bool, and the reader of those.

    `images` is the folder below `folder` to look in, or {part: folder}. A name is a path below it, or a file's
    name anywhere below it, its ending left out or another one (.jpg copies of .png originals).
    Raises ConfigError where names have no file, unless missing="skip", or more than one.
    """
    if missing not in ("error", "skip"):
        raise ConfigError(f"missing {missing!r}: give error or skip")
    indexes = _indexes(folder, images)
    paths = []
    for name, part, place in zip(names, table.parts, table.places, strict=True):
        index = indexes.get(str(part)) or indexes.get("")
        if index is None:
            raise ConfigError(f"{place}: part {str(part)!r} has no folder in images; give one for each part")
        paths.append(index.find(name, place))
    found = np.array([path is not None for path in paths], bool)
    if not found.all() and (missing == "error" or not found.any()):
        row = int(found.argmin())
        raise ConfigError(
            f"{table.name}: {(~found).sum()} of {len(found)} images are not below {folder.name}, the first "
            f"{names[row]!r} ({table.places[row]}); get them, name their folder by images, or give missing=skip"
        )
    places = [place for place, there in zip(table.places, found, strict=True) if there]
    return found, ImageFiles([path for path in paths if path is not None], places)


def image_ids(table: Table, names: Sequence[str], images: Places) -> list[str]:
    """The names, each below its part where every part has a folder of its own and names may come back."""
    if not isinstance(images, Mapping):
        return list(names)
    return [f"{part}/{name}" for part, name in zip(table.parts, names, strict=True)]


def list_images(folder: Path) -> list[str]:
    """The image files below `folder`, as sorted POSIX paths from there; hidden ones are left out."""
    found: list[str] = []
    seen: set[str] = set()  # real folders: a link may lead back up
    for top, folders, files in os.walk(folder, followlinks=True):
        if os.path.realpath(top) in seen:
            folders.clear()
            continue
        seen.add(os.path.realpath(top))
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        here = Path(top).relative_to(folder)
        found += [
            (here / name).as_posix()
            for name in files
            if not name.startswith(".") and os.path.splitext(name)[1].lower() in SUFFIXES
        ]
    return sorted(found)


class _Index:
    """The images below a folder, by path, by name and by name without its ending."""

    def __init__(self, folder: Path) -> None:
        if not folder.is_dir():
            raise ConfigError(f"{folder.name}: no such folder of images; correct images")
        self.folder = folder
        self.paths = set(list_images(folder))
        self.by_name: defaultdict[str, list[str]] = defaultdict(list)
        self.by_stem: defaultdict[str, list[str]] = defaultdict(list)
        for path in sorted(self.paths):
            name = path.rpartition("/")[2]
            self.by_name[name].append(path)
            self.by_stem[_stem(name)].append(path)

    def find(self, name: str, place: str) -> str | None:
        """The file of a name, None where there is none. Raises ConfigError where there are several."""
        below = name.replace("\\", "/")
        while below not in self.paths and "/" in below:  # tables name paths from the data set's folder, or from above
            below = below.partition("/")[2]
        if below in self.paths:
            return f"{self.folder}/{below}"
        if below != name:  # a path, whose last part alone may be another patient's
            return None
        found = self.by_name.get(name) or self.by_stem.get(_stem(name)) or []
        if len(found) > 1:
            raise ConfigError(f"{place}: {name!r} is {found[0]} or {found[1]}; name the folder by images")
        return f"{self.folder}/{found[0]}" if found else None


def _stem(name: str) -> str:
    """The name without its ending, if that is an image's: names may hold dots."""
    stem, ending = os.path.splitext(name)
    return stem if ending.lower() in SUFFIXES else name


def _indexes(folder: Path, images: Places) -> dict[str, _Index]:
    if isinstance(images, Mapping):
        return {PARTS.get(part.lower(), part): _Index(folder / below) for part, below in images.items()}
    return {"": _Index(folder / images if images else folder)}
