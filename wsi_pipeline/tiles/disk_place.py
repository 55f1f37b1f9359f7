"""A folder of a disk -> the place of a tile store; files are written under another name and renamed."""

import os
import shutil
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from wsi_pipeline.disk import free_bytes, writing
from wsi_pipeline.tiles.place import ABOUT, Parts, Span


class Disk:
    """A folder of a disk that this machine sees, its own or shared."""

    def __init__(self, where: str) -> None:
        self.where = where
        self._path = Path(where)

    @property
    def zarr(self) -> Path:
        return self._path  # as text, :: in it would be taken for a chain of URLs

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

    def files(self, redone: tuple[str, ...] = ()) -> set[str]:
        found = set()
        for path in self._path.rglob("*"):
            if not path.is_file():
                continue
            name = path.relative_to(self._path).as_posix()
            if path.suffix == ".partial":
                path.unlink(missing_ok=True)
            elif path.stat().st_size:
                found.add(name)
            elif path.name == ABOUT or name.startswith(redone):
                path.unlink(missing_ok=True)
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
