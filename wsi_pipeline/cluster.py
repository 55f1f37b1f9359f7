"""Workers: a function and small arguments -> results, from threads, processes here, or a Dask cluster.

What travels is paths and numbers, never pixels or open handles. A worker that dies takes the tasks queued
on it along, so each of those runs once more with no other beside it before it is called the culprit.
"""

import logging
import signal
import tempfile
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, CancelledError, Executor, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from threading import Condition
from typing import Any

import dask
from dask.distributed import Client, KilledWorker, LocalCluster, Worker, WorkerPlugin
from dask.system import CPU_COUNT

from wsi_pipeline.errors import ClusterError, ConfigError

Args = tuple[Any, ...]

CONNECT_S = 10.0  # until a scheduler answers, and until it has a worker
NO_WORKER_S = 30.0  # without any result: look whether workers are left; a restart takes 2 s
MAX_LOCAL_WORKERS = 8  # beyond it one disk, not the processors, sets the pace; --workers goes further
_ENVIRONMENT = {f"{name}_NUM_THREADS": "1" for name in ("OMP", "MKL", "OPENBLAS", "NUMEXPR")} | {
    "MALLOC_TRIM_THRESHOLD_": "65536"  # give freed tiles back to the system
}
_CONFIG = {
    "distributed.nanny.pre-spawn-environ": _ENVIRONMENT,
    "distributed.worker.profile.enabled": False,  # its call stacks of an hour are kept: 1 MiB more with each slide
}
_SCHEDULER = {
    "allowed_failures": 0,
    "dashboard": False,
    "dashboard_address": "127.0.0.1:0",  # an HTTP server starts in any case; left out, it wants port 8787
}


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
    """Workers that several threads may share; made by `open_cluster`.

    Attributes:
        n_workers: tasks that run at once.
    """

    def __init__(self, executor: Executor, n_workers: int, client: Client | None = None) -> None:
        self.n_workers = n_workers
        self._executor = executor
        self._client = client
        self._gate = _Gate()

    def submit(self, function: Callable[..., Any], *args: Any) -> Task:
        """Start `function(*args)` on a worker; both must be picklable and small."""
        return Task(self, function, args, self._start(function, args))

    def map(
        self, function: Callable[..., Any], items: Iterable[Args], *, window: int | None = None
    ) -> Generator[tuple[int, Any], None, None]:
        """Run `function(*args)` for each tuple of `items`; yield (index, result) as they are done.

        At most `window` tasks (two a worker by default) are under way, whatever the number of items. A
        task's own exception ends the map, raised as it is; no task of the map is left running then.
        Raises ClusterError, naming the item, where a task killed two workers.
        """
        under_way: dict[Future[Any], tuple[int, Args]] = {}
        queue = enumerate(items)
        window = window or 2 * self.n_workers
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
            if self._has_workers():
                wait(under_way)

    def _start(self, function: Callable[..., Any], args: Args) -> Future[Any]:
        self._gate.enter()
        try:
            future = self._executor.submit(function, *args)
        except BaseException:
            self._gate.leave()
            raise
        future.add_done_callback(lambda _: self._gate.leave())
        return future

    def _result(self, function: Callable[..., Any], args: Args, future: Future[Any]) -> Any:
        try:
            return future.result()
        except KilledWorker:
            return self._alone(function, args)
        except CancelledError as error:
            raise ClusterError(f"connection to the cluster lost during {_call(function, args)}") from error

    def _alone(self, function: Callable[..., Any], args: Args) -> Any:
        """Run a task that was on a worker that died once more, with no other task on any worker."""
        with self._gate.alone():
            try:
                return self._executor.submit(function, *args).result()
            except KilledWorker as error:
                raise ClusterError(
                    f"{_call(function, args)} killed two workers, the second time alone: out of memory, or a "
                    "crash in a decoder; try fewer --workers or smaller shards"
                ) from error

    def _next_done(self, under_way: Iterable[Future[Any]]) -> set[Future[Any]]:
        """Wait for the next task to end; ClusterError when the workers are gone for good."""
        futures, without = list(under_way), 0
        while not (done := wait(futures, timeout=NO_WORKER_S, return_when=FIRST_COMPLETED).done):
            without = 0 if self._has_workers() else without + 1
            if without == 2:  # once may be a restart
                raise ClusterError(f"no workers left for {NO_WORKER_S:.0f} s; {len(futures)} tasks lost")
        return done

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

    def enter(self) -> None:
        with self._changed:
            self._changed.wait_for(lambda: not self._closed)
            self._inside += 1

    def leave(self) -> None:
        with self._changed:
            self._inside -= 1
            self._changed.notify_all()

    @contextmanager
    def alone(self) -> Iterator[None]:
        with self._changed:
            self._changed.wait_for(lambda: not self._closed)
            self._closed = True
            self._changed.wait_for(lambda: self._inside == 0)
        try:
            yield
        finally:
            with self._changed:
                self._closed = False
                self._changed.notify_all()


