"""LabelledImages: what every dataset comes to is checked when it is made."""

import pickle

import numpy as np
import pytest

from wsi_pipeline.errors import ConfigError
from wsi_pipeline.learn.data.labels import LabelledImages


def grey(index: int) -> np.ndarray:
    return np.full((4, 4, 3), index, np.uint8)


def images(**changes: object) -> LabelledImages:
    labels = [[1, 0], [0, 1], [1, np.nan]]
    fields = {"name": "d", "class_names": ("a", "b"), "labels": labels, "ids": ["x", "y", "z"], "patients": [1, 1, 2]}
    return LabelledImages(**{**fields, "read": grey} | changes)


def test_ids_and_patients_become_text_and_labels_float32() -> None:
    found = images()
    assert found.patients.tolist() == ["1", "1", "2"] and found.labels.dtype == np.float32 and len(found) == 3


def test_a_subset_reads_its_own_images_in_its_own_order_also_after_pickling() -> None:
    part = pickle.loads(pickle.dumps(images().subset(np.array([2, 0]))))
    assert part.ids.tolist() == ["z", "x"] and part.image(0)[0, 0, 0] == 2 and part.image(1)[0, 0, 0] == 0
    assert images().subset(np.array([False, True, False])).ids.tolist() == ["y"]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"labels": [[2, 0], [0, 1], [1, 0]]}, "image x has label 2 for a; give 1"),
        ({"labels": [[1], [0], [1]]}, r"labels \(3, 1\) for 3 images of 2 classes"),
        ({"ids": ["x", "x", "z"]}, "image 'x' stands in 2 rows"),
        ({"patients": ["1", None, "2"]}, "1 of 3 rows have no patient, the first is row 1"),
        ({"ids": ["x", "", "z"]}, "rows have no id"),
        ({"class_names": ("a", "a")}, "give each once"),
        ({"exclusive": True, "labels": [[1, 0], [1, 1], [0, 1]]}, "image y has not exactly one class"),
        ({"patients": ["1", "2"]}, "2 patients"),
    ],
    ids=["value", "shape", "twice", "no patient", "no id", "class twice", "two classes", "patients"],
)
def test_what_does_not_hold_is_named(changes: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        images(**changes)
