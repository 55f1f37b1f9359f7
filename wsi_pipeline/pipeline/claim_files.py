"""The small files that claims are made of, on a shared disk or in an object store: one alone makes each."""

import os
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Protocol
from uuid import uuid4

from wsi_pipeline.disk import writing
from wsi_pipeline.errors import ConfigError, StoreError
from wsi_pipeline.slide.urls import FileSystem, reaching


class ClaimFiles(Protocol):
    """A folder of small files with one clock for all jobs; raises OSError where it cannot be reached."""

    def prepare(self) -> None:
        """Make the folder; an error where it cannot do what claims need."""

    def create(self, name: str, text: str) -> bool:
        """Make a file, whole; False where it is there already, for all but one of those who try at once."""

    def names(self) -> list[str]:
        """The files that are there."""

    def read(self, name: str) -> str:
        """What a file holds."""

    def touched(self, name: str) -> float:
        """When a file was made or touched, in seconds by the folder's clock; FileNotFoundError where it is gone."""

    def now(self, probe: str) -> float:
        """The time by that clock, told from a file `probe` of the caller's own."""

    def touch(self, name: str) -> None:
        """Tell that a file's owner lives; FileNotFoundError where the file is gone."""

    def remove(self, name: str) -> None:
        """Remove a file, if it is there."""


class DiskFiles:
    """On a disk: made with O_EXCL, aged by the disk's own clock, as those of hosts differ."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def prepare(self) -> None:
        with writing(self._folder):
            self._folder.mkdir(parents=True, exist_ok=True)

    def create(self, name: str, text: str) -> bool:
        path = self._folder / name
        try:
            handle = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
        except FileExistsError:
            return False
        except OSError as error:
            said = f"{path}: cannot be claimed ({error.strerror}); see to the folder's permissions"
            raise StoreError(said) from error
        try:
            with writing(path, len(text)), os.fdopen(handle, "w", encoding="utf-8") as file:
                file.write(text)
        except StoreError:
            path.unlink(missing_ok=True)  # nobody's claim would have to expire first
            raise
        return True

    def names(self) -> list[str]:
        return os.listdir(self._folder)

    def read(self, name: str) -> str:
        return (self._folder / name).read_text(encoding="utf-8")

    def touched(self, name: str) -> float:
        with (self._folder / name).open("rb") as file:  # NFS tells a file's time anew when it is opened, not before
            return os.fstat(file.fileno()).st_mtime

    def now(self, probe: str) -> float:
        path = self._folder / probe
        with writing(path):
            path.touch()
            return path.stat().st_mtime

    def touch(self, name: str) -> None:
        os.utime(self._folder / name)

    def remove(self, name: str) -> None:
        (self._folder / name).unlink(missing_ok=True)


class BucketFiles:
    """In an object store that makes an object only where none is (on S3: If-None-Match), aged by its own clock.

    A file is touched by writing it anew. An owner that slept past its expiry could so bring back a claim that was
    taken over and given back meanwhile: it looks first, which leaves milliseconds for that, and its slide comes out
    the same.
    """

    def __init__(self, files: FileSystem, folder: str, url: str) -> None:
        self._files, self._folder, self._url = files, folder, url

    def prepare(self) -> None:
        """Raises ConfigError where the store does not keep two from making one object: jobs would mix."""
        probe = f".{uuid4().hex}.probe"
        try:
            twice = self.create(probe, "") and self.create(probe, "")
        except (TypeError, ValueError, NotImplementedError) as error:
            raise ConfigError(f"{self._url}: cannot hold a run: it makes no files exclusively ({error})") from error
        self.remove(probe)
        if twice:
            said = "cannot hold a run: it lets two jobs make the same file; give --out a disk, or another store"
            raise ConfigError(f"{self._url}: {said}")

    def create(self, name: str, text: str) -> bool:
        with reaching(self._url, StoreError):
            try:
                self._files.pipe_file(self._path(name), text.encode(), mode="create")
            except FileExistsError:
                return False
        return True

    def names(self) -> list[str]:
        with reaching(self._url, StoreError):
            try:
                found = self._files.ls(self._folder, detail=False)
            except FileNotFoundError:
                return []
        return [str(path).rpartition("/")[2] for path in found]

    def read(self, name: str) -> str:
        with reaching(self._url, StoreError):
            return str(self._files.cat_file(self._path(name)).decode("utf-8"))

    def touched(self, name: str) -> float:
        moment: datetime = self._files.modified(self._path(name))
        return moment.timestamp()

    def now(self, probe: str) -> float:
        with reaching(self._url, StoreError):
            self._files.pipe_file(self._path(probe), b"")
            return self.touched(probe)

    def touch(self, name: str) -> None:
        if name not in self.names():
            raise FileNotFoundError(name)
        with reaching(self._url, StoreError):
            self._files.pipe_file(self._path(name), self._files.cat_file(self._path(name)))

    def remove(self, name: str) -> None:
        with reaching(self._url, StoreError), suppress(FileNotFoundError):
            self._files.rm_file(self._path(name))

    def _path(self, name: str) -> str:
        return f"{self._folder}/{name}"
