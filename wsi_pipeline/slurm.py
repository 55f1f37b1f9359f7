"""SLURM jobs as workers: settings -> a Dask scheduler in this process, jobs that read and jobs that score.

The scheduler is reached over the cluster's network, so it speaks TLS: only who can read this user's key may
send it work. Jobs are submitted by dask-jobqueue, an optional extra.
"""

import logging
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from dask.distributed import Client, Scheduler, SpecCluster, Status
from dask.distributed import Security as TlsFiles

from wsi_pipeline.errors import ClusterError, ConfigError
from wsi_pipeline.gpus import GPU

_ROLES = ("scheduler", "worker", "client")
_GONE_S = 60  # without the scheduler, after which a job ends by itself


@dataclass(frozen=True)
class SlurmSettings:
    """The knobs `slurm` as plain values; see config.py for their meaning."""

    jobs: int
    cores: int
    memory: str
    gpu_jobs: int
    gpu_cores: int
    gpu_memory: str
    gpu_request: str
    queue: str | None
    gpu_queue: str | None
    account: str | None
    walltime: str
    interface: str | None
    prologue: tuple[str, ...]
    wait_min: float


@contextmanager
def slurm_client(
    settings: SlurmSettings, folder: str, *, environment: Mapping[str, str], options: Mapping[str, Any]
) -> Iterator[Client]:
    """A client to a scheduler here whose workers are SLURM jobs; all are cancelled when the block ends.

    `folder`, which all nodes see, gets the jobs' logs. `environment` is set in the jobs, `options` are the
    scheduler's. Raises ConfigError where dask-jobqueue or SLURM is not there, ClusterError where a job is
    refused, or none has started in `settings.wait_min` minutes.
    """
    job = job_class()
    Path(folder).mkdir(parents=True, exist_ok=True)
    with _tls_files(folder) as security:
        shared = {"log_directory": folder, "security": security, "protocol": "tls://"}
        jobs = _jobs(settings, job, shared, [f"export {name}={value}" for name, value in environment.items()])
        scheduler = dict(options) | {"security": security, "protocol": "tls://", "interface": settings.interface}
        with _submitted(jobs, scheduler, security) as cluster, _client(cluster, settings) as client:
            yield client


def job_class() -> Any:
    """What submits a job. Raises ConfigError where dask-jobqueue or SLURM is not there."""
    try:
        base = import_module("dask_jobqueue.slurm").SLURMJob
    except ImportError:
        raise ConfigError(
            "scheduler slurm: needs dask-jobqueue, which is not installed; pip install 'wsi-pipeline[cluster]'"
        ) from None
    if shutil.which("sbatch") is None:
        raise ConfigError("scheduler slurm: no sbatch on this machine; start the run where SLURM jobs can be submitted")

    class Job(base):  # type: ignore[misc, valid-type]
        async def start(self) -> None:
            try:
                await super().start()
            except BaseException:
                self.status = Status.failed  # else Dask, closing, stumbles over it and hides what SLURM said
                raise

    return Job


def _jobs(settings: SlurmSettings, job: Any, shared: dict[str, Any], exports: list[str]) -> dict[str, dict[str, Any]]:
    """What is to be submitted, by the names of the workers."""
    shared = shared | {
        "account": settings.account,
        "walltime": settings.walltime,
        "interface": settings.interface,
        "job_name": "wsi_pipeline",
        "job_script_prologue": [*exports, *settings.prologue],
        "death_timeout": _GONE_S,
    }
    reading = shared | {
        "queue": settings.queue,
        "cores": settings.cores,
        "processes": settings.cores,
        "memory": settings.memory,
    }
    scoring = shared | {
        "queue": settings.gpu_queue or settings.queue,
        "cores": 1,  # one slide at a time; the other processors are for reading tiles from the store
        "processes": 1,
        "job_cpu": settings.gpu_cores,
        "memory": settings.gpu_memory,
        "job_extra_directives": [settings.gpu_request] if settings.gpu_request else [],
        "worker_extra_args": ["--resources", f"{GPU}=1"],
    }
    of_one_job = [f"-{process}" for process in range(settings.cores)] if settings.cores > 1 else [""]
    readers = {
        f"read-{number}": {"cls": job, "options": reading, "group": of_one_job} for number in range(settings.jobs)
    }
    return readers | {f"gpu-{number}": {"cls": job, "options": scoring} for number in range(settings.gpu_jobs)}


@contextmanager
def _submitted(jobs: dict[str, dict[str, Any]], scheduler: dict[str, Any], security: TlsFiles) -> Iterator[SpecCluster]:
    try:
        cluster = SpecCluster(
            workers=jobs,
            scheduler={"cls": Scheduler, "options": scheduler},
            security=security,
            silence_logs=logging.CRITICAL,
            name="wsi_pipeline",
        )
    except (RuntimeError, ValueError, OSError) as error:
        said = " ".join(str(error).split())
        raise ClusterError(f"scheduler slurm: a job was refused ({said}); see to the slurm knobs") from error
    with cluster:
        yield cluster


@contextmanager
def _client(cluster: SpecCluster, settings: SlurmSettings) -> Iterator[Client]:
    with Client(cluster, security=cluster.security, set_as_default=False) as client:
        try:
            client.wait_for_workers(1, timeout=60 * settings.wait_min)
        except TimeoutError:
            raise ClusterError(
                f"scheduler slurm: no job has started in {settings.wait_min:g} minutes; see `squeue --me`, and the "
                "jobs' logs in logs/slurm of the run folder; or wait longer with --set slurm.wait_min=120"
            ) from None
        yield client


@contextmanager
def _tls_files(folder: str) -> Iterator[TlsFiles]:
    """A key and a certificate of this run alone, in files that only this user can read."""
    try:
        made = TlsFiles.temporary()
    except ImportError as error:
        raise ConfigError(f"scheduler slurm: {error}; pip install 'wsi-pipeline[cluster]'") from None
    with tempfile.TemporaryDirectory(prefix="tls-", dir=folder) as private:  # for its owner alone
        names = {}
        for part in ("cert", "key"):
            names[part] = os.path.join(os.path.abspath(private), f"{part}.pem")
            Path(names[part]).write_text(getattr(made, f"tls_scheduler_{part}"), encoding="ascii")
        files = {f"tls_{role}_{part}": names[part] for role in _ROLES for part in names}
        yield TlsFiles(tls_ca_file=names["cert"], require_encryption=True, **files)
