"""A slide file -> what it is: by OpenSlide, by its TIFF tags, or by both."""

import os
from dataclasses import replace
from pathlib import Path

from wsi_pipeline.errors import SlideError
from wsi_pipeline.slide.cache import hold
from wsi_pipeline.slide.describe import Facts, Slide, describe
from wsi_pipeline.slide.files import check_file, is_tiff, shown
from wsi_pipeline.slide.openslide_pixels import GENERIC, facts_of_openslide, format_of
from wsi_pipeline.slide.tiff_tags import TiffTags, facts_of_tiff, impossible, tiff_tags
from wsi_pipeline.slide.urls import is_url

Pair = tuple[float, float]

_IN_FOLDERS = (".mrxs", ".vms", ".vmu")


def open_slide(
    path: str | Path,
    *,
    slide_id: str | None = None,
    mpp: Pair | None = None,
    mpp_default: float | None = None,
) -> Slide:
    """Open the file, or the one at a URL, see what it is, close it.

    `mpp` is the manifest's (x, y), `mpp_default` is for files that tell none. Raises SlideError where the
    file cannot be read or is no RGB brightfield slide, ScaleError where its scale is missing or implausible.
    """
    where = str(path) if is_url(path) else os.path.abspath(path)
    with hold(where) as held:
        check_file(held.path)
        found = describe(held.path, _facts(held.path), slide_id=slide_id, mpp=mpp, mpp_default=mpp_default)
    return replace(found, path=where)


def _facts(path: Path) -> Facts:
    """What OpenSlide says of a file; tifffile where it cannot, sees another image or fewer levels, or turns tiles."""
    kind = format_of(path)
    tiff = _tags(path, kind)
    if tiff is None:
        return facts_of_openslide(path, None)
    if kind is None:
        return facts_of_tiff(path, tiff)
    try:
        found = facts_of_openslide(path, tiff)
    except SlideError as refused:
        if kind != GENERIC:
            raise
        try:
            return facts_of_tiff(path, tiff)  # a codec that OpenSlide has not
        except SlideError:
            raise refused from None
    other = found.level_sizes[0] != tiff.level_sizes[0]  # OpenSlide takes the first tiled page, a macro too
    fewer = len(found.level_sizes) < len(tiff.level_sizes)
    odd = other or fewer or (tiff.turned and tiff.codec != "JPEG")  # OpenSlide turns each such tile in its place
    return facts_of_tiff(path, tiff) if kind == GENERIC and odd else found


def _tags(path: Path, kind: str | None) -> TiffTags | None:
    """What a TIFF's tags say; None where OpenSlide must do without. SlideError where it is no slide."""
    if not is_tiff(path):
        if kind is None:
            hint = "; the folder of its data must lie beside it" if path.suffix.lower() in _IN_FOLDERS else ""
            said = f"in no slide format known to OpenSlide{hint}; take it out or convert it"
            raise SlideError(f"{shown(path)}: {said}")
        return None
    if said := impossible(path):
        raise SlideError(f"{shown(path)}: {said}")
    try:
        tags = tiff_tags(path)
    except SlideError:
        if kind is None:
            raise
        return None  # OpenSlide reads some TIFFs that tifffile does not
    if tags.not_rgb or (kind in (None, GENERIC) and tags.not_whole):
        raise SlideError(f"{shown(path)}: {tags.not_whole or tags.not_rgb}")
    return tags
