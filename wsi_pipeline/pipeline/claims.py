"""Claims: which of several jobs over one run folder works on a slide, by files alone, on any shared disk.

A claim is a file `<slide>.<turn>`, made with O_EXCL, so that one job alone gets it; its owner touches it every
few seconds. A claim not touched for `expiry_s` belongs to the dead: whoever makes the next turn's file first
takes the slide over, again one job alone. Nothing is renamed or removed under an owner's feet: a job that was
asleep for longer sees the higher turn and lets go. Ages are told by the disk's own clock, from a file touched
at the moment of asking, so hosts whose clocks differ agree. An owner of the same machine whose process is gone
is known to be dead at once, so going on after a crash waits for nothing.
"""

import json
import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import psutil

from wsi_pipeline.errors import StoreError

HEARTBEAT_S = 10.0
EXPIRY_S = 90.0  # nine beats missed: longer than a server's pause, shorter than anyone wants to wait


@dataclass(frozen=True)
class Claim:
    """A slide that this job works on: `turn` counts the owners that it has had."""

    slide_id: str
    turn: int
    path: Path


class Claims:
    """The claims of one job in a run folder; made by `open_claims`.

    Attributes:
        job: a name for this job, unique over hosts and time.
        began: when it began, by the disk's clock.
    """

    began: float

    def __init__(self, folder: Path, *, heartbeat_s: float = HEARTBEAT_S, expiry_s: float = EXPIRY_S) -> None:
        self.job = f"{socket.gethostname()}-{os.getpid()}-{uuid4().hex[:8]}"
        self._folder = folder
        self._heartbeat_s, self._expiry_s = heartbeat_s, expiry_s
        self._held: dict[str, Claim] = {}
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._beating = threading.Thread(target=self._beat, name="claims", daemon=True)

    def take(self, slide_id: str) -> bool:
        """Claim a slide: False where another living job has it. A claim of one's own stays."""
        with self._lock:
            if slide_id in self._held:
                return True
            last = self._last(slide_id)
            if last is not None and not self._expired(last):
                return False
            claim = self._make(slide_id, turn=1 if last is None else _turn(last) + 1)
            if claim is None:
                return False
            self._held[slide_id] = claim
            return True

    def holds(self, slide_id: str) -> bool:
        """Whether the slide is still this job's: it is not, once another took it over."""
        claim = self._held.get(slide_id)
        last = self._last(slide_id)
        return claim is not None and last is not None and _turn(last) == claim.turn

    def free(self, slide_id: str) -> None:
        """Give a slide back; its files of earlier turns go as well."""
        with self._lock:
            claim = self._held.pop(slide_id, None)
        if claim is None:
            return
        mine_last = self._last(slide_id)
        if mine_last is not None and _turn(mine_last) == claim.turn:
            mine = [path for path in self._files(slide_id) if _turn(path) <= claim.turn]
            for path in sorted(mine, key=_turn):  # the claim itself last
                path.unlink(missing_ok=True)

    def owner(self, slide_id: str) -> str:
        """The job that has the slide, as it named itself; empty where nobody has."""
        last = self._last(slide_id)
        return str(_told(last).get("job", "")) if last else ""

    def _make(self, slide_id: str, turn: int) -> Claim | None:
        """The claim of this turn, or None where another was first. Raises StoreError on a disk that refuses."""
        path = self._folder / f"{slide_id}.{turn}"
        try:
            handle = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
        except FileExistsError:
            return None
        except OSError as error:
            text = f"{path}: cannot be claimed ({error.strerror}); see to the folder's permissions"
            raise StoreError(text) from error
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            json.dump({"job": self.job, "slide_id": slide_id, **_this_process()}, file)
        return Claim(slide_id, turn, path)

    def _files(self, slide_id: str) -> list[Path]:
        """All turns of a slide; ids may hold dots and digits, so the name before the last dot must be the id."""
        found = (self._folder / name for name in os.listdir(self._folder) if name.rpartition(".")[0] == slide_id)
        return [path for path in found if path.suffix[1:].isdecimal()]

    def _last(self, slide_id: str) -> Path | None:
        return max(self._files(slide_id), key=_turn, default=None)

    def _expired(self, path: Path) -> bool:
        try:
            with path.open("rb") as file:  # NFS tells a file's time anew when it is opened, not before
                touched = os.fstat(file.fileno()).st_mtime
            return self._now() - touched > self._expiry_s or _is_gone(_told(path))
        except FileNotFoundError:
            return False  # given back just now: the next look finds it free

    def _now(self) -> float:
        """The time by the disk's clock."""
        probe = self._folder / f".{self.job}.now"
        probe.touch()
        return probe.stat().st_mtime

    def _beat(self) -> None:
        """Touch what this job holds until it ends; one that was taken over is let go."""
        while not self._stop.wait(self._heartbeat_s):
            for claim in list(self._held.values()):
                try:
                    os.utime(claim.path)
                except FileNotFoundError:
                    pass
                except OSError:
                    continue  # a server that is away: the next beat may reach it

    def _start(self) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        self.began = self._now()
        self._beating.start()

    def _end(self) -> None:
        self._stop.set()
        self._beating.join()
        for slide_id in list(self._held):
            self.free(slide_id)
        (self._folder / f".{self.job}.now").unlink(missing_ok=True)


@contextmanager
def open_claims(folder: Path, *, heartbeat_s: float = HEARTBEAT_S, expiry_s: float = EXPIRY_S) -> Iterator[Claims]:
    """The claims of this job in `folder`, kept alive until the block ends, then all given back."""
    claims = Claims(folder, heartbeat_s=heartbeat_s, expiry_s=expiry_s)
    claims._start()
    try:
        yield claims
    finally:
        claims._end()


def _turn(path: Path) -> int:
    return int(path.suffix[1:])


def _told(path: Path) -> dict[str, Any]:
    """What a claim's owner wrote; nothing where it is being written, or was just given back."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _this_process() -> dict[str, Any]:
    """What tells this process from all others of its machine; nothing where the machine cannot be told for sure.

    A host's name would not do: containers share names, and see only processes of their own.
    """
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        space = os.stat("/proc/self/ns/pid").st_ino
    except OSError:
        return {}
    return {"machine": f"{boot}:{space}", "pid": os.getpid(), "born": psutil.Process().create_time()}


def _is_gone(owner: dict[str, Any]) -> bool:
    """Whether the owner was a process of this machine that is no more."""
    if "machine" not in owner or owner["machine"] != _this_process().get("machine"):
        return False
    try:
        process = psutil.Process(int(owner["pid"]))
        return process.create_time() != owner["born"] or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True
    except (psutil.Error, KeyError, ValueError):
        return False
