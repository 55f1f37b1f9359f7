"""Claims: which of several jobs over one run folder works on a slide, by files alone, see claim_files.py.

A claim is a file `<slide>.<turn>`, made exclusively, so that one job alone gets it; its owner touches it every
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
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

from wsi_pipeline.pipeline.claim_files import ClaimFiles, DiskFiles

HEARTBEAT_S = 10.0
EXPIRY_S = 90.0  # nine beats missed: longer than a server's pause, shorter than anyone wants to wait


@dataclass(frozen=True)
class Claim:
    """A slide that this job works on: `turn` counts the owners that it has had, `name` is the file's."""

    slide_id: str
    turn: int
    name: str


class Claims:
    """The claims of one job in a run folder; made by `open_claims`.

    Attributes:
        job: a name for this job, unique over hosts and time.
        began: when it began, by the clock of the disk or the object store.
    """

    began: float

    def __init__(self, files: ClaimFiles, *, heartbeat_s: float = HEARTBEAT_S, expiry_s: float = EXPIRY_S) -> None:
        self.job = f"{socket.gethostname()}-{os.getpid()}-{uuid4().hex[:8]}"
        self._files = files
        self._heartbeat_s, self._expiry_s = heartbeat_s, expiry_s
        self._held: dict[str, Claim] = {}
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._beating = threading.Thread(target=self._beat, name="claims", daemon=True)

    def take(self, slide_id: str) -> bool:
        """Claim a slide: False where another living job has it. A claim of one's own stays until another takes it.

        Raises StoreError where the run folder cannot be written.
        """
        with self._lock:
            if self.holds(slide_id):
                return True
            self._held.pop(slide_id, None)
            last = self._last(slide_id)
            if last is not None and not self._expired(last):
                return False
            turn = 1 if last is None else _turn(last) + 1
            claim = Claim(slide_id, turn, f"{slide_id}.{turn}")
            told = json.dumps({"job": self.job, "slide_id": slide_id, **_this_process()})
            if not self._files.create(claim.name, told):
                return False
            self._held[slide_id] = claim
            return True

    def holds(self, slide_id: str) -> bool:
        """Whether the slide is still this job's: it is not, once another took it over."""
        return self._is_mine(self._held.get(slide_id))

    def free(self, slide_id: str) -> None:
        """Give a slide back; its files of earlier turns go as well."""
        with self._lock:
            claim = self._held.pop(slide_id, None)
        if claim is None or not self._is_mine(claim):
            return
        mine = [name for name in self._turns(slide_id) if _turn(name) <= claim.turn]
        for name in sorted(mine, key=_turn):  # the claim itself last
            self._files.remove(name)

    def owner(self, slide_id: str) -> str:
        """The job that has the slide, as it named itself; empty where nobody has."""
        last = self._last(slide_id)
        return str(self._told(last).get("job", "")) if last else ""

    def living(self) -> tuple[str, float] | None:
        """A job that has a slide, as it named itself, and the seconds after which it counts as dead unless it shows
        life before; None where no living job has one."""
        for name in self._files.names():
            with suppress(FileNotFoundError):  # given back just now
                if name.rpartition(".")[2].isdecimal() and (left_s := self._left_s(name)) > 0:
                    return str(self._told(name).get("job", "")), left_s
        return None

    def _is_mine(self, claim: Claim | None) -> bool:
        """Whether a claim still stands. Its name is not enough: once all is given back, another job makes the same."""
        if claim is None or self._last(claim.slide_id) != claim.name:
            return False
        return bool(self._told(claim.name).get("job") == self.job)

    def _turns(self, slide_id: str) -> list[str]:
        """All files of a slide; ids may hold dots and digits, so the name before the last dot must be the id."""
        parts = (name.rpartition(".") for name in self._files.names())
        return [f"{slide_id}.{turn}" for owner, _, turn in parts if owner == slide_id and turn.isdecimal()]

    def _last(self, slide_id: str) -> str | None:
        return max(self._turns(slide_id), key=_turn, default=None)

    def _expired(self, name: str) -> bool:
        try:
            return self._left_s(name) <= 0
        except FileNotFoundError:
            return False  # given back just now: the next look finds it free

    def _left_s(self, name: str) -> float:
        """Seconds until a claim belongs to the dead; 0 or less where it does. FileNotFoundError where it is gone."""
        left_s = self._expiry_s - (self._now() - self._files.touched(name))
        return 0.0 if left_s > 0 and _is_gone(self._told(name)) else left_s

    def _told(self, name: str) -> dict[str, Any]:
        """What a claim's owner wrote; nothing where it is being written, or was just given back."""
        try:
            found = json.loads(self._files.read(name))
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}

    def _now(self) -> float:
        return self._files.now(f".{self.job}.now")

    def _beat(self) -> None:
        """Touch what this job holds until it ends; `take`, `holds` and `free` see what was taken over."""
        while not self._stop.wait(self._heartbeat_s):
            for claim in list(self._held.values()):
                try:
                    self._files.touch(claim.name)
                except FileNotFoundError:
                    pass
                except OSError:
                    continue  # a server that is away: the next beat may reach it

    def _start(self) -> None:
        self._files.prepare()
        self.began = self._now()
        self._beating.start()

    def _end(self) -> None:
        self._stop.set()
        self._beating.join()
        for slide_id in list(self._held):
            self.free(slide_id)
        self._files.remove(f".{self.job}.now")


@contextmanager
def open_claims(
    place: Path | ClaimFiles, *, heartbeat_s: float = HEARTBEAT_S, expiry_s: float = EXPIRY_S
) -> Iterator[Claims]:
    """The claims of this job in a folder, kept alive until the block ends, then all given back."""
    files = DiskFiles(place) if isinstance(place, Path) else place
    claims = Claims(files, heartbeat_s=heartbeat_s, expiry_s=expiry_s)
    claims._start()
    try:
        yield claims
    finally:
        claims._end()


def _turn(name: str) -> int:
    return int(name.rpartition(".")[2])


def _this_process() -> dict[str, Any]:
    """What tells this process from all others of its machine; nothing where the machine cannot be told for sure.

    A host's name would not do: containers share names, and see only processes of their own.
    """
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        space = os.stat("/proc/self/ns/pid").st_ino
    except OSError:
        return {}
    return {"machine": f"{boot}:{space}", "pid": os.getpid(), "ticks": _process(os.getpid())[1]}


def _is_gone(owner: dict[str, Any]) -> bool:
    """Whether the owner was a process of this machine that is no more."""
    if "machine" not in owner or owner["machine"] != _this_process().get("machine"):
        return False
    try:
        state, ticks = _process(int(owner["pid"]))
        return ticks != owner["ticks"] or state in "ZX"  # ended, and nobody has asked for its exit code yet
    except (FileNotFoundError, ProcessLookupError):
        return True
    except (OSError, KeyError, ValueError):
        return False


def _process(pid: int) -> tuple[str, int]:
    """A process's state, a letter, and when it began, in ticks since the machine did.

    As a time of day, which psutil tells, it would be another one once the clock is set, and a living owner gone.
    """
    told = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(") ")[2].split()
    return told[0], int(told[19])
