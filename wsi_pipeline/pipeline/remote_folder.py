"""A run folder at a URL: each slide is worked on in a folder of this machine and delivered as it ends, record last.

The folder here is one of the cache's, this job's alone, and is found again by a job that goes on after a kill. It
holds the slides under way, the pictures for the report, and nothing else: what is delivered is removed. What is kept
at the URL is the truth: records are read there, claims are made there. A tile store is whole there if it has its
zarr.json, which is removed first and written last.
"""

import json
import os
import shutil
import socket
from collections.abc import Iterable, Mapping
from contextlib import suppress
from itertools import count
from pathlib import Path
from time import monotonic
from typing import Any

from wsi_pipeline import __version__
from wsi_pipeline.config import digest
from wsi_pipeline.disk import writing
from wsi_pipeline.errors import ConfigError, StoreError
from wsi_pipeline.maps.result import SlideResult
from wsi_pipeline.pipeline.claim_files import BucketFiles
from wsi_pipeline.pipeline.folder import FILES, FOLDERS, MARK, PICTURES, RunFolder, open_run_folder, refuse_others
from wsi_pipeline.pipeline.outputs import ENDINGS, map_files
from wsi_pipeline.slide.cache import cache_folder
from wsi_pipeline.slide.locks import Lock, try_lock
from wsi_pipeline.slide.urls import broken, is_url, plain, reaching, remote, told
from wsi_pipeline.tiles.layout import ATTRIBUTES

_HERE = ("local", "threads")  # schedulers whose workers see this machine's folders
_EVENTS_S = 30.0  # between deliveries of events.jsonl, which are of the whole file
_ABOUT = "zarr.json"

Stamps = dict[str, tuple[int, int]]  # size and time of each file


class RemoteFolder(RunFolder):
    """A run folder at `url`; `root` is where this job works on it. Made by `open_run`."""

    def __init__(self, url: str, root: Path, held: Lock) -> None:
        super().__init__(root)
        self.url = url
        self._held = held
        self._files, self._place = remote(url)
        self.claims = BucketFiles(self._files, f"{self._place}/claims", f"{url}/claims")
        self._fetched: dict[str, Stamps] = {}
        self._events = f"events-{digest([socket.gethostname(), str(root)])[:8]}.jsonl"  # no object can be added to
        self._events_due = 0.0

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
        if scheduler not in _HERE:
            raise ConfigError(
                f"{self.url}: workers of {scheduler} would have to write to a folder of this machine; start a `run` "
                "with --scheduler local on each machine, they share the slides, or give --out a folder all can reach"
            )

    def account(self) -> dict[str, Any]:
        self._pull("run.json")
        return super().account()

    def write_account(self, facts: Mapping[str, Any]) -> None:
        super().write_account(facts)
        self._push(["run.json"])

    def event(self, name: str, **facts: Any) -> None:
        super().event(name, **{key: self.told(v) if isinstance(v, str) else v for key, v in facts.items()})

    def record(
        self, result: SlideResult, key: str, path: Path | None = None, *, seen: Mapping[str, Any] | None = None
    ) -> None:
        slide_id = result.slide_id
        if path is None:
            self.deliver(slide_id)
        super().record(result, key, path, seen=seen)
        written = path or self._record_path(slide_id)
        self._push([f"records/{written.name}", *self._there([self.root / "logs" / f"{slide_id}.log"])])
        self._drop(slide_id)
        if monotonic() > self._events_due:
            self._push_events()

    def recorded(self, slide_id: str) -> tuple[SlideResult, str] | None:
        self._pull(f"records/{slide_id}.json")
        return super().recorded(slide_id)

    def seen(self, slide_id: str) -> Any:
        self._pull(f"records/{slide_id}.json")
        return super().seen(slide_id)

    def failed_since(self, slide_id: str, moment: float) -> SlideResult | None:
        path = self._failure_path(slide_id)
        if not self._pull(f"records/{path.name}"):
            return None
        with reaching(self.url, StoreError):
            recent = self._files.modified(self._at(f"records/{path.name}")).timestamp() >= moment
        found = self._read_record(path) if recent else None
        return found and found[0]

    def forget(self, slide_id: str) -> None:
        for path in (self._record_path(slide_id), self._failure_path(slide_id)):
            self._remove(f"records/{path.name}")
        super().forget(slide_id)

    def has(self, slide_id: str, paths: Iterable[Path]) -> bool:
        with reaching(self.url, StoreError):
            kept = all(self._files.exists(self._at(self._name(path))) for path in paths)
        if kept:
            self._drop(slide_id)  # of a job that was killed between its record and this
        return kept

    def pictures(self, slide_id: str) -> dict[str, Path]:
        for name in PICTURES:
            if not (self.maps / f"{slide_id}_{name}.png").exists():
                self._pull(f"maps/{slide_id}_{name}.png")
        return super().pictures(slide_id)

    def fetch(self, slide_id: str, key: str) -> None:
        store = self.store(slide_id)
        if store.exists() or self._key_of(slide_id) != key:
            return
        draft = store.with_name(f".{slide_id}.fetched")
        shutil.rmtree(draft, ignore_errors=True)
        with writing(draft), reaching(self.shown(self._name(store)), StoreError):
            top = self._at(self._name(store))
            names = [path[len(top) + 1 :] for path in self._files.find(top)]
            for name in names:
                (draft / name).parent.mkdir(parents=True, exist_ok=True)
            self._files.get([f"{top}/{name}" for name in names], [str(draft / name) for name in names])
        draft.rename(store)
        self._fetched[slide_id] = _stamps(store)

    def deliver(self, slide_id: str) -> None:
        store = self.store(slide_id)
        if store.exists():
            self._deliver_store(self._name(store), _stamps(store), self._fetched.pop(slide_id, None))
        self._push(self._there(map_files(self.maps, slide_id, frozenset(ENDINGS))))

    def publish(self) -> None:
        for name in FILES:
            if name != "events.jsonl" and not self._there([self.root / name]):
                self._remove(name)
        self._push(self._there(self.root / name for name in FILES if name != "events.jsonl"))
        self._push_events()
        if not any((self.root / "tiles").iterdir()):  # else slides are under way, for --resume
            shutil.rmtree(self.root.parent, ignore_errors=True)

    def _deliver_store(self, name: str, files: Stamps, before: Stamps | None) -> None:
        """Put what has changed in a store since it was fetched, or all of it."""
        changed = [file for file in files if before is None or before.get(file) != files[file]]
        if not changed:
            return
        self._remove(f"{name}/{_ABOUT}")
        if before is None:
            self._remove(name, recursive=True)
        self._push([f"{name}/{file}" for file in changed if file != _ABOUT])
        self._push([f"{name}/{_ABOUT}"])

    def _push_events(self) -> None:
        with self._lock:
            (self.root / "events.jsonl").touch()
            shutil.copyfile(self.root / "events.jsonl", self.root / self._events)
        self._push([self._events])
        self._events_due = monotonic() + _EVENTS_S

    def _drop(self, slide_id: str) -> None:
        """Remove what is delivered of a slide here, but for the pictures of the report."""
        shutil.rmtree(self.store(slide_id), ignore_errors=True)
        for path in map_files(self.maps, slide_id, frozenset(ENDINGS)):
            if path.suffix != ".png":
                path.unlink(missing_ok=True)

    def _key_of(self, slide_id: str) -> str | None:
        """The key of the tile store that is kept of a slide; None where there is none, whole."""
        with reaching(self.url, StoreError):
            try:
                about = json.loads(self._files.cat_file(self._at(f"tiles/{slide_id}.zarr/{_ABOUT}")))
                return str(about["attributes"][ATTRIBUTES]["key"])
            except (FileNotFoundError, ValueError, KeyError, TypeError):
                return None

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


