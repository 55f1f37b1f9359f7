"""One slide through its steps: opened and cut, scored, drawn; each does only what is missing.

Whatever goes wrong in one ends the slide, in `attempt`.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from importlib import import_module
from pathlib import Path
from time import perf_counter

from wsi_pipeline.errors import ClusterError, SlideError, StalledError, StoreError, WorkersGoneError
from wsi_pipeline.geometry import Mpp
from wsi_pipeline.keys import made_with, mapping_key, scoring_key, tiling_key
from wsi_pipeline.maps.result import SlideResult
from wsi_pipeline.pipeline.outputs import ENDINGS, MappingSettings, map_files, mapping_settings
from wsi_pipeline.pipeline.rows import as_recorded, failure, of_work, reached
from wsi_pipeline.pipeline.seen import recall, remember, source_of
from wsi_pipeline.pipeline.settings import tiling_settings
from wsi_pipeline.pipeline.tile import fill_store, kept_tiles, lay_tiles
from wsi_pipeline.pipeline.work import Run, Work
from wsi_pipeline.slide.entry import SlideEntry
from wsi_pipeline.slide.reader import Slide, open_slide
from wsi_pipeline.slide.urls import is_absent, is_url
from wsi_pipeline.tiles.codecs import store_bytes
from wsi_pipeline.tiles.places import filled
from wsi_pipeline.tiles.store import open_store
from wsi_pipeline.tiles.tiler import CutResult, check_readable


def attempt(run: Run, step: Callable[[Run, Work], None], work: Work) -> Work:
    """Take one step; whatever goes wrong ends this slide alone. The one broad except of the package.

    Raises WorkersGoneError, as no slide has a chance then.
    """
    if work.result is not None or work.elsewhere:
        return work
    try:
        step(run, work)
    except WorkersGoneError:
        raise
    except Exception as error:
        work.result = failure(run, work, error)
    return work


def tile_slide(run: Run, work: Work) -> None:
    """Claim the slide, open it, find its tissue and cut its tiles; kept as it is where its record still holds."""
    work.stage, work.started = "open", perf_counter()
    entry, config = work.entry, run.config
    if not run.claims.take(entry.slide_id):
        work.elsewhere = True
        return
    if (failed := _failed_elsewhere(run, entry.slide_id)) is not None:
        work.result = failed
        return
    run.tell("slide_started", slide_id=entry.slide_id, job=run.claims.job)
    work.slide = _opened(run, work)
    mpp = work.slide.mpp_l0
    work.tiles_key = tiling_key(config, work.slide.fingerprint, (mpp.x, mpp.y))
    if run.classifier is not None:
        work.scores_key = scoring_key(config, work.tiles_key, run.classifier.id)
        work.maps_key = mapping_key(config, work.scores_key)
        if run.until == "map" and (kept := _kept(run, work)) is not None:
            work.result = kept
            return
    _forget(run, work)
    _cut(run, work)


def _cut(run: Run, work: Work) -> None:
    """Find the tissue of a slide that is open and cut its tiles, as far as that is not done."""
    assert work.slide is not None
    work.stage = "tissue"
    slide_id, config = work.entry.slide_id, run.config
    store = run.folder.store(slide_id)
    settings = tiling_settings(config)
    tiles = run.cluster.submit(lay_tiles, work.slide, store, work.tiles_key, settings).result()
    size = store_bytes(tiles, settings.tile_px, settings.codec) if settings.pixels else 0
    run.tell("tiles_planned", slide_id=slide_id, tiles=tiles, bytes=size, job=run.claims.job)
    work.stage = "tiles"
    done = _kept_or_cut(run, work)
    run.tell(
        "tiles_done", slide_id=slide_id, tiles=done.tiles, unreadable=done.unreadable,
        shards_written=done.shards_written, seconds=round(done.seconds, 3), reading_s=round(done.reading_s, 3),
        store_s=round(done.store_s, 3),
    )  # fmt: skip
    if run.until == "tile":
        work.result = _row_so_far(run, work, done.unreadable)


def _kept_or_cut(run: Run, work: Work) -> CutResult:
    """What a store holds once all that can be cut is; where the slide's file is gone, as it is."""
    store, most = run.folder.store(work.entry.slide_id), run.config.tiles.max_unreadable
    if work.gone:
        return kept_tiles(store, max_unreadable=most)
    return fill_store(
        store,
        run.cluster,
        max_unreadable=most,
        model=run.classifier.id if run.classifier else "",
        key=work.scores_key,
        progress=partial(_told, run, "tiles_cut"),
    )


