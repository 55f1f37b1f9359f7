"""A folder of an object store -> the place of a tile store.

An object appears whole by nature, but none can be renamed: what must appear together is made on this machine and put
there, what makes it count last.
"""

import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from functools import cached_property
from pathlib import Path
from typing import Any

import fsspec
from zarr.storage import FsspecStore

from wsi_pipeline.disk import writing
from wsi_pipeline.errors import StoreError
from wsi_pipeline.slide.cache import cache_folder
from wsi_pipeline.slide.locks import first_free
from wsi_pipeline.slide.urls import broken, reaching, remote, stamp
from wsi_pipeline.tiles.place import ABOUT, Parts, Span

_FOR_ZARR: dict[str, Any] = {}  # file systems, by what they are


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

    def files(self, redone: tuple[str, ...] = ()) -> set[str]:
        """An object has all its content or is not there."""
        with self.reading():
            return {path[len(self._path) + 1 :] for path in self._files.find(self._path)}

    @contextmanager
    def draft(self) -> Iterator[Path]:
        with empty_room() as folder:
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


@contextmanager
def empty_room() -> Iterator[Path]:
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


def _for_zarr(url: str) -> FsspecStore:
    """With one file system for all of a kind: fsspec makes one a thread, whose connections stay open after it."""
    found, path = fsspec.url_to_fs(url, asynchronous=True, use_listings_cache=False)
    if not found.async_impl:
        return FsspecStore.from_url(url)
    return FsspecStore(_FOR_ZARR.setdefault(f"{type(found)} {found.storage_options}", found), path=path)


def _twice(step: Callable[[], object]) -> None:
    try:
        step()
    except broken():
        step()
