"""The workers of a Dask cluster told apart: those that offer a GPU score slides, the others read them."""

import random
from collections.abc import Callable
from concurrent.futures import CancelledError, Executor, Future, wait
from contextlib import suppress
from threading import Lock
from time import monotonic
from typing import Any

from dask.distributed import Client, KilledWorker, get_worker

from wsi_pipeline.errors import ClusterError, WorkersGoneError

GPU = "GPU"  # the resource of a worker that scores: dask worker --resources GPU=1
_LOOK_S = 30.0  # between looks at who is there; of 1,000 workers a look is some MiB
_POLL_S = 0.5
_CHOICE = 8  # workers named with a reading task: enough to find a free one, and the task stays small
_TRIES = 2  # a task whose process died runs once more; it had the process to itself


class Survey:
    """Who is there, looked up again every half minute; several threads may ask."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._lock = Lock()
        self._workers: dict[str, dict[str, Any]] = {}
        self._seen = -_LOOK_S

    def gpus(self) -> int:
        """GPUs offered: slides that can be scored at once."""
        return sum(int(worker["resources"].get(GPU, 0)) for worker in self._look().values())

    def readers(self) -> list[str]:
        """Addresses of the workers without a GPU."""
        return [address for address, worker in self._look().items() if not worker["resources"].get(GPU)]

    def threads(self) -> int:
        """Tasks that the readers run at once; those of all workers where every one has a GPU."""
        workers, readers = self._look(), set(self.readers())
        return sum(worker["nthreads"] for address, worker in workers.items() if address in readers or not readers)

    def _look(self) -> dict[str, dict[str, Any]]:
        with self._lock:
            if monotonic() - self._seen >= _LOOK_S:
                with suppress(OSError):  # a scheduler that is gone: its tasks tell
                    self._workers = dict(self._client.scheduler_info(n_workers=-1)["workers"])
                self._seen = monotonic()
            return self._workers


class Readers(Executor):
    """Runs tasks on workers without a GPU, and anywhere while there is none of them.

    A task names a few of them that it may run on, not one: a worker that is started anew has another address.
    """

    def __init__(self, client: Client, survey: Survey) -> None:
        self._executor = client.get_executor(pure=False)
        self._survey = survey

    def submit(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> "Future[Any]":
        """Start `function(*args)`."""
        readers = self._survey.readers()
        if not readers:
            return self._executor.submit(function, *args, **kwargs)
        few = random.sample(readers, min(_CHOICE, len(readers)))
        return self._executor.submit(function, *args, **kwargs, workers=few, allow_other_workers=True)


class Gpus:
    """The GPUs of a Dask cluster; several threads may share them.

    Attributes:
        n_gpus: tasks that run at once, each with a GPU to itself.
    """

    def __init__(self, client: Client, survey: Survey, *, n_gpus: int, patience_s: float) -> None:
        """`patience_s`: seconds without any worker that offers a GPU after which nobody waits for one."""
        self.n_gpus = n_gpus
        self._executor = client.get_executor(pure=False, resources={GPU: 1})
        self._survey = survey
        self._patience_s = patience_s

    def here(self) -> bool:
        """Whether a worker offers a GPU at this moment."""
        return self._survey.gpus() > 0

    def run(self, function: Callable[..., Any], *args: Any, meanwhile: Callable[[], None] = lambda: None) -> Any:
        """What `function(*args)` returns or raises, run on a GPU; all must be picklable and small.

        `meanwhile` is called about twice a second; what it raises ends the waiting, and the task, if it asks
        `still_wanted`. Raises ClusterError where the task killed two workers, WorkersGoneError where no worker has a
        GPU any more, or the scheduler is gone.
        """
        for _ in range(_TRIES):
            future = self._executor.submit(function, *args)
            try:
                self._wait(future, meanwhile)
                return future.result()
            except KilledWorker:
                continue
            except CancelledError as error:
                raise WorkersGoneError("connection to the cluster lost; go on with --resume") from error
            finally:
                future.cancel()
        raise ClusterError(
            f"{function.__name__} killed {_TRIES} workers with a GPU: out of memory, or a crash in a library; "
            "try a smaller --batch"
        )

    def _wait(self, future: "Future[Any]", meanwhile: Callable[[], None]) -> None:
        seen = monotonic()
        while not wait([future], _POLL_S).done:
            meanwhile()
            seen = monotonic() if self.here() else seen
            if monotonic() - seen > self._patience_s:
                raise WorkersGoneError(
                    f"no worker with a GPU for {self._patience_s:.0f} s; start one with `dask worker "
                    f"--resources {GPU}=1`, then --resume"
                )


def still_wanted() -> Callable[[], bool]:
    """For the task that calls it: a function that tells whether anybody still waits for its result.

    A task that was given up, or whose client is gone, runs on unless it asks.
    """
    try:
        worker = get_worker()
        key = worker.get_current_task()
    except (ValueError, KeyError):  # no task of Dask
        return lambda: True

    def wanted() -> bool:
        task = worker.state.tasks.get(key)
        return task is not None and task.state != "cancelled"

    return wanted
