"""Where a tile store lies, a folder of a disk or of an object store -> its files, each written whole or not at all.

On a disk a file is written under another name and renamed; an object appears whole by nature, but none can be renamed.
"""

import os
import shutil
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, Protocol

import fsspec
from zarr.storage import FsspecStore

from wsi_pipeline.disk import free_bytes, writing
from wsi_pipeline.errors import StoreError
from wsi_pipeline.slide.cache import cache_folder
from wsi_pipeline.slide.locks import first_free
from wsi_pipeline.slide.urls import broken, is_url, reaching, remote, stamp

ABOUT = "zarr.json"  # of the group: made last and removed first, so a store without it is none

_FOR_ZARR: dict[str, Any] = {}  # file systems, by what they are

Parts = Sequence[bytes | memoryview]
Span = tuple[int, int]  # offset and length in a file


class Place(Protocol):
    """A folder of files named by relative paths such as tiles/c/0.

    Attributes:
        where: its absolute path, or its URL.
    """

    where: str

    @property
    def zarr(self) -> Any:
        """What zarr opens it by."""

    def taken(self) -> bool:
        """Whether something lies there that is not ours to write over, or a store."""

    def has(self, name: str) -> bool:
        """Whether the file is there."""

    def version(self, name: str) -> tuple[object, ...]:
        """What is another once the file is written anew; OSError or StoreError where it is not there."""

    def write(self, name: str, parts: Parts) -> None:
        """Write a file, whole or not at all."""

    def read(self, name: str, tail: int, pick: Callable[[bytes], Sequence[Span]]) -> list[bytes]:
        """The spans that `pick` chooses, told the last `tail` bytes; FileNotFoundError where there is no such file."""

    def files(self) -> set[str]:
        """All files that are whole; what a killed writer left is removed, so not to be called while one writes."""

    def draft(self) -> AbstractContextManager[Path]:
        """A folder of this machine for the block to fill, which becomes this place, whole, when the block ends."""

    def remove(self) -> None:
        """Remove all there is."""

    def writing(self, needed: int = 0) -> AbstractContextManager[None]:
        """Turn what refuses to be written, `needed` bytes, into a StoreError that says what to do."""

    def reading(self) -> AbstractContextManager[None]:
        """Turn what cannot be reached into a StoreError."""

    def free(self) -> int | None:
        """Bytes that are free; None where there is no telling."""


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
    with _room() as folder:
        yield folder
        Bucket(where).put(folder)


class Disk:
    """A folder of a disk that this machine sees, its own or shared."""

    def __init__(self, where: str) -> None:
        self.where = where
        self._path = Path(where)

    @property
    def zarr(self) -> str:
        return self.where

    def taken(self) -> bool:
        return self._path.exists()

    def has(self, name: str) -> bool:
        return (self._path / name).is_file()

    def version(self, name: str) -> tuple[object, ...]:
        facts = os.stat(self._path / name)
        return facts.st_ino, facts.st_mtime_ns

    def write(self, name: str, parts: Parts) -> None:
        path = self._path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = path.with_name(f"{path.name}.{uuid.uuid4().hex}.partial")
        try:
            with draft.open("wb") as file:
                file.writelines(parts)
            draft.replace(path)
        except BaseException:
            draft.unlink(missing_ok=True)
            raise

    def read(self, name: str, tail: int, pick: Callable[[bytes], Sequence[Span]]) -> list[bytes]:
        with (self._path / name).open("rb", buffering=0) as file:
            spans = pick(_tail(file.fileno(), tail))
            return [_span(file.fileno(), offset, length) for offset, length in spans]

    def files(self) -> set[str]:
        """Halves are `.partial` files; after a power cut also files without content."""
        found = set()
        for path in self._path.rglob("*"):
            if path.is_file():
                if path.suffix == ".partial" or not path.stat().st_size:
                    path.unlink(missing_ok=True)
                else:
                    found.add(path.relative_to(self._path).as_posix())
        return found

    @contextmanager
    def draft(self) -> Iterator[Path]:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        draft = self._draft()
        shutil.rmtree(draft, ignore_errors=True)
        try:
            yield draft
            draft.rename(self._path)
        except BaseException:
            shutil.rmtree(draft, ignore_errors=True)  # what is left of it would fill the disk further
            raise

    def remove(self) -> None:
        shutil.rmtree(self._draft(), ignore_errors=True)
        shutil.rmtree(self._path.rename(self._draft()))

    def writing(self, needed: int = 0) -> AbstractContextManager[None]:
        return writing(self.where, needed)

    @contextmanager
    def reading(self) -> Iterator[None]:
        yield  # what is wrong there, who reads can tell

    def free(self) -> int | None:
        return free_bytes(self._path.parent)

    def _draft(self) -> Path:
        """Where it lies while it is made or removed: a sibling that is never opened as a store."""
        return self._path.with_name(f"{self._path.name}.partial")


