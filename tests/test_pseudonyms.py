"""The key file of pseudonyms: whole from the first, one for all jobs, and no row lost or run together."""

import csv
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from wsi_pipeline.config import load_config
from wsi_pipeline.errors import ConfigError
from wsi_pipeline.pipeline import pseudonyms
from wsi_pipeline.pipeline.begin import open_run_folder
from wsi_pipeline.pipeline.pseudonyms import COLUMNS, behind_link, pseudonymise
from wsi_pipeline.pipeline.run import run_cohort
from wsi_pipeline.slide.entry import SlideEntry
from wsi_pipeline.slide.locks import hold_open

SALT = f"kind,pseudonym,original,path\nsalt,{'0' * 64},,\n"
OWN = f"s-{'f' * 16}"  # no pseudonym that the salt gives: it is known only from its row


@pytest.fixture
def key(tmp_path: Path) -> Path:
    (tmp_path / "keys").mkdir()
    return tmp_path / "keys" / "key.csv"


def entry(folder: Path, name: str) -> SlideEntry:
    return SlideEntry(name, str(folder / "slides" / f"{name}.svs"), patient_id=f"patient of {name}")


def names(key: Path, *slides: str) -> tuple[list[str], str]:
    """The pseudonyms of some slides, in the order of these, and the key's id."""
    folder = key.parent.parent
    hidden, key_id = pseudonymise([entry(folder, name) for name in slides], key, out=folder / "out")
    links = {os.readlink(under.path): under.slide_id for under in hidden}
    return [links[entry(folder, name).path] for name in slides], key_id


def rows(key: Path) -> list[list[str]]:
    return list(csv.reader(key.read_text().splitlines(), strict=True))


def test_jobs_that_begin_at_once_share_one_key_and_leave_each_row_once(key: Path) -> None:
    start = threading.Barrier(8)

    def job(number: int) -> tuple[list[str], str]:
        start.wait()
        return names(key, "all", f"own{number}")

    with ThreadPoolExecutor(8) as pool:
        told = list(pool.map(job, range(8)))
    assert len({key_id for _, key_id in told}) == 1 and len({given[0] for given, _ in told}) == 1
    table = rows(key)
    assert table[0] == COLUMNS and table[1][0] == "salt"
    assert sorted(row[2] for row in table if row[0] == "slide") == ["all", *(f"own{number}" for number in range(8))]
    assert len({tuple(row) for row in table}) == len(table) == 2 + 2 * 9
    assert sorted(path.name for path in key.parent.iterdir()) == [".key.csv.slides", "key.csv"]


def test_a_file_that_is_missing_behind_its_pseudonym_is_told_to_be_looked_up(key: Path, tmp_path: Path) -> None:
    hidden, _ = pseudonymise([entry(tmp_path, "a")], key, out=tmp_path / "out")
    config = load_config(None, ["run.scheduler=threads"])
    (row,) = run_cohort(hidden, open_run_folder(tmp_path / "out"), config, until="tile")
    assert row.status == "unreadable" and row.message == (
        f"{row.slide_id}.svs: the file behind this pseudonym is missing; bring it back to its path, which is in key.csv"
    )
    (tmp_path / "slides").mkdir()
    (tmp_path / "slides" / "a.svs").write_bytes(b"")
    assert behind_link(Path(hidden[0].path)) == behind_link(tmp_path / "no.svs") == ""


def test_the_folder_of_a_new_key_is_made(tmp_path: Path) -> None:
    key = tmp_path / "new folder" / "keys" / "key.csv"
    pseudonymise([entry(tmp_path, "a")], key, out=tmp_path / "out")
    assert len(rows(key)) == 4


def test_another_job_that_comes_in_between_finds_no_key_or_a_whole_one(
    key: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    link, faster = os.link, []

    def overtaken(draft: Path, file: Path) -> None:
        assert not key.exists()
        monkeypatch.setattr(os, "link", link)
        faster.append(names(key, "a"))
        link(draft, file)

    monkeypatch.setattr(os, "link", overtaken)
    assert names(key, "a") == faster[0] and [row[0] for row in rows(key)[1:]] == ["salt", "slide", "patient"]


def test_a_job_that_ends_while_it_makes_the_key_leaves_none(key: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def ended(handle: int) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(os, "fsync", ended)
        names(key, "a")
    assert list(key.parent.iterdir()) == []
    assert names(key, "a") == names(key, "a")


def test_on_a_disk_without_hard_links_a_key_is_made_too(key: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_links(draft: Path, file: Path) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", no_links)
    assert names(key, "a") == names(key, "a")
    assert key.stat().st_mode & 0o077 == 0 and sorted(os.listdir(key.parent)) == [".key.csv.slides", "key.csv"]


def test_a_row_that_another_job_is_adding_is_waited_for(key: Path, tmp_path: Path) -> None:
    row = f"slide,{OWN},a,{entry(tmp_path, 'a').path}\n"
    key.write_text(SALT + row[:30])
    with ThreadPoolExecutor(1) as pool:
        with key.open("a") as file:
            assert hold_open(file.fileno(), alone=True)
            waiting = pool.submit(names, key, "a")
            with pytest.raises(TimeoutError):
                waiting.result(timeout=0.3)
            file.write(row[30:])
        assert waiting.result(timeout=30)[0] == [OWN]
    assert [found[0] for found in rows(key)] == ["kind", "salt", "slide", "patient"]


@pytest.mark.parametrize(
    "half",
    ["s", "slide,s-01", f"slide,{OWN}", f"slide,{OWN},a", f'slide,{OWN},a,"/x', f"patient,p-{'f' * 16},patient of"],
)
def test_half_a_row_of_a_killed_job_goes_and_no_row_runs_into_it(key: Path, tmp_path: Path, half: str) -> None:
    before = f"slide,{OWN},b,{entry(tmp_path, 'b').path}\n"
    key.write_text(SALT + before + half)
    told, key_id = names(key, "a", "b")
    assert told[1] == OWN != told[0]
    table = rows(key)
    assert all(len(row) == 4 for row in table) and key.read_text().startswith(SALT + before)
    assert sorted(row[2] for row in table[2:]) == ["a", "b", "patient of a", "patient of b"]
    assert names(key, "a", "b") == (told, key_id) and rows(key) == table


def test_a_whole_last_row_counts_though_an_editor_left_its_line_open(key: Path, tmp_path: Path) -> None:
    key.write_text(f"{SALT}slide,{OWN},a,{entry(tmp_path, 'a').path}")
    assert names(key, "a", "b")[0][0] == OWN
    assert [row[2] for row in rows(key)[2:]] == ["a", "patient of a", "b", "patient of b"]
    assert names(key, "a")[0] == [OWN]


def test_without_locks_half_a_row_is_read_over_and_never_cut_off(
    key: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pseudonyms, "hold_open", lambda handle, alone: False)
    known = [f"slide,{OWN},a,{entry(tmp_path, 'a').path}\n", f"patient,p-{'f' * 16},patient of a,\n"]
    key.write_text(SALT + "".join(known) + "slide,s-01")  # another job may be writing it
    before = key.read_bytes()
    assert names(key, "a")[0] == [OWN]
    with pytest.raises(ConfigError, match="its last row is not whole, and its disk has no locks"):
        names(key, "a", "b")
    assert key.read_bytes() == before
