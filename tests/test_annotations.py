"""QuPath GeoJSON: what QuPath's parser asks for, in the corner that it counts from."""

import gzip
import json
from dataclasses import replace

import numpy as np
import pytest
import shapely
from map_samples import a_slide, an_extent

from wsi_pipeline.geometry import Mpp
from wsi_pipeline.maps.annotations import qupath_shift, write_annotations, write_detections, write_tiles, write_tissue
from wsi_pipeline.maps.lesions import find_lesions
from wsi_pipeline.scores.store import Scores
from wsi_pipeline.tiles.grid import TileGrid

LESIONS = find_lesions(an_extent([[0, 1.0], [0, 1.0]]))


def a_grid(slide, cells):
    cells = np.array(cells, np.int32).reshape(-1, 2)
    return TileGrid(slide, 32, 32, Mpp(0.5, 0.5), 2, 2, cells, np.ones(len(cells), np.float32))


def a_score(grid, probs):
    probs = np.array(probs, np.float32).reshape(-1, 1)
    return Scores(grid.rowcol, ("tumour",), ("tumour",), False, probs, "c", 0.5, 0.5)


def test_a_lesion_is_a_locked_annotation_with_numbers_as_measurements(tmp_path):
    path = write_annotations(tmp_path / "a.geojson", LESIONS, a_slide(), class_name="tumour")
    (feature,) = json.loads(path.read_text())["features"]
    properties = feature["properties"]
    assert properties["objectType"] == "annotation" and properties["isLocked"]
    assert properties["classification"]["name"] == "tumour" and len(properties["classification"]["color"]) == 3
    assert properties["measurements"]["area_mm2"] == pytest.approx(2 * 256e-6)
    assert shapely.geometry.shape(feature["geometry"]).bounds == (32, 0, 64, 64)


@pytest.mark.parametrize(
    ("bounds", "full_frame", "shift"),
    [(None, False, (0, 0)), ((8, 4, 40, 50), False, (8, 4)), ((8, 4, 40, 50), True, (0, 0)),
     ((8, 0, 40, 64), False, (0, 0))],
    ids=["no bounds", "cropped", "full frame", "same height: QuPath does not crop"],
)  # fmt: skip
def test_coordinates_start_where_qupath_starts(bounds, full_frame, shift):
    assert qupath_shift(a_slide(bounds_l0=bounds), full_frame=full_frame) == shift


def test_ids_are_the_same_in_every_run_and_differ_between_slides(tmp_path):
    def ids(slide):
        path = write_annotations(tmp_path / "a.geojson", LESIONS, slide, class_name="tumour")
        return [feature["id"] for feature in json.loads(path.read_text())["features"]]

    assert ids(a_slide()) == ids(a_slide()) != ids(replace(a_slide(), id="b"))


def test_tiles_lie_at_their_level_0_place_and_nan_is_text(tmp_path):
    grid = a_grid(a_slide(), [[0, 1], [1, 0]])
    path = write_tiles(tmp_path / "a.geojson.gz", grid, a_score(grid, [0.25, np.nan]))
    first, second = json.loads(gzip.decompress(path.read_bytes()))["features"]
    assert shapely.geometry.shape(first["geometry"]).bounds == (32, 0, 64, 32)
    assert first["properties"]["measurements"] == {"prob_tumour": 0.25}
    assert second["properties"]["measurements"] == {"prob_tumour": "NaN"}
    assert first["properties"]["objectType"] == "tile"


def test_no_tile_and_no_tissue_are_valid_empty_collections(tmp_path):
    grid = a_grid(a_slide(), [])
    tiles = write_tiles(tmp_path / "a.geojson.gz", grid, a_score(grid, []))
    tissue = write_tissue(tmp_path / "t.geojson", shapely.MultiPolygon(), a_slide(), tissue_mm2=0)
    assert json.loads(gzip.decompress(tiles.read_bytes()))["features"] == []
    assert json.loads(tissue.read_text())["features"] == []


def test_detections_are_confidence_x_y_without_a_header(tmp_path):
    assert write_detections(tmp_path / "a.csv", LESIONS).read_text() == "1.0000,48,32\n"
