"""What `run`, `tile`, `score` and `map` share: work over a cohort, then the tables, the report and an exit code."""

import platform
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import click

from wsi_pipeline import __version__
from wsi_pipeline.cli.group import EXIT_FATAL, EXIT_INTERRUPTED, EXIT_SOME_FAILED
from wsi_pipeline.cli.progress import Shown
from wsi_pipeline.config import Config
from wsi_pipeline.errors import StoreError
from wsi_pipeline.keys import config_hash, made_with
from wsi_pipeline.maps.result import FAILED, SlideResult
from wsi_pipeline.pipeline.account import Account
from wsi_pipeline.pipeline.folder import MARK, RunFolder, now
from wsi_pipeline.pipeline.heard import heard
from wsi_pipeline.pipeline.pseudonyms import pseudonymise, refuse_mixture
from wsi_pipeline.pipeline.rows import with_entry
from wsi_pipeline.pipeline.run import run_cohort
from wsi_pipeline.pipeline.work import Listen, Scoring, Stage
from wsi_pipeline.slide.entry import SlideEntry

_LIBRARIES = (
    "dask",
    "numpy",
    "onnxruntime",
    "openslide-python",
    "openslide-bin",
    "rasterio",
    "tifffile",
    "torch",
    "torchvision",
    "zarr",
)
_LOOKS = 16  # into the run folder at once: in an object store each takes its time


def work(
    entries: Sequence[SlideEntry],
    folder: RunFolder,
    config: Config,
    *,
    classifier: Scoring | None = None,
    model: dict[str, Any] | None = None,
    until: Stage = "map",
    pseudonyms: str = "",
) -> int:
    """Take the cohort as far as `until`; write tables and report even when interrupted. Returns the exit code.

    Of slides that an interrupted run did not come to, or that lie beyond `run.limit`, the tables keep what runs before
    came to; run.json keeps those that it told of.

    `pseudonyms` is the id of the key that the entries are hidden under, see `hidden`.
    """
    before = folder.account()
    refuse_mixture(before, pseudonyms)
    folder.check_workers(config.run.scheduler)
    limit = config.run.limit or len(entries)
    entries, beyond = entries[:limit], entries[limit:]
    made = made_with(config, model["id"]) if model and "id" in model else ""
    kept = [entry for entry, row in zip(beyond, _told_of(beyond, folder, made), strict=True) if row]
    told = {entry["slide_id"] for entry in before.get("slides", [])} | {entry.slide_id for entry in kept}
    cohort = [*entries, *(entry for entry in beyond if entry.slide_id in told)]
    account = _account(cohort, config, model or {}) | {"pseudonyms": pseudonyms}
    folder.write_account(account)
    results: list[SlideResult] = []
    spent, code = Account(), EXIT_FATAL  # where an error ends the run
    try:
        with Shown(len(entries)) as shown, heard(partial(_warn, folder, shown)):
            listen = partial(_tell, (shown, spent))
            for result in run_cohort(entries, folder, config, classifier=classifier, until=until, listen=listen):
                results.append(result)
        code = _exit_code(results, len(entries))
    except KeyboardInterrupt:
        code = EXIT_INTERRUPTED
        raise
    finally:
        end = {"finished": now(), "until": until, "exit_code": code, "seconds": spent.seconds()}
        _close(folder, _with_others(results, [*entries, *kept], folder, until, made), account | end)
    _say(results, folder, spent.lines())
    return code


def _tell(listeners: Iterable[Listen], name: str, facts: dict[str, Any]) -> None:
    for listen in listeners:
        listen(name, facts)


def _warn(folder: RunFolder, shown: Shown, text: str) -> None:
    folder.event("warning", text=text)
    shown("warning", {"text": text})


def hidden(entries: list[SlideEntry], key_file: str | None, *, out: str) -> tuple[list[SlideEntry], str]:
    """The entries under pseudonyms and their key's id, where --pseudonymize names a key file; else as they are."""
    return (entries, "") if key_file is None else pseudonymise(entries, key_file, out=out)


