"""How a run ends early: its account says so, and the tables keep what is known of all slides."""

import csv
import html
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from map_samples import a_result

from wsi_pipeline.cli import job
from wsi_pipeline.config import load_config
from wsi_pipeline.keys import made_with
from wsi_pipeline.maps.result import SlideResult, without_result
from wsi_pipeline.pipeline.begin import open_run_folder
from wsi_pipeline.pipeline.folder import RunFolder
from wsi_pipeline.pipeline.work import Stage
from wsi_pipeline.slide.entry import SlideEntry

Work = Callable[..., int]


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    """A run folder that knows of a, mapped, and of b, which failed."""
    found = open_run_folder(tmp_path / "run")
    found.record(a_result("a", label="as it was"), "key")
    found.record_failure(without_result("b", "unreadable", stage="open", message="empty file"))
    return found


@pytest.fixture
def work(folder: RunFolder, monkeypatch: pytest.MonkeyPatch) -> Work:
    """A run over slides a, b, c and d that yields rows, then raises an error, if there is one."""

    def run(
        *rows: SlideResult, error: BaseException | None = None, until: Stage = "map", limit: int = 9,
        knobs: tuple[str, ...] = (), model: str = "",
    ) -> int:  # fmt: skip
        def cohort(*_: object, **__: object) -> Iterator[SlideResult]:
            yield from rows
            if error is not None:
                raise error

        monkeypatch.setattr(job, "run_cohort", cohort)
        entries = [SlideEntry(name, f"{name}.tif", label=f"label {name}") for name in "abcd"]
        config = load_config(None, ["run.scheduler=threads", f"run.limit={limit}", *knobs])
        return job.work(entries, folder, config, until=until, model={"id": model} if model else None)

    return run


def table(folder: RunFolder, name: str = "slides.csv") -> dict[str, dict[str, str]]:
    rows = csv.DictReader((folder.root / name).read_text(encoding="utf-8").splitlines())
    return {row["slide_id"]: row for row in rows}


def exit_code(folder: RunFolder) -> int:
    return json.loads((folder.root / "run.json").read_text(encoding="utf-8"))["exit_code"]


def slides_told(folder: RunFolder) -> list[str]:
    return [entry["slide_id"] for entry in json.loads((folder.root / "run.json").read_text())["slides"]]


def test_a_run_that_is_stopped_keeps_what_is_known_of_slides_that_it_did_not_come_to(folder, work):
    with pytest.raises(KeyboardInterrupt):
        work(a_result("c", cancer_mm2=3.0), error=KeyboardInterrupt())
    found = table(folder)
    assert {name: row["status"] for name, row in found.items()} == {"a": "ok", "b": "unreadable", "c": "ok"}
    assert (found["a"]["cancer_mm2"], found["c"]["cancer_mm2"]) == ("12.13", "3")
    assert found["a"]["label"] == "label a"  # as the manifest has it now
    assert table(folder, "failures.csv")["b"]["message"] == "empty file"
    assert exit_code(folder) == 130


def test_a_row_of_this_run_goes_before_one_of_another(folder, work):
    with pytest.raises(KeyboardInterrupt):
        work(a_result("a", cancer_mm2=3.0), error=KeyboardInterrupt())
    assert table(folder)["a"]["cancer_mm2"] == "3"


def test_a_run_that_an_error_ends_has_failed(folder, work):
    with pytest.raises(RuntimeError, match="the device is gone"):
        work(error=RuntimeError("the device is gone"))
    assert exit_code(folder) == 1 and list(table(folder)) == ["a", "b"]


def test_a_limit_takes_no_row_of_slides_beyond_it(folder, work):
    assert work(a_result("a", cancer_mm2=3.0), limit=1) == 0
    assert {name: row["status"] for name, row in table(folder).items()} == {"a": "ok", "b": "unreadable"}
    assert table(folder)["a"]["cancer_mm2"] == "3"
    assert slides_told(folder) == ["a", "b"]  # not those that no run came to


@pytest.mark.parametrize(
    ("knobs", "model", "warns"),
    [
        ((), "m", False),
        (("run.stall_s=9", "outputs.asap=false", "tiles.max_unreadable=1"), "m", False),  # nothing of it in the row
        (("maps.threshold=0.9",), "m", True),
        (("tiles.mpp=1",), "m", True),
        ((), "n", True),
    ],
)
@pytest.mark.parametrize("way", ["limit", "interrupt"])
def test_a_row_of_other_knobs_or_of_another_model_says_so(folder, work, way, knobs, model, warns):
    folder.record(a_result("c", warnings=("out of focus",)), "key", made=made_with(load_config(), "m"))
    if way == "limit":
        work(a_result("a"), limit=1, knobs=knobs, model=model)
    else:
        with pytest.raises(KeyboardInterrupt):
            work(a_result("a"), error=KeyboardInterrupt(), knobs=knobs, model=model)
    rows = {name: row["warnings"] for name, row in table(folder).items()}
    assert rows["a"] == rows["b"] == "" and rows["c"].startswith("out of focus")
    assert ("of an earlier run with other knobs or another model; --resume" in rows["c"]) == warns


@pytest.mark.parametrize("until", ["score", "map"])
def test_a_limit_takes_no_slide_out_of_the_run(folder, work, until):
    work(*(without_result(name, "ok", stage="tile") for name in "abc"), until="tile", limit=3)
    assert work(a_result("a", cancer_mm2=3.0), until=until, limit=1) == 0
    assert slides_told(folder) == ["a", "b", "c"]  # of c no row is there yet
    assert work(*map(a_result, "abcd")) == 0 and slides_told(folder) == list("abcd")


def test_a_run_that_ends_well_says_how(folder, work):
    assert work(*map(a_result, "abcd")) == exit_code(folder) == 0
    assert work(*map(a_result, "abc"), without_result("d", "failed")) == exit_code(folder) == 3


@pytest.mark.parametrize("until", ["tile", "score"])
def test_an_earlier_stage_that_is_stopped_leaves_the_tables_alone(folder, work, until):
    reached = [without_result(name, "ok", stage=until) for name in "abcd"]
    work(*reached, until=until)
    before = (folder.root / "slides.csv").read_text()
    with pytest.raises(KeyboardInterrupt):
        work(*reached[:2], error=KeyboardInterrupt(), until=until)
    assert (folder.root / "slides.csv").read_text() == before and exit_code(folder) == 130


def test_where_nothing_is_known_no_table_is_written_over(folder, work):
    (folder.root / "slides.csv").write_text("slide_id\nold\n")
    for name in "ab":
        folder.forget(name)
    with pytest.raises(KeyboardInterrupt):
        work(error=KeyboardInterrupt())
    assert list(table(folder)) == ["old"]


@pytest.mark.parametrize(
    ("knobs", "own", "told"),
    [
        (["maps.threshold=0.7"], 0.048, "Threshold 0.7 "),
        ([], 0.048, "Threshold 0.048, the model's own"),
        (["maps.threshold=0"], None, "Threshold 0 "),
    ],
)
def test_the_report_tells_the_threshold_that_all_areas_hang_on(folder, monkeypatch, knobs, own, told):
    monkeypatch.setattr(job, "run_cohort", lambda *_, **__: iter([a_result("a")]))
    config = load_config(None, ["run.scheduler=threads", *knobs])
    model = {"name": "m", "id": "f00"} | ({} if own is None else {"threshold": own})
    job.work([SlideEntry("a", "a.tif")], folder, config, model=model)
    page = html.unescape((folder.root / "report.html").read_text(encoding="utf-8"))
    assert told in " ".join(re.sub("<[^>]+>", " ", page).split())
