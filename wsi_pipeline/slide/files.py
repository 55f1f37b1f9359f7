"""A path -> can a slide lie there, what tells the file from others, and how to speak of it in a message."""

import hashlib
import os
import re
import stat
from pathlib import Path

from wsi_pipeline.errors import SlideError

_TIFF_MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_ENDS_BYTES = 1 << 20
_MAX_REASON = 200  # characters
_SHORT_NAME = 3  # a name of fewer characters tells nothing, and stands in half the words of a message


def check_file(path: Path) -> None:
    """Raise SlideError, with what to do, where `path` is no file with something in it that may be read."""
    name = shown(path)
    try:
        found = path.stat()
    except FileNotFoundError:
        link = path.is_symlink()
        raise SlideError(f"{name}: {'a broken link; mend it' if link else 'no such file; check the path'}") from None
    except (OSError, ValueError) as error:
        raise SlideError(f"{name}: cannot be reached ({reason(error, path)}); check the path") from error
    if stat.S_ISDIR(found.st_mode):
        if not os.access(path, os.R_OK | os.X_OK):
            raise SlideError(f"{name}: a folder that may not be listed; change its mode or take it out")
        raise SlideError(f"{name}: a folder, not a slide file; rename it or take it out of the cohort")
    if not stat.S_ISREG(found.st_mode):
        raise SlideError(f"{name}: no regular file; take it out of the cohort")
    if not os.access(path, os.R_OK):
        raise SlideError(f"{name}: no permission to read it; change its mode or owner")
    if found.st_size == 0:
        raise SlideError(f"{name}: empty file (0 bytes); get a fresh copy")


def is_tiff(path: Path) -> bool:
    """Whether the file begins as a TIFF or BigTIFF does. Raises SlideError where it cannot be read at all."""
    return _read(path, 0, 4) in _TIFF_MAGIC


def hash_ends(path: Path) -> str:
    """sha256 of size, first and last MiB: tells slides apart, and is quick on a network disk."""
    size = path.stat().st_size
    found = hashlib.sha256(str(size).encode())
    found.update(_read(path, 0, _ENDS_BYTES))
    found.update(_read(path, max(0, size - _ENDS_BYTES), _ENDS_BYTES))
    return found.hexdigest()


def real_target(path: Path) -> Path:
    """The file behind a link of the same suffix: MIRAX and DICOM look for their other files beside it."""
    target = Path(os.path.realpath(path))
    return target if target.suffix.lower() == path.suffix.lower() else path


def shown(path: Path) -> str:
    """The file's name in one line, safe to print and to write as UTF-8."""
    return "".join(mark if mark.isprintable() else "?" for mark in path.name)


def reason(error: Exception, path: Path) -> str:
    """What a library says of a file, in one line, without the folders it lies in or what a link leads to."""
    said = (error.strerror if isinstance(error, OSError) and error.strerror else str(error)) or type(error).__name__
    if path.parent.name:
        said = said.replace(f"{path.parent}{os.sep}", "")
    said = by_own_name(said, path)
    line = " ".join("".join(mark if mark.isprintable() else " " for mark in said).split())
    return line if len(line) <= _MAX_REASON else f"{line[:_MAX_REASON]}..."


def by_own_name(text: str, path: Path) -> str:
    """The text with a link's own name wherever it has that of the file which the link leads to."""
    try:
        target = Path(os.path.realpath(path))
    except (OSError, ValueError):  # a name with a NUL leads nowhere
        return text
    if target.parent.name:
        text = text.replace(f"{target.parent}{os.sep}", "")
    if target.stem == path.stem or len(target.stem) < _SHORT_NAME:
        return text
    return re.sub(rf"(?<!\w){re.escape(target.stem)}(?!\w)", lambda _: path.stem, text)


def _read(path: Path, start: int, count: int) -> bytes:
    try:
        with path.open("rb") as file:
            file.seek(start)
            return file.read(count)
    except OSError as error:
        raise SlideError(f"{shown(path)}: cannot be read ({reason(error, path)}); get a fresh copy") from error