def _account(entries: Sequence[SlideEntry], config: Config, model: dict[str, Any]) -> dict[str, Any]:
    """What run.json tells before any work."""
    return {
        MARK: __version__,
        "schema": 1,
        "use": "Research use only",
        "started": now(),
        "config": config.model_dump(),
        "config_hash": config_hash(config),
        "model": model,
        "versions": {"python": platform.python_version()} | {name: _version(name) for name in _LIBRARIES},
        "slides": [asdict(entry) for entry in entries],
    }


def _version(name: str) -> str:
    """Of a library; "" where it came by another way than as a package of Python, as OpenSlide itself may."""
    try:
        return version(name)
    except PackageNotFoundError:
        return ""


def _with_others(
    results: Sequence[SlideResult], entries: Sequence[SlideEntry], folder: RunFolder, until: Stage, made: str
) -> list[SlideResult]:
    """The rows, and of slides that the run did not come to those that runs before it left.

    Only mapped and failed slides leave any: where a `tile` or `score` run ended early, none, so as to spoil no table.
    """
    done = {row.slide_id for row in results}
    others = _told_of([entry for entry in entries if entry.slide_id not in done], folder, made)
    rows = [*results, *filter(None, others)]
    return rows if until == "map" or len(rows) == len(entries) else []


def _told_of(entries: Sequence[SlideEntry], folder: RunFolder, made: str) -> list[SlideResult | None]:
    """The row of each that runs before left; it warns where it was not `made` as those of this run are."""

    def told(entry: SlideEntry) -> SlideResult | None:
        try:
            found = folder.last_told(entry.slide_id, made)
        except StoreError:  # the run ends with an error of its own
            return None
        return found and with_entry(found, entry)

    with ThreadPoolExecutor(_LOOKS) as pool:
        return list(pool.map(told, entries))


def _close(folder: RunFolder, rows: Sequence[SlideResult], account: dict[str, Any]) -> None:
    """Write tables and report, where there are rows to tell; the account in any case, and all where it is kept."""
    try:
        if rows:
            _write_tables(folder, sorted(rows, key=lambda row: row.slide_id), account)
    finally:
        folder.write_account(account | {"statuses": dict(Counter(row.status for row in rows))})
        folder.publish()


def _write_tables(folder: RunFolder, rows: Sequence[SlideResult], account: dict[str, Any]) -> None:
    from wsi_pipeline.maps.report import write_report  # of use at the end alone
    from wsi_pipeline.maps.tables import write_failures, write_slides_table

    write_slides_table(rows, folder.root)
    write_failures(rows, folder.root)
    model = account["model"]
    facts = {
        "name": folder.root.name,
        "model": f"{model.get('name', '')} ({model['id']})" if model.get("id") else "",
        "model_note": model.get("note", ""),
        "threshold": _threshold(account),
        "config_hash": account["config_hash"],
        "version": __version__,
        "date": account["started"][:10],
    }
    mapped = [row.slide_id for row in rows if row.status not in FAILED and not row.stage]
    with ThreadPoolExecutor(_LOOKS) as pool:
        shown = dict(zip(mapped, pool.map(folder.pictures, mapped), strict=True))
    write_report(folder.root, rows, pictures=shown, run=facts)


def _threshold(account: dict[str, Any]) -> str:
    """The probability from which tissue counts as cancer: the map's knob, else the model's own; "" before any model."""
    asked, own = account["config"]["maps"]["threshold"], account["model"].get("threshold")
    return f"{asked:g}" if asked is not None else "" if own is None else f"{own:g}, the model's own"


def _exit_code(results: Sequence[SlideResult], slides: int) -> int:
    failed = sum(result.status in FAILED for result in results)
    if failed == slides:
        return EXIT_FATAL
    return EXIT_SOME_FAILED if failed else 0


def _say(results: Sequence[SlideResult], folder: RunFolder, spent: Sequence[str]) -> None:
    counts = Counter(result.status for result in results)
    click.echo(f"{len(results)} slides: " + ", ".join(f"{n} {status}" for status, n in sorted(counts.items())))
    for line in spent:
        click.echo(f"  {line}")
    for name in ("slides.csv", "failures.csv", "report.html"):
        if name != "failures.csv" or any(counts[status] for status in FAILED):
            click.echo(f"  {folder.shown(name)}")
