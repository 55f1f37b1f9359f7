"""Annotation files named after slides -> the Regions of each slide, and labels of tiles from them."""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from wsi_pipeline.errors import ConfigError
from wsi_pipeline.learn.datasets.table import read_table
from wsi_pipeline.slide.entry import name_key
from wsi_pipeline.slide.reader import Slide
from wsi_pipeline.slide.region_files import qupath_corner, read_regions
from wsi_pipeline.slide.regions import UNNAMED, Regions, at_points, share_in_boxes

LabelFrom = Literal["share", "centre"]

# Groups, also values of masks, that are taken for tumour where nobody says what they are; lower case.
TUMOUR = frozenset(
    ["_0", "_1", "tumor", "tumour", "metastases", "metastasis", "positive", "cancer", "carcinoma", "lesion", "1", "255"]
)
_OUTLINES = (".xml", ".json", ".geojson")
_MASKS = ("_mask.tif", "_mask.tiff")
_SLACK = 1e-9  # shares are sums of areas


@dataclass(frozen=True)
class LabelRule:
    """How regions become labels; see `label_boxes`.

    Attributes:
        classes: the groups of each class.
        ignore: groups whose tiles are unknown.
        label_from: "share" of the tile's area, or its "centre".
        positive_share, negative_share: 0-1, from and up to which a tile is sure.
    """

    classes: Mapping[str, Collection[str]]
    ignore: Collection[str]
    label_from: LabelFrom
    positive_share: float
    negative_share: float

    def __post_init__(self) -> None:
        if self.label_from not in ("share", "centre"):
            raise ConfigError(f"label_from {self.label_from!r}: give share or centre")
        if not 0 <= self.negative_share <= self.positive_share <= 1 or not self.positive_share:
            raise ConfigError(f"negative_share {self.negative_share:g}, positive_share {self.positive_share:g}: "
                              "both lie in 0 to 1, the first not above the second, the second above 0")  # fmt: skip
        if not self.classes:
            raise ConfigError("classes: none given; name at least one with its groups, such as {tumour: [Tumor]}")


def find_annotations(place: Path) -> dict[str, Path]:
    """The annotation file of each slide, by `name_key` of its id.

    A folder holds <slide>.xml, .geojson, .json or <slide>_mask.tif; a CSV has columns `slide_id` and
    `annotation`, a path from where it lies or nothing. Raises ConfigError where a slide has two, or a file is
    not there.
    """
    if place.is_file():
        return _listed_annotations(place)
    if not place.is_dir():
        raise ConfigError(f"{place}: no such folder or CSV of annotations; correct annotations")
    found: dict[str, Path] = {}
    for path in sorted(place.iterdir()):
        key = _slide_key(path)
        if key and key in found:
            raise ConfigError(f"{found[key].name} and {path.name} annotate the same slide; keep one")
        if key:
            found[key] = path
    return found


def read_annotations(path: Path, slide: Slide, *, full_frame: bool) -> Regions:
    """The regions of one slide; a GeoJSON counts from QuPath's corner, or with `full_frame` from the slide's."""
    corner = (0, 0) if full_frame else qupath_corner(slide)
    return read_regions(path, size_l0=slide.size_l0, corner_l0=corner)


def classes_of(
    given: Mapping[str, str | Sequence[str]] | None, regions: Sequence[Regions], *, ignore: Collection[str]
) -> dict[str, tuple[str, ...]]:
    """The groups of each class: as given, else one class "tumour" of the names that mean it, see TUMOUR.

    Raises ConfigError where the meaning of a group would be guessed, or where a class is nowhere and another
    name is: a slip of the pen.
    """
    drawn = Counter(name for r in regions for name, cut in zip(r.groups, r.cut_out, strict=True) if not cut)
    every = {name.casefold() for r in regions for name in r.groups}
    classes = {"tumour": tuple(sorted(TUMOUR))} if given is None else {k: _names(v) for k, v in given.items()}
    known = _folded([*ignore, *(name for names in classes.values() for name in names)])
    strange = [f"{name!r} ({count})" for name, count in sorted(drawn.items()) if name.casefold() not in known]
    if given is None and strange:
        raise ConfigError(f"annotations have groups that nobody explained: {', '.join(strange)}; "
                          f"name those of each class, such as classes: {{tumour: [Tumor, {UNNAMED}]}}")  # fmt: skip
    for name, groups in classes.items() if strange else ():
        if not _folded(groups) & every:
            raise ConfigError(f"class {name!r}: no annotation has a group {' or '.join(groups)}; "
                              f"there are {', '.join(strange)}")  # fmt: skip
    return classes


def label_boxes(regions: Regions, boxes_l0: np.ndarray, rule: LabelRule) -> np.ndarray:
    """(N, 4) level-0 boxes [x, y, width, height] -> (N, C) float32 labels: 1, 0 or NaN.

    By "share": 1 where the class covers at least `positive_share` of a box, 0 where it covers at most
    `negative_share`, NaN between; by "centre": whether the middle of the box lies in it. NaN for all classes
    where groups to ignore cover more than `negative_share`, or the middle.
    """
    labels = [_label(regions, groups, boxes_l0, rule) for groups in rule.classes.values()]
    unknown = _label(regions, rule.ignore, boxes_l0, rule) != 0
    return np.where(unknown[:, None], np.float32(np.nan), np.stack(labels, axis=1))


def _label(regions: Regions, groups: Collection[str], boxes: np.ndarray, rule: LabelRule) -> np.ndarray:
    """(N,) float32 of one class."""
    chosen = regions.select(groups)
    if rule.label_from == "centre":
        return at_points(chosen, boxes[:, :2] + boxes[:, 2:] / 2).astype(np.float32)
    share = share_in_boxes(chosen, boxes)
    sure = np.where(share >= rule.positive_share - _SLACK, 1.0, np.nan)
    return np.where(share <= rule.negative_share + _SLACK, 0.0, sure).astype(np.float32)


def _slide_key(path: Path) -> str | None:
    """The `name_key` of the slide that a file is named after; None where it is no annotation."""
    name = name_key(path.name)
    if name.startswith(".") or not path.is_file():
        return None
    ending = next((ending for ending in (*_MASKS, *_OUTLINES) if name.endswith(ending)), None)
    return name.removesuffix(ending) if ending else None


def _listed_annotations(path: Path) -> dict[str, Path]:
    table = read_table(path)
    slides = table.required("slide_id")
    table.refuse_repeats([name_key(name) for name in slides])
    found = {}
    for slide, file, place in zip(slides, table.text("annotation"), table.places, strict=True):
        if file and not (path.parent / file).is_file():
            raise ConfigError(f"{place}: {file}: no such file; correct its path, or leave it empty")
        if file:
            found[name_key(slide)] = path.parent / file
    return found


def _names(groups: str | Sequence[str]) -> tuple[str, ...]:
    return (groups,) if isinstance(groups, str) else tuple(str(name) for name in groups)


def _folded(names: Collection[str]) -> set[str]:
    return {name.casefold() for name in names}
