"""A cohort of slides -> slide, tiles, scores, maps of each; what fails is recorded and the rest goes on.

While the classifier scores one slide, the workers cut the tiles of the next and draw the maps of the last. On a
cluster with GPUs as many slides are scored at once, and as many more wait for one, cut and ready.
"""

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from threading import Event
from time import perf_counter
from typing import Any

from wsi_pipeline.cluster import Cluster
from wsi_pipeline.config import Config
from wsi_pipeline.maps.result import FAILED, SlideResult
from wsi_pipeline.pipeline.claims import Claims, open_claims
from wsi_pipeline.pipeline.folder import RunFolder
from wsi_pipeline.pipeline.steps import attempt, draw_slide, score_slide, tile_slide
from wsi_pipeline.pipeline.work import Listen, Placeable, Run, Scoring, Stage, Work
from wsi_pipeline.schedulers import SlurmJobs, open_cluster
from wsi_pipeline.slide.entry import SlideEntry
from wsi_pipeline.slurm import SlurmSettings, job_class

_POLL_S = 2.0  # between looks at slides that other jobs are working on
_ASKED = 16  # of these slides for their owner: in an object store each takes its time


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
    the run. With `until` "tile" or "score" a slide that got there is yielded with what its store tells, one with maps
    that stand with the row of these. Several jobs may work on one folder: each slide is done by one of them, and all
    yield its row.
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
                        run.tell("waiting", slides=len(elsewhere), owner=_an_owner(claims, elsewhere))
                    time.sleep(_POLL_S)
                waiting = elsewhere
        finally:
            run.stopping.set()
            cluster.stop()
            listen("workers_done", _worked(cluster, perf_counter() - began))
            tiling.shutdown(wait=False, cancel_futures=True)
            mapping.shutdown(wait=False, cancel_futures=True)


def check_start(folder: RunFolder, config: Config) -> None:
    """Raise where no run could begin in `folder`, as far as seconds tell: no such scheduler, none that answers.

    Errors as of `open_cluster`; of SLURM only that jobs can be submitted from here, none is.
    """
    scheduler = config.run.scheduler
    folder.check_workers(scheduler)
    if scheduler == "slurm":
        job_class()
    elif scheduler not in ("local", "threads"):
        with open_cluster(scheduler):
            pass


def _pass(run: Run, works: Sequence[Work], tiling: ThreadPoolExecutor, mapping: ThreadPoolExecutor) -> Iterator[Work]:
    """Take each slide through all its steps; those that other jobs have come out untouched."""
    mapped: deque[Future[Work]] = deque()
    for work in _ahead(tiling, partial(attempt, run, tile_slide), works, run.cluster.slides_at_once + 1):
        if run.cluster.gpus is None:
            attempt(run, score_slide, work)
            mapped.append(mapping.submit(attempt, run, draw_slide, work))
        else:
            mapped.append(mapping.submit(_score_and_map, run, work))
        while mapped and (mapped[0].done() or len(mapped) > _ending_at_once(run.cluster) + 1):
            yield mapped.popleft().result()
    if run.classifier is not None and run.cluster.gpus is None:
        run.classifier.rest()
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


def _an_owner(claims: Claims, works: Sequence[Work]) -> str:
    """A job that has one of the first slides; empty where all of them were given back meanwhile."""
    return next(filter(None, (claims.owner(work.entry.slide_id) for work in works[:_ASKED])), "")


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
    return attempt(run, draw_slide, attempt(run, score_slide, work))


def _finish(run: Run, work: Work) -> SlideResult:
    """Let the slide go, and tell of it."""
    assert work.result is not None
    result = work.result
    if result.status in FAILED and run.claims.holds(result.slide_id):
        run.folder.record_failure(result)
    run.claims.free(result.slide_id)
    run.tell(
        "slide_done", slide_id=result.slide_id, status=result.status, stage=result.stage, message=result.message,
        seconds=result.seconds,
    )  # fmt: skip
    return result
