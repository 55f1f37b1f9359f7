"""Tables: read back by other readers, ids as text, polygons in micrometres."""

import csv

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pyogrio.raw
import pytest
import shapely
from map_samples import a_result, a_slide, an_extent
from test_annotations import a_grid, a_score

from wsi_pipeline.maps.aggregate import without_result
from wsi_pipeline.maps.lesions import find_lesions
from wsi_pipeline.maps.tables import write_failures, write_geopackage, write_slides_table, write_tiles_parquet

IDS = ["007", "NA", "null", 'a,"b', "ü 🙂"]


def test_ids_stay_text_in_both_slide_tables(tmp_path):
    as_csv, as_parquet = write_slides_table([a_result(name) for name in IDS], tmp_path)
    assert pd.read_csv(as_csv, dtype=str, keep_default_na=False)["slide_id"].tolist() == IDS
    assert pq.read_table(as_parquet)["slide_id"].to_pylist() == IDS


def test_a_number_that_does_not_exist_is_empty_in_the_csv(tmp_path):
    as_csv, _ = write_slides_table([without_result("a", "no_mpp", message="no mpp")], tmp_path)
    (row,) = csv.DictReader(as_csv.read_text().splitlines())
    assert (row["cancer_mm2"], row["status"], row["message"]) == ("", "no_mpp", "no mpp")


def test_failures_lists_only_slides_that_came_to_no_map(tmp_path):
    bad = without_result("b", "unreadable", stage="open", error="SlideError", message="empty file")
    path = write_failures([a_result("a"), bad], tmp_path)
    rows = list(csv.DictReader(path.read_text().splitlines()))
    assert rows == [
        {"slide_id": "b", "status": "unreadable", "stage": "open", "error": "SlideError", "message": "empty file"}
    ]


def test_a_tile_table_holds_level_0_places_and_probabilities(tmp_path):
    grid = a_grid(a_slide(), [[0, 1], [1, 0]])
    table = pq.read_table(write_tiles_parquet(tmp_path / "a.parquet", grid, a_score(grid, [0.25, np.nan])))
    assert table["x"].to_pylist() == [32, 0] and table["y"].to_pylist() == [0, 32]
    assert table["readable"].to_pylist() == [True, False]
    assert table["prob_tumour"][0].as_py() == 0.25


def test_polygons_for_qgis_are_in_micrometres_with_y_up(tmp_path):
    lesions = find_lesions(an_extent([[0, 1.0]]))
    path = write_geopackage(tmp_path / "a.gpkg", lesions, shapely.MultiPolygon([shapely.box(0, 0, 64, 32)]), a_slide())
    facts, _, shapes, columns = pyogrio.raw.read(path, layer="lesions")
    assert shapely.from_wkb(shapes[0]).bounds == (16, -16, 32, 0)
    assert "micrometre" in facts["crs"]
    assert columns[list(facts["fields"]).index("area_mm2")][0] == pytest.approx(256e-6)


def test_empty_layers_are_valid(tmp_path):
    path = write_geopackage(tmp_path / "a.gpkg", (), shapely.MultiPolygon(), a_slide())
    assert [name for name, _ in pyogrio.list_layers(path)] == ["lesions", "tissue"]
    assert len(pyogrio.raw.read(path, layer="tissue")[2]) == 0
