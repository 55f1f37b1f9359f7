"""Files before they are opened: what can be no slide, what tells them apart, words without folders."""

import os
from pathlib import Path

import pytest

from wsi_pipeline.errors import SlideError
from wsi_pipeline.slide.files import by_own_name, check_file, hash_ends, is_tiff, real_target, reason, shown


def test_a_loop_of_links_is_told_and_not_followed(tmp_path: Path) -> None:
    (tmp_path / "a.svs").symlink_to(tmp_path / "b.svs")
    (tmp_path / "b.svs").symlink_to(tmp_path / "a.svs")
    with pytest.raises(SlideError, match=r"^a\.svs: cannot be reached \(.*links"):
        check_file(tmp_path / "a.svs")


def test_a_pipe_is_no_slide(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.svs")
    with pytest.raises(SlideError, match=r"^a\.svs: no regular file"):
        check_file(tmp_path / "a.svs")


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_what_may_not_be_read_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    path = tmp_path / "a.svs"
    path.write_text("x") if kind == "file" else path.mkdir()
    monkeypatch.setattr(os, "access", lambda *_: False)  # the tests may run as a user who may read all
    with pytest.raises(SlideError, match=r"^a\.svs: .*(no permission to read|may not be listed).*change its mode"):
        check_file(path)


@pytest.mark.parametrize(
    ("begin", "expected"),
    [(b"II*\0", True), (b"MM\0*", True), (b"II+\0", True), (b"MM\0+", True), (b"II", False), (b"\x89PNG", False)],
    ids=["little", "big", "little BigTIFF", "big BigTIFF", "too short", "PNG"],
)
def test_a_tiff_is_known_by_its_first_bytes(tmp_path: Path, begin: bytes, expected: bool) -> None:
    (tmp_path / "a").write_bytes(begin)
    assert is_tiff(tmp_path / "a") is expected


def test_a_change_at_either_end_changes_the_hash(tmp_path: Path) -> None:
    hashes = set()
    for place in (None, 0, -1):
        content = bytearray(3 << 20)
        if place is not None:
            content[place] = 1
        (tmp_path / "a").write_bytes(content)
        hashes.add(hash_ends(tmp_path / "a"))
    assert len(hashes) == 3


def test_a_link_of_the_same_suffix_leads_to_its_target(tmp_path: Path) -> None:
    (tmp_path / "real.mrxs").touch()
    (tmp_path / "case.mrxs").symlink_to(tmp_path / "real.mrxs")
    (tmp_path / "case.svs").symlink_to(tmp_path / "real.mrxs")
    assert real_target(tmp_path / "case.mrxs") == (tmp_path / "real.mrxs").resolve()
    assert real_target(tmp_path / "case.svs") == tmp_path / "case.svs"


def test_names_and_reasons_are_one_line_without_folders(tmp_path: Path) -> None:
    path = tmp_path / "a\nb.svs"
    assert shown(path) == "a?b.svs"
    assert reason(ValueError(f"cannot open\n {tmp_path}/Data.dat"), path) == "cannot open Data.dat"
    assert reason(FileNotFoundError(2, "gone", str(path)), path) == "gone"
    assert reason(ValueError("x" * 500), path) == "x" * 200 + "..."
    assert reason(ValueError(), path) == "ValueError"


def test_a_link_is_spoken_of_by_its_own_name(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "case.mrxs").symlink_to(tmp_path / "real" / "Roe.mrxs")
    said = f"cannot open {tmp_path}/real/Roe/Slidedat.ini of Roe.mrxs, no Roentgen"
    assert by_own_name(said, tmp_path / "case.mrxs") == "cannot open case/Slidedat.ini of case.mrxs, no Roentgen"
    assert by_own_name("as it is", Path("a\0b")) == "as it is"
