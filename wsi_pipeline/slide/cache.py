"""A slide at a URL -> its files on this machine's disk for as long as someone reads them; those used longest ago go.

A slide is a folder of the cache, named by a hash of its URL, size and version, so that one replaced under the same
name is another. It is fetched under a lock, into `.partial`, and renamed when it is whole, on the disk and not only in
memory: several workers and jobs fetch it once, and a power cut leaves no half of it. Who reads it holds its lock with
all other readers; only who gets that alone may remove it.
"""

import os
import posixpath
import re
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path, PurePosixPath

from fsspec.callbacks import Callback

from wsi_pipeline.disk import free_bytes, is_full
from wsi_pipeline.errors import ConfigError, SlideError
from wsi_pipeline.keys import digest
from wsi_pipeline.slide.companions import files_of
from wsi_pipeline.slide.files import shown
from wsi_pipeline.slide.locks import Lock, lock, try_lock
from wsi_pipeline.slide.urls import FileSystem, broken, is_url, reaching, remote, stamp, told
from wsi_pipeline.stall import life_sign

CACHE_GB = 100.0
_ENTRY = rf"{re.escape(os.sep)}slides{re.escape(os.sep)}([0-9a-f]{{16}}(\.partial)?{re.escape(os.sep)})?"
_FOLDER, _SIZE = "WSI_PIPELINE_CACHE_DIR", "WSI_PIPELINE_CACHE_GB"


class Held:
    """A file that stays where it is until `close`; a context manager.

    Attributes:
        path: on this machine; never to be told in a message or an output.
    """

    def __init__(self, path: Path, held: Lock | None = None) -> None:
        self.path = path
        self._lock = held

    def __enter__(self) -> "Held":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Allow the file to be removed."""
        if self._lock:
            self._lock.close()


def use_cache(folder: str | None, gigabytes: float | None) -> None:
    """Where, and how much, this process and those that it starts keep; None leaves what the environment says."""
    if folder:
        os.environ[_FOLDER] = os.path.abspath(folder)
    if gigabytes is not None:
        os.environ[_SIZE] = str(gigabytes)


def cache_folder() -> Path:
    """The folder of what is kept, for this user alone. Raises ConfigError where it cannot be used."""
    folder = _folder()
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        foreign = folder.stat().st_uid != os.getuid()
    except OSError as error:
        raise ConfigError(f"{folder}: no folder to keep slides in ({error.strerror}); give run.cache_dir") from error
    if foreign and not os.environ.get(_FOLDER):  # anyone may make a folder of that name there
        raise ConfigError(f"{folder}: is another user's; give run.cache_dir")
    return folder


def _slides() -> Path:
    folder = cache_folder() / "slides"
    folder.mkdir(exist_ok=True)
    return folder


def hold(path: str | Path) -> Held:
    """The file at `path`, fetched where it is a URL and not here yet; with the files that belong to it beside it.

    Raises SlideError where it cannot be fetched, twice, or does not fit on the disk.
    """
    if not is_url(path):
        return Held(Path(path))
    url = str(path)
    files, there = remote(url)
    entry = _slides() / digest([url, *version_of(url)])
    while True:
        held = lock(entry.with_suffix(".lock"), alone=False)
        if entry.is_dir():
            os.utime(entry)  # used last now
            return Held(entry / posixpath.basename(there), held)
        held.close()
        with lock(entry.with_suffix(".lock"), alone=True):
            if not entry.is_dir():
                _fetch(files, there, entry, url)


def version_of(url: str) -> list[str]:
    """What tells the file at a URL from all that were or will be there. Raises SlideError where there is none."""
    files, there = remote(url)
    with reaching(_name(url)):
        info = files.info(there)
    if info["type"] != "file" or url.endswith("/"):  # of http, the page of a folder
        raise SlideError(f"{_name(url.rstrip('/'))}: a folder, not a slide file; take it out of the cohort")
    return stamp(info)


def without_cache(text: str) -> str:
    """The text with names alone where it has paths of files kept here."""
    return re.sub(rf"{re.escape(str(_folder()))}{_ENTRY}", "", text)


def _folder() -> Path:
    user = os.getuid() if hasattr(os, "getuid") else "slides"
    return Path(os.environ.get(_FOLDER) or Path(tempfile.gettempdir()) / f"wsi_pipeline-{user}")


def _fetch(files: FileSystem, there: str, entry: Path, url: str) -> None:
    """All files of a slide into `entry`, which is there once they all are."""
    with reaching(_name(url)):
        sizes = {part: files.info(part)["size"] for part in files_of(files, there)}
    _make_room(entry.parent, sum(size or 0 for size in sizes.values()), _name(url))
    draft = entry.with_suffix(".partial")
    shutil.rmtree(draft, ignore_errors=True)  # of a process that was killed
    try:
        for part, size in sizes.items():
            target = draft / _inside(part, posixpath.dirname(there))
            target.parent.mkdir(parents=True, exist_ok=True)
            _transfer(files, part, target, size)
        for folder in {path.parent for path in draft.rglob("*")}:
            _settle_names(folder)
        draft.rename(entry)
        _settle_names(entry.parent)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


class _GetsOn(Callback):
    """Tells who waits for a transfer that parts of it come."""

    def __init__(self) -> None:
        super().__init__()
        self._alive = life_sign()

    def relative_update(self, inc: int = 1) -> None:
        self._alive()


def _transfer(files: FileSystem, part: str, target: Path, size: int | None) -> None:
    """One file, whole; once more where that broke off."""
    why = ""
    for _ in range(2):
        try:
            files.get_file(part, str(target), callback=_GetsOn())
            got = target.stat().st_size
            if size is None or got == size:
                _settle(target)
                return
            why = f"{got:,} bytes of {size:,} came"
        except broken() as error:
            if isinstance(error, OSError) and is_full(error):
                raise SlideError(_no_room(target, size or 0, shown(target))) from error
            why = told(error)
    raise SlideError(f"{shown(target)}: could not be fetched, tried twice: {why}; go on with --resume")


def _settle(path: Path) -> None:
    """Wait until a file is on the disk: after a power cut it would have its length there, and nothing in it."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _settle_names(folder: Path) -> None:
    """The same for the names in a folder, where the disk can do that."""
    with suppress(OSError):
        _settle(folder)


