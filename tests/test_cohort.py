"""A folder, a glob, a file or a manifest -> the slides of a cohort and their ids."""

import json
import os
from pathlib import Path

import pytest

from wsi_pipeline.errors import ConfigError
from wsi_pipeline.slide.cohort import find_slides
from wsi_pipeline.slide.entry import SlideEntry
from wsi_pipeline.slide.manifest import path_from


def touch(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


def ids(source: str | Path, **options: object) -> list[str]:
    return [entry.slide_id for entry in find_slides(source, **options)]


def manifest(folder: Path, text: str) -> Path:
    (folder / "cohort.csv").write_text(text, encoding="utf-8")
    return folder / "cohort.csv"


def test_a_folder_is_searched_all_the_way_down(tmp_path: Path) -> None:
    touch(tmp_path, "b.svs", "deep/er/a.NDPI", "c.ome.tiff", "notes.txt", ".hidden.svs", ".cache/d.svs", "s.zarr/e.tif")
    assert ids(tmp_path) == ["a", "b", "c"]


@pytest.mark.parametrize("name", ["a.czi", "a.avs", "a.CZI"])
def test_slides_of_zeiss_and_argos_are_found(tmp_path: Path, name: str) -> None:
    assert ids(touch(tmp_path, name)) == ["a"]


def test_own_heatmaps_and_run_folders_are_left_out(tmp_path: Path) -> None:
    touch(tmp_path, "a.svs", "a_likelihood_map.tif", "run/maps/b.tif", "other/c.tif", "out/d.tif")
    (tmp_path / "run" / "run.json").write_text(json.dumps({"wsi_pipeline": "1.0"}))
    (tmp_path / "other" / "run.json").write_text("[1, 2")
    assert ids(tmp_path, exclude=[tmp_path / "out"]) == ["a", "c"]


@pytest.mark.parametrize("source", [".", "", "sub", "sub/../sub", "sub/*.svs", "**/*.svs", "sub/a.svs", "cohort.csv"])
def test_paths_are_known_in_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str) -> None:
    here = touch(tmp_path / "x[1]", "sub/a.svs")
    manifest(here, "slide_id,path\na,sub/a.svs\n")
    monkeypatch.chdir(here)
    (entry,) = find_slides(source)
    assert entry.slide_id == "a" and Path(entry.path).is_absolute() and os.path.samefile(entry.path, "sub/a.svs")


def test_twins_take_their_ids_from_their_paths(tmp_path: Path) -> None:
    touch(tmp_path, "p1/a.svs", "p2/A.svs", "p2/b.svs")
    assert ids(tmp_path) == ["b", "p1__a.svs", "p2__A.svs"]


def test_twins_that_still_collide_are_refused(tmp_path: Path) -> None:
    touch(tmp_path, "p/a.svs", "q/a.svs", "p__a.svs.tif")
    with pytest.raises(ConfigError, match=r"would both be 'p__a\.svs'; rename one, or give a manifest"):
        find_slides(tmp_path)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        pytest.param("a:b*c?.svs", "a_b_c_", id="marks"),
        pytest.param("a\nb.svs", "a_b", id="line break"),
        pytest.param(" a .svs", "a", id="spaces"),
        pytest.param("日本.svs", "日本", id="other script"),
        pytest.param("é" * 100 + ".svs", "é" * 60, id="long"),
        pytest.param("   .svs", "slide", id="nothing left"),
        pytest.param("007.svs", "007", id="digits"),
    ],
)
def test_ids_are_names_that_every_system_takes(tmp_path: Path, name: str, expected: str) -> None:
    assert ids(touch(tmp_path, name)) == [expected]


def test_links_keep_their_own_names(tmp_path: Path) -> None:
    touch(tmp_path, "store/4711.svs")
    folder = tmp_path / "cohort"
    folder.mkdir()
    (folder / "case 1.svs").symlink_to(tmp_path / "store" / "4711.svs")
    (folder / "gone.svs").symlink_to(tmp_path / "nowhere.svs")
    (found, gone) = find_slides(folder)
    assert (found.slide_id, found.path) == ("case 1", str(folder / "case 1.svs"))
    assert gone.slide_id == "gone"


def test_loops_of_linked_folders_end(tmp_path: Path) -> None:
    touch(tmp_path, "a/x.svs", "b/y.svs")
    (tmp_path / "a" / "up").symlink_to(tmp_path, target_is_directory=True)
    (tmp_path / "b" / "a").symlink_to(tmp_path / "a", target_is_directory=True)
    assert ids(tmp_path) == ["x", "y"]


def test_a_glob_and_a_single_file_name_slides_too(tmp_path: Path) -> None:
    touch(tmp_path, "p1/a.svs", "p2/b.svs", "p2/b.txt")
    assert ids(str(tmp_path / "*" / "*")) == ["a", "b"]
    assert ids(tmp_path / "p2" / "b.svs") == ["b"]