def open_run(where: str, *, resume: bool = False, overwrite: bool = False) -> RunFolder:
    """The run folder at a path or URL, made where it is not there yet; errors as of `open_run_folder`."""
    where = plain(where)
    if not is_url(where):
        return open_run_folder(where, resume=resume, overwrite=overwrite)
    folder = RemoteFolder(where.rstrip("/"), *_working_folder(where.rstrip("/")))
    if folder.is_used():
        refuse_others(folder, resume=resume or overwrite)
        if overwrite:
            folder.clear()
    for name in FOLDERS:
        (folder.root / name).mkdir(parents=True, exist_ok=True)
    folder.go_on_with_events()
    if not folder.account():
        folder.write_account({MARK: __version__})
    return folder


def account_of(where: str) -> dict[str, Any]:
    """What run.json of the run folder at a path or URL holds; empty where none is there."""
    where = plain(where)
    if not is_url(where):
        return RunFolder(Path(where).absolute()).account()
    return RemoteFolder(where.rstrip("/"), *_working_folder(where.rstrip("/"))).account()


def _working_folder(url: str) -> tuple[Path, Lock]:
    """A folder for a run at `url` that no other job works in: the first one, if its job is no more."""
    runs = cache_folder() / "runs"
    with writing(runs):
        runs.mkdir(exist_ok=True)
        for number in count():
            name = f"{digest(url)}-{number}"
            held = try_lock(runs / f"{name}.lock")
            if held is not None:
                return runs / name / os.path.basename(url), held
    raise AssertionError("unreachable")


def _stamps(folder: Path) -> Stamps:
    found = {path: path.stat() for path in sorted(folder.rglob("*")) if path.is_file()}
    return {path.relative_to(folder).as_posix(): (stat.st_size, stat.st_mtime_ns) for path, stat in found.items()}
