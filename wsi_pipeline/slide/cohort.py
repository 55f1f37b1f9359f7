"""A folder, glob, file or manifest CSV, on a disk or at a URL -> the slides to work on, each with an id of its own."""

import json
import os
import posixpath
import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from glob import escape, glob
from pathlib import Path

from wsi_pipeline.errors import ConfigError
from wsi_pipeline.slide.cache import hold
from wsi_pipeline.slide.companions import series_of
from wsi_pipeline.slide.entry import SlideEntry, name_key, safe_id
from wsi_pipeline.slide.manifest import MAX_TABLE, read_manifest
from wsi_pipeline.slide.openslide_pixels import slide_identity
from wsi_pipeline.slide.urls import FileSystem, broken, is_absent, is_url, plain, reaching, remote

_TIFFS = (".tif", ".tiff", ".svs", ".ndpi", ".scn", ".bif", ".qptiff", ".avs")
_OTHERS = (".mrxs", ".vms", ".vmu", ".svslide", ".dcm", ".czi")
SUFFIXES = frozenset([*_TIFFS, *_OTHERS])
_SYSTEM = ("lost+found", "System Volume Information", "$RECYCLE.BIN")  # of disks, never a user's own slides
HEATMAP_ENDING = "_likelihood_map.tif"  # our own maps open as slides, so they are left out by name


def find_slides(source: str | Path, *, exclude: Sequence[Path] = ()) -> list[SlideEntry]:
    """The slides that `source` names, sorted by id; folders in `exclude` and our own outputs are left out.

    `source` may be a URL of any protocol of fsspec; the paths of its slides are URLs then. Raises ConfigError
    where nothing is found, or where a manifest or two ids cannot be used.
    """
    source = plain(str(source))
    place = Path(source).absolute()  # workers, and who goes on with the run, may be in another folder
    if is_url(source):
        entries = _at_url(source)
    elif place.is_dir():
        entries = _named(_walk(place, [Path(folder).resolve() for folder in exclude]), place)
    elif place.suffix.lower() == ".csv" and place.exists():
        entries = read_manifest(place)
    elif place.is_file() or place.is_symlink():
        if place.name.endswith(HEATMAP_ENDING):
            raise ConfigError(f"{place.name}: one of our own maps, not a slide; give the slide it was made from")
        entries = _named([place], place.parent)
    elif any(mark in str(source) for mark in "*?["):
        matches = [path for path in _matches(place) if _is_slide_name(path)]
        found = sorted(_one_a_series(sorted(matches)))
        entries = _named(found, Path(os.path.commonpath([path.parent for path in found])) if found else place)
    else:
        raise ConfigError(
            f"{source}: no such file or folder; give a folder of slides, a glob, a slide or a manifest CSV"
        )
    if not entries:
        looked = "rows below its header" if place.suffix.lower() == ".csv" else " ".join(sorted(SUFFIXES))
        raise ConfigError(f"{source}: no slides found; looked for {looked}")
    return sorted(entries, key=lambda entry: entry.slide_id)


def _matches(pattern: Path) -> Iterator[Path]:
    """What a glob matches; the folders that it begins with and that are there are no patterns: "Slides [2024]/*"."""
    folders = [folder for folder in pattern.parents if os.path.exists(folder)]
    there = folders[0] if folders else Path()
    inside = str(pattern.relative_to(there))
    return map(Path, glob(os.path.join(escape(str(there)), inside), recursive=True))


def _is_slide_name(path: Path) -> bool:
    name = path.name
    return path.suffix.lower() in SUFFIXES and not name.startswith(".") and not name.endswith(HEATMAP_ENDING)


def _walk(folder: Path, exclude: Sequence[Path]) -> list[Path]:
    """Slide files below a folder; linked folders are followed, each real folder once."""
    found: list[Path] = []
    seen: set[tuple[int, int]] = set()
    closed: list[OSError] = []
    for top, folders, files in os.walk(folder, followlinks=True, onerror=closed.append):
        here = Path(top)
        facts = here.stat()
        if (facts.st_dev, facts.st_ino) in seen or here.resolve() in exclude or _is_run_folder(here):
            folders.clear()
            continue
        seen.add((facts.st_dev, facts.st_ino))
        found += (here / name for name in (*files, *folders) if _is_slide_name(here / name))
        folders[:] = sorted(name for name in folders if _may_hold_slides(name))
    if closed:
        raise ConfigError(
            f"{closed[0].filename}: cannot be listed ({closed[0].strerror}); change its mode or move it away"
        )
    return sorted(_one_a_series(found))


