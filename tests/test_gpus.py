"""Workers with and without a GPU: who gets which task, how many at once, and what happens when they go."""

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import dask
import pytest
from dask.distributed import Scheduler, SpecCluster, Worker, get_worker

from wsi_pipeline import gpus as gpus_module
from wsi_pipeline import schedulers
from wsi_pipeline.cluster import Cluster
from wsi_pipeline.errors import ClusterError, WorkersGoneError
from wsi_pipeline.gpus import Gpus, still_wanted
from wsi_pipeline.schedulers import open_cluster

NO_DASHBOARD = {"dashboard": False, "dashboard_address": "127.0.0.1:0", "protocol": "inproc"}
running = threading.Semaphore(0)
log: list[str] = []
seen: list[int] = []


def where(_: int = 0) -> str:
    return str(get_worker().name)


def at_once(entered: int) -> int:
    """How many of these tasks run at this moment, once `entered` of them do."""
    running.release()
    until(lambda: running._value >= entered)
    return running._value


def until_unwanted() -> None:
    log.append("began")
    wanted = still_wanted()
    while wanted():
        time.sleep(0.01)
    log.append("ended")


def give_up() -> None:
    if "began" in log:
        raise KeyboardInterrupt


def give_up_two() -> None:
    until(lambda: log.count("began") == 2)
    time.sleep(0.1)
    seen.append(log.count("began"))
    raise KeyboardInterrupt


def until(true: Callable[[], bool]) -> None:
    ends = time.monotonic() + 5
    while not true() and time.monotonic() < ends:
        time.sleep(0.01)


def workers(readers: int, gpus: int) -> SpecCluster:
    """Workers in this process."""
    spec = {f"read-{n}": {"cls": Worker, "options": {"nthreads": 2}} for n in range(readers)}
    spec |= {f"gpu-{n}": {"cls": Worker, "options": {"nthreads": 2, "resources": {"GPU": 1}}} for n in range(gpus)}
    return SpecCluster(workers=spec, scheduler={"cls": Scheduler, "options": NO_DASHBOARD})


@pytest.fixture(scope="module")
def mixed() -> Iterator[tuple[Cluster, SpecCluster]]:
    with (
        dask.config.set({"distributed.scheduler.work-stealing": False}),
        workers(2, 2) as lent,
        open_cluster(lent.scheduler_address) as cluster,
    ):
        yield cluster, lent


def test_reading_goes_to_the_workers_without_a_gpu_and_scoring_to_the_others(mixed):
    cluster, _ = mixed
    assert {name for _, name in cluster.map(where, [(n,) for n in range(20)])} == {"read-0", "read-1"}
    assert {cluster.gpus.run(where) for _ in range(4)} <= {"gpu-0", "gpu-1"}


def test_tasks_and_slides_at_once_are_those_of_each_kind(mixed):
    cluster, _ = mixed
    assert (cluster.n_workers, cluster.gpus.n_gpus, cluster.slides_at_once) == (4, 2, 2)


def test_each_gpu_has_one_task_at_a_time(mixed):
    cluster, _ = mixed
    with ThreadPoolExecutor(4) as callers:
        assert list(callers.map(lambda _: cluster.gpus.run(at_once, 2), range(2))) == [2, 2]
        waiting = [callers.submit(cluster.gpus.run, until_unwanted, meanwhile=give_up_two) for _ in range(3)]
        assert [type(task.exception()) for task in waiting] == [KeyboardInterrupt] * 3
    assert seen[0] == 2  # the third was still waiting when the first was given up
    until(lambda: log.count("ended") == log.count("began"))


def test_a_task_that_is_given_up_learns_of_it(mixed):
    log.clear()
    with pytest.raises(KeyboardInterrupt):
        mixed[0].gpus.run(until_unwanted, meanwhile=give_up)
    until(lambda: "ended" in log)
    assert log == ["began", "ended"]


def test_outside_of_a_task_everything_is_wanted():
    assert still_wanted()()


def test_workers_that_all_have_a_gpu_read_as_well():
    with workers(0, 1) as lent, open_cluster(lent.scheduler_address) as cluster:
        assert cluster.n_workers == 2
        assert [name for _, name in cluster.map(where, [(1,)])] == ["gpu-0"]


def test_a_cluster_without_a_gpu_has_no_lanes_and_the_caller_scores():
    with workers(1, 0) as lent, open_cluster(lent.scheduler_address) as cluster:
        assert cluster.gpus is None and cluster.slides_at_once == 1


def test_gpus_that_never_come_back_are_told(monkeypatch):
    monkeypatch.setattr(gpus_module, "_LOOK_S", 0.0)
    monkeypatch.setattr(schedulers, "NO_WORKER_S", 0.2)
    with workers(1, 1) as lent, open_cluster(lent.scheduler_address) as cluster:
        del lent.worker_spec["gpu-0"]
        lent.sync(lent._correct_state)
        with pytest.raises(
            WorkersGoneError, match=r"no worker with a GPU for 0 s; start one with `dask worker --resou"
        ):
            cluster.gpus.run(where)


def test_a_scheduler_that_is_gone_ends_the_run_and_not_a_slide():
    class Gone:
        def get_executor(self, **_: object) -> "Gone":
            return self

        def submit(self, *_: object) -> Future[str]:
            lost: Future[str] = Future()
            lost.cancel()
            lost.set_running_or_notify_cancel()
            return lost

    with pytest.raises(WorkersGoneError, match="connection to the cluster lost; go on with --resume"):
        Gpus(Gone(), None, n_gpus=1, patience_s=1).run(where)


def test_a_worker_with_another_version_is_refused_before_any_work(monkeypatch):
    monkeypatch.setattr(schedulers, "_version", lambda: "0.0.1")
    told = r"worker inproc://\S+ has wsi_pipeline 0.0.1, this is .*same version on all workers \(2 of 2 differ\)"
    with workers(2, 0) as lent, pytest.raises(ClusterError, match=told), open_cluster(lent.scheduler_address):
        pass
