"""A command run to its end -> its wall time and the most memory that it and all it started held at once."""

import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

EVERY_S = 0.5  # reading it stops the process for 8 ms: at 0.1 s a tenth of its work was lost


@dataclass(frozen=True)
class Ran:
    """Wall time with imports and all, and the peak of the sum over processes, memory in common counted once."""

    seconds: float
    peak_bytes: int

    @property
    def peak_gib(self) -> float:
        return self.peak_bytes / 2**30


def watch(command: Sequence[str], log: Path) -> Ran:
    """Run a command, its output into `log`; RuntimeError with the end of the log where it fails."""
    started, peak = time.perf_counter(), 0
    with log.open("w") as out, subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT) as process:
        while process.poll() is None:
            peak = max(peak, resident(process.pid))
            time.sleep(EVERY_S)
    if process.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {process.returncode}: {log.read_text()[-2000:]}")
    return Ran(time.perf_counter() - started, peak)


def resident(pid: int) -> int:
    """Bytes held by a process and all below it: private memory, and of shared memory each its part."""
    total = 0
    try:
        parent = psutil.Process(pid)
        processes = [parent, *parent.children(recursive=True)]
    except psutil.NoSuchProcess:
        return 0
    for process in processes:
        try:
            found = process.memory_full_info()
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
        total += getattr(found, "pss", found.uss)
    return total