@contextmanager
def open_cluster(scheduler: str = "local", *, workers: int | None = None) -> Iterator[Cluster]:
    """Workers to run tasks on, gone again when the block ends.

    `scheduler` is "local" (processes on this machine, one thread each, reachable from this machine only),
    "threads" (threads of this process) or the address of a Dask scheduler ("tcp://host:8786"; `workers` is
    then the cluster's own). `workers` defaults to the processors that this process may use, at most 8.
    Raises ClusterError within seconds where nobody answers or no worker is there.
    """
    n_workers = workers or min(CPU_COUNT, MAX_LOCAL_WORKERS)
    if scheduler == "threads":
        with ThreadPoolExecutor(n_workers, thread_name_prefix="wsi") as executor:
            yield Cluster(executor, n_workers)
    elif scheduler == "local":
        with _local_client(n_workers) as client:
            yield Cluster(client.get_executor(pure=False), n_workers, client)
    elif "://" in scheduler:
        with _remote_client(scheduler) as client:
            yield Cluster(client.get_executor(pure=False), sum(client.nthreads().values()), client)
    else:
        raise ConfigError(f"scheduler {scheduler!r}: give local, threads, or an address like tcp://host:8786")


@contextmanager
def _local_client(n_workers: int) -> Iterator[Client]:
    """Worker processes of one thread each, watched over by nannies, and a client to them.

    The first death of a worker blames its tasks (`allowed_failures=0`); `Cluster` gives them their second
    chance alone. Logs are silenced: whatever goes wrong arrives as an exception.
    """
    with (
        tempfile.TemporaryDirectory(prefix="wsi_pipeline-", ignore_cleanup_errors=True) as scratch,
        dask.config.set(_CONFIG | {"temporary-directory": scratch}),
        LocalCluster(
            n_workers=n_workers,
            threads_per_worker=1,
            processes=True,
            host="127.0.0.1",
            silence_logs=logging.CRITICAL,
            scheduler_kwargs=_SCHEDULER,
        ) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        client.register_plugin(_IgnoreInterrupt())
        yield client


class _IgnoreInterrupt(WorkerPlugin):
    """Leave Ctrl-C and SLURM's warning to the process that started the workers: it ends them in order."""

    def setup(self, worker: Worker) -> None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        if hasattr(signal, "SIGUSR1"):
            signal.signal(signal.SIGUSR1, signal.SIG_IGN)


@contextmanager
def _remote_client(address: str) -> Iterator[Client]:
    """A client to a scheduler that others started; it is left running."""
    with _silenced():
        yield from _connected(address)


def _connected(address: str) -> Iterator[Client]:
    try:
        client = Client(address, timeout=CONNECT_S, set_as_default=False)
    except (OSError, ValueError) as error:
        raise ClusterError(f"{address}: no Dask scheduler answers ({error})") from error
    with client:
        try:
            client.wait_for_workers(1, timeout=CONNECT_S)
        except TimeoutError as error:
            raise ClusterError(f"{address}: the scheduler has no workers; start some first") from error
        yield client


@contextmanager
def _silenced() -> Iterator[None]:
    """Keep the tracebacks that Dask logs of a lost connection off stderr; it arrives as a ClusterError."""
    handlers = logging.getLogger("distributed").handlers  # levels are set on many loggers below it
    levels = [handler.level for handler in handlers]
    for handler in handlers:
        handler.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for handler, level in zip(handlers, levels, strict=True):
            handler.setLevel(level)


def _call(function: Callable[..., Any], args: Args) -> str:
    """The call as text, short enough for a message."""
    return f"{function.__name__}({', '.join(str(arg)[:120] for arg in args)})"
