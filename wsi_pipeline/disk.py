"""A disk that refuses what is written -> one StoreError: where, the bytes that it takes, the bytes that are free."""

import errno
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from wsi_pipeline.errors import StoreError

_FULL = (errno.ENOSPC, errno.EDQUOT)


@contextmanager
def writing(path: str | Path, needed: int = 0) -> Iterator[None]:
    """Turn what a full or locked disk raises in the block into a StoreError that names `path`.

    `needed` is what the block writes, in bytes, where that is known.
    """
    try:
        yield
    except StoreError:
        raise
    except OSError as error:
        if is_full(error):
            text = f"{refusal(error, Path(path), needed)}; free some and run again with --resume"
        else:
            text = f"cannot be written ({error}); see to the folder's permissions, or use another --out"
        raise StoreError(f"{path}: {text}") from error


def is_full(error: OSError) -> bool:
    """Whether it was raised for want of space, rather than of rights."""
    return error.errno in _FULL


def refusal(error: OSError, path: Path, needed: int = 0) -> str:
    """Why a disk did not take `needed` bytes, in a few words for a message."""
    if not is_full(error):
        return error.strerror or str(error)
    takes = f" {needed:,} bytes" if needed else ""
    return f"disk full while writing{takes}, {free_bytes(path):,} bytes are free"


def free_bytes(path: Path) -> int:
    """Bytes free on the disk of a path that need not exist yet; 0 where nobody can tell."""
    for place in (path, *path.parents):
        try:
            return shutil.disk_usage(place).free
        except OSError:
            continue
    return 0
