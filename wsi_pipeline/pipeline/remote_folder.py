"""A run folder at a URL: stores and maps are written there by the workers, and what is told of them by the job.

Records, logs, events and tables are written in a folder of this machine first, one of the cache's and this job's
alone, found again by a job that goes on after a kill. What is kept at the URL is the truth: records are read there,
claims are made there, and shards are looked for there.
"""

import math
import os
import shutil
import socket
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from time import monotonic
from typing import Any

from wsi_pipeline import __version__
from wsi_pipeline.disk import writing
from wsi_pipeline.errors import ConfigError, StoreError
from wsi_pipeline.keys import digest
from wsi_pipeline.maps.result import SlideResult
from wsi_pipeline.pipeline.begin import Check, make_free, open_run_folder, refuse_others
from wsi_pipeline.pipeline.claim_files import BucketFiles
from wsi_pipeline.pipeline.folder import FILES, FOLDERS, MARK, PICTURES, RunFolder, account_in
from wsi_pipeline.slide.cache import cache_folder
from wsi_pipeline.slide.locks import Lock, first_free
from wsi_pipeline.slide.urls import broken, is_url, plain, reaching, remote, told

_EVENTS_S = 30.0  # between deliveries of events.jsonl, which are of the whole file


class RemoteFolder(RunFolder):
    """A run folder at `url`; `root` is where this job writes what it puts there. Made by `open_run`."""

    def __init__(self, url: str, root: Path, held: Lock) -> None:
        super().__init__(root)
        self.url = url
        self._held = held
        self._files, self._place = remote(url)
        self.claims = BucketFiles(self._files, f"{self._place}/claims", f"{url}/claims")
        self._events = f"events-{digest([socket.gethostname(), str(root)])[:8]}.jsonl"  # no object can be added to
        self._events_due = 0.0

    @property
    def maps(self) -> str:
        return f"{self.url}/maps"

    def store(self, slide_id: str) -> str:
        return f"{self.url}/tiles/{slide_id}.zarr"

    def is_used(self) -> bool:
        """Whether there is anything at the URL."""
        with reaching(self.url, StoreError):
            try:
                return bool(self._files.ls(self._place, detail=False))
            except FileNotFoundError:
                return False

    def clear(self) -> None:
        """Remove what a run left, at the URL and here; nothing that is not ours."""
        with reaching(self.url, StoreError):
            events = [os.path.basename(path) for path in self._files.glob(self._at("events-*.jsonl"))]
        for name in (*FOLDERS, *FILES, *events):
            self._remove(name, recursive=True)
        shutil.rmtree(self.root, ignore_errors=True)

    def go_on_with_events(self) -> None:
        """Bring the events that jobs in this working folder delivered before, for more to be added."""
        if not (self.root / "events.jsonl").exists() and self._pull(self._events):
            os.replace(self.root / self._events, self.root / "events.jsonl")

    def shown(self, name: str) -> str:
        return f"{self.url}/{name}" if name else self.url

    def told(self, text: str) -> str:
        return super().told(text.replace(str(self.root), self.url))

    def check_workers(self, scheduler: str) -> None:
        if scheduler == "slurm":
            raise ConfigError(
                f"{self.url}: jobs of slurm write their logs to a folder that all nodes see; give --out such a folder, "
                "or start workers by yourself and give --scheduler tcp://host:port"
            )
        if self.url.startswith("memory://") and scheduler != "threads":
            raise ConfigError(f"{self.url}: is this process's own memory, which no worker sees; use s3:// or a path")

    def account(self) -> dict[str, Any]:
        self._pull("run.json")
        return super().account()

    def write_account(self, facts: Mapping[str, Any]) -> None:
        super().write_account(facts)
        self._push(["run.json"])

    def event(self, name: str, **facts: Any) -> None:
        super().event(name, **{key: self.told(v) if isinstance(v, str) else v for key, v in facts.items()})

    def record(
        self, result: SlideResult, key: str, path: Path | None = None, *, made: str = "",
        seen: Mapping[str, Any] | None = None,
    ) -> None:  # fmt: skip
        super().record(result, key, path, made=made, seen=seen)
        written = path or self._record_path(result.slide_id)
        self._push([f"records/{written.name}", *self._there([self.root / "logs" / f"{result.slide_id}.log"])])
        if monotonic() > self._events_due:
            self._push_events()

    def recorded(self, slide_id: str) -> tuple[SlideResult, str] | None:
        self._pull(f"records/{slide_id}.json")
        return super().recorded(slide_id)

    def seen(self, slide_id: str) -> Any:
        self._pull(f"records/{slide_id}.json")
        return super().seen(slide_id)

    def failed_since(self, slide_id: str, moment: float) -> SlideResult | None:
        pulled = self._pull(f"records/{self._failure_path(slide_id).name}")
        return super().failed_since(slide_id, moment) if pulled else None

    def _written(self, path: Path) -> float:
        with reaching(self.url, StoreError):
            try:
                return float(self._files.modified(self._at(f"records/{path.name}")).timestamp())
            except FileNotFoundError:
                return -math.inf

    def forget(self, slide_id: str, *, record: bool = True) -> None:
        for path in self._told_of(slide_id, record):
            self._remove(f"records/{path.name}")
        super().forget(slide_id, record=record)

    def has(self, maps: Iterable[str]) -> bool:
        with reaching(self.url, StoreError):
            return all(self._files.exists(self._at(f"maps/{name}")) for name in maps)

    def drop(self, maps: Iterable[str]) -> None:
        names = list(maps)
        for name in names:
            self._remove(f"maps/{name}")
        super().drop(names)

    def pictures(self, slide_id: str) -> dict[str, Path]:
        """Those that can be had: the report does without the others."""
        for name in PICTURES:
            picture = f"{slide_id}_{name}.png"
            try:
                self._pull(f"maps/{picture}")
            except StoreError:
                super().drop([picture])  # here it may be of older maps
        return super().pictures(slide_id)

    def publish(self) -> None:
        self._push(self._there(self.root / name for name in FILES if name != "events.jsonl"))
        self._push_events()
        shutil.rmtree(self.root.parent, ignore_errors=True)

    def _push_events(self) -> None:
        with self._lock:
            (self.root / "events.jsonl").touch()
            shutil.copyfile(self.root / "events.jsonl", self.root / self._events)
        self._push([self._events])
        self._events_due = monotonic() + _EVENTS_S

    def _pull(self, name: str) -> bool:
        """Bring a file here as it is kept; False, and none here, where it is not."""
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with reaching(self.shown(name), StoreError):
            try:
                data = self._files.cat_file(self._at(name))
            except FileNotFoundError:
                path.unlink(missing_ok=True)
                return False
        with writing(path, len(data)):
            path.write_bytes(data)
        return True

    def _push(self, names: list[str]) -> None:
        """Put files where they are kept, whole; once more where that broke off."""
        paths = [str(self.root / name) for name in names], [self._at(name) for name in names]
        why: Exception | None = None
        for _ in range(2 if names else 0):
            try:
                return self._files.put(*paths)
            except broken() as error:
                why = error
        if why:
            said = f"{len(names)} files, first {names[0]}, cannot be delivered, tried twice: {told(why)}"
            raise StoreError(f"{self.url}: {said}; go on with --resume") from why

    def _remove(self, name: str, *, recursive: bool = False) -> None:
        with reaching(self.shown(name), StoreError), suppress(FileNotFoundError):
            self._files.rm(self._at(name), recursive=recursive)

    def _there(self, paths: Iterable[Path]) -> list[str]:
        return [self._name(path) for path in paths if path.exists()]

    def _name(self, path: Path) -> str:
        return path.relative_to(self.root).as_posix()

    def _at(self, name: str) -> str:
        return f"{self._place}/{name}"


