"""`evaluate` on tables and on a training's folder: files, words, exit codes, and what is wrong in a table."""

import gzip
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from time import perf_counter

import numpy as np
import pandas as pd
import pytest
import torch
from answer_samples import NAMES, write_tables
from click.testing import CliRunner, Result
from PIL import Image

from wsi_pipeline.cli.evaluate import command
from wsi_pipeline.errors import ConfigError, ModelError, StoreError
from wsi_pipeline.knobs import as_yaml
from wsi_pipeline.learn.data.labels import LabelledImages
from wsi_pipeline.learn.datasets import open_dataset
from wsi_pipeline.learn.evaluation.stated import stated_prevalence, stated_thresholds
from wsi_pipeline.learn.evaluation.tables import labels_in_words
from wsi_pipeline.learn.model.checkpoint import Checkpoint, save_checkpoint
from wsi_pipeline.learn.model.densenet import build_densenet
from wsi_pipeline.learn.training.settings import load_settings


def call(*arguments: object) -> Result:
    return CliRunner().invoke(command, [str(argument) for argument in arguments], catch_exceptions=False)


def test_two_tables_come_to_four_files_and_no_torch_is_loaded(tmp_path) -> None:
    options, _, _ = write_tables(tmp_path)
    code = ("import sys\nfrom wsi_pipeline.cli.group import main\n"
            "assert main() == 0 and 'torch' not in sys.modules")  # fmt: skip
    arguments = ["evaluate", *options, "--patient-column", "patient_id", "--by", "sex"]
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "60 images, 30 patients" in done.stdout and "evaluation.html" in done.stdout
    assert sorted(os.listdir(tmp_path / "report")) == [
        "evaluation.csv", "evaluation.html", "evaluation.json", "predictions.csv",
    ]  # fmt: skip


def test_without_a_patient_column_the_warning_is_loud_and_on_the_page(tmp_path) -> None:
    options, _, _ = write_tables(tmp_path)
    done = call(*options)
    assert "warning: No patients are named" in done.stderr
    assert "No patients are named" in (tmp_path / "report" / "evaluation.html").read_text()


def test_perfect_figures_are_not_told_as_certain(tmp_path) -> None:
    options, said, true = write_tables(tmp_path)
    said.assign(**{name: 0.2 + 0.6 * true[name] for name in NAMES}).to_csv(tmp_path / "preds.csv", index=False)
    done = call(*options, "--patient-column", "patient_id")
    assert "mean   1.000 (no interval)" in done.stdout and "1.000 (1.000 to 1.000)" not in done.stdout
    assert "1.000 to 1.000" not in (tmp_path / "report" / "evaluation.html").read_text()


def test_what_evaluate_writes_it_reads_again_thresholds_and_predictions(tmp_path) -> None:
    options, _, _ = write_tables(tmp_path)
    call(*options, "--patient-column", "patient_id", "--thresholds", 0.3)
    first = tmp_path / "report"
    call("--predictions", first / "predictions.csv", "--labels", tmp_path / "labels.csv", "--rounds", 50,
         "--patient-column", "patient_id", "--thresholds", first / "evaluation.csv",
         "--out", tmp_path / "again")  # fmt: skip
    labels = [json.loads((folder / "evaluation.json").read_text())["labels"] for folder in (first, tmp_path / "again")]
    assert labels[0] == labels[1] and labels[0][0]["threshold"] == 0.3


def test_predictions_are_read_again_whatever_the_labels_call_a_patient(tmp_path) -> None:
    options, _, true = write_tables(tmp_path)
    true.rename(columns={"patient_id": "subject"}).to_csv(tmp_path / "labels.csv", index=False)
    call(*options, "--patient-column", "subject")
    written = tmp_path / "report" / "predictions.csv"
    again = call(*options, "--patient-column", "subject", "--predictions", written, "--out", tmp_path / "again")
    assert again.exit_code == 0 and "60 images, 30 patients" in again.stdout


def test_thresholds_are_written_whole(tmp_path) -> None:
    options, said, _ = write_tables(tmp_path)
    near = {name: 1 - 1e-7 * (1 - said[name]) for name in NAMES}
    said.assign(**near).to_csv(tmp_path / "preds.csv", index=False)
    (tmp_path / "t.json").write_text(json.dumps(dict.fromkeys(NAMES, 0.99999995)))
    call(*options, "--thresholds", tmp_path / "t.json")
    first = tmp_path / "report" / "evaluation.csv"
    assert "0.99999995" in (tmp_path / "report" / "evaluation.html").read_text()
    call(*options, "--thresholds", first, "--out", tmp_path / "again")
    assert (tmp_path / "again" / "evaluation.csv").read_text() == first.read_text()


