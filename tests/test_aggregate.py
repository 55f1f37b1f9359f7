"""Aggregate: an extent and its lesions come to one row."""

from dataclasses import replace

import numpy as np
import pytest
from map_samples import a_slide, an_extent

from wsi_pipeline.maps.aggregate import summarise
from wsi_pipeline.maps.lesions import find_lesions
from wsi_pipeline.maps.result import without_result
from wsi_pipeline.scores.store import Scores


def summed(probability, **areas):
    """The row of a map with two tiles, one of them unreadable."""
    extent = an_extent(probability, **areas)
    probs = np.array([[0.9], [np.nan]], np.float32)
    scores = Scores(np.zeros((2, 2), np.int32), ("tumour",), ("tumour",), False, probs, "c", 0.5, 0.5)
    lesions = find_lesions(extent)
    return summarise(extent, lesions, scores, slide_id="a", status="ok", slide=a_slide(), warnings=("w",))


def test_a_slide_is_as_sure_as_the_surest_place_of_its_map():
    row = summed([[0.2, 0.75, None]])
    assert row.probability == pytest.approx(0.75)
    assert (row.lesions, row.metastasis_class) == (1, "itc")
    assert (row.tiles, row.unreadable_tiles, row.warnings) == (2, 1, ("w",))


def test_the_class_goes_by_the_longest_lesion_and_not_by_the_largest():
    square, line = np.zeros((20, 20)), np.zeros((3, 20))
    square[4:16, 4:16], line[1, 1:19] = 1, 1  # 144 and 18 cells of 16 um; 18 cells are longer than 12 * sqrt 2
    row = summed(np.vstack([square, line]))
    assert (row.lesions, row.metastasis_class) == (2, "micro")
    assert row.longest_um == pytest.approx(18 * 16)


def test_areas_and_scale_are_those_of_the_map_and_the_slide():
    row = summed([[0.2]], tissue_mm2=3.0, unread_mm2=0.5, unscored_mm2=0.25, share_high=0.75)
    assert (row.tissue_mm2, row.unread_mm2, row.unscored_mm2, row.share_high) == (3.0, 0.5, 0.25, 0.75)
    assert (row.mpp_x, row.mpp_y, row.mpp_source) == (0.5, 0.5, "vendor")


def test_tiles_are_those_of_the_slide_and_not_the_windows_of_a_dense_map():
    extent, probs = an_extent([[0.2]]), np.zeros((50, 1), np.float32)
    scores = Scores(np.zeros((50, 2), np.int32), ("tumour",), ("tumour",), False, probs, "c", 0.5, 0.5)
    scores = replace(scores, tried=4, missed=(1,))
    row = summarise(extent, (), scores, slide_id="a", status="partial", slide=a_slide())
    assert (row.tiles, row.unreadable_tiles) == (4, 1)


def test_a_slide_without_cancer_is_negative_and_one_without_a_map_has_no_class():
    negative = summed([[0.2]])
    assert (negative.metastasis_class, np.isnan(negative.longest_um)) == ("negative", True)
    empty = summed([[None]])
    assert (empty.metastasis_class, np.isnan(empty.probability)) == ("", True)


def test_a_failed_slide_keeps_what_is_known_of_it():
    row = without_result("a", "failed", stage="map", error="OSError", message="disk full", slide=a_slide())
    assert (row.status, row.stage, row.message, row.mpp_x) == ("failed", "map", "disk full", 0.5)
    assert np.isnan(row.cancer_mm2)


def test_a_slide_that_never_opened_has_no_scale():
    row = without_result("a", "no_mpp", stage="open", error="ScaleError", message="no mpp")
    assert np.isnan(row.mpp_x) and row.mpp_source == ""
