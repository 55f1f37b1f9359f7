"""Where a command writes: into a folder, and over nothing that it reads."""

import os
from pathlib import Path
from tempfile import TemporaryFile

from wsi_pipeline.disk import writing
from wsi_pipeline.errors import ConfigError


def refuse_file(out: str) -> None:
    """ConfigError where --out is a file, or would lie below one."""
    for place in (Path(out), *Path(out).parents):
        if place.exists() and not place.is_dir():
            raise ConfigError(f"--out {out}: {place} is a file; name a folder")


def refuse_slides(out: str, slides: str) -> None:
    """ConfigError where --out is the folder of slides itself: a run folder is never searched for slides."""
    if slides and one_place(out, slides):
        raise ConfigError(f"--out {out}: is the folder of slides itself; name another, such as {Path(out) / 'run'}")


def make_folder(out: str | Path) -> None:
    """Make the folder where it is not there, and try a file in it: before work that takes long, not at its end.

    Raises StoreError where that is refused, ConfigError as `refuse_file`.
    """
    refuse_file(str(out))
    with writing(out):
        Path(out).mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=out):
            pass


def one_place(left: str | Path, right: str | Path) -> bool:
    """Whether two paths are the same file or folder, which need not be there yet."""
    try:
        return os.path.samefile(left, right)
    except OSError:
        return os.path.realpath(left) == os.path.realpath(right)