def test_another_table_is_compared_by_id_whatever_its_order(tmp_path) -> None:
    options, said, _ = write_tables(tmp_path)
    said.iloc[::-1].to_csv(tmp_path / "other.csv", index=False)
    call(*options, "--patient-column", "patient_id", "--compare", tmp_path / "other.csv")
    found = json.loads((tmp_path / "report" / "evaluation.json").read_text())["comparison"]
    assert found["other"] == "other.csv" and found["mean"]["auroc"] == {"value": 0, "low": 0, "high": 0}


def test_another_model_of_the_same_name_is_told_by_its_folder(tmp_path) -> None:
    options, said, _ = write_tables(tmp_path)
    (tmp_path / "old").mkdir()
    said.to_csv(tmp_path / "old" / "preds.csv", index=False)
    assert "minus that of old/preds.csv: +0.000" in call(*options, "--compare", tmp_path / "old" / "preds.csv").stdout
    assert "<dd>old/preds.csv</dd>" in (tmp_path / "report" / "evaluation.html").read_text()


@pytest.mark.parametrize("way", ["fewer rows", "empty cells"])
def test_images_of_which_the_other_model_says_nothing_are_told(way: str, tmp_path) -> None:
    options, said, _ = write_tables(tmp_path)
    other = said[:20] if way == "fewer rows" else said.assign(mass=said["mass"][:20], edema=said["edema"][:20])
    other.to_csv(tmp_path / "other.csv", index=False)
    done = call(*options, "--compare", tmp_path / "other.csv", "--only-common")
    words = "40 of 60 images lack a prediction of other.csv and are left out of the comparison"
    assert f"warning: {words}" in done.stderr and words in (tmp_path / "report" / "evaluation.html").read_text()
    assert json.loads((tmp_path / "report" / "evaluation.json").read_text())["comparison"]["images"] == 20


def test_a_comparison_that_is_not_defined_is_told_by_a_dash(tmp_path) -> None:
    options, _, true = write_tables(tmp_path)
    true.assign(mass=0, edema=0).to_csv(tmp_path / "labels.csv", index=False)
    done = call(*options, "--compare", tmp_path / "preds.csv")
    assert "preds.csv: – (no interval)" in done.stdout and "nan" not in done.stdout


def test_logits_come_to_what_their_probabilities_come_to(tmp_path) -> None:
    options, said, _ = write_tables(tmp_path)
    call(*options)
    before = json.loads((tmp_path / "report" / "evaluation.json").read_text())["mean"]["brier"]["value"]
    p = said[list(NAMES)]
    said.assign(**np.log(p / (1 - p))).to_csv(tmp_path / "preds.csv", index=False)
    call(*options, "--logits")
    after = json.loads((tmp_path / "report" / "evaluation.json").read_text())["mean"]["brier"]["value"]
    assert after == pytest.approx(before, abs=1e-9)


def test_the_logits_of_0_and_1_are_infinite_and_a_1_may_be_more_by_rounding(tmp_path) -> None:
    options, said, _ = write_tables(tmp_path)
    said.loc[:1, "mass"] = [0.0, 1.0]
    said.to_csv(tmp_path / "preds.csv", index=False)
    call(*options)
    expected = (tmp_path / "report" / "predictions.csv").read_text()
    said.assign(mass=said["mass"].replace(1.0, 1.0000001)).to_csv(tmp_path / "preds.csv", index=False)
    call(*options)
    assert (tmp_path / "report" / "predictions.csv").read_text() == expected
    p = said[list(NAMES)]
    with np.errstate(divide="ignore"):
        said.assign(**np.log(p / (1 - p))).to_csv(tmp_path / "preds.csv", index=False)
    call(*options, "--logits")
    found = pd.read_csv(tmp_path / "report" / "predictions.csv")
    np.testing.assert_allclose(found["mass"], said["mass"], atol=1e-9)


def test_labels_may_be_words_of_one_column(tmp_path) -> None:
    options, _, true = write_tables(tmp_path)
    call(*options)
    expected = (tmp_path / "report" / "evaluation.csv").read_text()
    words = ["|".join(name for name in NAMES if row[name]) or "No Finding" for _, row in true.iterrows()]
    true.assign(finding=words).drop(columns=list(NAMES)).to_csv(tmp_path / "labels.csv", index=False)
    call(*options, "--label-column", "finding")
    assert (tmp_path / "report" / "evaluation.csv").read_text() == expected


