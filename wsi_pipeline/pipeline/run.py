"""A cohort of slides -> slide, tiles, scores, maps of each; what fails is recorded and the rest goes on.

While the classifier scores one slide, the workers cut the tiles of the next and draw the maps of the last. On a
cluster with GPUs as many slides are scored at once, and as many more wait for one, cut and ready.
"""

import time
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from threading import Event
from time import perf_counter
from typing import Any, Literal, Protocol, runtime_checkable

from wsi_pipeline.cluster import Cluster
from wsi_pipeline.config import Config, mapping_key, scoring_key, tiling_key
from wsi_pipeline.errors import ClusterError, ScaleError, SlideError, StalledError, WsiError
from wsi_pipeline.gpus import Gpus
from wsi_pipeline.maps.result import FAILED, SlideResult, without_result
from wsi_pipeline.pipeline.claims import Claims, open_claims
from wsi_pipeline.pipeline.folder import RunFolder
from wsi_pipeline.pipeline.outputs import draw_maps, map_files, mapping_settings
from wsi_pipeline.pipeline.seen import recall, remember, source_of
from wsi_pipeline.pipeline.settings import tiling_settings
from wsi_pipeline.pipeline.tile import fill_store, lay_tiles
from wsi_pipeline.schedulers import SlurmJobs, open_cluster
from wsi_pipeline.slide.cohort import SlideEntry
from wsi_pipeline.slide.files import by_own_name
from wsi_pipeline.slide.reader import Slide, open_slide
from wsi_pipeline.slurm import SlurmSettings
from wsi_pipeline.tiles.codecs import store_bytes

_POLL_S = 2.0  # between looks at slides that other jobs are working on
Stage = Literal["tile", "score", "map"]
Listen = Callable[[str, dict[str, Any]], None]


class Scoring(Protocol):
    """What the run needs of a classifier; see pipeline/score.py."""

    id: str

    def score(self, store_path: str, key: str, progress: Callable[[int], None] | None = None) -> Any: ...


@runtime_checkable
class Placeable(Protocol):
    """A classifier that scores where the cluster's GPUs are; see pipeline/lanes.py."""

    def place(self, gpus: Gpus | None) -> Scoring: ...


class Work:
    """One slide on its way: what is known of it so far, and the stage it is in."""

    def __init__(self, entry: SlideEntry) -> None:
        self.entry = entry
        self.stage = "open"
        self.started = perf_counter()
        self.slide: Slide | None = None
        self.source: list[Any] | None = None
        self.tiles_key = self.scores_key = self.maps_key = ""
        self.result: SlideResult | None = None
        self.elsewhere = False  # another job has it

    @property
    def seconds(self) -> float:
        return perf_counter() - self.started


@dataclass(frozen=True)
class Run:
    """What every step of a run shares."""

    folder: RunFolder
    config: Config
    cluster: Cluster
    classifier: Scoring | None
    until: Stage
    listen: Listen
    claims: Claims
    stopping: Event

    def tell(self, name: str, **facts: Any) -> None:
        """Write an event down and show it."""
        self.folder.event(name, **facts)
        self.listen(name, facts)


def run_cohort(
    entries: Sequence[SlideEntry],
    folder: RunFolder,
    config: Config,
    *,
    classifier: Scoring | None = None,
    until: Stage = "map",
    listen: Listen = lambda name, facts: None,
) -> Iterator[SlideResult]:
    """Take each slide as far as `until`, doing only what is missing; yield its row as it ends.

    A slide whose record, files and keys are as they would come out again is kept. No slide's failure ends
    the run. With `until` "tile" or "score" a slide that got there is yielded with status "ok". Several jobs
    may work on one folder: each slide is done by one of them, and all yield its row.
    """
    with (
        open_claims(folder.claims) as claims,
        open_cluster(config.run.scheduler, workers=config.run.workers, slurm=_slurm(config, folder)) as cluster,
        ThreadPoolExecutor(cluster.slides_at_once, thread_name_prefix="tile") as tiling,
        ThreadPoolExecutor(_ending_at_once(cluster), thread_name_prefix="map") as mapping,
    ):
        if isinstance(classifier, Placeable):
            classifier = classifier.place(cluster.gpus)
        cluster.stall_s = config.run.stall_s
        run, began = Run(folder, config, cluster, classifier, until, listen, claims, Event()), perf_counter()
        waiting = [Work(entry) for entry in entries]
        try:
            while waiting:
                elsewhere: list[Work] = []
                for work in _pass(run, waiting, tiling, mapping):
                    if work.elsewhere:
                        elsewhere.append(Work(work.entry))
                    else:
                        yield _finish(run, work)
                if elsewhere:
                    if len(elsewhere) < len(waiting):
                        run.tell("waiting", slides=len(elsewhere), owner=claims.owner(elsewhere[0].entry.slide_id))
                    time.sleep(_POLL_S)
                waiting = elsewhere
        finally:
            run.stopping.set()
            cluster.stop()
            listen("workers_done", _worked(cluster, perf_counter() - began))
            tiling.shutdown(wait=False, cancel_futures=True)
            mapping.shutdown(wait=False, cancel_futures=True)