def _may_hold_slides(name: str) -> bool:
    ours = name.endswith(".zarr") or _is_slide_name(Path(name))
    return not (ours or name.startswith(".") or name in _SYSTEM)


def _is_run_folder(folder: Path) -> bool:
    account = folder / "run.json"
    try:
        small = account.is_file() and account.stat().st_size <= MAX_TABLE
        return small and "wsi_pipeline" in json.loads(account.read_text(encoding="utf-8"))
    except (OSError, ValueError, TypeError, RecursionError):
        return False


def _identity(path: Path) -> str | None:
    return slide_identity(path) if path.is_file() else None


def _one_a_series(paths: list[Path], identity_of: Callable[[Path], str | None] = _identity) -> Iterator[Path]:
    """All paths, but of the DICOM files of one folder only the first of each slide: a slide is many files."""
    series: defaultdict[Path, list[Path]] = defaultdict(list)
    for path in paths:
        if path.suffix.lower() == ".dcm":
            series[path.parent].append(path)
        else:
            yield path
    for files in series.values():
        known: set[str] = set()
        for path in sorted(files):
            identity = identity_of(path) if len(files) > 1 else None
            if identity is None or identity not in known:
                yield path
            if identity:
                known.add(identity)


def _at_url(url: str) -> list[SlideEntry]:
    """The slides of a folder, glob, file or manifest in a file system of fsspec."""
    files, place = remote(url)
    with reaching(url, ConfigError):
        if url.lower().endswith(".csv"):
            with hold(url) as held:
                return read_manifest(held.path, beside=files.unstrip_protocol(posixpath.dirname(place)).rstrip("/"))
        keys, root = _keys(files, place)
        by_path = {Path(key): key for key in keys}
        found = sorted(_one_a_series(sorted(by_path), lambda path: series_of(files, by_path[path])))
    entries = [(entry, by_path[Path(entry.path)]) for entry in _named(found, root)]
    return [replace(entry, path=files.unstrip_protocol(key)) for entry, key in entries]


def _keys(files: FileSystem, place: str) -> tuple[list[str], Path]:
    """The slides that a path in a file system stands for, and the folder that ids are told from."""
    if not place.endswith("/") and files.isfile(place):  # http takes the page of a folder for a file
        return [place], Path(place).parent
    if any(mark in place for mark in "*?["):
        found = [key for key in files.glob(place) if _is_slide_name(Path(key))]
        return found, Path(os.path.commonpath([posixpath.dirname(key) for key in found]) if found else place)
    if not (below := files.find(place)):
        _refuse_unreached(files, place)
    below = [key for key in below if _is_slide_name(Path(key))]
    return [key for key in below if all(map(_may_hold_slides, Path(key).relative_to(place).parts[:-1]))], Path(place)


def _refuse_unreached(files: FileSystem, place: str) -> None:
    """Raise what keeps a place from being looked at: of a server that does not answer, http finds nothing below it."""
    try:
        files.info(place)
    except broken() as error:
        if not is_absent(error):
            raise


def _named(paths: Sequence[Path], root: Path) -> list[SlideEntry]:
    """Ids from file names; those that several files would share come from their paths instead."""
    twins: defaultdict[str, list[Path]] = defaultdict(list)
    for path in paths:
        twins[name_key(safe_id(_stem(path)))].append(path)
    ids = {
        path: safe_id(_stem(path)) if len(group) == 1 else safe_id("__".join(path.relative_to(root).parts))
        for group in twins.values()
        for path in group
    }
    owners: dict[str, Path] = {}
    for path, slide_id in ids.items():
        if name_key(slide_id) in owners:
            both = f"{_line(owners[name_key(slide_id)])} and {_line(path)}"
            raise ConfigError(f"{both} would both be {slide_id!r}; rename one, or give a manifest with slide_id")
        owners[name_key(slide_id)] = path
    return [SlideEntry(slide_id, str(path)) for path, slide_id in ids.items()]


def _line(path: Path) -> str:
    """A path in one line."""
    return "".join(mark if mark.isprintable() else "?" for mark in str(path))


def _stem(path: Path) -> str:
    return re.sub(r"(?i)\.ome$", "", path.stem)
