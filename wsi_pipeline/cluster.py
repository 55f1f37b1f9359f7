"""Workers: a function and small arguments -> results, whatever the workers are; schedulers.py opens them.

What travels is paths and numbers, never pixels or open handles. A worker that dies takes the tasks queued
on it along, so each of those runs once more with no other beside it before it is called the culprit.
"""

import math
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, CancelledError, Executor, Future, wait
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import islice
from threading import Condition, Lock, Thread
from time import monotonic, perf_counter
from typing import Any

from dask.distributed import Client, KilledWorker, get_worker

from wsi_pipeline.errors import ClusterError, StalledError, WorkersGoneError
from wsi_pipeline.gpus import Gpus
from wsi_pipeline.stall import answer_within

Args = tuple[Any, ...]

NO_WORKER_S = 60.0  # without any worker, which may be restarting: that takes 2 s
_LOOK_S = 1.0  # between looks at what else may have happened while a task is waited for
_END_S = 3.0  # for tasks under way when all is to end: a shard takes less
_WORKERS_A_SLIDE = 16  # the shards of one slide keep about as many busy
_WINDOW = 256  # tasks of one map at once: on a large cluster several maps are under way


@dataclass(frozen=True, eq=False)
class Task:
    """A task under way; `result` waits for it, and re-raises its own exception as it is."""

    _cluster: "Cluster"
    _function: Callable[..., Any]
    _args: Args
    _future: Future[Any]

    def done(self) -> bool:
        """Whether it has ended, well or not."""
        return self._future.done()

    def result(self) -> Any:
        """What the function returned; ClusterError where it killed two workers."""
        return self._cluster._result(self._function, self._args, self._future)