def test_words_count_in_any_case_and_those_that_are_no_class_are_told(tmp_path) -> None:
    options, _, true = write_tables(tmp_path)
    call(*options)
    expected = (tmp_path / "report" / "evaluation.csv").read_text()
    for none, said in (
        ("no finding", ""),
        ("Edemaa| mas", "no class count as absent: 'Edemaa' (COUNT), 'mas' (COUNT)"),
    ):
        words = ["|".join(name.title() for name in NAMES if row[name]) or none for _, row in true.iterrows()]
        true.assign(finding=words).drop(columns=list(NAMES)).to_csv(tmp_path / "labels.csv", index=False)
        done = call(*options, "--label-column", "finding")
        assert (tmp_path / "report" / "evaluation.csv").read_text() == expected
        assert ("no class" in done.stderr) == bool(said)
        assert said.replace("COUNT", str(words.count(none))) in done.stderr


def test_a_class_named_as_an_empty_cell_is_one_in_a_column_of_words(tmp_path) -> None:
    frame = pd.DataFrame({"finding": ["None", "B", "NA", ""]})
    labels, warnings = labels_in_words(frame, ["None", "B"], "finding", place="l.csv")
    np.testing.assert_array_equal(labels, [[1, 0], [0, 1], [np.nan] * 2, [np.nan] * 2])
    assert not warnings


