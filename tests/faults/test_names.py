"""Names made to break out: whatever slides and manifests are called, outputs stay inside and ids stay apart."""

import csv
import os
import re
import tempfile
import unicodedata
from pathlib import Path

import numpy as np
import pytest
import tifffile
from hypothesis import example, given, settings
from hypothesis import strategies as st

from wsi_pipeline.cli.group import group
from wsi_pipeline.errors import ConfigError
from wsi_pipeline.pipeline.folder import RunFolder
from wsi_pipeline.slide.cohort import find_slides

TRICKS = [
    "a;rm -rf $HOME", "$(touch x)", "`x`", "-rf", "--out", "a\nb", "a\tb", "a\r", "\U0001f9a0", "  spaces  ", "..",
    "...a", "CON", "nul", "a:b", "a|b>c", "%2e%2e%2f", "a'b\"c", "\u202etxt", "é", "e\u0301", "\x1b[31m", "x" * 200, 
    "é" * 120, "=1+1", "a,b", "{a}", "<b>", "&amp;",
]  # fmt: skip
names = st.one_of(st.sampled_from(TRICKS), st.text(min_size=1, max_size=60))
inside = names.filter(lambda name: "/" not in name and "\0" not in name and not name.startswith("."))


def fits(name: str) -> bool:
    try:
        return 0 < len(os.fsencode(f"{name}.svs")) <= 255
    except UnicodeEncodeError:
        return False


def all_inside(root: Path, slide_id: str) -> bool:
    """Whether every file that a run makes for this id is a plain file of the run folder's own folders."""
    folder = RunFolder(root)
    names = [folder.store(slide_id), f"{folder.maps}/{slide_id}_x.png", root / "logs" / f"{slide_id}.log"]
    places = [Path(name) for name in names]
    return all(Path(os.path.normpath(p)).parent.parent == root and len(p.name.encode()) <= 255 for p in places)


@settings(max_examples=40, deadline=None)
@given(st.lists(inside.filter(fits), min_size=1, max_size=5, unique=True))
@example([name for name in TRICKS if fits(name) and not name.startswith(".")])
def test_slides_of_any_name_have_distinct_ids_that_lead_nowhere_else(stems: list[str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        for stem in stems:
            (Path(folder) / f"{stem}.svs").touch()
        try:
            entries = find_slides(folder)
        except ConfigError as error:  # two that cannot be told apart are refused before any work
            assert "would both be" in str(error) and "\n" not in str(error)
            return
    assert len({entry.slide_id.casefold() for entry in entries}) == len(entries) == len(stems)
    assert all(all_inside(Path("/run"), entry.slide_id) for entry in entries)
    assert not any(re.match(r"(?i)(con|nul)(\.|$)", entry.slide_id) for entry in entries)


@settings(max_examples=60, deadline=None)
@given(names, names)
@example("../x", "a.svs")
@example("a", "a\0.svs")
@example("a\0b", "a.svs")
@example("/etc/passwd", "/etc/passwd")
@example("..\\x", "a.svs")
@example("x" * 255, "y" * 255)
def test_a_manifest_gives_ids_that_stay_inside_or_is_refused(slide_id: str, path: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        manifest = Path(folder) / "m.csv"
        with manifest.open("w", encoding="utf-8", errors="replace", newline="") as file:
            csv.writer(file).writerows([["slide_id", "path"], [slide_id, path]])
        try:
            (entry,) = find_slides(manifest)
        except ConfigError as error:
            assert "m.csv" in str(error) and "\n" not in str(error)
            return
    assert all_inside(Path("/run"), entry.slide_id) and not re.search(r"[\x00-\x1f/\\]", entry.slide_id)


def test_a_run_over_names_made_to_break_out_writes_into_its_folder_alone(tmp_path: Path) -> None:
    slides, out = tmp_path / "slides", tmp_path / "out"
    slides.mkdir()
    usable = [name for name in TRICKS if fits(name) and not name.startswith(".")]
    whole = list({re.sub(r"\W", "_", unicodedata.normalize("NFC", name)).casefold(): name for name in usable}.values())
    for name in whole:
        (slides / f"{name}.svs").write_bytes(b"no slide")
    good = slides / "a;rm -rf $HOME.svs"
    tifffile.imwrite(good, np.full((64, 64, 3), 200, np.uint8), photometric="rgb", tile=(32, 32))
    before = {path for path in tmp_path.rglob("*") if out not in path.parents}
    knobs = ["--scheduler", "threads", "--mpp-default", "0.5"]
    assert group.main(["tile", str(slides), "--out", str(out), *knobs], standalone_mode=False) == 3
    after = {path for path in tmp_path.rglob("*") if out not in path.parents}
    assert after - before == {out}
    rows = list(csv.DictReader((out / "slides.csv").read_text(encoding="utf-8").splitlines()))
    assert len({row["slide_id"] for row in rows}) == len(rows) == len(whole)
    assert "a'b\"c" not in (out / "report.html").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", ["x" * 251, "\U0001f9a0" * 62], ids=["letters", "emoji"])
def test_a_name_of_255_bytes_is_cut_to_one_that_outputs_can_bear(tmp_path: Path, name: str) -> None:
    (tmp_path / f"{name}.svs").touch()
    (entry,) = find_slides(tmp_path)
    assert len(entry.slide_id.encode()) <= 120 and name.startswith(entry.slide_id)
