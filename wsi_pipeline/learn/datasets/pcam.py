"""The h5 files of PatchCamelyon -> LabelledImages of 96 px patches, 1 where their middle 32 px hold tumour."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from wsi_pipeline.errors import ConfigError, SlideError
from wsi_pipeline.learn.data.labels import LabelledImages
from wsi_pipeline.learn.datasets.table import PARTS, read_table

MPP = 0.972  # level 2 of CAMELYON16's 0.243 um/px (10 x)

_SPLITS = ("train", "valid", "test")


def open_pcam(folder: Path, *, parts: Sequence[str] = _SPLITS) -> LabelledImages:
    """The patches of `parts` in camelyonpatch_level_2_split_{part}_{x,y}.h5 (unpacked from their .gz).

    The slide (wsi) of ..._meta.csv is the patient. Without that file each patch is its own: keep to the official
    parts then, as patches of one slide would part. Raises ConfigError naming the file.
    """
    wrong = [part for part in parts if PARTS.get(part) is None]
    if wrong or not parts:
        raise ConfigError(f"parts {list(parts)}: give some of {', '.join(_SPLITS)}")
    splits = ["valid" if PARTS[part] == "val" else PARTS[part] for part in parts]
    labels = [_labels(folder, split) for split in splits]
    ids = [np.array([f"{split}_{row:06d}" for row in range(len(y))]) for split, y in zip(splits, labels, strict=True)]
    patients = [_slides(folder, split, own) for split, own in zip(splits, ids, strict=True)]
    return LabelledImages(
        name="pcam",
        class_names=("tumor",),
        labels=np.concatenate(labels)[:, None],
        ids=np.concatenate(ids),
        patients=np.concatenate(patients),
        read=_Patches([str(_file(folder, split, "x.h5")) for split in splits], [len(y) for y in labels]),
        kind="histology",
        positive=("tumor",),
        mpp=MPP,
        official=np.concatenate([np.full(len(y), PARTS[split]) for split, y in zip(splits, labels, strict=True)]),
    )


class _Patches:
    """Reads patch k of several files in a row; each process opens its own handles when it first reads."""

    def __init__(self, paths: Sequence[str], counts: Sequence[int]) -> None:
        self._paths, self._ends = list(paths), np.cumsum(counts)
        self._handles: dict[tuple[int, int], Any] = {}  # HDF5 handles do not survive a fork: by process

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_handles": {}}

    def __call__(self, index: int) -> np.ndarray:
        file = int(np.searchsorted(self._ends, index, side="right"))
        row = index - (int(self._ends[file - 1]) if file else 0)
        key = os.getpid(), file
        try:
            if key not in self._handles:
                self._handles[key] = h5py.File(self._paths[file], "r")["x"]
            return np.asarray(self._handles[key][row], np.uint8)
        except (OSError, KeyError) as error:
            name = Path(self._paths[file]).name
            raise SlideError(f"{name} row {row}: cannot be read ({error}); get a fresh copy") from error


def _file(folder: Path, split: str, ending: str) -> Path:
    path = folder / f"camelyonpatch_level_2_split_{split}_{ending}"
    if not path.is_file():
        packed = path.with_name(path.name + ".gz").is_file()
        raise ConfigError(
            f"{path.name}: no such file; {'unpack its .gz' if packed else 'get it, or leave its part out'}"
        )
    return path


def _labels(folder: Path, split: str) -> np.ndarray:
    """(N,) float32 of one part, whose images are N x 96 x 96 x 3 uint8."""
    y, x = _file(folder, split, "y.h5"), _file(folder, split, "x.h5")
    try:
        with h5py.File(y, "r") as file, h5py.File(x, "r") as pictures:
            labels = np.asarray(file["y"], np.float32).reshape(-1)
            shape, kind = pictures["x"].shape, pictures["x"].dtype
    except (OSError, KeyError) as error:
        raise ConfigError(f"{x.name}, {y.name}: cannot be read ({error}); get fresh copies") from error
    if shape[:1] != labels.shape or len(shape) != 4 or shape[3] != 3 or kind != np.uint8:
        raise ConfigError(f"{x.name}: images {shape} {kind} for {len(labels)} labels; get fresh copies")
    return labels


def _slides(folder: Path, split: str, ids: np.ndarray) -> np.ndarray:
    """(N,) str: the slide of each patch, or the patch itself."""
    path = folder / f"camelyonpatch_level_2_split_{split}_meta.csv"
    if not path.is_file():
        return ids
    table = read_table(path)
    if len(table) != len(ids):
        raise ConfigError(f"{table.name}: {len(table)} rows for {len(ids)} patches; get a fresh copy")
    return np.array(table.required("wsi"))