def test_one_patient_in_several_spellings_is_one(tmp_path) -> None:
    options, _, true = write_tables(tmp_path)
    for spell in ("{}  ", "00{}.0"):
        numbers = [str(k // 2) for k in range(60)]
        patients = [spell.format(number) if k % 2 else number for k, number in enumerate(numbers)]
        true.assign(patient_id=patients).to_csv(tmp_path / "labels.csv", index=False)
        assert "60 images, 30 patients" in call(*options, "--patient-column", "patient_id").stdout
        told = pd.read_csv(tmp_path / "report" / "predictions.csv", dtype=str)["patient_id"]
        assert told.tolist() == numbers
    true.assign(patient_id="  ").to_csv(tmp_path / "labels.csv", index=False)
    with pytest.raises(ConfigError, match="ids without patient_id: 60"):
        call(*options, "--patient-column", "patient_id")


def test_grades_of_one_column_are_cumulative_labels(tmp_path) -> None:
    options, said, _ = write_tables(tmp_path)
    grades = (said["mass"] > 0.4).astype(int) + (said["edema"] > 0.6) * (said["mass"] > 0.4)
    pd.DataFrame({"image": said["image"], "level": grades}).to_csv(tmp_path / "labels.csv", index=False)
    call(*options, "--ordinal", "--label-column", "level")
    found = json.loads((tmp_path / "report" / "evaluation.json").read_text())
    assert [label["positives"] for label in found["labels"]] == [(grades >= 1).sum(), (grades >= 2).sum()]
    assert found["confusion"]["names"] == ["grade 0", "grade 1", "grade 2"]


def test_a_column_for_each_grade_is_no_cumulative_label(tmp_path) -> None:
    options, _, true = write_tables(tmp_path)
    true.assign(mass=[1, 0] * 30, edema=[0, 1] * 30).to_csv(tmp_path / "labels.csv", index=False)
    with pytest.raises(ConfigError, match="ids with 'edema' and without the lower 'mass': 30, the first is 'i001'"):
        call(*options, "--ordinal")


def test_images_whose_grade_is_not_wholly_known_are_told(tmp_path) -> None:
    options, _, true = write_tables(tmp_path)
    true.assign(mass=1, edema=[0, 1, None] * 20).to_csv(tmp_path / "labels.csv", index=False)
    assert "warning: 20 of 60 images have no known grade and are in no accuracy" in call(*options, "--ordinal").stderr
    pd.DataFrame({"image": true["image"], "level": ["", 2] * 30}).to_csv(tmp_path / "labels.csv", index=False)
    done = call(*options, "--ordinal", "--label-column", "level")
    assert "warning: 30 of 60 images have no known grade" in done.stderr


def test_a_class_is_named_once(tmp_path) -> None:
    options, _, _ = write_tables(tmp_path)
    with pytest.raises(ConfigError, match="--classes: 'mass' is there twice"):
        call(*options, "--classes", "mass,edema,mass")


@pytest.mark.parametrize(
    ("table", "spoil", "said"),
    [
        ("labels", lambda t: t.assign(mass=2), r"labels.csv: image i000 has label 2 for mass \(60 such labels\)"),
        ("labels", lambda t: t.rename(columns={"mass": "masses"}), "no column 'mass'; did you mean 'masses'"),
        ("labels", lambda t: t.iloc[3:], r"ids in .*preds.csv alone: 3, the first is 'i000'; .*--only-common"),
        ("labels", lambda t: t.assign(patient_id=None), "ids without patient_id: 60, the first is 'i000'"),
        ("labels", lambda t: t.assign(image=t.image + ".png"), "have no id in common: 'i000' here, 'i000.png' there"),
        ("preds", lambda t: t.assign(edema=-3.5), r"image i000 has -3.5 for edema.* look like logits; give --logits"),
        ("preds", lambda t: t.assign(note="good"), "image i000 has 'good' in column 'note'; .* with --classes"),
        ("preds", lambda t: pd.concat([t, t[4:5]]), "preds.csv: ids in more than one row: 1, the first is 'i004'"),
        ("preds", lambda t: t.iloc[:0], "preds.csv: has a header and no rows"),
        ("preds", lambda t: t.assign(mass2=t.mass).rename(columns={"mass2": "mass"}), "preds.csv: 'mass' is there twi"),
        ("labels", lambda t: t.assign(**{"mass ": 1 - t.mass}), "labels.csv: 'mass' is there twice"),
    ],
    ids=[
        "label 2",
        "no column",
        "fewer rows",
        "no patient",
        "other ids",
        "logits",
        "words",
        "twice",
        "empty",
        "column twice",
        "column twice but for a space",
    ],
)
def test_a_fault_of_a_table_is_named_with_its_row(table: str, spoil, said: str, tmp_path) -> None:
    options, predictions, labels = write_tables(tmp_path)
    spoil({"preds": predictions, "labels": labels}[table]).to_csv(tmp_path / f"{table}.csv", index=False)
    with pytest.raises(ConfigError, match=said):
        call(*options, "--patient-column", "patient_id")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "cannot be read"),
        ("", "is empty"),
        ("image\na\n", "no column but 'image'"),
        ("a,b\n1\n1,2,3\n", "no CSV"),
        ("image,mass,edema\ni000,0.5,0.5,\ni001,0.5,0.5,\n", "Expected 3 fields in line 2, saw 4"),
    ],
    ids=["absent", "no bytes", "ids alone", "ragged", "a comma at each end"],
)
def test_what_is_no_table_is_named(text: str | None, said: str, tmp_path) -> None:
    options, _, _ = write_tables(tmp_path)
    (tmp_path / "preds.csv").unlink() if text is None else (tmp_path / "preds.csv").write_text(text)
    with pytest.raises(ConfigError, match=f"preds.csv: .*{said}"):
        call(*options)