class Cluster:
    """Workers that several threads may share; made by `open_cluster` (schedulers.py).

    Attributes:
        n_workers: tasks that run at once.
        gpus: the workers with a GPU, where there are any; what is submitted here is for the others.
        spent: seconds of all workers in tasks that ended well, by the name of their function.
        stall_s: seconds that a task may run, its time in queues aside; then it is given up with StalledError, and
            the process that is left with it is started anew (a thread is left as it is). None: no limit.
    """

    def __init__(
        self,
        executor: Executor,
        n_workers: int,
        client: Client | None = None,
        *,
        gpus: Gpus | None = None,
        patience_s: float | None = None,
    ) -> None:
        """`patience_s`: how long tasks wait without any worker before the run is given up; NO_WORKER_S if not given."""
        self.n_workers = n_workers
        self.gpus = gpus
        self._executor = executor
        self._client = client
        self.spent: Counter[str] = Counter()
        self.stall_s: float | None = None
        self._patience_s = patience_s
        self._stopped = math.inf  # when, by the monotonic clock
        self._counting = Lock()
        self._gate = _Gate()

    @property
    def slides_at_once(self) -> int:
        """Slides to be under way in each stage, that all workers and GPUs have work."""
        return max(1, self.n_workers // _WORKERS_A_SLIDE, self.gpus.n_gpus if self.gpus else 0)

    @property
    def workers_a_slide(self) -> int:
        """Workers that there are for each slide under way, 1 at least."""
        return max(1, self.n_workers // self.slides_at_once)

    def submit(self, function: Callable[..., Any], *args: Any) -> Task:
        """Start `function(*args)` on a worker; both must be picklable and small."""
        return Task(self, function, args, self._start(function, args))

    def map(
        self, function: Callable[..., Any], items: Iterable[Args], *, window: int | None = None
    ) -> Generator[tuple[int, Any], None, None]:
        """Run `function(*args)` for each tuple of `items`; yield (index, result) as they are done.

        At most `window` tasks (two a worker, 256 at most, by default) are under way, however many the items. A
        task's own exception ends the map, raised as it is; no task of the map is left running then.
        Raises ClusterError, naming the item, where a task killed two workers.
        """
        under_way: dict[Future[Any], tuple[int, Args]] = {}
        queue = enumerate(items)
        window = window or min(2 * self.n_workers, _WINDOW)
        try:
            while True:
                for index, args in islice(queue, window - len(under_way)):
                    under_way[self._start(function, args)] = (index, args)
                if not under_way:
                    return
                for future in self._next_done(under_way):
                    index, args = under_way.pop(future)
                    yield index, self._result(function, args, future)
        finally:
            self._let_end(under_way)

    def _start(self, function: Callable[..., Any], args: Args) -> Future[Any]:
        self._gate.enter(self._watch(0))
        try:
            future = self._begun(function, args)
        except BaseException:
            self._gate.leave()
            raise
        future.add_done_callback(self._left)
        return future

    def _begun(self, function: Callable[..., Any], args: Args) -> Future[Any]:
        """A thread cannot be ended, as a process can: so it asks whether all is."""
        given_up = self._is_over if self._client is None else None
        return self._executor.submit(_run, function, args, self.stall_s, given_up)

    def _is_over(self) -> bool:
        return monotonic() > self._stopped + _END_S

    def _left(self, future: Future[Any]) -> None:
        """A task has left the gate; where it stalled, only once its worker is another one."""
        if worker := _left_stalled(future):
            Thread(target=self._replace, args=(worker,), daemon=True).start()  # here Dask's own thread would wait
        else:
            self._gate.leave()

    def _replace(self, worker: str) -> None:
        try:
            self._restart(worker)
        finally:
            self._gate.leave()

    def _restart(self, worker: str) -> None:
        """Start the process of a worker anew; what is queued there has its second chance."""
        assert self._client is not None
        # It may be gone already, for another task that stalled there (Dask: KeyError), or all is ending.
        with suppress(OSError, RuntimeError, ValueError, KeyError, CancelledError):
            self._client.restart_workers([worker], timeout=NO_WORKER_S)

    def _result(self, function: Callable[..., Any], args: Args, future: Future[Any]) -> Any:
        self._next_done([future])
        try:
            return self._counted(function, future)
        except KilledWorker:
            return self._alone(function, args)
        except CancelledError as error:
            said = f"connection to the cluster lost during {_call(function, args)}; go on with --resume"
            raise WorkersGoneError(said) from error

    def _alone(self, function: Callable[..., Any], args: Args) -> Any:
        """Run a task that was on a worker that died once more, with no other task on any worker."""
        with self._gate.alone(self._watch(1)):
            future = self._begun(function, args)
            self._next_done([future])
            if worker := _left_stalled(future):
                self._restart(worker)
            try:
                return self._counted(function, future)
            except KilledWorker as error:
                raise ClusterError(
                    f"{_call(function, args)} killed two workers, the second time alone: out of memory, or a "
                    "crash in a decoder; try fewer --workers or smaller shards"
                ) from error

    def _counted(self, function: Callable[..., Any], future: Future[Any]) -> Any:
        result, seconds = future.result()
        with self._counting:
            self.spent[function.__name__] += seconds
        return result

    def stop(self) -> None:
        """All is to end: tasks under way are waited for some seconds more, those that stall no longer."""
        self._stopped = monotonic()

    def _next_done(self, under_way: Iterable[Future[Any]]) -> set[Future[Any]]:
        """Wait for the next task to end; errors as of `_watch`."""
        futures = list(under_way)
        look = self._watch(len(futures))
        while not (done := wait(futures, timeout=_look_s(), return_when=FIRST_COMPLETED).done):
            look()
        return done

    def _watch(self, tasks: int) -> Callable[[], None]:
        """To be called once in `_look_s` while something is waited for.

        It raises ClusterError when all is to end, WorkersGoneError when the workers are gone for good.
        """
        without, patience_s = 0.0, self._patience_s or NO_WORKER_S

        def look() -> None:
            nonlocal without
            if self._is_over():
                raise ClusterError(f"stopped; {tasks} tasks were still under way")
            without = 0 if self._has_workers() else without + _look_s()
            if without > patience_s:
                raise WorkersGoneError(
                    f"no workers left for {patience_s:.0f} s, {tasks} tasks lost; start some, go on with --resume"
                )

        return look

    def _let_end(self, under_way: Iterable[Future[Any]]) -> None:
        """Wait for all of these tasks, as long as there is a hope that they end."""
        left = set(under_way)
        with suppress(ClusterError):
            while left and self._has_workers():
                left -= self._next_done(left)

    def _has_workers(self) -> bool:
        if self._client is None:
            return True
        return self._client.status == "running" and bool(self._client.nthreads())


class _Gate:
    """Lets tasks in together, or one alone once the others have left."""

    def __init__(self) -> None:
        self._changed = Condition()
        self._inside = 0
        self._closed = False

    def enter(self, look: Callable[[], None]) -> None:
        with self._changed:
            self._wait_for(lambda: not self._closed, look)
            self._inside += 1

    def leave(self) -> None:
        with self._changed:
            self._inside -= 1
            self._changed.notify_all()

    @contextmanager
    def alone(self, look: Callable[[], None]) -> Iterator[None]:
        with self._changed:
            self._wait_for(lambda: not self._closed, look)
            self._closed = True
        try:
            with self._changed:
                self._wait_for(lambda: self._inside == 0, look)
            yield
        finally:
            with self._changed:
                self._closed = False
                self._changed.notify_all()

    def _wait_for(self, so: Callable[[], bool], look: Callable[[], None]) -> None:
        """Wait until it is so, with the lock held; `look` may end that with an error."""
        while not self._changed.wait_for(so, timeout=_look_s()):
            look()


def _look_s() -> float:
    return min(_LOOK_S, NO_WORKER_S)


def _run(
    function: Callable[..., Any], args: Args, stall_s: float | None, given_up: Callable[[], bool] | None = None
) -> tuple[Any, float]:
    """The task as a worker runs it: what it returned, and the seconds it took."""
    began = perf_counter()
    try:
        result = function(*args) if stall_s is None else answer_within(stall_s, function, *args, given_up=given_up)
        return result, perf_counter() - began
    except StalledError as error:
        with suppress(ValueError):  # no worker of Dask
            worker = get_worker()
            error.worker = worker.address if worker.nanny else ""
        raise


def _left_stalled(future: Future[Any]) -> str:
    """The worker that is left with a call that does not answer, if that is what a task came to."""
    error = None if future.cancelled() else future.exception()
    return error.worker if isinstance(error, StalledError) else ""


def _call(function: Callable[..., Any], args: Args) -> str:
    """The call as text, short enough for a message."""
    return f"{function.__name__}({', '.join(str(arg)[:120] for arg in args)})"
