"""How a slide's way ended -> its row: as far as it was asked to go, or where and why it failed."""

import traceback
from dataclasses import replace
from pathlib import Path

from wsi_pipeline.errors import ScaleError, SlideError, StalledError, WsiError
from wsi_pipeline.maps.result import SlideResult, without_result
from wsi_pipeline.pipeline.pseudonyms import behind_link
from wsi_pipeline.pipeline.work import Run, Work
from wsi_pipeline.slide.entry import SlideEntry
from wsi_pipeline.slide.files import by_own_name
from wsi_pipeline.tiles.store import TileStore

_GONE = "file not found; from kept tiles"


def reached(work: Work, store: TileStore, *, unreadable: int) -> SlideResult:
    """The row of a slide that a `tile` or `score` run took as far as it goes, with what its store tells."""
    status = "no_tissue" if not store.n_tiles else "partial" if unreadable else "ok"
    result = without_result(work.entry.slide_id, status, stage=work.stage, slide=work.slide)
    result = replace(
        result,
        tissue_mm2=store.tissue_mm2,
        tiles=store.n_tiles,
        unreadable_tiles=unreadable,
        seconds=round(work.seconds, 3),
        warnings=store.warnings,
    )
    return of_work(result, work)


def failure(run: Run, work: Work, error: Exception) -> SlideResult:
    """The row of a slide that failed; the traceback of what was not foreseen goes to its log."""
    path = Path(work.entry.path)
    if not isinstance(error, WsiError):
        text = by_own_name("".join(traceback.format_exception(error)), path)
        run.folder.event("traceback", slide_id=work.entry.slide_id, text=text)
    message = run.folder.told(str(error) if isinstance(error, WsiError) else f"{type(error).__name__}: {error}")
    stalled = isinstance(error, StalledError)  # then nothing more is asked of its path
    if isinstance(error, SlideError) and not stalled:
        message = behind_link(path) or message
    result = without_result(
        work.entry.slide_id,
        _status_of(error, work.stage),
        stage=work.stage,
        error=type(error).__name__,
        message=f"{path.name}: {message}" if stalled else by_own_name(message, path),
        slide=work.slide,
    )
    return of_work(replace(result, seconds=round(work.seconds, 3)), work)


def _status_of(error: Exception, stage: str) -> str:
    if isinstance(error, ScaleError) and stage == "open":
        return "no_mpp"
    of_slide = isinstance(error, SlideError) and stage != "map"  # maps are drawn from the store alone
    return "unreadable" if of_slide else "failed"


def as_recorded(row: SlideResult, work: Work) -> SlideResult:
    """A row of before, with what is known of the slide now that its numbers do not hang on."""
    source = work.slide.mpp_l0.source if work.slide else row.mpp_source
    return of_work(replace(row, mpp_source=source), work)


def of_work(row: SlideResult, work: Work) -> SlideResult:
    """The row with what the manifest says of the slide, and a warning where its file is gone now."""
    others = tuple(warning for warning in row.warnings if warning != _GONE)
    return with_entry(replace(row, warnings=(*others, _GONE) if work.gone else others), work.entry)


def with_entry(result: SlideResult, entry: SlideEntry) -> SlideResult:
    """The row with what the manifest says of the slide."""
    return replace(result, label=entry.label, patient_id=entry.patient_id, split=entry.split)