def test_a_packed_table_that_is_cut_off_or_none_is_told(tmp_path) -> None:
    options, _, _ = write_tables(tmp_path)
    whole = gzip.compress((tmp_path / "labels.csv").read_bytes())
    for data, said in ((whole[: len(whole) // 2], "Compressed file ended"), (b"plain", "Not a gzipped file")):
        (tmp_path / "labels.csv.gz").write_bytes(data)
        with pytest.raises(ConfigError, match=rf"labels.csv.gz: .*\({said}"):
            call(*options, "--labels", tmp_path / "labels.csv.gz")


def test_what_pandas_and_spreadsheets_add_or_leave_out_changes_nothing(tmp_path) -> None:
    options, said, true = write_tables(tmp_path)
    words = ["mass" if row["mass"] else "edema" if row["edema"] else "" for _, row in true.iterrows()]
    true.assign(finding=words).drop(columns=list(NAMES)).to_csv(tmp_path / "labels.csv", index=False)
    call(*options, "--label-column", "finding")
    expected = (tmp_path / "report" / "evaluation.csv").read_text()
    said.to_csv(tmp_path / "preds.csv")  # with a column of row numbers that has no name
    lines = (tmp_path / "labels.csv").read_text().splitlines()
    (tmp_path / "labels.csv").write_text("\n".join(line.rstrip(",") for line in lines))
    call(*options, "--label-column", "finding")
    assert (tmp_path / "report" / "evaluation.csv").read_text() == expected


def test_only_common_goes_on_with_what_both_tables_hold_and_says_so(tmp_path) -> None:
    options, _, true = write_tables(tmp_path)
    true.iloc[6:].to_csv(tmp_path / "labels.csv", index=False)
    done = call(*options, "--patient-column", "patient_id", "--only-common")
    assert "54 images, 27 patients" in done.stdout and "6 predictions have no label" in done.stderr
    write_tables(tmp_path)[1].iloc[4:].to_csv(tmp_path / "preds.csv", index=False)
    assert "4 labelled images have no prediction" in call(*options, "--only-common").stderr


def test_of_exclusive_labels_the_one_that_is_there_tells_the_others(tmp_path) -> None:
    options, _, true = write_tables(tmp_path)
    true.assign(edema=1 - true["mass"]).to_csv(tmp_path / "labels.csv", index=False)
    call(*options, "--exclusive")
    expected = (tmp_path / "report" / "evaluation.csv").read_text()
    empty = [true["mass"].where(true["mass"] == 1), (1 - true["mass"]).where(true["mass"] == 0)]
    true.assign(mass=empty[0], edema=empty[1]).to_csv(tmp_path / "labels.csv", index=False)
    assert "accuracy" in call(*options, "--exclusive").stdout
    assert (tmp_path / "report" / "evaluation.csv").read_text() == expected


def test_exclusive_labels_need_one_class_an_image(tmp_path) -> None:
    options, _, _ = write_tables(tmp_path)
    with pytest.raises(ConfigError, match="ids without exactly one class: "):
        call(*options, "--exclusive")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "give either --checkpoint"),
        (["--predictions", "p.csv", "--checkpoint", "demo"], "give either --checkpoint"),
        (["--predictions", "p.csv"], "needs --labels"),
        (["--checkpoint", "demo"], "needs --data"),
        (["--checkpoint", "demo", "--data", "d", "--labels", "l.csv"], "--labels goes with --predictions"),
        (["--checkpoint", "demo", "--data", "d", "--exclusive"], "--exclusive goes with --predictions"),
        (["--predictions", "p.csv", "--labels", "l.csv", "--split", "test"], "--split goes with --checkpoint"),
        (["--predictions", "p.csv", "--seed", "-1"], "'--seed': -1 is not in the range"),
        (["--predictions", "p.csv", "--mistakes", "-1"], "'--mistakes': -1 is not in the range"),
    ],
    ids=[
        "neither",
        "both",
        "no labels",
        "no data",
        "labels of a data set",
        "classes of a model",
        "part of a table",
        "seed",
        "mistakes",
    ],
)
def test_a_usage_error_says_what_belongs_together(arguments: list[str], said: str, tmp_path) -> None:
    done = call(*arguments, "--out", tmp_path / "report")
    assert done.exit_code == 2 and said in done.stderr


@pytest.mark.parametrize(
    ("option", "name"),
    [
        ("--predictions", "predictions.csv"),
        ("--labels", "evaluation.csv"),
        ("--compare", "predictions.csv"),
        ("--thresholds", "evaluation.csv"),
        ("--thresholds", "evaluation.json"),
    ],
)
def test_a_table_that_the_report_would_replace_is_refused_and_kept(option: str, name: str, tmp_path) -> None:
    options, _, _ = write_tables(tmp_path)
    table = tmp_path / "report" / name
    table.parent.mkdir()
    table.write_text("read only in the end")
    with pytest.raises(ConfigError, match=rf"^{option} .*{name}: the report's own {name} would replace it; name anoth"):
        call(*options, option, table)
    assert os.listdir(tmp_path / "report") == [name] and table.read_text() == "read only in the end"


def test_a_table_is_the_same_by_whatever_way_its_folder_is_named(tmp_path, monkeypatch) -> None:
    write_tables(tmp_path)
    (tmp_path / "preds.csv").rename(tmp_path / "predictions.csv")
    (tmp_path / "here").symlink_to(tmp_path)
    monkeypatch.chdir(tmp_path)
    for table, out in (("predictions.csv", "."), ("here/predictions.csv", tmp_path), ("predictions.csv", "here")):
        with pytest.raises(ConfigError, match=f"--predictions {table}: the report's own"):
            call("--predictions", table, "--labels", "labels.csv", "--out", out)


