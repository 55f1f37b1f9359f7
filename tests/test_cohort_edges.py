"""Folders and manifests as they come from real disks: closed folders, DICOM series, spreadsheets' leftovers."""

import os
import shutil
import unicodedata
from pathlib import Path

import pytest

from wsi_pipeline.errors import ConfigError
from wsi_pipeline.slide.cohort import find_slides
from wsi_pipeline.slide.entry import SlideEntry


def ids(source: str | Path) -> list[str]:
    return [entry.slide_id for entry in find_slides(source)]


def manifest(folder: Path, text: str) -> Path:
    (folder / "cohort.csv").write_text(text, encoding="utf-8")
    return folder / "cohort.csv"


def test_a_folder_named_like_a_slide_is_an_entry_and_not_searched(tmp_path: Path) -> None:
    (tmp_path / "a.svs").mkdir()
    (tmp_path / "a.svs" / "b.svs").touch()
    assert ids(tmp_path) == ["a"]


def test_folders_of_the_system_are_not_searched(tmp_path: Path) -> None:
    for folder in ("$RECYCLE.BIN", "System Volume Information", "lost+found"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "old.svs").touch()
    (tmp_path / "a.svs").touch()
    (tmp_path / "._a.svs").touch()
    assert ids(tmp_path) == ["a"]


def test_a_folder_that_may_not_be_listed_is_told_before_any_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.svs").touch()
    (tmp_path / "closed").mkdir()
    plain = os.scandir

    def scandir(path: str | Path) -> object:
        if Path(path).name == "closed":
            raise PermissionError(13, "Permission denied", str(path))
        return plain(path)

    monkeypatch.setattr(os, "scandir", scandir)  # the tests may run as a user who may list all
    with pytest.raises(ConfigError, match=r"closed: cannot be listed \(Permission denied\); change its mode"):
        find_slides(tmp_path)


def test_one_of_our_own_maps_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "a_likelihood_map.tif").touch()
    with pytest.raises(ConfigError, match="one of our own maps, not a slide"):
        find_slides(tmp_path / "a_likelihood_map.tif")


def test_names_that_differ_in_how_an_accent_is_written_are_twins(tmp_path: Path) -> None:
    for folder, form in (("p", "NFC"), ("q", "NFD")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / (unicodedata.normalize(form, "é") + ".svs")).touch()
    first, second = ids(tmp_path)
    assert first.startswith("p__") and second.startswith("q__")


def test_a_slide_and_its_converted_copy_are_told_apart(tmp_path: Path) -> None:
    for name in ("a.svs", "a.tif", "a.ome.tif", "b.svs"):
        (tmp_path / name).touch()
    assert ids(tmp_path) == ["a.ome.tif", "a.svs", "a.tif", "b"]


def test_rows_of_commas_are_passed_over_and_rows_still_counted(tmp_path: Path) -> None:
    path = manifest(tmp_path, "slide_id,path,mpp\na,a.svs,\n,,\n\nb,b.svs,x\n")
    with pytest.raises(ConfigError, match="row 5: mpp 'x'"):
        find_slides(path)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        pytest.param("slide_id;path\na;a.svs\n", "not divided by commas", id="semicolons"),
        pytest.param("slide_id,path,path\na,a.svs,b.svs\n", "column 'path' is there 2 times", id="column twice"),
        pytest.param("slide_id,path\na,x,y.svs\n", "row 2: more fields than columns", id="comma in a path"),
        pytest.param("slide_id,path,mppx\na,a.svs,1\n", "unknown column 'mppx'; did you mean 'mpp_x'", id="near miss"),
        pytest.param('slide_id,path\na,"a.svs\n', "cannot be read as a CSV", id="open quotes"),
        pytest.param('slide_id,path,mpp\na,a.svs,"0,5"\n', "mpp '0,5' is no positive number", id="decimal comma"),
    ],
)
def test_what_spreadsheets_do_to_a_manifest_is_told(tmp_path: Path, text: str, reason: str) -> None:
    with pytest.raises(ConfigError, match=rf"cohort\.csv.*{reason}"):
        find_slides(manifest(tmp_path, text))


def test_blanks_around_what_a_row_says_are_none_of_it(tmp_path: Path) -> None:
    text = f"slide_id,path,patient_id,split\na, {os.sep}b{os.sep}a.svs, p1, train\nb, b.svs ,p1,  \n"
    assert find_slides(manifest(tmp_path, text)) == [
        SlideEntry("a", f"{os.sep}b{os.sep}a.svs", patient_id="p1", split="train"),
        SlideEntry("b", str(tmp_path / "b.svs"), patient_id="p1"),
    ]


def test_a_slide_that_is_not_there_stays_in_the_cohort(tmp_path: Path) -> None:
    (entry,) = find_slides(manifest(tmp_path, "slide_id,path\nNA,gone.svs\n"))
    assert (entry.slide_id, entry.path) == ("NA", str(tmp_path / "gone.svs"))


@pytest.mark.real
@pytest.mark.parametrize("source", ["", "*.dcm"], ids=["folder", "glob"])
def test_the_files_of_one_dicom_series_are_one_slide(real_data: Path, tmp_path: Path, source: str) -> None:
    folder = real_data / "slides" / "dicom"
    shutil.copy(folder / "highdicom_sm_image" / "highdicom_sm_image.dcm", tmp_path / "1.dcm")
    shutil.copy(folder / "highdicom_sm_image" / "highdicom_sm_image.dcm", tmp_path / "2.dcm")
    (tmp_path / "3.dcm").write_bytes(b"no DICOM")
    assert ids(str(tmp_path / source)) == ["1", "3"]
