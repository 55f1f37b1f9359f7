"""Tile stores of slides and their annotations -> LabelledImages of tiles, labelled by what was drawn on them."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
import zarr

from wsi_pipeline.errors import ConfigError
from wsi_pipeline.learn.data.labels import LabelledImages
from wsi_pipeline.learn.datasets.annotations import (
    LabelFrom,
    LabelRule,
    classes_of,
    find_annotations,
    label_boxes,
    read_annotations,
)
from wsi_pipeline.learn.datasets.table import part_names, read_table
from wsi_pipeline.slide.describe import SAME_SCALE
from wsi_pipeline.slide.entry import name_key
from wsi_pipeline.slide.regions import RegionDraft, Regions
from wsi_pipeline.tiles.grid import TileGrid
from wsi_pipeline.tiles.layout import read_array
from wsi_pipeline.tiles.lookup import TileLookup
from wsi_pipeline.tiles.store import TileStore, open_store

FAILED = ("failed", "unreadable", "no_mpp")  # statuses in slides.csv of slides that have no whole store
IGNORE = ("Ignore*", "Ignore")  # QuPath's own class for what counts neither way
_FORMULA = re.compile(r"^'(?='*[=+\-@\t])")  # the apostrophe that a free text of slides.csv has, see maps/tables.py


def open_tiles(
    folder: Path,
    *,
    annotations: str | None = None,
    label_from: LabelFrom = "share",
    positive_share: float = 0.5,
    negative_share: float = 0.0,
    classes: Mapping[str, str | Sequence[str]] | None = None,
    positive: Sequence[str] | None = None,
    ignore: Sequence[str] = IGNORE,
    unannotated: Literal["error", "skip", "normal"] = "error",
    patients: str | None = None,
    full_frame: bool = False,
) -> LabelledImages:
    """The tiles of a run folder, or of a folder of tile stores, labelled from annotation files.

    `annotations` is a folder of files named after the slides or a CSV (see `find_annotations`), below `folder`
    or from the working directory; without it, `folder`/annotations, else `folder` itself. `classes` gives the
    groups of each class; groups that no class names are background. Labels come from the share of a tile that
    is covered, of the part inside the slide, or from its centre (see `label_boxes`): a tile across a border is
    NaN, so it is there, and neither loss nor metric counts it. What of a slide lies in no region is normal: on
    slides that were annotated only in part, use `ignore`. `unannotated` says what a slide without a file is.

    Groups that must not be split are patients, from the columns slide_id and patient_id of the CSV `patients`, or
    of the run's slides.csv, else slides. Its column `split` gives the official parts. Tiles that could not be
    read are left out, and so are slides that the run's slides.csv says have failed. Raises ConfigError for
    options, names, files and scales that do not go together, StoreError for a store that is not complete.
    """
    table = _slide_table(folder, patients)
    stores = _open_stores(folder, table)
    regions = _regions(folder, stores, annotations, unannotated=unannotated, full_frame=full_frame)
    stores = [store for store in stores if store.grid.slide.id in regions]
    groups = classes_of(classes, list(regions.values()), ignore=ignore)
    rule = LabelRule(groups, ignore, label_from, positive_share, negative_share)
    rows = [_readable(store) for store in stores]
    labels = [_labels(s.grid, regions[s.grid.slide.id], rule)[k] for s, k in zip(stores, rows, strict=True)]
    columns = pd.concat([_columns(s.grid).iloc[k] for s, k in zip(stores, rows, strict=True)], ignore_index=True)
    if not len(columns):
        raise ConfigError(f"{folder.name}: no tile in {len(stores)} slides; cut them with less tiles.min_tissue")
    slides = columns["slide"]
    return LabelledImages(
        name="tiles",
        class_names=tuple(groups),
        labels=np.concatenate(labels),
        ids=np.array(columns.pop("id"), dtype=object),
        patients=np.array(slides if table is None else slides.map(table["patient"]), dtype=object),
        read=TileLookup(tuple(stores), np.repeat(np.arange(len(stores)), [len(k) for k in rows]), np.concatenate(rows)),
        kind="histology",
        positive=_positive(positive, tuple(groups)),
        mpp=stores[0].grid.mpp.mean,
        official=None if table is None or not table["part"].any() else slides.map(table["part"]).to_numpy(str),
        columns=columns,
    )


def _slide_table(folder: Path, patients: str | None) -> pd.DataFrame | None:
    """What is known of slides: `patient`, `part` and `status` by slide id; None where nothing is."""
    path = _below(folder, patients) if patients else folder / "slides.csv"
    if not patients and not path.exists():
        return None
    table = read_table(path)
    slides = table.required("slide_id")
    table.refuse_repeats(slides)
    known = table.required("patient_id") if patients else [_FORMULA.sub("", text) for text in table.text("patient_id")]
    return pd.DataFrame(
        {
            "patient": [patient or slide for patient, slide in zip(known, slides, strict=True)],
            "part": part_names(table.text("split")) if table.has("split") else "",
            "status": table.text("status") if table.has("status") else "",
        },
        index=pd.Index(slides, dtype=object),
    )


def _below(folder: Path, name: str) -> Path:
    """A path below `folder`, else from the working directory."""
    return folder / name if (folder / name).exists() else Path(name)


def _open_stores(folder: Path, table: pd.DataFrame | None) -> list[TileStore]:
    """The stores of the folder, of one size and scale; each slide must be in the table, where there is one."""
    home = folder / "tiles" if (folder / "tiles").is_dir() else folder
    failed = set() if table is None else set(table.index[table["status"].isin(FAILED)])
    paths = [path for path in sorted(home.glob("*.zarr")) if path.stem not in failed]
    if not paths:
        raise ConfigError(f"{folder}: no tile stores in it; give a run folder, or a folder of <slide>.zarr")
    stores = [open_store(path) for path in paths]
    for store in stores:
        slide = store.grid.slide.id
        if table is not None and slide not in table.index:
            raise ConfigError(f"{Path(store.path).name}: slide {slide!r} is not in the table of patients; add it")
        _refuse_other_scale(stores[0], store)
    return stores


def _refuse_other_scale(first: TileStore, store: TileStore) -> None:
    """A classifier knows one size and scale; scales within 2 % of the asked one are one, so 4 % apart at most."""
    a, b = first.grid, store.grid
    if a.tile_px != b.tile_px or not (1 + SAME_SCALE) ** -2 <= a.mpp.mean / b.mpp.mean <= (1 + SAME_SCALE) ** 2:
        raise ConfigError(
            f"{Path(first.path).name} has tiles of {a.tile_px} px at {a.mpp.mean:.4g} um/px, "
            f"{Path(store.path).name} of {b.tile_px} px at {b.mpp.mean:.4g}; cut all alike"
        )


def _regions(
    folder: Path, stores: Sequence[TileStore], annotations: str | None, *, unannotated: str, full_frame: bool
) -> dict[str, Regions]:
    """The regions of each slide that is used, by its id; none for a slide that counts as normal."""
    if unannotated not in ("error", "skip", "normal"):
        raise ConfigError(f"unannotated {unannotated!r}: give error, skip or normal")
    beside = folder / "annotations" if (folder / "annotations").is_dir() else folder
    place = _below(folder, annotations) if annotations else beside
    files = find_annotations(place)
    slides = [store.grid.slide for store in stores]
    if place == folder:  # where run.json and other files lie too
        ids = {name_key(slide.id) for slide in slides}
        files = {name: path for name, path in files.items() if name in ids}
        if not files and unannotated != "normal":
            raise ConfigError(f"{folder}: no annotation of its {len(slides)} slides; put them in {folder}/annotations, "
                              f"or say where they are with data.options.annotations=FOLDER")  # fmt: skip
    lacking = [slide.id for slide in slides if name_key(slide.id) not in files]
    if len(lacking) == len(slides) and (files or unannotated == "skip"):
        names = ", ".join(path.name for path in list(files.values())[:3])
        raise ConfigError(f"{place}: no annotation is named after a slide; slides are {', '.join(lacking[:3])}, "
                          f"annotations {names or 'none'}")  # fmt: skip
    if lacking and unannotated == "error":
        raise ConfigError(f"{place}: {len(lacking)} of {len(slides)} slides have no annotation, such as "
                          f"{', '.join(lacking[:3])}; add them, or say unannotated: normal or skip")  # fmt: skip
    found = {
        slide.id: read_annotations(files[name_key(slide.id)], slide, full_frame=full_frame)
        for slide in slides
        if name_key(slide.id) in files
    }
    return found | ({name: RegionDraft().regions() for name in lacking} if unannotated == "normal" else {})


def _readable(store: TileStore) -> np.ndarray:
    """Rows of the tiles that could be read; of a store of coordinates nobody knows yet."""
    if not store.pixels:
        return np.arange(store.n_tiles)
    return np.flatnonzero(read_array(zarr.open_group(store.path, mode="r"), "readable"))


def _labels(grid: TileGrid, regions: Regions, rule: LabelRule) -> np.ndarray:
    """(N, C) of all tiles of a grid, by their part inside the slide; the white beyond it is no tissue."""
    boxes = grid.boxes_l0(0, len(grid))
    boxes[:, 2:] = np.minimum(boxes[:, 2:], np.maximum(np.array(grid.slide.size_l0) - boxes[:, :2], 1))
    return label_boxes(regions, boxes, rule)


def _columns(grid: TileGrid) -> pd.DataFrame:
    """A row a tile: its id, slide, level-0 top left, and share of tissue."""
    slide, (x, y) = grid.slide.id, grid.xy_l0.T
    names = [f"{slide}:{row}:{col}" for row, col in grid.rowcol.tolist()]
    return pd.DataFrame({"id": names, "slide": slide, "x": x, "y": y, "tissue": grid.tissue})


def _positive(given: Sequence[str] | None, classes: tuple[str, ...]) -> tuple[str, ...]:
    """The classes that count as cancer: as given, else the only one, else none."""
    chosen = tuple(given) if given is not None else classes if len(classes) == 1 else ()
    unknown = [name for name in chosen if name not in classes]
    if unknown:
        raise ConfigError(f"positive {unknown[0]!r}: no class of that name; there are {', '.join(classes)}")
    return chosen
