"""Parts: from the data set, by patient, folds or a file; what leaks or lacks is named."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from bright_images import PX, Bright, bright_images, parts_of, quick

from wsi_pipeline.errors import ConfigError
from wsi_pipeline.learn.data.labels import LabelledImages
from wsi_pipeline.learn.training.material import gather_material
from wsi_pipeline.learn.training.parts import divide, joined_by_pixels, thin, write_split
from wsi_pipeline.learn.training.settings import SplitKnobs


def official(*parts: str) -> LabelledImages:
    return replace(bright_images(40), official=np.repeat(parts, 40 // len(parts)))


def divided(images: LabelledImages, knobs: SplitKnobs) -> np.ndarray:
    return divide(images, knobs, px=PX, fit="pad")


def patients(images: LabelledImages, parts: np.ndarray, part: str) -> set[str]:
    return set(images.patients[parts == part])


def test_without_parts_of_its_own_a_set_is_split_by_patient():
    images = bright_images(40)
    parts = divided(images, SplitKnobs())
    assert set(parts) == {"train", "val", "test"}
    assert not patients(images, parts, "train") & patients(images, parts, "test")


def test_official_parts_are_kept():
    images = official("train", "val", "test", "")
    np.testing.assert_array_equal(divided(images, SplitKnobs()), images.official)


def test_official_parts_without_validation_give_some_training_patients_to_it():
    images = official("train", "test")
    parts = divided(images, SplitKnobs(shares=(0.8, 0.2, 0)))
    assert (parts[20:] == "test").all() and set(parts[:20]) == {"train", "val"}
    assert not patients(images, parts, "train") & patients(images, parts, "val")


def test_official_parts_without_a_test_are_not_used_unless_asked_for():
    assert "test" in divided(official("train", "val"), SplitKnobs())
    assert set(divided(official("train", "val"), SplitKnobs(how="official"))) == {"train", "val"}


def test_asking_for_official_parts_of_a_set_without_them_is_an_error():
    with pytest.raises(ConfigError, match=r"does not say which images train; use split.how=patient"):
        divided(bright_images(), SplitKnobs(how="official"))


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        (("train", "train", "dev", "test"), r"says 'dev' \(10\) beside train, test; write train, val or test"),
        (("train", "holdout"), r"says 'holdout' \(20\) beside train; .*or use split.how=patient"),
        (("val", "", "a", "b"), r"says 'a' \(10\), 'b' \(10\) beside val;"),
    ],
    ids=["dev", "holdout", "two"],
)
def test_parts_of_another_name_are_neither_trained_on_nor_lost(parts: tuple[str, ...], said: str):
    for how in ("auto", "official"):
        with pytest.raises(ConfigError, match=said):
            divided(official(*parts), SplitKnobs(how=how))
    assert set(divided(official(*parts), SplitKnobs(how="patient"))) == {"train", "val", "test"}


def test_words_that_are_no_parts_at_all_are_not_used():
    assert set(divided(official("hospital a", "hospital b"), SplitKnobs())) == {"train", "val", "test"}


def test_each_patient_is_tested_in_one_fold():
    images = bright_images(40)
    tested = [patients(images, divided(images, SplitKnobs(folds=4, fold=fold)), "test") for fold in range(4)]
    assert sum(map(len, tested)) == len(set.union(*tested)) == 20


def test_parts_come_back_from_the_file_they_were_written_to(tmp_path):
    images, path = bright_images(40), tmp_path / "split.csv"
    parts = np.where(np.arange(40) < 4, "", parts_of(images))
    write_split(images, parts, path)
    np.testing.assert_array_equal(divided(images, SplitKnobs(how="file", file=str(path))), parts)


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ({"id": ["a"]}, "a split needs id and part"),
        ({"id": ["image000"], "part": ["dev"]}, "unknown part 'dev'"),
        ({"id": ["image000"] * 2, "part": ["train"] * 2}, "'image000' stands twice"),
        ({"id": ["x"], "part": ["train"]}, "names none of the 40 images"),
        ({"id": ["image000"], "part": ["train"]}, "none is in part 'val'"),
    ],
    ids=["no part", "unknown part", "twice", "strangers", "no validation"],
)
def test_a_file_that_does_not_fit_is_refused(tmp_path, table, said):
    pd.DataFrame(table).to_csv(tmp_path / "split.csv", index=False)
    with pytest.raises(ConfigError, match=said):
        divided(bright_images(), SplitKnobs(how="file", file=str(tmp_path / "split.csv")))


def test_a_limit_spreads_over_all_images():
    assert thin(bright_images(40), 8).ids[[0, -1]].tolist() == ["image000", "image039"]
    assert len(thin(bright_images(40), None)) == len(thin(bright_images(40), 99)) == 40


class Twice(Bright):
    """Image 39 has the pixels of image 0."""

    def __call__(self, row: int) -> np.ndarray:
        return super().__call__(0 if row == 39 else row)


def test_patients_who_share_an_image_become_one():
    images = replace(bright_images(40), read=Twice((True,) * 40))
    joined = joined_by_pixels(images, PX, "pad")
    assert set(joined.patients[[0, 1, 38, 39]]) == {"patient000"}
    np.testing.assert_array_equal(joined.patients[2:38], images.patients[2:38])


class Margins(Bright):
    """Image 39 is image 0 with a white strip to its left and right."""

    def __call__(self, row: int) -> np.ndarray:
        image = super().__call__(0 if row == 39 else row)
        return np.pad(image, ((0, 0), (8, 8), (0, 0)), constant_values=255) if row == 39 else image


def test_images_that_are_alike_only_as_squares_are_kept_together_too():
    images = replace(bright_images(40), read=Margins((True,) * 40))
    settings = quick("data.fit=crop", "split.join_identical=true")
    with pytest.raises(ConfigError, match=r"identical pixels image000, image039 in train, val"):
        gather_material(images, parts_of(images), settings, lambda done, of: None)
    parts = divide(images, settings.split, px=settings.data.px, fit=settings.data.fit)
    assert len(set(parts[[0, 1, 38, 39]])) == 1
    gather_material(images, parts, settings, lambda done, of: None)


def test_identical_pixels_in_two_parts_are_a_hard_stop_and_can_be_kept_together():
    images = replace(bright_images(40), read=Twice((True,) * 40))
    with pytest.raises(ConfigError, match=r"(?s)image000.*image039.*split.join_identical=true"):
        gather_material(images, parts_of(images), quick(), lambda done, of: None)
    parts = divided(images, SplitKnobs(join_identical=True))
    assert len(set(parts[[0, 1, 38, 39]])) == 1


def test_a_patient_in_two_parts_is_a_hard_stop_before_any_image_is_read():
    images = bright_images(40)
    parts = np.where(np.arange(40) == 1, "val", parts_of(images))
    with pytest.raises(ConfigError, match="patient000"):
        gather_material(images, parts, quick(), lambda done, of: pytest.fail("read"))


def test_mean_and_spread_are_of_the_training_part_alone():
    images = bright_images(40)
    parts = np.where(images.labels[:, 0] > 0, "train", "val")  # only the bright ones train
    material = gather_material(images, parts, quick(), lambda done, of: None)
    assert material.mean == pytest.approx((170 / 255,) * 3, abs=0.01)
    assert material.std == pytest.approx((25 / 255,) * 3, abs=0.01)


def test_images_without_any_known_label_do_not_train():
    images = bright_images(40)
    images = replace(images, labels=np.where(np.arange(40)[:, None] < 4, np.nan, images.labels))
    material = gather_material(images, parts_of(images), quick(), lambda done, of: None)
    assert len(material.images) == 36