def _pass(run: Run, works: Sequence[Work], tiling: ThreadPoolExecutor, mapping: ThreadPoolExecutor) -> Iterator[Work]:
    """Take each slide through all its steps; those that other jobs have come out untouched."""
    mapped: deque[Future[Work]] = deque()
    for work in _ahead(tiling, partial(_attempt, run, _tile), works, run.cluster.slides_at_once + 1):
        if run.cluster.gpus is None:
            _attempt(run, _score, work)
            mapped.append(mapping.submit(_attempt, run, _map, work))
        else:
            mapped.append(mapping.submit(_score_and_map, run, work))
        while mapped and (mapped[0].done() or len(mapped) > _ending_at_once(run.cluster) + 1):
            yield mapped.popleft().result()
    while mapped:
        yield mapped.popleft().result()


def _ahead(pool: ThreadPoolExecutor, step: Callable[[Work], Work], works: Sequence[Work], ahead: int) -> Iterator[Work]:
    """Each work after its step, in order, the step being taken for `ahead` of them."""
    waiting: deque[Future[Work]] = deque()
    for work in works:
        waiting.append(pool.submit(step, work))
        if len(waiting) > ahead:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


def _slurm(config: Config, folder: RunFolder) -> SlurmJobs:
    return SlurmJobs(SlurmSettings(**config.slurm.model_dump()), str(folder.root / "logs" / "slurm"))


def _worked(cluster: Cluster, seconds: float) -> dict[str, Any]:
    """What the workers did in the time that they were there; see pipeline/account.py."""
    scorers = cluster.gpus.n_gpus if cluster.gpus else 1
    return {"workers": cluster.n_workers, "scorers": scorers, "seconds": seconds, "spent": dict(cluster.spent)}


def _ending_at_once(cluster: Cluster) -> int:
    """Slides past their tiles: two a GPU, of which one waits for it, and those being drawn."""
    return cluster.slides_at_once + (2 * cluster.gpus.n_gpus if cluster.gpus else 0)


def _score_and_map(run: Run, work: Work) -> Work:
    return _attempt(run, _map, _attempt(run, _score, work))


def _attempt(run: Run, step: Callable[[Run, Work], None], work: Work) -> Work:
    """Take one step; whatever goes wrong ends this slide alone. The one broad except of the package."""
    if work.result is not None or work.elsewhere:
        return work
    try:
        step(run, work)
    except Exception as error:
        work.result = _failure(run, work, error)
    return work


def _tile(run: Run, work: Work) -> None:
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
        progress=partial(_cut, run),
    )
    run.tell(
        "tiles_done", slide_id=entry.slide_id, tiles=done.tiles, unreadable=done.unreadable,
        shards_written=done.shards_written, seconds=round(done.seconds, 3), reading_s=round(done.reading_s, 3),
        store_s=round(done.store_s, 3),
    )  # fmt: skip
    if run.until == "tile":
        work.result = _reached(run, work, done.tiles)


def _cut(run: Run, tiles: int) -> None:
    """Tell of a shard; when the run is being stopped, stop here: what is cut is kept."""
    if run.stopping.is_set():
        raise ClusterError("the run was stopped; go on with --resume")
    run.listen("tiles_cut", {"tiles": tiles})


