"""Lock files: held by many or by one alone, and free the moment their process is gone, however it ended."""

import os
import weakref
from itertools import count
from pathlib import Path

from wsi_pipeline.errors import ConfigError

try:
    import fcntl
except ImportError:  # Windows: all but URLs works without
    fcntl = None  # type: ignore[assignment]


class Lock:
    """A lock that is held until `close`; a context manager."""

    def __init__(self, handle: int) -> None:
        self.handle = handle
        self.close = weakref.finalize(self, os.close, handle)

    def __enter__(self) -> "Lock":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def lock(path: Path, *, alone: bool) -> Lock:
    """Wait for the lock at `path`, made where it is not there: alone, or with others that do not ask to be alone."""
    found = _lock(path, alone=alone, wait=True)
    assert found is not None
    return found


def try_lock(path: Path) -> Lock | None:
    """The lock at `path` alone, or None where anyone holds it."""
    return _lock(path, alone=True, wait=False)


def first_free(folder: Path, name: str = "") -> tuple[Path, Lock]:
    """The first of the places `name`0, `name`1, ... in a folder that nobody holds, with its lock, which lies beside it.

    Who comes after a killed process finds its place, and what it left there.
    """
    tried = ((folder / f"{name}{number}", try_lock(folder / f"{name}{number}.lock")) for number in count())
    return next((place, held) for place, held in tried if held is not None)


def hold_open(handle: int, *, alone: bool) -> bool:
    """Wait for the lock of an open file, held until it is closed; False where the system or the disk has no locks."""
    if fcntl is None:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
    except OSError:
        return False
    return True


def _lock(path: Path, *, alone: bool, wait: bool) -> Lock | None:
    if fcntl is None:
        raise ConfigError("files at URLs need POSIX locks, which this system has not; mount or copy them")
    while True:
        found = Lock(_opened(path))
        try:
            fcntl.flock(found.handle, (fcntl.LOCK_EX if alone else fcntl.LOCK_SH) | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            found.close()
            return None
        if _is_at(path, found.handle):
            return found
        found.close()  # its last owner removed it while this one waited


def _opened(path: Path) -> int:
    """The handle of a lock file, made where it is not there. ConfigError where another user has it, or none can be."""
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise ConfigError(
            f"{path}: cannot be locked ({error.strerror}); give run.cache_dir a folder of your own"
        ) from error


def _is_at(path: Path, handle: int) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), path.stat())
    except FileNotFoundError:
        return False