class Bucket:
    """A folder of an object store, at a URL; what fails is tried once more."""

    def __init__(self, where: str) -> None:
        self.where = where
        self._files, self._path = remote(where)

    @cached_property
    def zarr(self) -> FsspecStore:
        return _for_zarr(self.where)

    def taken(self) -> bool:
        return self.has(ABOUT)

    def has(self, name: str) -> bool:
        with self.reading():
            return bool(self._files.exists(self._at(name)))

    def version(self, name: str) -> tuple[object, ...]:
        with self.reading():
            return tuple(stamp(self._files.info(self._at(name))))

    def write(self, name: str, parts: Parts) -> None:
        data = b"".join(parts)
        with self.writing():
            _twice(lambda: self._files.pipe_file(self._at(name), data))

    def read(self, name: str, tail: int, pick: Callable[[bytes], Sequence[Span]]) -> list[bytes]:
        """By two requests: the tail, then from the first of the spans to the last."""
        spans = pick(self._files.cat_file(self._at(name), start=-tail))
        first = min((offset for offset, _ in spans), default=0)
        last = max((offset + length for offset, length in spans), default=0)
        data = self._files.cat_file(self._at(name), start=first, end=last) if last > first else b""
        return [data[offset - first : offset - first + length] for offset, length in spans]

    def files(self) -> set[str]:
        with self.reading():
            return {path[len(self._path) + 1 :] for path in self._files.find(self._path)}

    @contextmanager
    def draft(self) -> Iterator[Path]:
        with _room() as folder:
            yield folder
            self.remove()
            self.put(folder)

    def put(self, folder: Path) -> None:
        """Put the files of a folder of this machine, what makes them a store last."""
        names = [path.relative_to(folder).as_posix() for path in sorted(folder.rglob("*")) if path.is_file()]
        for some in ([name for name in names if name != ABOUT], [name for name in names if name == ABOUT]):
            if some:
                self._put(folder, some)

    def remove(self) -> None:
        with self.writing(), suppress(FileNotFoundError):
            if self._files.exists(self._at(ABOUT)):
                self._files.rm_file(self._at(ABOUT))
            self._files.rm(self._path, recursive=True)

    def writing(self, needed: int = 0) -> AbstractContextManager[None]:
        return reaching(self.where, StoreError)

    def reading(self) -> AbstractContextManager[None]:
        return reaching(self.where, StoreError)

    def free(self) -> int | None:
        return None

    def _put(self, folder: Path, names: list[str]) -> None:
        paths = [str(folder / name) for name in names], [self._at(name) for name in names]
        with self.writing():
            _twice(lambda: self._files.put(*paths))

    def _at(self, name: str) -> str:
        return f"{self._path}/{name}"


def _for_zarr(url: str) -> FsspecStore:
    """With one file system for all of a kind: fsspec makes one a thread, whose connections stay open after it."""
    found, path = fsspec.url_to_fs(url, asynchronous=True, use_listings_cache=False)
    if not found.async_impl:
        return FsspecStore.from_url(url)
    return FsspecStore(_FOR_ZARR.setdefault(f"{type(found)} {found.storage_options}", found), path=path)


@contextmanager
def _room() -> Iterator[Path]:
    """An empty folder of this machine that nobody else uses, gone afterwards; what a kill left in it goes first."""
    drafts = cache_folder() / "drafts"
    with writing(drafts):
        drafts.mkdir(exist_ok=True)
        folder, held = first_free(drafts)
    try:
        shutil.rmtree(folder, ignore_errors=True)
        with writing(folder):
            folder.mkdir()
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        held.close()


def _twice(step: Callable[[], object]) -> None:
    try:
        step()
    except broken():
        step()


def _tail(file: int, size: int) -> bytes:
    """The last bytes of an open file; none of one that is shorter."""
    try:
        os.lseek(file, -size, os.SEEK_END)
        return os.read(file, size)
    except OSError:
        return b""


def _span(file: int, offset: int, length: int) -> bytes:
    os.lseek(file, offset, os.SEEK_SET)
    return os.read(file, length)
