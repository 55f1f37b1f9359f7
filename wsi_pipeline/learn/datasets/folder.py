"""A folder of class folders of images -> LabelledImages whose classes exclude each other."""

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from wsi_pipeline.errors import ConfigError
from wsi_pipeline.learn.data.labels import LabelledImages
from wsi_pipeline.learn.datasets.lookup import ImageFiles, list_images
from wsi_pipeline.learn.datasets.table import PARTS, read_table
from wsi_pipeline.learn.model.card import Kind
from wsi_pipeline.slide.scale import PLAUSIBLE_UM


def open_folder(
    folder: Path,
    *,
    kind: Kind = "plain",
    classes: Sequence[str] | None = None,
    groups: str | None = None,
    patient_pattern: str | None = None,
    positive: Sequence[str] = (),
    mpp: float | None = None,
) -> LabelledImages:
    """The images below `folder`/CLASS/, or below `folder`/PART/CLASS/ where all folders are train, val, test.

    Patients: by `groups`, a CSV of columns file (path below `folder`) and group; or by `patient_pattern`, a regular
    expression searched in the path without its ending, whose first group (or whole match) is the patient; else each
    image on its own. `classes` gives their order, by name otherwise. Raises ConfigError naming what is wrong.
    """
    if not folder.is_dir():
        raise ConfigError(f"{folder.name}: no such folder; give a folder of class folders")
    if groups is not None and patient_pattern is not None:
        raise ConfigError("groups and patient_pattern both say who is a patient; give one of them")
    if mpp is not None and not PLAUSIBLE_UM[0] <= mpp <= PLAUSIBLE_UM[1]:
        raise ConfigError(f"mpp {mpp:g}: give {PLAUSIBLE_UM[0]} to {PLAUSIBLE_UM[1]} um/px, or leave it out")
    paths = list_images(folder)
    depth = _depth(folder, {path.split("/")[0] for path in paths if "/" in path})
    paths = [path for path in paths if path.count("/") > depth]  # beside the class folders lies what has no class
    found = [path.split("/")[depth] for path in paths]
    names = tuple(sorted(set(found)) if classes is None else classes)
    _check_classes(folder, set(found), names, positive)
    known = {name: number for number, name in enumerate(names)}
    numbers = np.array([known[name] for name in found], np.intp)
    return LabelledImages(
        name="folder",
        class_names=names,
        labels=(numbers[:, None] == np.arange(len(names))).astype(np.float32),
        ids=np.array(paths),
        patients=np.array(_patients(folder, paths, groups, patient_pattern)),
        read=ImageFiles([str(folder / path) for path in paths], paths),
        kind=kind,
        exclusive=True,
        positive=tuple(positive),
        mpp=mpp,
        official=np.array([PARTS[path.split("/")[0].lower()] for path in paths]) if depth else None,
    )


def _depth(folder: Path, tops: set[str]) -> int:
    """1 where the folders are parts, 0 where they are classes; ConfigError where they are some of each."""
    parts = {PARTS[top.lower()] for top in tops if top.lower() in PARTS}
    others = sorted(top for top in tops if top.lower() not in PARTS)
    if "train" in parts and len(parts) > 1 and others:
        raise ConfigError(f"{folder.name}: {others[0]!r} lies beside folders of parts ({', '.join(sorted(parts))}); "
                          f"move it out of there, or name it train, val or test")  # fmt: skip
    return 1 if parts and not others else 0


def _check_classes(folder: Path, found: set[str], names: Sequence[str], positive: Sequence[str]) -> None:
    if len(found) < 2:
        raise ConfigError(f"{folder.name}: images in {len(found)} class folders; give at least two such folders")
    there = ", ".join(sorted(found))
    if found != set(names):
        odd = sorted(found.symmetric_difference(names))[0]
        raise ConfigError(f"{folder.name}: {odd!r} is a folder or one of classes, not both; folders are {there}")
    if not set(positive) <= found:
        raise ConfigError(f"{folder.name}: positive class {sorted(set(positive) - found)[0]!r}; folders are {there}")


def _patients(folder: Path, paths: Sequence[str], groups: str | None, pattern: str | None) -> list[str]:
    if groups is not None:
        return _from_table(folder, paths, groups)
    if pattern is None:
        return list(paths)
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise ConfigError(f"patient_pattern {pattern!r}: {error}; give a regular expression") from error
    matches = [compiled.search(path.rpartition(".")[0]) for path in paths]
    patients = [(match[1] if compiled.groups else match[0]) or "" if match else "" for match in matches]
    if "" in patients:
        raise ConfigError(f"{paths[patients.index('')]}: patient_pattern {pattern!r} finds no patient; widen it")
    return patients


def _from_table(folder: Path, paths: Sequence[str], groups: str) -> list[str]:
    table = read_table(folder / groups)
    files = table.required(("file", "path", "image"))
    table.refuse_repeats(files)
    group_of = dict(zip(files, table.required(("group", "patient", "patient_id")), strict=True))
    lost = [path for path in paths if path not in group_of]
    if lost:
        raise ConfigError(f"{table.name}: {len(lost)} images have no row, the first {lost[0]!r}; add their group")
    return [group_of[path] for path in paths]
