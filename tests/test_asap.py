"""Lesions as ASAP XML: what ASAP's parser asks for, and the same areas when read back."""

from dataclasses import replace

import numpy as np
import pytest
import shapely
from defusedxml import ElementTree
from map_samples import an_extent

from wsi_pipeline.maps.asap import write_asap
from wsi_pipeline.maps.lesions import find_lesions
from wsi_pipeline.slide.region_files import read_regions

RING = [[1, 1, 1], [1, 0, 1], [1, 1, 1]]
LESIONS = find_lesions(an_extent(RING))


def read(path):
    return ElementTree.parse(path).getroot()


def test_a_lesion_and_its_hole_are_annotations_of_listed_groups(tmp_path):
    root = read(write_asap(tmp_path / "a.xml", LESIONS, group="tumour"))
    assert root.tag == "ASAP_Annotations"
    assert [child.tag for child in root] == ["Annotations", "AnnotationGroups"]
    outline, hole = root.findall("Annotations/Annotation")
    assert outline.attrib == {"Name": "Lesion 1", "Type": "Polygon", "PartOfGroup": "tumour", "Color": "#C81E1E"}
    assert (hole.get("Name"), hole.get("PartOfGroup")) == ("Lesion 1 hole", "normal")
    groups = root.findall("AnnotationGroups/Group")
    assert [(g.get("Name"), g.get("PartOfGroup")) for g in groups] == [("tumour", "None"), ("normal", "None")]


def test_corners_are_level_0_pixels_in_order_and_not_closed(tmp_path):
    root = read(write_asap(tmp_path / "a.xml", LESIONS, group="tumour"))
    corners = root.find("Annotations/Annotation/Coordinates").findall("Coordinate")
    assert [corner.get("Order") for corner in corners] == ["0", "1", "2", "3"]
    assert {(corner.get("X"), corner.get("Y")) for corner in corners} == {
        ("0.00", "0.00"), ("96.00", "0.00"), ("96.00", "96.00"), ("0.00", "96.00")
    }  # fmt: skip


@pytest.mark.parametrize(
    "cells",
    [
        RING,
        [[1, 0, 1], [0, 1, 0], [1, 0, 1]],
        [[1, 1, 1, 1, 1], [1, 0, 0, 0, 1], [1, 0, 1, 0, 1], [1, 0, 0, 0, 1], [1, 1, 1, 1, 1]],
        [[1, 1, 1, 1, 1, 1, 1], [1, 0, 0, 0, 0, 0, 1], [1, 0, 1, 0, 1, 0, 1], [1, 0, 0, 0, 0, 0, 1], [1] * 7],
        [[0, 0]],
    ],
    ids=["ring", "touching corners", "island in a hole", "two islands", "nothing"],
)
def test_what_is_read_back_is_what_was_written(tmp_path, cells):
    lesions = find_lesions(an_extent(cells))
    whole = shapely.union_all([lesion.polygon for lesion in lesions])
    area = read_regions(write_asap(tmp_path / "a.xml", lesions, group="tumour")).area
    assert area.symmetric_difference(whole).area == pytest.approx(0, abs=1e-6)


def test_random_maps_come_back(tmp_path):
    for seed in range(20):
        lesions = find_lesions(an_extent(np.random.default_rng(seed).integers(0, 2, (12, 15)).tolist()))
        whole = shapely.union_all([lesion.polygon for lesion in lesions])
        area = read_regions(write_asap(tmp_path / "a.xml", lesions, group="tumour")).area
        assert area.symmetric_difference(whole).area == pytest.approx(0, abs=1e-6)


def test_names_are_not_used_twice(tmp_path):
    lesions = find_lesions(an_extent([[1, 0, 1], [0, 1, 0], [1, 0, 1]]))
    root = read(write_asap(tmp_path / "a.xml", lesions, group="tumour"))
    names = [annotation.get("Name") for annotation in root.iter("Annotation")]
    assert names[:2] == ["Lesion 1", "Lesion 1 2"] and len(set(names)) == 5


@pytest.mark.parametrize("group", ['a "b" <c> & d', "größer", "k\udce4se", "nul\x00l"])
def test_any_class_name_gives_a_file_that_opens(tmp_path, group):
    path = write_asap(tmp_path / "a.xml", LESIONS, group=group)
    assert read(path).find("Annotations/Annotation").get("PartOfGroup") == read_regions(path).groups[0]


def test_half_pixels_are_kept_to_a_hundredth(tmp_path):
    moved = shapely.transform(LESIONS[0].polygon, lambda corners: corners + 0.123)
    path = write_asap(tmp_path / "a.xml", [replace(LESIONS[0], polygon=moved)], group="tumour")
    assert read_regions(path).area.bounds == (0.12, 0.12, 96.12, 96.12)
