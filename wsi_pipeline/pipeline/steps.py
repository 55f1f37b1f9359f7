"""One slide through its steps: opened and cut, scored, drawn; each does only what is missing.

Whatever goes wrong in one ends the slide, in `attempt`.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from importlib import import_module
from time import perf_counter

from wsi_pipeline.errors import ClusterError
from wsi_pipeline.keys import mapping_key, scoring_key, tiling_key
from wsi_pipeline.maps.result import SlideResult
from wsi_pipeline.pipeline.outputs import MappingSettings, map_files, mapping_settings
from wsi_pipeline.pipeline.rows import failure, reached, with_entry
from wsi_pipeline.pipeline.seen import recall, remember, source_of
from wsi_pipeline.pipeline.settings import tiling_settings
from wsi_pipeline.pipeline.tile import fill_store, lay_tiles
from wsi_pipeline.pipeline.work import Run, Work
from wsi_pipeline.slide.cohort import SlideEntry
from wsi_pipeline.slide.reader import Slide, open_slide
from wsi_pipeline.tiles.codecs import store_bytes
from wsi_pipeline.tiles.places import filled


def attempt(run: Run, step: Callable[[Run, Work], None], work: Work) -> Work:
    """Take one step; whatever goes wrong ends this slide alone. The one broad except of the package."""
    if work.result is not None or work.elsewhere:
        return work
    try:
        step(run, work)
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
    if (failed := run.folder.failed_since(entry.slide_id, run.claims.began)) is not None:
        work.result = failed  # in another job, while this one ran: it would fail again
        return
    run.tell("slide_started", slide_id=entry.slide_id, job=run.claims.job)
    work.source = source_of(entry, config.slide.mpp_default)
    work.slide = (
        recall(run.folder.seen(entry.slide_id), work.source)
        or run.cluster.submit(_open, entry, config.slide.mpp_default).result()
    )
    assert work.slide is not None
    mpp = work.slide.mpp_l0
    work.tiles_key = tiling_key(config, work.slide.fingerprint, (mpp.x, mpp.y))
    if run.classifier is not None:
        work.scores_key = scoring_key(config, work.tiles_key, run.classifier.id)
        work.maps_key = mapping_key(config, work.scores_key)
        if run.until == "map" and (kept := _kept(run, work)) is not None:
            work.result = kept
            return
    run.folder.forget(entry.slide_id)
    work.stage = "tissue"
    store = run.folder.store(entry.slide_id)
    settings = tiling_settings(config)
    tiles = run.cluster.submit(lay_tiles, work.slide, store, work.tiles_key, settings).result()
    size = store_bytes(tiles, settings.tile_px, settings.codec) if settings.pixels else 0
    run.tell("tiles_planned", slide_id=entry.slide_id, tiles=tiles, bytes=size, job=run.claims.job)
    work.stage = "tiles"
    done = fill_store(
        store,
        run.cluster,
        max_unreadable=config.tiles.max_unreadable,
        progress=partial(_told, run, "tiles_cut"),
    )
    run.tell(
        "tiles_done", slide_id=entry.slide_id, tiles=done.tiles, unreadable=done.unreadable,
        shards_written=done.shards_written, seconds=round(done.seconds, 3), reading_s=round(done.reading_s, 3),
        store_s=round(done.store_s, 3),
    )  # fmt: skip
    if run.until == "tile":
        work.result = reached(work, done.tiles)


def _told(run: Run, name: str, tiles: int) -> None:
    """Tell of tiles just cut or scored; when the run is being stopped, stop here: what is done is kept."""
    if run.stopping.is_set():
        raise ClusterError("the run was stopped; go on with --resume")
    run.listen(name, {"tiles": tiles})


def score_slide(run: Run, work: Work) -> None:
    """Score its tiles, or take the scores that are there."""
    work.stage = "score"
    assert run.classifier is not None
    store = run.folder.store(work.entry.slide_id)
    scores = run.classifier.score(store, work.scores_key, progress=partial(_told, run, "tiles_scored"))
    run.tell(
        "scores_done", slide_id=work.entry.slide_id, tiles=scores.rows,
        tiles_per_s=round(scores.tiles_per_s, 1), busy_share=round(scores.busy_share, 3),
        seconds=round(scores.seconds, 3), filled=scores.filled, resumed=scores.resumed,
    )  # fmt: skip
    if run.until == "score":
        work.result = reached(work, scores.rows)


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
    work.result = with_entry(replace(result, seconds=round(work.seconds, 3)), work.entry)
    run.folder.record(work.result, work.maps_key, seen=remember(work.slide, work.source))


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
    """What was recorded of the slide, if it would come out the same and all its files are there."""
    found = run.folder.recorded(work.entry.slide_id)
    outputs = mapping_settings(run.config, "").outputs
    files = map_files(work.entry.slide_id, outputs)
    if found is None or found[1] != work.maps_key or not run.folder.has(files):
        return None
    run.tell("slide_kept", slide_id=work.entry.slide_id)
    return with_entry(found[0], work.entry)