def _told(run: Run, name: str, tiles: int) -> None:
    """Tell of tiles just cut or scored; when the run is being stopped, stop here: what is done is kept."""
    if run.stopping.is_set():
        raise ClusterError("the run was stopped; go on with --resume")
    run.listen(name, {"tiles": tiles})


def score_slide(run: Run, work: Work) -> None:
    """Score its tiles, or take the scores that are there.

    The damage of tiles that were copied as JPEGs, or not stored at all, shows here: too much of it ends the slide.
    """
    work.stage = "score"
    assert run.classifier is not None
    store = run.folder.store(work.entry.slide_id)
    scores = run.classifier.score(store, work.scores_key, progress=partial(_told, run, "tiles_scored"))
    run.tell(
        "scores_done", slide_id=work.entry.slide_id, tiles=scores.tiles,
        tiles_per_s=round(scores.tiles_per_s, 1), busy_share=round(scores.busy_share, 3),
        seconds=round(scores.seconds, 3), filled=scores.filled, resumed=scores.resumed,
    )  # fmt: skip
    assert work.slide is not None
    check_readable(work.slide, scores.unreadable, scores.tiles, run.config.tiles.max_unreadable)
    if run.until == "score":
        work.result = _row_so_far(run, work, scores.unreadable)


def draw_slide(run: Run, work: Work) -> None:
    """Draw its maps and write its record, last of all; a slide that another job has taken over is left to it."""
    work.stage = "map"
    assert run.classifier is not None
    settings = mapping_settings(run.config, run.classifier.id)
    store, maps = run.folder.store(work.entry.slide_id), run.folder.maps
    result = run.cluster.submit(draw_maps, store, maps, run.classifier.id, work.scores_key, settings).result()
    if not run.claims.holds(work.entry.slide_id):  # this job slept for so long that another took the slide over
        work.elsewhere = True
        return
    work.result = of_work(replace(result, seconds=round(work.seconds, 3)), work)
    made = made_with(run.config, run.classifier.id)
    run.folder.record(work.result, work.maps_key, made=made, seen=remember(work.slide, work.source))


def _failed_elsewhere(run: Run, slide_id: str) -> SlideResult | None:
    """How the slide failed in another job while this one ran, where its file is at fault and that took long to find.

    All else is tried again: a machine without the mount, with a full disk or a broken GPU fails what others can do, and
    what does not open fails at once.
    """
    failed = run.folder.failed_since(slide_id, run.claims.began)
    if failed is None or failed.status == "no_mpp":
        return failed
    damaged = (failed.status, failed.stage) == ("unreadable", "tiles") and failed.error != StalledError.__name__
    return failed if damaged else None


def _opened(run: Run, work: Work) -> Slide:
    """The slide, opened by a worker; one whose file is gone is as its store tells, where that has all it takes."""
    entry, mpp_default = work.entry, run.config.slide.mpp_default
    try:
        work.source = source_of(entry, mpp_default)
        seen = recall(run.folder.seen(entry.slide_id), work.source)
        slide: Slide = seen or run.cluster.submit(_open, entry, mpp_default).result()
    except SlideError as error:
        if not _is_gone(entry.path, error) or (stored := _stored(run, entry)) is None:
            raise
        work.gone = True
        return stored
    return slide


