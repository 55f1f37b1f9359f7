"""Slides -> the same slides under names that tell nothing; who is who stands in a key file of the user's own.

The key file is a CSV `kind,pseudonym,original,path`: a random salt, then a row for each slide and each patient ever
met. A pseudonym is HMAC-SHA256 of the original under that salt. Beside the key file, in a hidden folder, lies a
link `<pseudonym>.svs` to each slide. All stages get the link for the slide, so no store, log or message can name
the file itself, and a run goes on without the key.
"""

import csv
import hmac
import io
import os
import re
import secrets
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from uuid import uuid4

from wsi_pipeline.errors import ConfigError
from wsi_pipeline.slide.cohort import SUFFIXES
from wsi_pipeline.slide.entry import SlideEntry
from wsi_pipeline.slide.locks import hold_open

COLUMNS = ["kind", "pseudonym", "original", "path"]
PARTS = ("train", "val", "test")  # words of a manifest's split that tell nothing
_LETTER = {"slide": "s", "patient": "p"}
_SALT = re.compile(r"[0-9a-f]{64}")
_NAME = re.compile(r"[sp]-[0-9a-f]{16}")
_LINKS = ".slides"  # the end of the name of a folder of links
_BYTES = "surrogateescape"  # names of files may be no UTF-8


@dataclass(frozen=True)
class _Key:
    """A key file that was read.

    Attributes:
        salt: 32 random bytes.
        known: pseudonym of each (kind, original, path).
    """

    file: Path
    salt: bytes
    known: dict[tuple[str, str, str], str]

    def pseudonym(self, kind: str, original: str, path: str = "") -> str:
        """That of the file where it has one, so that a path corrected there keeps its pseudonym; else a new one."""
        sealed = self._seal("\0".join((kind, original, path)))
        return self.known.get((kind, original, path), f"{_LETTER[kind]}-{sealed}")

    @property
    def id(self) -> str:
        """Tells this key from others, and nothing else."""
        return self._seal("key")[:8]

    def _seal(self, text: str) -> str:
        return hmac.digest(self.salt, text.encode("utf-8", _BYTES), "sha256").hex()[:16]


def pseudonymise(
    entries: Sequence[SlideEntry], key_file: str | Path, *, out: str | Path
) -> tuple[list[SlideEntry], str]:
    """The entries under pseudonyms, in their order, and the id of the key.

    `key_file` is made where it is not there, else what is new is added to it. Labels are left out, as they are
    free text; of splits train, val and test stay. The path of the key file's folder gets into the run folder `out`,
    that of the slides does not. Raises ConfigError where the key file lies in `out` or among the slides, cannot be
    read or written, or where links cannot be made.
    """
    file = Path(os.path.abspath(key_file))
    _check_place(file, entries, Path(out))
    try:
        key = _read_key(file)
        hidden = [_hidden(entry, key) for entry in entries]
        _add_rows(key, _new_rows(key, entries, hidden))
        _link_all(entries, hidden)
    except (OSError, ValueError, csv.Error) as error:
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(f"{file.name}: cannot be used as a key of pseudonyms ({error}); give another") from error
    return sorted(hidden, key=lambda entry: entry.slide_id), key.id


def behind_link(path: Path) -> str:
    """Why nothing can be read under a pseudonym whose file is not there; empty for other paths, and where it is."""
    folder = path.parent.name
    if not (_NAME.fullmatch(path.stem) and folder.startswith(".") and folder.endswith(_LINKS)) or path.exists():
        return ""
    key_file = folder[1 : -len(_LINKS)]
    return f"{path.name}: the file behind this pseudonym is missing; bring it back to its path, which is in {key_file}"


def refuse_mixture(account: dict, key_id: str) -> None:
    """ConfigError where a run folder, by its account, holds names or pseudonyms that do not go with this key."""
    before = account.get("pseudonyms", "")
    if "slides" not in account or before == key_id:
        return
    if not before:
        raise ConfigError("the run folder holds names already; give --pseudonymize another --out, or --overwrite")
    what = "another key" if key_id else "pseudonyms"
    raise ConfigError(f"the run was made with {what}; give --pseudonymize its key file, or another --out")


def _check_place(file: Path, entries: Sequence[SlideEntry], out: Path) -> None:
    if file.resolve().is_relative_to(out.resolve()):
        raise ConfigError(f"{file}: lies in --out, where it would tell all names; keep it elsewhere")
    for entry in entries:
        if "://" in entry.path:
            raise ConfigError(f"{entry.path}: pseudonyms need a file on a disk; copy the slide to one")
        if file.is_relative_to(Path(os.path.abspath(entry.path)).parent):
            raise ConfigError(f"{file}: lies in a folder of slides, whose name outputs would tell; keep it elsewhere")


def _read_key(file: Path) -> _Key:
    """The key of a file, made where there is none; rows that another job is adding at the moment are waited for."""
    if not os.path.lexists(file):
        _make_key(file)
    with file.open("rb") as opened:
        hold_open(opened.fileno(), alone=False)
        return _parse(file, opened.read())[0]


