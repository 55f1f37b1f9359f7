"""Aggregate: an extent and its lesions come to one row."""

import numpy as np
import pytest
from map_samples import a_slide, an_extent

from wsi_pipeline.maps.aggregate import summarise, without_result
from wsi_pipeline.maps.lesions import find_lesions
from wsi_pipeline.scores.store import Scores


def summed(probability):
    extent = an_extent(probability)
    probs = np.array([[0.9], [np.nan]], np.float32)
    scores = Scores(np.zeros((2, 2), np.int32), ("tumour",), ("tumour",), False, probs, "c", 0.5, 0.5)
    lesions = find_lesions(extent)
    return summarise(extent, lesions, scores, slide_id="a", status="ok", slide=a_slide(), warnings=("w",))


def test_a_slide_is_as_sure_as_the_surest_place_of_its_map():
    row = summed([[0.2, 0.75, None]])
    assert row.probability == pytest.approx(0.75)
    assert (row.lesions, row.metastasis_class) == (1, "itc")
    assert (row.tiles, row.unreadable_tiles, row.warnings) == (2, 1, ("w",))


def test_a_slide_without_cancer_is_negative_and_one_without_a_map_has_no_class():
    assert summed([[0.2]]).metastasis_class == "negative"
    empty = summed([[None]])
    assert (empty.metastasis_class, np.isnan(empty.probability)) == ("", True)


def test_a_failed_slide_keeps_what_is_known_of_it():
    row = without_result("a", "failed", stage="map", error="OSError", message="disk full", slide=a_slide())
    assert (row.status, row.stage, row.message, row.mpp_x) == ("failed", "map", "disk full", 0.5)
    assert np.isnan(row.cancer_mm2)