def test_a_report_goes_neither_among_the_images_nor_onto_their_labels(tmp_path) -> None:
    run, data = a_training(tmp_path)
    with pytest.raises(ConfigError, match=f"--data {data}: is --out too"):
        judge(run, data, "--out", data)
    labels = data / "lists" / "predictions.csv"
    with pytest.raises(ConfigError, match=f"--set {labels}: the report's own predictions.csv would replace it"):
        judge(run, data, "--set", "data.options.groups=lists/predictions.csv", "--out", data / "lists")
    assert sorted(os.listdir(data)) == ["bright", "dark"]


def test_a_folder_that_takes_no_file_is_refused_before_any_work(tmp_path, monkeypatch) -> None:
    def refused(dir: str) -> None:
        raise PermissionError(13, "Permission denied", dir)

    options, _, _ = write_tables(tmp_path)
    (tmp_path / "preds.csv").unlink()
    monkeypatch.setattr("wsi_pipeline.cli.places.TemporaryFile", refused)
    with pytest.raises(StoreError, match=r"report: cannot be written .*see to the folder's permissions"):
        call(*options)


def test_a_file_for_out_is_refused_before_any_work(tmp_path) -> None:
    options, _, _ = write_tables(tmp_path)
    (tmp_path / "report").write_text("a file")
    (tmp_path / "preds.csv").unlink()
    with pytest.raises(ConfigError, match=r"report: .* is a file; name a folder"):
        call(*options)


def test_thresholds_come_from_a_number_a_table_a_card_or_an_object(tmp_path) -> None:
    (tmp_path / "t.csv").write_text("label,threshold\nedema,0.2\nmass,0.1\nmean,\n")
    (tmp_path / "card.json").write_text(json.dumps({"class_names": NAMES[::-1], "thresholds": [0.2, 0.1]}))
    (tmp_path / "o.json").write_text('{"mass": 0.1, "edema": 0.2}')
    for name in ("t.csv", "card.json", "o.json"):
        assert stated_thresholds(str(tmp_path / name), NAMES).tolist() == [0.1, 0.2]
    assert stated_thresholds("0.4", NAMES).tolist() == [0.4, 0.4]


def test_a_class_named_as_an_empty_cell_has_its_threshold(tmp_path) -> None:
    (tmp_path / "t.csv").write_text("label,threshold,note\nNone,0.2,\nNA,0.1,x\nmean,,\n")
    assert stated_thresholds(str(tmp_path / "t.csv"), ["NA", "None"]).tolist() == [0.1, 0.2]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("1.5", "give thresholds of 0 to 1"),
        ("none.csv", "give a number, a CSV or a JSON"),
        ("o.json", "no threshold for 'edema'"),
        ("e.json", "holds no thresholds by class .*; give a CSV of columns label and threshold"),
    ],
    ids=["range", "no file", "no class", "an evaluation.json"],
)
def test_thresholds_that_do_not_fit_are_named(text: str, said: str, tmp_path) -> None:
    (tmp_path / "o.json").write_text('{"mass": 0.1}')
    (tmp_path / "e.json").write_text('{"class_names": ["mass"], "labels": []}')
    with pytest.raises(ConfigError, match=said):
        stated_thresholds(str(tmp_path / text) if "." in text and text != "1.5" else text, NAMES)


def test_prevalences_are_for_all_classes_or_for_one() -> None:
    assert stated_prevalence(["mass=0.02", "0.1"], NAMES).tolist() == [0.02, 0.1]  # type: ignore[union-attr]
    assert stated_prevalence([], NAMES) is None
    with pytest.raises(ConfigError, match="no class 'mas'; did you mean 'mass'"):
        stated_prevalence(["mas=0.1"], NAMES)


