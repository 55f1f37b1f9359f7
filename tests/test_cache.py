"""Slides at URLs: fetched once, kept while read, the oldest removed; told by their URL, never by where they lie."""

import errno
import os
import posixpath
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
from fsspec.callbacks import DEFAULT_CALLBACK, Callback
from fsspec.implementations.memory import MemoryFileSystem
from pydicom.dataset import Dataset
from pydicom.uid import UID
from small_slide import a_slide

from wsi_pipeline.errors import ConfigError, SlideError
from wsi_pipeline.slide.cache import hold, use_cache, without_cache
from wsi_pipeline.slide.cohort import find_slides
from wsi_pipeline.slide.companions import files_of
from wsi_pipeline.slide.reader import SlideReader, open_slide
from wsi_pipeline.stall import answer_within


class Counted(MemoryFileSystem):
    """Files in memory that count how often they are fetched, and break off as often as they are told to."""

    protocol = "counted"
    store: dict[str, Any] = {}  # noqa: RUF012  # as in the class above
    pseudo_dirs: list[str] = [""]  # noqa: RUF012
    fetched: list[str] = []  # noqa: RUF012
    broken = slow = 0  # slow: pieces that take 0.1 s each

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return str(MemoryFileSystem._strip_protocol(str(path).replace("counted://", "memory://")))

    def get_file(self, rpath: str, lpath: str, callback: Callback = DEFAULT_CALLBACK, **_: Any) -> None:
        Counted.fetched.append(posixpath.basename(rpath))
        for _piece in range(Counted.slow):
            time.sleep(0.1)
            callback.relative_update(1)
        whole = self.cat_file(rpath)
        if Counted.broken:
            Counted.broken -= 1
            whole = whole[: len(whole) // 2]
        Path(lpath).write_bytes(whole)


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Counted]:
    fsspec.register_implementation("counted", Counted, clobber=True)
    for name in ("WSI_PIPELINE_CACHE_DIR", "WSI_PIPELINE_CACHE_GB"):
        monkeypatch.setenv(name, "")
    use_cache(str(tmp_path / "cache"), 1)
    Counted.store.clear()
    Counted.fetched.clear()
    Counted.broken = Counted.slow = 0
    yield Counted()


def kept(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "cache").rglob("*") if path.is_file() and path.suffix != ".lock")


def test_a_slide_at_a_url_is_the_slide_it_would_be_here_but_for_its_path(files: Counted, tmp_path: Path) -> None:
    here, pixels = a_slide(tmp_path)
    files.put_file(here.path, "/b/a.tif")
    there = open_slide("counted://b/a.tif", mpp=(0.5, 0.5))
    assert there.path == "counted://b/a.tif"
    assert (there.id, there.fingerprint, there.level_sizes) == (here.id, here.fingerprint, here.level_sizes)
    with SlideReader(there) as reader:
        assert np.array_equal(reader.read(0, 0, 0, (320, 256)), pixels)
    assert files.fetched == ["a.tif"]


def test_a_fetch_of_which_parts_come_is_not_given_up_however_long_it_takes(files: Counted, tmp_path: Path) -> None:
    here, _ = a_slide(tmp_path)
    files.put_file(here.path, "/b/a.tif")
    Counted.slow = 8
    assert answer_within(0.5, lambda: open_slide("counted://b/a.tif", mpp=(0.5, 0.5)).id) == here.id