def open_run(
    where: str, *, resume: bool = False, overwrite: bool = False, ready: Check = lambda folder: None
) -> RunFolder:
    """The run folder at a path or URL, made where it is not there yet; errors as of `open_run_folder`."""
    where = plain(where)
    if not is_url(where):
        return open_run_folder(where, resume=resume, overwrite=overwrite, ready=ready)
    folder = RemoteFolder(where.rstrip("/"), *_working_folder(where.rstrip("/")))
    make_free(folder, resume=resume, overwrite=overwrite, ready=ready)
    for name in FOLDERS:
        (folder.root / name).mkdir(parents=True, exist_ok=True)
    folder.go_on_with_events()
    if not folder.account():
        folder.write_account({MARK: __version__})
    return folder


def check_run(where: str, *, resume: bool = False, overwrite: bool = False) -> None:
    """Raise where `open_run` would for what is there by now; nothing is made or removed there."""
    where = plain(where)
    folder = RunFolder(Path(where).absolute())
    if is_url(where):
        folder = RemoteFolder(where.rstrip("/"), *_working_folder(where.rstrip("/")))
    refuse_others(folder, resume=resume, overwrite=overwrite)


def account_of(where: str) -> dict[str, Any]:
    """What run.json of the run folder at a path or URL holds; empty where none is there.

    The cache is left alone: where it lies may stand in knobs that are read later.
    """
    where = plain(where)
    if not is_url(where):
        return RunFolder(Path(where).absolute()).account()
    shown = f"{where.rstrip('/')}/run.json"
    files, place = remote(shown)
    with reaching(shown, StoreError):
        try:
            data = bytes(files.cat_file(place))
        except FileNotFoundError:
            return {}
    return account_in(data, shown)


def _working_folder(url: str) -> tuple[Path, Lock]:
    """A folder for a run at `url` that no other job works in: the first one, if its job is no more."""
    runs = cache_folder() / "runs"
    with writing(runs):
        runs.mkdir(exist_ok=True)
        place, held = first_free(runs, f"{digest(url)}-")
    return place / os.path.basename(url), held
