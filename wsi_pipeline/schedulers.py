"""Where the workers are: a scheduler's name -> a `Cluster`; threads, processes here, or a Dask cluster."""

import logging
import os
import signal
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import NamedTuple

import dask
import distributed.utils
from dask.distributed import Client, LocalCluster, Worker, WorkerPlugin
from dask.system import CPU_COUNT

from wsi_pipeline import __version__
from wsi_pipeline.cluster import NO_WORKER_S, Cluster
from wsi_pipeline.errors import ClusterError, ConfigError
from wsi_pipeline.forks import ENVIRONMENT, METHOD, begin_workers
from wsi_pipeline.gpus import Gpus, Readers, Survey
from wsi_pipeline.slurm import SlurmSettings, slurm_client

CONNECT_S = 10.0  # until a scheduler answers, and until it has a worker
MAX_LOCAL_WORKERS = 8  # beyond it one disk, not the processors, sets the pace; --workers goes further
_CONFIG = {
    "distributed.nanny.pre-spawn-environ": ENVIRONMENT,
    "distributed.worker.multiprocessing-method": METHOD,
    "distributed.worker.profile.enabled": False,  # its call stacks of an hour are kept: 1 MiB more with each slide
    # A worker beyond its share of memory is ended; paused by Dask, it may wait for ever for memory to come back.
    "distributed.worker.memory.pause": False,
    "distributed.worker.memory.spill": False,
    "distributed.worker.memory.target": False,
    "distributed.deploy.lost-worker-timeout": "365d",  # after it, one that is just being restarted is given up for good
}
_SCHEDULER = {
    "allowed_failures": 0,
    "dashboard": False,
    "dashboard_address": "127.0.0.1:0",  # an HTTP server starts in any case; left out, it wants port 8787
}


class SlurmJobs(NamedTuple):
    """What to submit, and a folder that all nodes see, for logs."""

    settings: SlurmSettings
    folder: str


@contextmanager
def open_cluster(
    scheduler: str = "local", *, workers: int | None = None, slurm: SlurmJobs | None = None
) -> Iterator[Cluster]:
    """Workers to run tasks on, gone again when the block ends.

    `scheduler` is "local" (processes on this machine, one thread each, reachable from this machine only),
    "threads" (threads of this process), "slurm" (jobs as `slurm` says, which has the settings and a folder for
    logs that all nodes see) or the address of a Dask scheduler ("tcp://host:8786"; `workers` is
    then the cluster's own, and those that offer GPUs score, see gpus.py). `workers` defaults to the processors
    that this process may use, at most 8. Raises ClusterError within seconds where nobody answers, no worker is
    there, or one has another version of this package.
    """
    n_workers = workers or min(CPU_COUNT, MAX_LOCAL_WORKERS)
    if scheduler == "threads":
        with ThreadPoolExecutor(n_workers, thread_name_prefix="wsi") as executor:
            yield Cluster(executor, n_workers)
    elif scheduler == "local":
        with _local_client(n_workers) as client:
            yield Cluster(client.get_executor(pure=False), n_workers, client)
    elif scheduler == "slurm" and slurm is not None:
        with _slurm_cluster(*slurm) as cluster:
            yield cluster
    elif "://" in scheduler:
        with _remote_client(scheduler) as client:
            yield _cluster_of(client)
    else:
        raise ConfigError(f"scheduler {scheduler!r}: give local, threads, slurm, or an address like tcp://host:8786")


@contextmanager
def _local_client(n_workers: int) -> Iterator[Client]:
    """Worker processes of one thread each, watched over by nannies, and a client to them.

    The first death of a worker blames its tasks (`allowed_failures=0`); `Cluster` gives them their second
    chance alone. Logs are silenced: whatever goes wrong arrives as an exception. Raises ClusterError where no worker
    starts.
    """
    begin_workers()
    distributed.utils._forkserver_preload_set = True  # or Dask loads pandas, here too
    with (
        tempfile.TemporaryDirectory(prefix="wsi_pipeline-", ignore_cleanup_errors=True) as scratch,
        dask.config.set(_CONFIG | {"temporary-directory": scratch}),
        _local_cluster(n_workers) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        client.register_plugin(_IgnoreInterrupt())
        yield client


def _local_cluster(n_workers: int) -> LocalCluster:
    try:
        return LocalCluster(
            n_workers=n_workers,
            threads_per_worker=1,
            memory_limit=1 / (n_workers + 1),  # of the machine; Dask would give a worker on 64 cores a 64th
            processes=True,
            host="127.0.0.1",
            silence_logs=logging.CRITICAL,
            scheduler_kwargs=_SCHEDULER,
            env=dict(os.environ),  # what they are copies of began earlier, and has not seen what was set since
        )
    except RuntimeError as error:
        raise ClusterError(
            f"no worker process starts here ({error}); a script of your own must begin its work under "
            '`if __name__ == "__main__":`, as workers load it too; or use run.scheduler=threads'
        ) from None


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


def _cluster_of(client: Client) -> Cluster:
    """The workers of a scheduler, those with a GPU apart where there are any."""
    refuse_other_versions(client)
    survey = Survey(client)
    n_gpus, n_workers = survey.gpus(), survey.threads()
    if not n_gpus:
        return Cluster(client.get_executor(pure=False), n_workers, client)
    gpus = Gpus(client, survey, n_gpus=n_gpus, patience_s=NO_WORKER_S)
    return Cluster(Readers(client, survey), n_workers, client, gpus=gpus)


@contextmanager
def _slurm_cluster(settings: SlurmSettings, folder: str) -> Iterator[Cluster]:
    """As many workers as the jobs will have; those that have not started yet are waited for by their tasks."""
    environment = ENVIRONMENT | {
        f"DASK_{name.upper().replace('.', '__').replace('-', '_')}": str(value)
        for name, value in _CONFIG.items()
        if not isinstance(value, dict)
    }
    with (
        _silenced(),
        dask.config.set(_CONFIG),  # here, too: it is this process that cancels jobs whose workers are gone
        slurm_client(settings, folder, environment=environment, options=_SCHEDULER) as client,
    ):
        refuse_other_versions(client)
        survey, n_workers, patience_s = Survey(client), settings.jobs * settings.cores, 60 * settings.wait_min
        if not settings.gpu_jobs:
            yield Cluster(client.get_executor(pure=False), n_workers, client, patience_s=patience_s)
            return
        gpus = Gpus(client, survey, n_gpus=settings.gpu_jobs, patience_s=patience_s)
        yield Cluster(Readers(client, survey), n_workers, client, gpus=gpus, patience_s=patience_s)


def refuse_other_versions(client: Client) -> None:
    """Raise ClusterError unless every worker has this very version of the package."""
    told = client.run(_version, on_error="return")
    others = {address: found for address, found in told.items() if found != __version__}
    for address, found in others.items():
        have = f"wsi_pipeline {found}" if isinstance(found, str) else f"no wsi_pipeline of use ({found})"
        raise ClusterError(
            f"worker {address} has {have}, this is {__version__}; install the same version on all workers "
            f"({len(others)} of {len(told)} differ)"
        )


def _version() -> str:
    return __version__


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