def test_readers_that_come_at_once_fetch_a_slide_once(files: Counted) -> None:
    files.pipe_file("/b/a.tif", b"slide")
    start = threading.Barrier(8)

    def read() -> None:
        start.wait()
        with hold("counted://b/a.tif") as held:
            assert held.path.read_bytes() == b"slide"

    threads = [threading.Thread(target=read) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert files.fetched == ["a.tif"]


def test_the_slide_used_longest_ago_makes_room_and_one_in_use_never_does(files: Counted, tmp_path: Path) -> None:
    use_cache(None, 250e-9)  # 250 bytes: two slides of 100
    for name in "abcd":
        files.pipe_file(f"/b/{name}.tif", b"." * 100)
    with hold("counted://b/a.tif"):
        for name in "bc":
            hold(f"counted://b/{name}.tif").close()
        assert kept(tmp_path) == ["a.tif", "c.tif"]  # a is older than b, but in use
    hold("counted://b/d.tif").close()
    assert kept(tmp_path) == ["c.tif", "d.tif"]


def test_slides_in_use_may_be_more_than_the_limit(files: Counted, tmp_path: Path) -> None:
    use_cache(None, 0)
    for name in "ab":
        files.pipe_file(f"/b/{name}.tif", b"." * 100)
    with ExitStack() as stack:
        for name in "ab":
            stack.enter_context(hold(f"counted://b/{name}.tif"))
        assert kept(tmp_path) == ["a.tif", "b.tif"]


def test_a_cache_folder_that_cannot_be_used_is_told_with_its_knob(files: Counted, tmp_path: Path) -> None:
    files.pipe_file("/b/a.tif", b".")
    lock_file = hold("counted://b/a.tif").path.parent.with_suffix(".lock")
    lock_file.unlink()
    lock_file.mkdir()  # cannot be opened, as one of another user cannot
    with pytest.raises(ConfigError, match=r"\.lock: cannot be locked .*; give run\.cache_dir"):
        hold("counted://b/a.tif")
    (tmp_path / "locked").mkdir()
    (tmp_path / "locked" / "slides").write_text("cannot be made, as in a folder that may not be written")
    use_cache(str(tmp_path / "locked"), None)
    with pytest.raises(ConfigError, match=r"locked: no folder to keep slides in .*; give run\.cache_dir"):
        hold("counted://b/a.tif")


@pytest.mark.parametrize("said", ["100GB", "nan", "-1"])
def test_a_limit_that_is_no_number_is_refused_by_its_name(files: Counted, monkeypatch: pytest.MonkeyPatch, said: str):
    files.pipe_file("/b/a.tif", b".")
    monkeypatch.setenv("WSI_PIPELINE_CACHE_GB", said)
    with pytest.raises(ConfigError, match=f"WSI_PIPELINE_CACHE_GB: '{said}' is no number of GB; give"):
        hold("counted://b/a.tif")


@pytest.mark.parametrize("other", ["a/Data/0.dat", "b.jpg", "c_2.dcm"])
def test_a_slide_of_which_another_file_is_replaced_is_fetched_anew(files: Counted, other: str) -> None:
    for name in ("a.mrxs", "b.vms", "c.dcm", other):
        files.pipe_file(f"/s/{name}", b"ImageFile=b.jpg\n")
    slide = next(name for name in ("a.mrxs", "b.vms", "c.dcm") if name[0] == other[0])
    versions = [hold(f"counted://s/{slide}").path.parent.name for _ in range(2)]
    files.pipe_file(f"/s/{other}", b"whole now")
    versions.append(hold(f"counted://s/{slide}").path.parent.name)
    assert versions[0] == versions[1] != versions[2]


@pytest.mark.parametrize("left", [[], ["a/Slidedat.ini"]], ids=["nothing", "another file of it"])
def test_a_slide_whose_file_was_tidied_away_is_fetched_anew(files: Counted, left: list[str]) -> None:
    for name in ("a.mrxs", "a/Slidedat.ini"):
        files.pipe_file(f"/b/{name}", name.encode())
    with hold("counted://b/a.mrxs") as held:
        entry = held.path.parent
    for name in {"a.mrxs", "a/Slidedat.ini"}.difference(left):
        (entry / name).unlink()
    with hold("counted://b/a.mrxs") as held:
        assert held.path.read_bytes() == b"a.mrxs"
        assert (held.path.parent / "a" / "Slidedat.ini").read_bytes() == b"a/Slidedat.ini"


def test_a_slide_replaced_under_its_name_is_fetched_anew(files: Counted) -> None:
    for content in (b"first", b"other"):
        files.pipe_file("/b/a.tif", content)
        with hold("counted://b/a.tif") as held:
            assert held.path.read_bytes() == content


@pytest.mark.parametrize("times", [1, 2])
def test_a_transfer_that_breaks_off_is_tried_twice_and_leaves_nothing(
    files: Counted, tmp_path: Path, times: int
) -> None:
    files.pipe_file("/b/a.tif", b"." * 100)
    Counted.broken = times
    if times == 1:
        hold("counted://b/a.tif").close()
    else:
        with pytest.raises(SlideError, match=r"^a\.tif: could not be fetched, tried twice: 50 bytes of 100 came"):
            hold("counted://b/a.tif")
    assert files.fetched == ["a.tif"] * 2
    assert kept(tmp_path) == (["a.tif"] if times == 1 else [])


def test_what_a_killed_process_left_half_fetched_is_removed(files: Counted, tmp_path: Path) -> None:
    draft = tmp_path / "cache" / "slides" / "0123456789abcdef.partial"
    draft.mkdir(parents=True)
    (draft / "old.tif").write_bytes(b"half")
    files.pipe_file("/b/a.tif", b"slide")
    hold("counted://b/a.tif").close()
    assert kept(tmp_path) == ["a.tif"]


def test_a_slide_is_on_the_disk_before_its_folder_has_its_name(
    files: Counted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a.mrxs", "a/Slidedat.ini", "a/Data/0.dat"):
        files.pipe_file(f"/s/{name}", b".")
    settled: list[int] = []
    draft: list[int] = []
    at_renaming: list[int] = []
    fsync, rename = os.fsync, Path.rename

    def settle(handle: int) -> None:
        settled.append(os.fstat(handle).st_ino)
        fsync(handle)

    def renamed(path: Path, target: Path) -> Path:
        draft.extend(part.stat().st_ino for part in (path, *path.rglob("*")))
        at_renaming.extend(settled)
        return rename(path, target)

    monkeypatch.setattr(os, "fsync", settle)
    monkeypatch.setattr(Path, "rename", renamed)
    hold("counted://s/a.mrxs").close()
    assert len(draft) == 6 and set(draft) <= set(at_renaming)  # three files, three folders
    assert (tmp_path / "cache" / "slides").stat().st_ino == settled[-1]


def test_a_disk_that_fills_while_a_slide_is_settled_is_told(
    files: Counted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    files.pipe_file("/b/a.tif", b"slide")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(SlideError, match=r"^a\.tif: 5 bytes to fetch, .* free in the cache"):
        hold("counted://b/a.tif")
    assert kept(tmp_path) == []


def test_a_mirax_slide_brings_its_folder_and_a_hamamatsu_index_the_files_that_it_names(files: Counted) -> None:
    for name in ("a.mrxs", "a/Slidedat.ini", "a/Data/0.dat", "ab/no.dat", "b_1.jpg", "b.opt", "c.jpg"):
        files.pipe_file(f"/s/{name}", b".")
    files.pipe_file("/s/b.vms", b"[Virtual Microscope Specimen]\nImageFile=b_1.jpg\r\nOptimisationFile=b.opt\n")
    assert files_of(files, "/s/a.mrxs") == ["/s/a.mrxs", "/s/a/Data/0.dat", "/s/a/Slidedat.ini"]
    assert files_of(files, "/s/b.vms") == ["/s/b.vms", "/s/b.opt", "/s/b_1.jpg"]
    with hold("counted://s/a.mrxs") as held:
        assert (held.path.with_suffix("") / "Data" / "0.dat").exists()


def test_a_dicom_slide_brings_the_files_of_its_series_and_a_folder_of_them_is_a_slide_a_series(files: Counted) -> None:
    for name, series in {"a": "1.2", "b": "1.3", "c": "1.2"}.items():
        image = Dataset()
        image.SOPClassUID, image.SOPInstanceUID, image.SeriesInstanceUID = UID("1.1"), UID(f"1.1.{series}"), UID(series)
        out = BytesIO()
        image.save_as(out, implicit_vr=False, little_endian=True, enforce_file_format=False)
        files.pipe_file(f"/s/{name}.dcm", b"\0" * 128 + b"DICM" + out.getvalue())
    files.pipe_file("/s/no.dcm", b"no DICOM")
    assert files_of(files, "/s/a.dcm") == ["/s/a.dcm", "/s/c.dcm"]
    assert [entry.slide_id for entry in find_slides("counted://s")] == ["a", "b", "no"]


def test_a_key_that_leads_out_of_its_folder_is_refused(files: Counted, tmp_path: Path) -> None:
    files.store["/s/a.mrxs"] = files.store["/s/a/../../x"] = files.open("/s/tmp", "wb")
    with pytest.raises(SlideError, match="leads out of its folder"):
        hold("counted://s/a.mrxs")
    assert kept(tmp_path) == []


@pytest.mark.parametrize("source", ["counted://s", "counted://s/**/*.tif", "counted://s/m.csv"])
def test_a_folder_a_glob_and_a_manifest_at_a_url_name_slides_by_url(files: Counted, source: str) -> None:
    for name in ("in/a.tif", ".hidden/b.tif", "in/a_likelihood_map.tif", "x.zarr/c.tif"):
        files.pipe_file(f"/s/{name}", b".")
    files.pipe_file("/s/m.csv", b"slide_id,path\na,in/a.tif\n")
    found = [(entry.slide_id, entry.path) for entry in find_slides(source)]
    assert ("a", "counted:///s/in/a.tif") in found
    assert source.endswith("*.tif") or len(found) == 1


@pytest.fixture
def web(tmp_path: Path) -> Iterator[str]:
    """The address of a server on loopback that has the folder `www`."""
    pytest.importorskip("aiohttp")

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    (tmp_path / "www").mkdir()
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(tmp_path / "www"))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.mark.usefixtures("files")
def test_a_page_of_links_is_a_folder_and_no_slide(web: str, tmp_path: Path) -> None:
    for name in ("a.svs", "a.txt"):
        (tmp_path / "www" / name).write_bytes(b".")
    assert [entry.path for entry in find_slides(f"{web}/")] == [f"{web}/a.svs"]
    with pytest.raises(SlideError, match="a folder, not a slide file"):
        hold(f"{web}/")


def test_a_manifest_here_may_name_slides_anywhere(tmp_path: Path) -> None:
    (tmp_path / "m.csv").write_text(f"slide_id,path\na,s3://b/a.svs\nb,sub/b.svs\nc,file://{tmp_path}/c.svs\n")
    paths = [entry.path for entry in find_slides(f"file://{tmp_path}/m.csv")]
    assert paths == ["s3://b/a.svs", str(tmp_path / "sub/b.svs"), str(tmp_path / "c.svs")]


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("counted://b/no.tif", r"no\.tif: no such file"),
        ("counted://s", "s: a folder, not a slide file"),
        ("counted://s/", "^s: a"),
    ],
)
def test_a_url_without_a_file_is_an_error_of_that_slide(files: Counted, url: str, said: str) -> None:
    files.pipe_file("/s/a.tif", b".")
    with pytest.raises(SlideError, match=said):
        open_slide(url)


@pytest.mark.parametrize("url", ["nobody://b/a.tif", "ftp://me:secret@h/a.tif", "https://h/a.tif?sig=secret"])
def test_a_url_of_no_library_or_with_a_secret_is_refused_and_the_secret_not_said(url: str) -> None:
    with pytest.raises(ConfigError) as refused:
        find_slides(url)
    assert "secret" not in str(refused.value)


def test_a_url_that_names_nothing_is_refused(files: Counted) -> None:
    with pytest.raises(ConfigError, match=r"counted://: names no bucket and no file"):
        find_slides("counted://")  # as of s3://$BUCKET, which is not set


def test_a_message_never_tells_where_a_copy_lies(files: Counted, tmp_path: Path) -> None:
    files.pipe_file("/b/a.svs", b"no slide")
    with pytest.raises(SlideError) as refused:
        open_slide("counted://b/a.svs")
    assert str(tmp_path) not in str(refused.value)
    with hold("counted://b/a.svs") as held:
        assert without_cache(f"open {held.path}!") == "open a.svs!"
