"""A run folder for a run to begin in: made anew, gone on with, or freed of the run before; never of others' files."""

import math
from collections.abc import Callable
from pathlib import Path

from wsi_pipeline import __version__
from wsi_pipeline.disk import writing
from wsi_pipeline.errors import ConfigError
from wsi_pipeline.pipeline.claims import open_claims
from wsi_pipeline.pipeline.folder import FOLDERS, MARK, BrokenAccountError, RunFolder
from wsi_pipeline.slide.urls import is_url

Check = Callable[[RunFolder], None]


def open_run_folder(
    root: str | Path, *, resume: bool = False, overwrite: bool = False, ready: Check = lambda folder: None
) -> RunFolder:
    """The run folder at `root`, made where it is not there yet.

    `ready` raises where the run cannot begin, and is asked before `overwrite` removes or a first run makes anything.
    Raises ConfigError where a run is there and neither `resume` nor `overwrite` is said, or where something else is:
    nothing that is not ours is ever removed.
    """
    if is_url(root):
        raise ConfigError(f"{root}: a folder of this machine is needed here")
    root = Path(root).absolute()
    folder = RunFolder(root)
    make_free(folder, resume=resume, overwrite=overwrite, ready=ready)
    with writing(root):
        for name in FOLDERS:
            (root / name).mkdir(parents=True, exist_ok=True)
    if not folder.account():
        folder.write_account({MARK: __version__})  # known as ours from the first moment on
    return folder


def make_free(folder: RunFolder, *, resume: bool, overwrite: bool, ready: Check) -> None:
    """Remove the run that `overwrite` is said of, once the new one is `ready`; errors as of `open_run_folder`.

    In a folder where nothing is yet it is asked too: a run that could not begin would be in the way of the next.
    """
    refuse_others(folder, resume=resume, overwrite=overwrite)
    if not folder.is_used():
        ready(folder)
    elif overwrite:
        _refuse_at_work(folder)
        ready(folder)
        folder.clear()


def refuse_others(folder: RunFolder, *, resume: bool, overwrite: bool) -> None:
    """ConfigError where a folder that is not empty holds no run, or one that nobody wants to go on with or remove."""
    if not folder.is_used():
        return
    where = folder.shown("")
    try:
        begun = bool(folder.account())
    except BrokenAccountError:
        if not overwrite:
            raise
        begun = True
    if not begun:
        raise ConfigError(f"{where}: holds other files and no run.json; give --out a new or empty folder")
    if not (resume or overwrite):
        raise ConfigError(f"{where}: holds a run already; use --resume to finish it, --overwrite, or another --out")


def _refuse_at_work(folder: RunFolder) -> None:
    """ConfigError where another job has slides of the folder: its files would be removed under its feet."""
    with open_claims(folder.claims) as claims:
        if (found := claims.living()) is not None:
            job, left_s = found
            raise ConfigError(
                f"{folder.shown('')}: a job ({job or 'unnamed'}) is at work in it; end it, or use another --out; "
                f"of one that was killed the claims expire in {math.ceil(left_s)} s"
            )
