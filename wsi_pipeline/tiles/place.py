"""What a tile store needs of the place where it lies: files, each written whole or not at all."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol

ABOUT = "zarr.json"  # of the group: made last and removed first, so a store without it is none

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

    def files(self, redone: tuple[str, ...] = ()) -> set[str]:
        """All files that have content; what a killed writer left is removed, so not to be called while one writes.

        A power cut leaves files without content. They are removed where it is seen that they are gone: metadata, and
        what begins with one of `redone`. A chunk of another array stays: without it zarr reads zeros, with it an error.
        """

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