def _make_key(file: Path) -> None:
    """A new key, which gets its name once it is whole and on the disk; where another job was faster, its key stays."""
    file.parent.mkdir(parents=True, exist_ok=True)
    draft, data = file.with_name(f".{uuid4().hex}.partial"), _csv([COLUMNS, ["salt", secrets.token_hex(32), "", ""]])
    try:
        _write_new(draft, data)
        try:
            os.link(draft, file)
        except FileExistsError:
            pass
        except OSError:  # a disk without hard links
            with suppress(FileExistsError):
                _write_new(file, data)
    finally:
        draft.unlink(missing_ok=True)
    _settle_names(file.parent)


def _write_new(path: Path, data: bytes) -> None:
    """Write a file that only its owner may read. FileExistsError where there is one; who reads it waits for its end."""
    with os.fdopen(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "wb") as out:
        hold_open(out.fileno(), alone=True)
        out.write(data)
        out.flush()
        os.fsync(out.fileno())


def _settle_names(folder: Path) -> None:
    """Wait until the names in a folder are on the disk, where the disk can do that."""
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _parse(file: Path, data: bytes) -> tuple[_Key, int]:
    """The key that the bytes of a file are, and how many of them.

    What stands behind the last line's end counts where it is a whole row, as editors leave one. Where it is a part
    of one, its job was killed and nobody has the pseudonym, or the job is still writing, on a disk without locks.
    """
    whole = data.rfind(b"\n") + 1
    try:
        return _key(file, data), len(data)
    except (ValueError, csv.Error):
        if whole == len(data):
            raise
        return _key(file, data[:whole]), whole


def _key(file: Path, data: bytes) -> _Key:
    text = io.StringIO(data.decode("utf-8", _BYTES), newline="")
    table = list(csv.reader(text, strict=True))
    if len(table) < 2 or table[0] != COLUMNS or len(table[1]) != 4 or not _SALT.fullmatch(table[1][1]):
        raise ValueError("it begins with no header and salt of ours")
    for number, row in enumerate(table[2:], start=3):
        if len(row) != 4 or row[0] not in _LETTER or not _NAME.fullmatch(row[1]):
            raise ValueError(f"row {number} is no pseudonym of ours")
    known = {(kind, original, path): name for kind, name, original, path in table[2:]}
    return _Key(file, bytes.fromhex(table[1][1]), known)


def _hidden(entry: SlideEntry, key: _Key) -> SlideEntry:
    path = os.path.abspath(entry.path)
    name = key.pseudonym("slide", entry.slide_id, path)
    suffix = Path(path).suffix.lower()
    return replace(
        entry,
        slide_id=name,
        path=str(_links(key.file) / f"{name}{suffix if suffix in SUFFIXES else ''}"),
        label=None,
        patient_id=key.pseudonym("patient", entry.patient_id) if entry.patient_id else None,
        split=entry.split if entry.split in PARTS else None,
    )


def _links(file: Path) -> Path:
    """Where the links lie; hidden, so that no search for slides finds them."""
    return file.with_name(f".{file.name}{_LINKS}")


def _new_rows(key: _Key, entries: Iterable[SlideEntry], hidden: Iterable[SlideEntry]) -> list[list[str]]:
    rows: dict[tuple[str, str, str], str] = {}
    for entry, under in zip(entries, hidden, strict=True):
        rows["slide", entry.slide_id, os.path.abspath(entry.path)] = under.slide_id
        if entry.patient_id and under.patient_id:
            rows["patient", entry.patient_id, ""] = under.patient_id
    return [[what[0], name, *what[1:]] for what, name in rows.items() if what not in key.known]


def _add_rows(key: _Key, rows: list[list[str]]) -> None:
    """Add to the end of the file what does not stand there yet, one job after the other: none loses a row of another's.

    It is on the disk before a pseudonym is used. Half a row of a job that was killed is cut off first, or the next
    row would run into it.
    """
    if not rows:
        return
    with os.fdopen(os.open(key.file, os.O_RDWR | os.O_APPEND), "r+b") as file:
        locked = hold_open(file.fileno(), alone=True)
        data = file.read()
        now, whole = _parse(key.file, data)
        if whole < len(data):
            if not locked:
                raise ValueError("its last row is not whole, and its disk has no locks: end other jobs, remove the row")
            file.truncate(whole)
        new = [row for row in rows if (row[0], *row[2:]) not in now.known]
        file.write((b"" if data[:whole].endswith(b"\n") else b"\n") + _csv(new))
        file.flush()
        os.fsync(file.fileno())


def _link_all(entries: Iterable[SlideEntry], hidden: Iterable[SlideEntry]) -> None:
    for entry, under in zip(entries, hidden, strict=True):
        link, target = Path(under.path), os.path.abspath(entry.path)
        link.parent.mkdir(mode=0o700, exist_ok=True)
        if not link.is_symlink() or os.readlink(link) != target:
            draft = link.with_name(f".{uuid4().hex}.partial")
            draft.symlink_to(target)
            draft.replace(link)


def _csv(rows: Iterable[Sequence[str]]) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue().encode("utf-8", _BYTES)