def a_training(folder: Path, *, names: tuple[str, ...] = ("bright", "dark")) -> tuple[Path, Path]:
    """(training folder, data): 24 images in class folders, every third in the test part."""
    rng = np.random.default_rng(0)
    rows = []
    for k in range(24):
        name = ("bright", "dark")[k % 2]
        path = folder / "data" / name / f"{k:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        values = (170 if k % 2 == 0 else 80) + rng.normal(0, 30, (40, 40, 3))
        Image.fromarray(values.clip(0, 255).astype(np.uint8)).save(path)
        rows.append({"id": f"{name}/{k:02d}.png", "patient": str(k), "part": ("train", "val", "test")[k // 2 % 3]})
    torch.manual_seed(0)
    state = build_densenet("densenet_demo", 2).state_dict()
    checkpoint = Checkpoint("densenet_demo", names, (), True, 32, None, (0.5,) * 3, (0.25,) * 3, state)
    save_checkpoint(checkpoint, folder / "run")
    (folder / "run" / "settings.yaml").write_text(as_yaml(load_settings(None, ["data.dataset=folder"])))
    pd.DataFrame(rows).to_csv(folder / "run" / "split.csv", index=False)
    return folder / "run", folder / "data"


def judge(run: Path, data: Path, *more: object) -> Result:
    out = run.parent / "report"
    return call("--checkpoint", run, "--data", data, "--device", "cpu", "--rounds", 20, "--out", out, *more)


def test_a_training_is_judged_on_its_test_part_with_pictures_and_calibration(tmp_path) -> None:
    run, data = a_training(tmp_path)
    done = judge(run, data)
    assert done.exit_code == 0 and "8 images" in done.stdout
    assert "images" not in done.stderr.splitlines()
    html = (tmp_path / "report" / "evaluation.html").read_text()
    assert "data:image/jpeg;base64," in html and "before calibration" in html and "What was taken for what" in html
    assert set(pd.read_csv(tmp_path / "report" / "predictions.csv")["image"]) == set(
        pd.read_csv(run / "split.csv").query("part == 'test'")["id"]
    )


def test_images_of_a_data_set_that_names_no_patients_are_not_called_patients(tmp_path) -> None:
    run, data = a_training(tmp_path)
    done = judge(run, data)
    assert "8 images;" in done.stdout and "warning: No patients are named: intervals are by image" in done.stderr
    done = judge(run, data, "--set", r"data.options={patient_pattern: '(\d+)$'}")
    assert "8 images, 8 patients;" in done.stdout and "No patients" not in done.stderr


def test_a_model_named_by_a_point_has_its_folders_name(tmp_path, monkeypatch) -> None:
    run, data = a_training(tmp_path)
    monkeypatch.chdir(run)
    judge(Path("."), data, "--out", tmp_path / "report")
    facts = json.loads((tmp_path / "report" / "evaluation.json").read_text())["facts"]
    assert facts["Model"].startswith("run (")


def test_images_of_the_training_are_judged_only_with_a_warning(tmp_path) -> None:
    run, data = a_training(tmp_path)
    done = judge(run, data, "--split", "all")
    assert "24 images" in done.stdout and "8 of these images trained the model" in done.stderr


@pytest.mark.parametrize("name", ["run", "run/model.safetensors"], ids=["folder", "file"])
def test_images_of_the_training_are_known_under_a_named_data_set_too(name: str, tmp_path) -> None:
    _, data = a_training(tmp_path)
    done = judge(tmp_path / name, data, "--dataset", "folder", "--split", "all")
    assert "8 of these images trained the model and 8 chose its epoch" in done.stderr


def test_of_a_model_whose_training_nobody_knows_none_is_said_to_have_trained_it(tmp_path) -> None:
    run, data = a_training(tmp_path)
    (run / "split.csv").unlink()
    (tmp_path / "other").mkdir()
    data.rename(tmp_path / "other" / "train")
    done = judge(run, tmp_path / "other", "--dataset", "folder", "--split", "train")
    assert "24 of these images are of the data set's own training or validation part: where the model" in done.stderr
    assert "trained the model" not in done.stderr


def test_images_of_no_class_are_not_judged_by_a_model_whose_classes_exclude_each_other(tmp_path, monkeypatch) -> None:
    def opened(*given: object, **options: object) -> LabelledImages:
        images = open_dataset(*given, **options)  # type: ignore[arg-type]
        return replace(images, exclusive=False, labels=images.labels * (np.arange(24) != 2)[:, None])

    run, data = a_training(tmp_path)
    monkeypatch.setattr("wsi_pipeline.cli.predicted.open_dataset", opened)
    with pytest.raises(ConfigError, match=r"1 of 24 images have none or several of the classes, .* 'bright/04.png'"):
        judge(run, data, "--split", "all")


def test_the_test_part_of_another_data_set_may_have_been_trained_on(tmp_path) -> None:
    run, data = a_training(tmp_path)
    (tmp_path / "other").mkdir()
    data.rename(tmp_path / "other" / "test")
    split = pd.read_csv(run / "split.csv")
    split.assign(id="test/" + split["id"]).to_csv(run / "split.csv", index=False)
    done = judge(run, tmp_path / "other", "--dataset", "folder")
    assert "24 images" in done.stdout and "8 of these images trained the model" in done.stderr


def renamed(run: Path, *, patients: str) -> None:
    """The training's images under other ids; its patients in another spelling, such as "00{}.0"."""
    split = pd.read_csv(run / "split.csv")
    spelt = [patients.format(patient) for patient in split["patient"]]
    split.assign(id="older/" + split["id"], patient=spelt).to_csv(run / "split.csv", index=False)


def test_new_images_of_patients_that_trained_a_model_are_told(tmp_path) -> None:
    run, data = a_training(tmp_path)
    (tmp_path / "b").mkdir()
    other, _ = a_training(tmp_path / "b")
    given = ["--dataset", "folder", "--set", r"data.options={patient_pattern: '(\d+)$'}", "--split", "all"]
    assert "of patients" not in judge(run, data, *given).stderr  # all of them are images of the training
    renamed(other, patients="{}.0")
    (other / "split.csv").rename(run / "split.csv")
    assert "warning: 16 images are of patients, by their ids, whose other images trained the model or chose" in (
        judge(run, data, *given).stderr
    )
    (run / "split.csv").rename(other / "split.csv")
    done = judge(run, data, *given, "--compare", other)
    assert f"warning: 16 images are of patients, by their ids, whose other images trained --compare {other} or" in (
        done.stderr
    )
    assert "whose other images trained the model" not in done.stderr


def test_a_split_without_patients_is_taken_by_its_images(tmp_path) -> None:
    run, data = a_training(tmp_path)
    pd.read_csv(run / "split.csv").drop(columns="patient").to_csv(run / "split.csv", index=False)
    assert "of patients" not in judge(run, data).stderr
    pd.read_csv(run / "split.csv").drop(columns="part").to_csv(run / "split.csv", index=False)
    with pytest.raises(ConfigError, match=r"split.csv: cannot be read as a split \(no column part\)"):
        judge(run, data)


def test_a_checkpoint_that_trained_on_these_images_is_not_compared(tmp_path) -> None:
    run, data = a_training(tmp_path)
    (tmp_path / "b").mkdir()
    other, _ = a_training(tmp_path / "b")
    assert judge(run, data, "--compare", other).exit_code == 0
    split = pd.read_csv(other / "split.csv")
    split.assign(part="train").to_csv(other / "split.csv", index=False)
    with pytest.raises(ConfigError, match="8 of these images were in its training"):
        judge(run, data, "--compare", other)


def test_a_checkpoint_of_other_classes_or_other_data_is_refused(tmp_path) -> None:
    run, data = a_training(tmp_path, names=("bright", "grey"))
    with pytest.raises(ModelError, match="has classes bright, grey, the data bright, dark"):
        judge(run, data)
    (data / "dark" / "05.png").unlink()
    with pytest.raises(ConfigError, match=r"1 of 24 images are not in the data, the first is 'dark/05.png'"):
        judge(run, data)


def test_another_data_set_has_no_test_part_and_is_judged_whole_when_asked(tmp_path) -> None:
    run, data = a_training(tmp_path)
    with pytest.raises(ConfigError, match="no image is in part 'test'; there are: none; or give --split all"):
        judge(run, data, "--dataset", "folder")
    assert "24 images" in judge(run, data, "--dataset", "folder", "--split", "all").stdout


@pytest.mark.real
@pytest.mark.slow
def test_fourteen_labels_of_22433_images_take_under_a_minute(real_data, tmp_path) -> None:
    table = pd.read_csv(real_data / "xray" / "labels" / "Data_Entry_2017_v2020.csv.gz").iloc[:22_433]
    names = sorted(set("|".join(table["Finding Labels"]).split("|")) - {"No Finding"})
    labels = np.array([[name in found.split("|") for name in names] for found in table["Finding Labels"]])
    scores = 1 / (1 + np.exp(4 - 2 * labels - np.random.default_rng(0).normal(size=labels.shape)))
    said = pd.DataFrame(scores, columns=names).assign(**{"Image Index": table["Image Index"].to_numpy()})
    said.to_csv(tmp_path / "p.csv", index=False)
    table.to_csv(tmp_path / "l.csv", index=False)
    began = perf_counter()
    call("--predictions", tmp_path / "p.csv", "--labels", tmp_path / "l.csv", "--id-column", "Image Index",
         "--label-column", "Finding Labels", "--patient-column", "Patient ID", "--out", tmp_path / "r")  # fmt: skip
    assert len(names) == 14 and perf_counter() - began < 60