def _is_gone(path: str, error: SlideError) -> bool:
    """Whether a slide was not opened because there is no such file; of a path that gives no answer nothing is asked."""
    if is_url(path):
        return is_absent(error.__cause__)
    return not isinstance(error, StalledError) and not Path(path).exists()


def _stored(run: Run, entry: SlideEntry) -> Slide | None:
    """The slide of a store that is complete, was made as it would be now, and keeps pixels."""
    try:
        store = open_store(run.folder.store(entry.slide_id))
    except StoreError:
        return None
    slide, mpp = store.grid.slide, store.grid.slide.mpp_l0
    same = store.key == tiling_key(run.config, slide.fingerprint, (mpp.x, mpp.y)) and store.is_whole()
    return slide if same and store.pixels and _is_scale(mpp, entry, run.config.slide.mpp_default) else None


def _is_scale(mpp: Mpp, entry: SlideEntry, default: float | None) -> bool:
    """Whether a slide that is gone had the scale that manifest and default give now, where one of them does."""
    if entry.mpp or mpp.source == "manifest":
        return entry.mpp == (mpp.x, mpp.y)
    return mpp.source != "default" or default == mpp.x


def _open(entry: SlideEntry, mpp_default: float | None) -> Slide:
    """The task of a worker: a crash in a decoder stays there."""
    return open_slide(entry.path, slide_id=entry.slide_id, mpp=entry.mpp, mpp_default=mpp_default)


def draw_maps(store_path: str, maps: str, model: str, key: str, settings: MappingSettings) -> SlideResult:
    """`map_slide` of pipeline/map.py, as the task of a worker; `maps` is a folder or a URL.

    What draws is loaded by the worker that draws the first: matplotlib, GDAL and scipy take a second and a tenth of a
    gigabyte, in the process that scores too.
    """
    map_slide = import_module("wsi_pipeline.pipeline.map").map_slide
    with filled(maps) as folder:
        drawn: SlideResult = map_slide(store_path, str(folder), model, key, settings)
    return drawn


def _kept(run: Run, work: Work) -> SlideResult | None:
    """What was recorded of the slide, if it would come out the same and all its files are there.

    One with unreadable tiles may come out otherwise, as its file may have been replaced by a whole one: it is kept only
    where the file is gone, or another job recorded it while this one ran.
    """
    slide_id = work.entry.slide_id
    found = run.folder.recorded(slide_id)
    files = map_files(slide_id, mapping_settings(run.config, "").outputs)
    if found is None or found[1] != work.maps_key or not run.folder.has(files):
        return None
    may_heal = found[0].unreadable_tiles and not work.gone
    if may_heal and not run.folder.recorded_since(slide_id, run.claims.began):
        return None
    run.tell("slide_kept", slide_id=slide_id)
    return as_recorded(found[0], work)


def _forget(run: Run, work: Work) -> None:
    """Take back what is told of a slide before it is worked on.

    That is how it failed and, before its maps are drawn anew, its record and its files of outputs that are off now: of
    older maps, they would pass for files of the new ones. So would all, where they are of other knobs and an error ends
    the drawing.
    """
    slide_id, draws = work.entry.slide_id, run.until == "map"  # `tile` and `score` touch no maps
    found = run.folder.recorded(slide_id) if draws else None
    run.folder.forget(slide_id, record=draws)
    if draws:
        same = found is not None and found[1] == work.maps_key
        old = mapping_settings(run.config, "").outputs if same else frozenset()
        run.folder.drop(map_files(slide_id, frozenset(ENDINGS) - old))


def _row_so_far(run: Run, work: Work, unreadable: int) -> SlideResult:
    """The row of a slide at the end of a `tile` or `score` run: that of its maps, where it has some that stand.

    Those of another model or of other knobs do not; `tile` knows of no model and leaves all as they are.
    """
    found = run.folder.recorded(work.entry.slide_id)
    if found is None or work.maps_key not in ("", found[1]):
        return reached(work, open_store(run.folder.store(work.entry.slide_id)), unreadable=unreadable)
    return as_recorded(found[0], work)
