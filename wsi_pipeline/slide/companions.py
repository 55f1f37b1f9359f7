"""A slide in a file system of fsspec -> all its files there: some formats are many.

MIRAX (.mrxs) has a folder of its own name, Hamamatsu (.vms, .vmu) names the files beside it, and a DICOM slide is
the files of one series in one folder. All else is one file.
"""

import posixpath
import re
from collections.abc import Iterator
from typing import Any

from wsi_pipeline.lazy import load_later
from wsi_pipeline.slide.urls import FileSystem

pydicom = load_later("pydicom")  # takes half a second, and only DICOM at URLs needs it

_SERIES = 0x0020000E
_NO_DICOM = (EOFError, ValueError, KeyError, AttributeError, NotImplementedError)
_BLOCK = 2**16  # a header; blocks of a library's own size would fetch megabytes of each file
_NAMES = re.compile(r"^\s*[^=\[\]]+=\s*(\S.*?)\s*$", re.MULTILINE)
_MAX_INDEX = 2**20  # bytes of a .vms file


def files_of(files: FileSystem, path: str) -> list[str]:
    """All files of the slide at `path`, itself first. Raises what the file system raises."""
    finder = _FINDERS.get(posixpath.splitext(path)[1].lower())
    return [path, *(sorted(set(finder(files, path)) - {path}) if finder else ())]


def listed_with(files: FileSystem, path: str) -> dict[str, dict[str, Any]]:
    """What the file system tells of the slide's other files, by path, without reading any of many.

    Of DICOM that of all beside it: which belong to it stands in each alone.
    """
    kind = posixpath.splitext(path)[1].lower()
    if kind == ".mrxs":
        folder = posixpath.splitext(path)[0]
        return dict(files.find(folder, detail=True)) if files.isdir(folder) else {}
    beside = _beside(files, path) if kind in _FINDERS else {}
    named = set(_named_in_it(files, path) if kind in (".vms", ".vmu") else filter(_is_dicom, beside))
    return {there: told for there, told in beside.items() if there in named and there != path}


def series_of(files: FileSystem, path: str) -> str | None:
    """The SeriesInstanceUID of a DICOM file, of which no more than that is read; None where it has none."""
    with files.open(path, "rb", block_size=_BLOCK, cache_type="readahead") as file:
        try:
            found = pydicom.filereader.read_partial(file, stop_when=_is_past_series, specific_tags=[_SERIES])
        except (pydicom.errors.InvalidDicomError, *_NO_DICOM):
            return None
    return str(found.get("SeriesInstanceUID") or "") or None


def _is_past_series(tag: int, vr: str | None, length: int) -> bool:
    return tag > _SERIES


def _folder_of_its_name(files: FileSystem, path: str) -> list[str]:
    folder = posixpath.splitext(path)[0]
    return list(files.find(folder)) if files.isdir(folder) else []


def _named_in_it(files: FileSystem, path: str) -> Iterator[str]:
    named = set(_NAMES.findall(files.cat_file(path, start=0, end=_MAX_INDEX).decode("latin-1")))
    yield from (there for there in _beside(files, path) if posixpath.basename(there) in named)


def _of_its_series(files: FileSystem, path: str) -> Iterator[str]:
    series = series_of(files, path)
    if series is not None:
        others = filter(_is_dicom, _beside(files, path))
        yield from (there for there in others if series_of(files, there) == series)


def _is_dicom(path: str) -> bool:
    return path.lower().endswith(".dcm")


def _beside(files: FileSystem, path: str) -> dict[str, dict[str, Any]]:
    """What is told of the files in the folder of one, by path."""
    listed = files.ls(posixpath.dirname(path), detail=True)
    return {found["name"]: found for found in listed if found["type"] == "file"}


_FINDERS = {
    ".mrxs": _folder_of_its_name,
    ".vms": _named_in_it,
    ".vmu": _named_in_it,
    ".dcm": _of_its_series,
}
