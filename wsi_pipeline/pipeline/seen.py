"""A slide at a URL that a run has seen before -> what it is, without fetching gigabytes to find it unchanged."""

from dataclasses import asdict
from typing import Any

from wsi_pipeline.slide.cache import version_of
from wsi_pipeline.slide.entry import SlideEntry
from wsi_pipeline.slide.reader import Slide
from wsi_pipeline.slide.urls import is_url
from wsi_pipeline.tiles.layout import slide_of


def source_of(entry: SlideEntry, mpp_default: float | None) -> list[Any] | None:
    """All that the description of a slide at a URL depends on; None for a file here, which is quick to open.

    Raises SlideError where the URL cannot be reached.
    """
    if not is_url(entry.path):
        return None
    return [entry.slide_id, entry.path, *version_of(entry.path), entry.mpp and list(entry.mpp), mpp_default]


def remember(slide: Slide | None, source: list[Any] | None) -> dict[str, Any] | None:
    """What to write down of a slide for `recall`; nothing for a file here."""
    return None if slide is None or source is None else {"source": source, "slide": asdict(slide)}


def recall(written: Any, source: list[Any] | None) -> Slide | None:
    """The slide that was written down, if it comes from the same source."""
    if source is None or not isinstance(written, dict) or written.get("source") != source:
        return None
    try:
        return slide_of(written["slide"])
    except (KeyError, TypeError):
        return None