def _score(run: Run, work: Work) -> None:
    work.stage = "score"
    assert run.classifier is not None
    store = run.folder.store(work.entry.slide_id)
    scores = run.classifier.score(store, work.scores_key, progress=partial(_scored, run))
    run.tell(
        "scores_done", slide_id=work.entry.slide_id, tiles=scores.rows,
        tiles_per_s=round(scores.tiles_per_s, 1), busy_share=round(scores.busy_share, 3),
        seconds=round(scores.seconds, 3), filled=scores.filled, resumed=scores.resumed,
    )  # fmt: skip
    if run.until == "score":
        work.result = _reached(run, work, scores.rows)


def _scored(run: Run, tiles: int) -> None:
    """Tell of tiles just scored; when the run is being stopped, stop here: what is scored is kept."""
    if run.stopping.is_set():
        raise ClusterError("the run was stopped; go on with --resume")
    run.listen("tiles_scored", {"tiles": tiles})


def _map(run: Run, work: Work) -> None:
    work.stage = "map"
    assert run.classifier is not None
    settings = mapping_settings(run.config, run.classifier.id)
    store, maps = run.folder.store(work.entry.slide_id), run.folder.maps
    result = run.cluster.submit(draw_maps, store, maps, run.classifier.id, work.scores_key, settings).result()
    if not run.claims.holds(work.entry.slide_id):  # this job slept for so long that another took the slide over
        work.elsewhere = True
        return
    work.result = _with_entry(replace(result, seconds=round(work.seconds, 3)), work.entry)
    run.folder.record(work.result, work.maps_key, seen=remember(work.slide, work.source))


def _open(entry: SlideEntry, mpp_default: float | None) -> Slide:
    """The task of a worker: a crash in a decoder stays there."""
    return open_slide(entry.path, slide_id=entry.slide_id, mpp=entry.mpp, mpp_default=mpp_default)


def _kept(run: Run, work: Work) -> SlideResult | None:
    """What was recorded of the slide, if it would come out the same and all its files are there."""
    found = run.folder.recorded(work.entry.slide_id)
    outputs = mapping_settings(run.config, "").outputs
    files = map_files(work.entry.slide_id, outputs)
    if found is None or found[1] != work.maps_key or not run.folder.has(files):
        return None
    run.tell("slide_kept", slide_id=work.entry.slide_id)
    return _with_entry(found[0], work.entry)


def _finish(run: Run, work: Work) -> SlideResult:
    assert work.result is not None
    result = work.result
    if result.status in FAILED:
        run.folder.record_failure(result)
    run.claims.free(result.slide_id)
    run.tell(
        "slide_done", slide_id=result.slide_id, status=result.status, stage=result.stage, message=result.message,
        seconds=result.seconds,
    )  # fmt: skip
    return result


def _reached(run: Run, work: Work, tiles: int) -> SlideResult:
    """The row of a slide that a `tile` or `score` run took as far as it goes."""
    result = without_result(work.entry.slide_id, "ok" if tiles else "no_tissue", stage=work.stage, slide=work.slide)
    return _with_entry(replace(result, tiles=tiles, seconds=round(work.seconds, 3)), work.entry)


def _failure(run: Run, work: Work, error: Exception) -> SlideResult:
    """The row of a slide that failed; the traceback of what was not foreseen goes to its log."""
    path = Path(work.entry.path)
    if not isinstance(error, WsiError):
        text = by_own_name("".join(traceback.format_exception(error)), path)
        run.folder.event("traceback", slide_id=work.entry.slide_id, text=text)
    message = run.folder.told(str(error) if isinstance(error, WsiError) else f"{type(error).__name__}: {error}")
    stalled = isinstance(error, StalledError)  # then nothing more is asked of its path
    result = without_result(
        work.entry.slide_id,
        _status_of(error, work.stage),
        stage=work.stage,
        error=type(error).__name__,
        message=f"{path.name}: {message}" if stalled else by_own_name(message, path),
        slide=work.slide,
    )
    return _with_entry(replace(result, seconds=round(work.seconds, 3)), work.entry)


def _status_of(error: Exception, stage: str) -> str:
    if isinstance(error, ScaleError) and stage == "open":
        return "no_mpp"
    of_slide = isinstance(error, SlideError) and stage != "map"  # maps are drawn from the store alone
    return "unreadable" if of_slide else "failed"


def _with_entry(result: SlideResult, entry: SlideEntry) -> SlideResult:
    """The row with what the manifest says of the slide."""
    return replace(result, label=entry.label, patient_id=entry.patient_id, split=entry.split)
