"""The run folder: where each file of a run lies, what was recorded of each slide, and the run's own account.

::

    run.json  events.jsonl  slides.csv  slides.parquet  failures.csv  report.html
    tiles/<slide>.zarr   maps/<slide>_*   logs/<slide>.log   records/<slide>.json   claims/
"""

import errno
import json
import math
import os
import shutil
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict, fields, replace
from datetime import UTC, datetime
from pathlib import Path
from threading import Lock
from typing import Any

from wsi_pipeline.disk import writing
from wsi_pipeline.errors import ConfigError, StoreError
from wsi_pipeline.maps.atomic import replace_file
from wsi_pipeline.maps.result import SlideResult
from wsi_pipeline.pipeline.claim_files import ClaimFiles
from wsi_pipeline.slide.cache import without_cache

MARK = "wsi_pipeline"  # the key of run.json by which a run folder is known
PICTURES = ("tissue", "overlay")
FOLDERS = ("tiles", "maps", "logs", "records", "claims")
FILES = ("run.json", "events.jsonl", "slides.csv", "slides.parquet", "failures.csv", "report.html")
_OTHER = "of an earlier run with other knobs or another model; --resume without a limit does it again"


class BrokenAccountError(StoreError):
    """A run.json that is there and cannot be read."""


class RunFolder:
    """Paths and records of one run; made by `open_run_folder`."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.claims: Path | ClaimFiles = root / "claims"
        self._lock = Lock()

    @property
    def maps(self) -> str:
        """The folder of all maps, a path or a URL."""
        return str(self.root / "maps")

    def store(self, slide_id: str) -> str:
        """The tile store of a slide, a path or a URL."""
        return str(self.root / "tiles" / f"{slide_id}.zarr")

    def pictures(self, slide_id: str) -> dict[str, Path]:
        """The PNGs of a slide that are there, by what they show."""
        found = {name: self.root / "maps" / f"{slide_id}_{name}.png" for name in PICTURES}
        return {name: path for name, path in found.items() if path.exists()}

    def shown(self, name: str) -> str:
        """Where a file of the run lies, for a message."""
        return str(self.root / name) if name else str(self.root)

    def told(self, text: str) -> str:
        """A message without places that mean nothing to who reads it: copies of what lies at a URL."""
        return without_cache(text)

    # A run folder at a URL, see remote_folder.py, does more; here all is in its place already.

    def check_workers(self, scheduler: str) -> None:
        """Raise ConfigError where workers of `scheduler` could not reach this folder."""

    def is_used(self) -> bool:
        """Whether there is anything in it but what a run makes first. Raises ConfigError for a file."""
        if self.root.exists() and not self.root.is_dir():
            raise ConfigError(f"{self.root}: is a file; give --out a folder")
        return self.root.exists() and not _is_begun(self.root)

    def clear(self) -> None:
        """Remove what a run left; nothing that is not ours."""
        for name in FOLDERS:
            shutil.rmtree(self.root / name, ignore_errors=True)
        for name in FILES:
            (self.root / name).unlink(missing_ok=True)

    def has(self, maps: Iterable[str]) -> bool:
        """Whether all these files are among the maps."""
        return all((self.root / "maps" / name).exists() for name in maps)

    def drop(self, maps: Iterable[str]) -> None:
        """Remove these files from among the maps, those that are there. StoreError where one cannot be."""
        for name in maps:
            _remove(self.root / "maps" / name)

    def publish(self) -> None:
        """Put tables, report and account where they are kept; the run is over. Raises StoreError likewise."""

    def account(self) -> dict[str, Any]:
        """What run.json holds; empty where there is none yet. Raises StoreError where it is not ours."""
        path, shown = self.root / "run.json", self.shown("run.json")
        if not path.exists():
            return {}
        try:
            data = path.read_bytes()
        except OSError as error:
            raise _unread(shown, error) from None
        return account_in(data, shown)

    def write_account(self, facts: Mapping[str, Any]) -> None:
        """Write run.json whole."""
        text = json.dumps(dict(facts), indent=2, ensure_ascii=False, default=str)
        replace_file(self.root / "run.json", text.encode("utf-8", "replace"))

    def event(self, name: str, **facts: Any) -> None:
        """Add a line to events.jsonl and, where it concerns a slide, to the slide's log."""
        line = json.dumps({"time": now(), "event": name, **facts}, ensure_ascii=False, default=str)
        with self._lock:
            self._append(self.root / "events.jsonl", line)
            if "slide_id" in facts:
                words = " ".join(f"{key}={value}" for key, value in facts.items() if key != "slide_id")
                self._append(self.root / "logs" / f"{facts['slide_id']}.log", f"{now()} {name} {words}")

    def record(
        self, result: SlideResult, key: str, path: Path | None = None, *, made: str = "",
        seen: Mapping[str, Any] | None = None,
    ) -> None:  # fmt: skip
        """Write what a slide came to, last of all its files; `key` tells what it depends on, `made` by `made_with` of
        keys.py what its table should have in common, `seen` see seen.py."""
        row = {name: None if _is_nan(value) else value for name, value in asdict(result).items()}
        told = {"key": key, "result": row} | ({"made": made} if made else {}) | ({"seen": seen} if seen else {})
        text = json.dumps(told, ensure_ascii=False)
        replace_file(path or self._record_path(result.slide_id), text.encode("utf-8", "replace"))

    def recorded(self, slide_id: str) -> tuple[SlideResult, str] | None:
        """What was recorded of a slide, and its key; None where there is nothing whole."""
        return self._read_record(self._record_path(slide_id))

    def recorded_since(self, slide_id: str, moment: float) -> bool:
        """Whether a slide's record was written after `moment`, by the disk's clock."""
        return self._written(self._record_path(slide_id)) > moment

    def last_told(self, slide_id: str, made: str = "") -> SlideResult | None:
        """The row of a slide as runs before left it: what was recorded, else how it failed; None where nothing was.

        Where it was not `made` with these knobs and this model it warns, as it will stand among rows that were.
        """
        if (found := self.recorded(slide_id)) is None:
            return self.failed_since(slide_id, -math.inf)
        before = self._beside(slide_id, "made")
        other = bool(made) and before is not None and before != made
        return replace(found[0], warnings=(*found[0].warnings, _OTHER)) if other else found[0]

    def seen(self, slide_id: str) -> Any:
        """What `record` was told of how the slide was seen; None where nothing was."""
        return self._beside(slide_id, "seen")

    def _beside(self, slide_id: str, name: str) -> Any:
        """What `record` was told beside the row; None where nothing was."""
        try:
            return json.loads(self._record_path(slide_id).read_text(encoding="utf-8"))[name]
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def record_failure(self, result: SlideResult) -> None:
        """Write how a slide failed, for other jobs at work in this folder."""
        self.record(result, "", self._failure_path(result.slide_id))

    def failed_since(self, slide_id: str, moment: float) -> SlideResult | None:
        """How a slide failed, if that was written after `moment`, by the disk's clock."""
        path = self._failure_path(slide_id)
        found = self._read_record(path) if self._written(path) > moment else None
        return found and found[0]

    def _written(self, path: Path) -> float:
        """When a record was written, in seconds by the disk's clock; long ago where it is not there."""
        try:
            return path.stat().st_mtime
        except FileNotFoundError:
            return -math.inf

    @staticmethod
    def _read_record(path: Path) -> tuple[SlideResult, str] | None:
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
            row = {item.name: found["result"][item.name] for item in fields(SlideResult)}
        except (OSError, ValueError, KeyError, TypeError):
            return None
        numbers = {item.name for item in fields(SlideResult) if item.type in (float, "float")}
        row = {name: math.nan if value is None and name in numbers else value for name, value in row.items()}
        return SlideResult(**{**row, "warnings": tuple(row["warnings"])}), str(found["key"])

    def forget(self, slide_id: str, *, record: bool = True) -> None:
        """Take back how a slide failed and, before its files are written anew, its record. StoreError likewise."""
        for path in self._told_of(slide_id, record):
            _remove(path)

    def _told_of(self, slide_id: str, record: bool) -> list[Path]:
        return [self._failure_path(slide_id), *([self._record_path(slide_id)] if record else [])]

    def _failure_path(self, slide_id: str) -> Path:
        return self.root / "records" / f"{slide_id}.failed"

    def _record_path(self, slide_id: str) -> Path:
        return self.root / "records" / f"{slide_id}.json"

    @staticmethod
    def _append(path: Path, line: str) -> None:
        data = (line.replace("\n", " ") + "\n").encode("utf-8", "replace")
        with writing(path, len(data)), path.open("a+b", buffering=0) as file:
            if file.tell() and file.seek(-1, os.SEEK_END) >= 0 and file.read(1) != b"\n":
                data = b"\n" + data  # after half a line, all that a full disk or a kill let through
            if (written := file.write(data)) < len(data):
                raise OSError(errno.ENOSPC, f"{written} of {len(data)} bytes written")


def account_in(data: bytes, shown: str) -> dict[str, Any]:
    """What a run.json holds; errors as of `RunFolder.account`."""
    try:
        found = json.loads(data)
    except ValueError as error:
        raise _unread(shown, error) from None
    if not isinstance(found, dict) or MARK not in found:
        raise StoreError(f"{shown}: not written by this package; use another --out")
    return found


def now() -> str:
    """The time, UTC, to the millisecond."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def _is_begun(root: Path) -> bool:
    """Whether a folder is empty, or was just being made: our folders, empty, and no run.json but one with the mark."""
    names = {path.name for path in root.iterdir() if path.suffix != ".partial"}
    with suppress(StoreError):
        if "run.json" in names and set(RunFolder(root).account()) == {MARK}:
            names.remove("run.json")
    return names <= set(FOLDERS) and all(not any((root / name).iterdir()) for name in names)


def _remove(path: Path) -> None:
    with writing(path):
        path.unlink(missing_ok=True)


def _unread(shown: str, error: Exception) -> BrokenAccountError:
    return BrokenAccountError(f"{shown}: cannot be read ({error}); use another --out, or --overwrite")


def _is_nan(value: Any) -> bool:
    return isinstance(value, float) and math.isnan(value)
