"""Splits: whole patients, the same for any order of rows, each part like the whole; and the gate that leaks stop at."""

from time import perf_counter

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wsi_pipeline.errors import ConfigError
from wsi_pipeline.learn.data.patients import one_spelling
from wsi_pipeline.learn.data.splits import (
    folds_by_patient,
    labels_digest,
    missing_classes,
    normalised,
    refuse_leakage,
    shared_patients,
    split_by_patient,
    split_digest,
)

NAN = float("nan")


def a_cohort(rows: int = 600, patients: int = 150, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Labels (rows, 3) of 40 %, 10 % and 2 %, and patients."""
    random = np.random.default_rng(seed)
    return (random.random((rows, 3)) < [0.4, 0.1, 0.02]).astype(float), random.integers(patients, size=rows)


@pytest.mark.parametrize(
    "patient", [5, "5", "00000005", 5.0, " 5 ", "5.0", "5.", b"05", np.int64(5), np.float32(5), np.str_("5")], ids=repr
)
def test_ways_of_writing_a_patient_are_one(patient: object) -> None:
    assert normalised(patient) == "5"


@pytest.mark.parametrize(
    ("patient", "text"),
    [
        *[(text, text) for text in ("007a", "P05", "5.5", "NA", "0", "-5", "")],
        *[(5.5, "5.5"), (2**60 + 1, "1152921504606846977"), (None, ""), (NAN, ""), (np.float32(np.nan), "")],
    ],
)
def test_other_ids_stay_as_they_are_and_missing_ones_are_empty(patient: object, text: str) -> None:
    assert normalised(patient) == text


def test_a_patient_is_spelt_as_at_first() -> None:
    spelt = one_spelling(["007", " b", "7.0", "b ", 7, "8"])
    assert spelt.tolist() == ["007", "b", "007", "b", "007", "8"]
    with pytest.raises(ConfigError, match=r"patients: 1 are missing, in rows such as \[1\]"):
        one_spelling(["a", None])


def test_shared_patients_are_found_however_they_were_read() -> None:
    assert shared_patients([5, 7, 9], ["00000005", "8", "9.0"]) == ["5", "9"]
    assert shared_patients(pd.Series([1.0, NAN]), pd.Series(["2", None])) == []
    assert shared_patients([], ["a"]) == []


@settings(max_examples=30, deadline=None)
@given(st.permutations(range(40)), st.integers(0, 3))
def test_the_split_is_the_same_in_any_order_of_rows(order: list[int], seed: int) -> None:
    labels, patients = a_cohort(40, 15)
    expected = split_by_patient(labels, patients, seed=seed)
    np.testing.assert_array_equal(split_by_patient(labels[order], patients[order], seed=seed), expected[order])


def test_the_split_does_not_depend_on_how_ids_were_read() -> None:
    labels, patients = a_cohort()
    texts = [f"{patient:08d}" for patient in patients]
    np.testing.assert_array_equal(
        split_by_patient(labels, texts, seed=1), split_by_patient(labels, patients.astype(float), seed=1)
    )


@pytest.mark.parametrize("seed", range(5))
def test_parts_hold_whole_patients_and_their_share_of_every_label(seed: int) -> None:
    labels, patients = a_cohort(seed=seed)
    parts = split_by_patient(labels, patients, shares=(0.7, 0.15, 0.15), seed=seed)
    refuse_leakage(parts, patients)
    for part, share in (("train", 0.7), ("val", 0.15), ("test", 0.15)):
        held = labels[parts == part]
        assert len(held) / len(labels) == pytest.approx(share, abs=0.02)
        np.testing.assert_allclose(held.sum(axis=0) / len(labels), share * labels.mean(axis=0), atol=0.012)
    assert missing_classes(labels, parts, ["a", "b", "c"]) == []


def test_another_seed_is_another_split_also_of_few_unlike_patients() -> None:
    labels, patients = a_cohort()
    assert (split_by_patient(labels, patients, seed=0) != split_by_patient(labels, patients, seed=1)).mean() > 0.2
    sizes = np.repeat(np.arange(12), np.arange(10, 22))
    few = [split_by_patient(sizes[:, None] % 2, sizes, seed=seed).tolist() for seed in range(10)]
    assert len({tuple(one) for one in few}) > 5


def test_each_part_gets_both_classes_of_a_rare_label_as_far_as_there_are_patients() -> None:
    labels, patients = np.zeros((100, 2)), np.arange(100)
    labels[[3, 50, 90], 0], labels[[7, 8], 1] = 1, 1
    parts = split_by_patient(labels, patients, seed=0)
    assert sorted(parts[labels[:, 0] == 1]) == ["test", "train", "val"]
    assert missing_classes(labels, parts, ["Hernia", "Mass"]) == ["test: none with Mass among 15 images"]


def test_a_patient_with_most_images_goes_where_most_are_wanted() -> None:
    patients = np.r_[np.zeros(60), np.arange(1, 41)]
    parts = split_by_patient(np.zeros((100, 1)), patients, seed=2)
    assert set(parts[:60]) == {"train"}
    assert (parts == "train").sum() == pytest.approx(70, abs=2)


def test_unknown_labels_count_for_neither_class() -> None:
    labels = np.array([[1.0], [0.0], [1.0], [0.0], [NAN], [NAN]])
    parts = split_by_patient(labels, list("abcdef"), shares=(0.5, 0.5), names=("a", "b"), seed=0)
    assert missing_classes(labels, parts, ["x"]) == [] and (parts == "a").sum() == 3
    lines = missing_classes(np.array([[NAN], [1.0]]), ["a", ""], ["x"])
    assert lines == ["a: none with and none without x among 1 images"]


def test_a_part_without_a_share_stays_empty() -> None:
    labels, patients = a_cohort()
    parts = split_by_patient(labels, patients, shares=(0.8, 0.2, 0), seed=0)
    assert set(parts) == {"train", "val"}


@pytest.mark.parametrize("folds", [2, 5])
def test_folds_are_alike_and_hold_whole_patients(folds: int) -> None:
    labels, patients = a_cohort()
    fold = folds_by_patient(labels, patients, folds=folds, seed=0)
    assert fold.dtype == np.int64 and set(fold) == set(range(folds))
    refuse_leakage(fold.astype(str), patients)
    np.testing.assert_allclose(np.bincount(fold) / 600, 1 / folds, atol=0.02)
    assert [labels[fold == k, 2].sum() > 0 for k in range(folds)] == [True] * folds


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: split_by_patient([[1]] * 3, "abc", shares=(0.5, 0.4, 0.2)), "adding up to 1"),
        (lambda: split_by_patient([[1]] * 3, "abc", shares=(0.5, 0.5)), "give one a part"),
        (lambda: split_by_patient([[1]] * 3, "abc", shares=(1.2, -0.1, -0.1)), "adding up to 1"),
        (lambda: split_by_patient([[1]] * 2, ["5", 5.0]), "1 patients cannot fill 3 parts"),
        (lambda: split_by_patient([[1]] * 3, ["a", None, "c"]), r"1 are missing, in rows such as \[1\]"),
        (lambda: split_by_patient([1, 0], "ab"), r"give \(N, C\) and \(N,\)"),
        (lambda: split_by_patient([[1]] * 2, "abc"), r"labels \(2, 1\) for 3 patients"),
        (lambda: folds_by_patient([[1]] * 3, "abc", folds=1), "folds: got 1"),
    ],
    ids=["sum", "names", "negative", "few", "missing", "axis", "rows", "folds"],
)
def test_what_cannot_be_split_is_refused(call, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        call()


def test_a_patient_in_two_parts_is_named() -> None:
    with pytest.raises(ConfigError, match="leakage: 1 shared between parts") as caught:
        refuse_leakage(["train", "test", "val", "test", ""], ["5", "05", "6", "7", "7"])
    assert str(caught.value).endswith("patient 5 in test, train")


def test_identical_bytes_in_two_parts_are_named_by_their_images() -> None:
    hashes = ["aa", "bb", "aa", "", ""]
    with pytest.raises(ConfigError, match=r"identical pixels x\.png, z\.png in test, train"):
        refuse_leakage(["train"] * 2 + ["test"] * 3, "abcde", hashes, ["x.png", "y.png", "z.png", "u.png", "v.png"])
    refuse_leakage(["train", "train", "", "test", "train"], "abcde", hashes)


def test_a_long_list_of_leaks_is_cut_and_counted() -> None:
    with pytest.raises(ConfigError, match="leakage: 25 shared") as caught:
        refuse_leakage(["train"] * 25 + ["test"] * 25, [*range(25)] * 2)
    assert str(caught.value).count("patient") == 20 and "and 5 more" in str(caught.value)


def test_the_digest_of_labels_follows_the_labels_and_not_the_rows() -> None:
    digest = labels_digest(["a", "b"], [[1, 0], [np.nan, 1]])
    assert digest == labels_digest(np.array(["b", "a"]), np.array([[np.nan, 1], [1, 0]], np.float32))
    assert len({digest, labels_digest(["a", "b"], [[1, 0], [0, 1]]), labels_digest(["a", "b"], [[1, 0], [1, 1]])}) == 3
    assert len(labels_digest([], np.zeros((0, 2)))) == 16


def test_the_digest_follows_the_parts_and_not_the_rows() -> None:
    digest = split_digest(["a", "b"], ["train", "test"])
    assert digest == split_digest(np.array(["b", "a"]), np.array(["test", "train"]))
    assert digest != split_digest(["a", "b"], ["test", "train"])
    assert len(split_digest([], [])) == 16


@pytest.mark.real
def test_all_chest_xrays_are_split_in_seconds_with_every_finding_in_its_share(real_data) -> None:
    table = pd.read_csv(real_data / "xray" / "labels" / "Data_Entry_2017_v2020.csv.gz")
    labels = table["Finding Labels"].str.get_dummies("|").drop(columns="No Finding").to_numpy(float)
    began = perf_counter()
    parts = split_by_patient(labels, table["Patient ID"], seed=0)
    assert perf_counter() - began < 20
    assert labels.shape == (112120, 14) and table["Patient ID"].nunique() == 30805
    refuse_leakage(parts, table["Image Index"].str[:8])  # the patient, as it stands in the file's name
    for part, share in (("train", 0.7), ("val", 0.15), ("test", 0.15)):
        np.testing.assert_allclose(labels[parts == part].sum(axis=0) / labels.sum(axis=0), share, atol=0.01)
        assert (parts == part).mean() == pytest.approx(share, abs=0.002)


def test_no_fold_is_empty_where_there_are_as_many_patients_as_folds() -> None:
    patients = np.repeat(["a", "b", "c", "d"], [24, 7, 26, 32])
    tumour = np.repeat([1, 0, 0, 1, 0, 1], [24, 7, 22, 4, 16, 16])  # two of the four have one class alone
    folds = folds_by_patient(np.stack([1 - tumour, tumour], axis=1), patients, folds=4)
    assert all(len(set(folds[patients == patient])) == 1 for patient in "abcd")
    assert set(folds) == {0, 1, 2, 3}