def test_a_folder_with_brackets_in_its_name_is_no_pattern_before_a_glob(tmp_path: Path) -> None:
    touch(tmp_path, "Slides [2024]/a.svs", "Slides [2024]/x/b.svs", "Slides 2/c.svs")
    assert ids(str(tmp_path / "Slides [2024]" / "*.svs")) == ["a"]
    assert ids(str(tmp_path / "Slides [2024]" / "**" / "*.svs")) == ["a", "b"]
    assert ids(str(tmp_path / "Slides [0-9]" / "*.svs")) == ["c"]


@pytest.mark.parametrize(
    ("name", "reason"),
    [("gone", "no such file or folder"), ("*.svs", "no slides found"), ("", "no slides found; looked for .*svs")],
    ids=["missing", "glob of nothing", "empty folder"],
)
def test_a_source_without_slides_is_refused(tmp_path: Path, name: str, reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        find_slides(str(tmp_path / name))


def test_a_manifest_gives_ids_paths_scales_and_the_rest_as_text(tmp_path: Path) -> None:
    path = manifest(
        tmp_path,
        "\ufeffslide_id,path,mpp,mpp_x,mpp_y,label,patient_id,split,note\n"
        "007,sub/a.svs,0.25,,,1,0012,train,x\n"
        f"1e3,{os.sep}abs{os.sep}b.svs,,0.4,0.5,NA,,,\n",
    )
    assert find_slides(path) == [
        SlideEntry("007", str(tmp_path / "sub" / "a.svs"), (0.25, 0.25), "1", "0012", "train"),
        SlideEntry("1e3", f"{os.sep}abs{os.sep}b.svs", (0.4, 0.5), "NA", None, None),
    ]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        pytest.param("", "no column 'slide_id', got nothing", id="empty"),
        pytest.param("slide_id,file\na,a.svs\n", "no column 'path'", id="no path"),
        pytest.param("path\na.svs\n", "no column 'slide_id'", id="no id"),
        pytest.param(
            "slide_id,path,Label\na,a.svs,1\n", "unknown column 'Label'; did you mean 'label'", id="near miss"
        ),
        pytest.param("slide_id,path\n", "no slides found", id="no rows"),
        pytest.param("slide_id,path\n,a.svs\n", "row 2: empty slide_id", id="empty id"),
        pytest.param("slide_id,path\na,a.svs\nb\n", "row 3: empty path", id="short row"),
        pytest.param("slide_id,path\na/b,a.svs\n", "'a/b' cannot be a file name.*'a_b'", id="separator in the id"),
        pytest.param("slide_id,path\n.a,a.svs\n", r"'\.a' cannot be a file name", id="hidden id"),
        pytest.param("slide_id,path\na,1.svs\nA,2.svs\n", "'A' in rows 2 and 3", id="same id twice"),
        pytest.param("slide_id,path,mpp\na,a.svs,fine\n", "mpp 'fine' is no positive number", id="mpp in words"),
        pytest.param("slide_id,path,mpp\na,a.svs,0\n", "mpp '0' is no positive number", id="mpp 0"),
        pytest.param("slide_id,path,mpp\na,a.svs,nan\n", "mpp 'nan' is no positive number", id="mpp nan"),
        pytest.param("slide_id,path,mpp\na,a.svs,0_5\n", "mpp '0_5' is no positive number", id="mpp as code has it"),
        pytest.param("slide_id,path,mpp\na,a.svs,inf\n", "mpp 'inf' is no positive number", id="mpp inf"),
        pytest.param("slide_id,path,mpp_x\na,a.svs,0.5\n", "mpp_x and mpp_y go together", id="one side"),
    ],
)
def test_a_bad_manifest_is_refused_with_its_row(tmp_path: Path, text: str, reason: str) -> None:
    with pytest.raises(ConfigError, match=rf"cohort\.csv.*{reason}"):
        find_slides(manifest(tmp_path, text))


def test_a_manifest_in_another_encoding_is_refused(tmp_path: Path) -> None:
    (tmp_path / "cohort.csv").write_bytes("slide_id,path\nä,a.svs\n".encode("latin-1"))
    with pytest.raises(ConfigError, match=r"cohort\.csv: cannot be read as a CSV in UTF-8"):
        find_slides(tmp_path / "cohort.csv")


@pytest.mark.real
def test_each_real_slide_has_an_id_of_its_own(real_data: Path) -> None:
    found = ids(real_data / "slides")
    assert len(found) == len(set(found)) == 11
    assert {"CMU-1-Small-Region", "OS-1-detail", "small"} <= set(found)


@pytest.mark.parametrize(
    ("beside", "where", "found"),
    [
        ("s3://b/m", "a b.svs", "s3://b/m/a b.svs"),
        ("s3://b/m", "../n/a.svs", "s3://b/n/a.svs"),
        ("memory:///m", "../b/a.svs", "memory:///b/a.svs"),
        ("s3://b/m", "/data/a.svs", "/data/a.svs"),
        ("s3://b/m", "gs://c/a.svs", "gs://c/a.svs"),
        ("/m", "a.svs", "/m/a.svs"),
    ],
)
def test_paths_of_a_manifest_begin_where_it_lies(beside: str, where: str, found: str) -> None:
    assert path_from(beside, where) == found
