"""The folder of a training: where each of its files lies, and its account, `train.json`.

::

    settings.yaml  split.csv  samples.png  history.csv  curves.png  tensorboard/
    model.safetensors  card.json   the best so far, calibrated at the end
    last/                          what --resume needs
    train.json                     versions, times, seed, how it ended
"""

import json
import shutil
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from wsi_pipeline import __version__
from wsi_pipeline.disk import refusal
from wsi_pipeline.errors import ConfigError, StoreError

MARK = "wsi_pipeline"  # the key of train.json by which a training folder is known
ACCOUNT, SETTINGS, SPLIT, SAMPLES, LAST = "train.json", "settings.yaml", "split.csv", "samples.png", "last"
HISTORY, CURVES, BOARD = "history.csv", "curves.png", "tensorboard"
_FILES = (ACCOUNT, SETTINGS, SPLIT, SAMPLES, HISTORY, CURVES, "model.safetensors", "card.json")
_FOLDERS = (LAST, f"{LAST}.old", f"{LAST}.partial", BOARD)


def open_train_folder(where: str | Path, *, resume: bool = False, overwrite: bool = False) -> Path:
    """The absolute path of a training's folder, made where it is not there yet.

    Raises ConfigError where a training is there and neither `resume` nor `overwrite` is said, or where
    something else is: nothing that is not ours is ever removed.
    """
    root = Path(where).absolute()
    if root.exists() and not root.is_dir():
        raise ConfigError(f"{root}: is a file; give --out a folder")
    if root.exists() and any(root.iterdir()):
        if not read_account(root):
            raise ConfigError(f"{root}: holds other files and no {ACCOUNT}; give --out a new or empty folder")
        if overwrite:
            _clear(root)
        elif not resume and (root / SETTINGS).exists():
            raise ConfigError(f"{root}: holds a training; use --resume to go on with it, --overwrite, or another --out")
    root.mkdir(parents=True, exist_ok=True)
    if not read_account(root):
        write_account(root, {MARK: __version__})  # known as ours from the first moment on
    return root


def read_account(root: Path) -> dict[str, Any]:
    """What train.json holds; empty where there is none. Raises StoreError where it is not ours."""
    path = root / ACCOUNT
    if not path.exists():
        return {}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise StoreError(f"{path}: cannot be read ({error}); use another --out") from None
    if not isinstance(found, dict) or MARK not in found:
        raise StoreError(f"{path}: not written by this package; use another --out")
    return found


def write_account(root: Path, facts: dict[str, Any]) -> None:
    """Write train.json whole."""
    replace_file(root / ACCOUNT, json.dumps(facts, indent=2, ensure_ascii=False, default=str) + "\n")


def replace_file(path: Path, content: str | bytes) -> None:
    """Write a small file whole or not at all; StoreError when the disk refuses."""
    data = content.encode() if isinstance(content, str) else content
    partial = path.with_name(f".{path.name}.partial")
    try:
        partial.write_bytes(data)
        partial.replace(path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        why = refusal(error, path, len(data))
        raise StoreError(f"{path}: not written ({why}); free the disk, then --resume") from None


def now() -> str:
    """The time, UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def _clear(root: Path) -> None:
    for name in _FOLDERS:
        shutil.rmtree(root / name, ignore_errors=True)
    for name in _FILES:
        (root / name).unlink(missing_ok=True)
