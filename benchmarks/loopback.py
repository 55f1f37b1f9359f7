"""A Dask scheduler and its workers on this machine, each a process of its own, as on a cluster of many.

The processes are this user's, listen on 127.0.0.1 alone, and are ended with the block.
"""

import json
import os
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

_START_S = 300.0  # a busy machine takes a minute
_MOVED = "moved.bin"
_COUNTED = str(Path(__file__).with_name("counted.py"))
_ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "DASK_DISTRIBUTED__WORKER__PROFILE__ENABLED": "False",
    "DASK_DISTRIBUTED__WORKER__MEMORY__TERMINATE": "False",  # of a machine that others use as well
}


@dataclass
class Loopback:
    """A cluster that is running.

    Attributes:
        address: of the scheduler.
        scheduler: its process.
        folder: what they write.
        workers: their processes, by name: read-0, read-1, ... and gpu-0, ...
    """

    address: str
    folder: Path
    scheduler: subprocess.Popen[bytes]
    workers: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def moved(self) -> int:
        """Bytes that have gone through the scheduler's sockets, in and out."""
        return int(struct.unpack("Q", (self.folder / _MOVED).read_bytes())[0])

    def kill(self, name: str) -> None:
        """End a worker as a power cut would, and what watches over it too."""
        _kill(self.workers.pop(name))


@contextmanager
def loopback(folder: Path, *, readers: int, gpus: int = 0) -> Iterator[Loopback]:
    """A scheduler with so many workers of one thread; what they write goes into `folder`.

    Workers with `gpus` say that they have one, and score, whatever the machine has. Each keeps slides of URLs in a
    folder of its own, as on hosts that share no disk.
    """
    folder.mkdir(parents=True, exist_ok=True)
    told = folder / "scheduler.json"
    scheduler = _start(folder, "scheduler", "--port", "0", "--scheduler-file", str(told), "--preload", _COUNTED)
    running = Loopback("", folder, scheduler)
    try:
        running.address = _address(told, scheduler)
        known = ["--nthreads", "1", "--local-directory", str(folder), "--death-timeout", f"{_START_S:.0f}"]
        for name in [f"read-{number}" for number in range(readers)]:
            running.workers[name] = _start(folder, "worker", running.address, *known, "--name", name, cache=name)
        for name in [f"gpu-{number}" for number in range(gpus)]:
            options = ["--name", name, "--resources", "GPU=1"]
            running.workers[name] = _start(folder, "worker", running.address, *known, *options, cache=name)
        _wait_for_workers(folder, readers + gpus)
        yield running
    finally:
        for process in [*running.workers.values(), scheduler]:
            _kill(process)


def _start(folder: Path, what: str, *options: str, cache: str = "") -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", f"distributed.cli.dask_{what}", *options, "--host", "127.0.0.1"]
    quiet = ["--no-dashboard", "--dashboard-address", "127.0.0.1:0"]
    own = {"BYTES_MOVED": str(folder / _MOVED), "WSI_PIPELINE_CACHE_DIR": str(folder / "cache" / cache)}
    with (folder / f"{what}s.log").open("ab") as log:
        return subprocess.Popen(
            [*command, *quiet], stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
            env=os.environ | _ENVIRONMENT | own,
        )  # fmt: skip


def _address(told: Path, scheduler: subprocess.Popen[bytes]) -> str:
    ends = time.monotonic() + _START_S
    while time.monotonic() < ends and scheduler.poll() is None:
        try:
            return str(json.loads(told.read_text(encoding="utf-8"))["address"])
        except (OSError, ValueError):
            time.sleep(0.05)
    raise RuntimeError(f"no scheduler after {_START_S:.0f} s; see {told.parent}/schedulers.log")


def _wait_for_workers(folder: Path, wanted: int) -> None:
    """The scheduler's log tells of each that has come: a client would be one more connection to count."""
    ends = time.monotonic() + _START_S
    while (folder / "schedulers.log").read_text(encoding="utf-8").count("Register worker") < wanted:
        if time.monotonic() > ends:
            raise RuntimeError(f"fewer than {wanted} workers after {_START_S:.0f} s; see {folder}/workers.log")
        time.sleep(0.05)


def _kill(process: subprocess.Popen[bytes]) -> None:
    """The process and all that it started."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