def _inside(part: str, folder: str) -> PurePosixPath:
    """A file's place below the slide's folder. A key of an object store may hold any text: SlideError for `..`."""
    place = PurePosixPath(posixpath.relpath(part, folder) if folder else part)
    if ".." in part.split("/") or ".." in place.parts or place.is_absolute() or "\0" in part:
        raise SlideError(f"{_name(part)}: a name that leads out of its folder; rename it")
    return place


def _make_room(folder: Path, needed: int, name: str) -> None:
    """Remove what is not in use, the longest unused first, until `needed` bytes fit into the limit and the disk.

    Slides in use stay even where they alone are more than the limit. Raises SlideError where the disk is too full.
    """
    for draft in folder.glob("*.partial"):
        _remove(draft)
    kept = {entry: _bytes(entry) for entry in folder.iterdir() if entry.is_dir() and not entry.suffix}
    total = sum(kept.values())
    limit = float(os.environ.get(_SIZE) or CACHE_GB) * 1e9
    for entry in sorted(kept, key=_last_used):
        if total + needed <= limit and free_bytes(folder) >= needed:
            return
        if _remove(entry):
            total -= kept[entry]
    if free_bytes(folder) < needed:
        raise SlideError(_no_room(folder, needed, name))


def _remove(entry: Path) -> bool:
    """Remove a folder of the cache that nobody uses; whether it did."""
    path = entry.with_suffix(".lock")
    held = try_lock(path)
    if held is None:
        return False
    with held:
        gone = entry.with_suffix(".partial")
        if entry != gone and entry.exists():
            shutil.rmtree(gone, ignore_errors=True)
            entry.rename(gone)  # whole or not at all
        shutil.rmtree(gone, ignore_errors=True)
        if not entry.with_suffix("").exists():
            path.unlink(missing_ok=True)
    return True


def _last_used(entry: Path) -> float:
    try:
        return entry.stat().st_mtime
    except FileNotFoundError:  # another job removed it
        return 0.0


def _bytes(entry: Path) -> int:
    try:
        return sum(path.stat().st_size for path in entry.rglob("*") if path.is_file())
    except FileNotFoundError:
        return 0


def _no_room(folder: Path, needed: int, name: str) -> str:
    free = free_bytes(folder)
    return f"{name}: {needed:,} bytes to fetch, {free:,} are free in the cache; free some, or give run.cache_dir"


def _name(url: str) -> str:
    return shown(Path(posixpath.basename(url)))
