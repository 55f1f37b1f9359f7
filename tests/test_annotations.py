"""QuPath GeoJSON: what QuPath's parser asks for, in the corner that it counts from."""

import gzip
import json
import tracemalloc
from dataclasses import replace
from uuid import UUID

import numpy as np
import pytest
import shapely
from map_samples import a_slide, an_extent

from wsi_pipeline.geometry import Mpp
from wsi_pipeline.maps.annotations import (
    TILES_AT_ONCE,
    cancer_name,
    qupath_shift,
    write_annotations,
    write_detections,
    write_tiles,
    write_tissue,
)
from wsi_pipeline.maps.lesions import find_lesions
from wsi_pipeline.scores.store import Scores
from wsi_pipeline.tiles.grid import TileGrid

LESIONS = find_lesions(an_extent([[0, 1.0], [0, 1.0]]))
CROPPED = (8, 4, 40, 50)  # bounds that differ from a slide of 64 x 64 px in width and in height


def a_grid(slide, cells):
    """Tiles of 32 px on a raster of at most 400 x 400."""
    cells = np.array(cells, np.int32).reshape(-1, 2)
    return TileGrid(slide, 32, 32, Mpp(0.5, 0.5), 400, 400, cells, np.ones(len(cells), np.float32))


def a_score(grid, probs):
    probs = np.array(probs, np.float32).reshape(-1, 1)
    return Scores(grid.rowcol, ("tumour",), ("tumour",), False, probs, "c", 0.5, 0.5)


def read(path):
    """The features of a file of strict JSON, plain or gzipped."""

    def refuse(word):
        raise AssertionError(f"{word} is no JSON")

    data = path.read_bytes()
    text = gzip.decompress(data) if path.suffix == ".gz" else data
    collection = json.loads(text, parse_constant=refuse)
    assert collection["type"] == "FeatureCollection" and set(collection) == {"type", "features"}
    return collection["features"]


def lesions_file(folder, slide=None, **options):
    return write_annotations(folder / "a.geojson", LESIONS, slide or a_slide(), class_name="tumour", **options)


def test_a_lesion_is_a_locked_annotation_with_numbers_as_measurements(tmp_path):
    (feature,) = read(lesions_file(tmp_path))
    properties = feature["properties"]
    assert properties["objectType"] == "annotation" and properties["isLocked"] is True
    assert properties["name"] == "Lesion 1"
    assert properties["classification"] == {"name": "tumour", "color": [200, 30, 30]}
    assert properties["measurements"] == {
        "area_mm2": 2 * 256e-6,
        "longest_diameter_um": 32.0,
        "mean_probability": 1.0,
        "max_probability": 1.0,
        "tiles": 2,
    }
    assert shapely.geometry.shape(feature["geometry"]).bounds == (32, 0, 64, 64)


def test_holes_and_pieces_that_touch_in_a_corner_are_kept(tmp_path):
    lesions = find_lesions(an_extent([[1, 1, 1, 0], [1, 0, 1, 0], [1, 1, 1, 0], [0, 0, 0, 1]]))
    (feature,) = read(write_annotations(tmp_path / "a.geojson", lesions, a_slide(), class_name="tumour"))
    shape = shapely.geometry.shape(feature["geometry"])
    assert (shape.geom_type, shape.is_valid) == ("MultiPolygon", True)
    assert shape.area == 9 * 32**2
    assert sum(len(part.interiors) for part in shape.geoms) == 1


@pytest.mark.parametrize(
    ("bounds", "full_frame", "shift"),
    [
        (None, False, (0, 0)),
        (CROPPED, False, (8, 4)),
        (CROPPED, True, (0, 0)),
        ((8, 0, 40, 64), False, (0, 0)),
    ],
    ids=["no bounds", "cropped", "full frame", "same height: QuPath does not crop"],
)
def test_coordinates_start_where_qupath_starts(bounds, full_frame, shift):
    assert qupath_shift(a_slide(bounds_l0=bounds), full_frame=full_frame) == shift


@pytest.mark.parametrize(("full_frame", "corner"), [(False, (24, -4)), (True, (32, 0))], ids=["bounds", "full frame"])
def test_every_file_of_a_slide_with_bounds_is_moved_alike(tmp_path, full_frame, corner):
    slide = a_slide(bounds_l0=CROPPED)
    grid = a_grid(slide, [[0, 1]])
    square = shapely.MultiPolygon([shapely.box(32, 0, 64, 32)])
    files = [
        lesions_file(tmp_path, slide, full_frame=full_frame),
        write_tissue(tmp_path / "t.geojson", square, slide, tissue_mm2=1, full_frame=full_frame),
        write_tiles(tmp_path / "a.geojson.gz", grid, a_score(grid, [0.5]), full_frame=full_frame),
    ]
    shapes = [shapely.geometry.shape(read(path)[0]["geometry"]) for path in files]
    assert [shape.bounds[:2] for shape in shapes] == [corner] * 3


def test_ids_are_uuids_the_same_in_every_run_and_differ_between_slides(tmp_path):
    def ids(slide):
        return [feature["id"] for feature in read(lesions_file(tmp_path, slide))]

    assert ids(a_slide()) == ids(a_slide()) != ids(replace(a_slide(), id="b"))
    assert str(UUID(ids(a_slide())[0])) == ids(a_slide())[0]


def test_a_file_name_of_no_encoding_is_no_hindrance(tmp_path):
    slide = replace(a_slide(), id="k\udce4se")
    grid = a_grid(slide, [[0, 0]])
    assert len(read(lesions_file(tmp_path, slide))) == 1
    assert len(read(write_tiles(tmp_path / "a.geojson.gz", grid, a_score(grid, [0.5])))) == 1


def test_tiles_lie_at_their_level_0_place_and_nan_is_text(tmp_path):
    grid = a_grid(a_slide(), [[0, 1], [1, 0]])
    first, second = read(write_tiles(tmp_path / "a.geojson.gz", grid, a_score(grid, [0.25, np.nan])))
    assert shapely.geometry.shape(first["geometry"]).bounds == (32, 0, 64, 32)
    assert shapely.geometry.shape(second["geometry"]).bounds == (0, 32, 32, 64)
    assert first["properties"] == {"objectType": "tile", "measurements": {"prob_tumour": 0.25}}
    assert second["properties"] == {"objectType": "tile", "measurements": {"prob_tumour": "NaN"}}


def test_a_tile_at_the_threshold_has_the_class_of_the_lesions(tmp_path):
    grid = a_grid(a_slide(), [[0, 0], [0, 1]])
    scores = replace(a_score(grid, [0.7, 0.69]), threshold=0.7)
    first, second = read(write_tiles(tmp_path / "a.geojson.gz", grid, scores))
    assert first["properties"]["classification"] == read(lesions_file(tmp_path))[0]["properties"]["classification"]
    assert "classification" not in second["properties"]


def test_a_threshold_of_the_map_goes_before_the_models_own(tmp_path):
    grid = a_grid(a_slide(), [[0, 0], [0, 1]])
    scores = replace(a_score(grid, [0.7, 0.6]), threshold=0.5)
    first, second = read(write_tiles(tmp_path / "a.geojson.gz", grid, scores, threshold=0.7))
    assert "classification" in first["properties"] and "classification" not in second["properties"]


def test_tiles_written_in_parts_are_one_collection_and_equal_in_bytes(tmp_path):
    grid = a_grid(a_slide(), np.argwhere(np.ones((2, TILES_AT_ONCE // 2 + 1))))
    scores = a_score(grid, np.linspace(0, 1, len(grid)))
    one = write_tiles(tmp_path / "a.geojson.gz", grid, scores)
    two = write_tiles(tmp_path / "b.geojson.gz", grid, scores)
    assert len({feature["id"] for feature in read(one)}) == TILES_AT_ONCE + 2
    assert one.read_bytes() == two.read_bytes()


def test_memory_does_not_grow_with_the_number_of_tiles(tmp_path, monkeypatch):
    monkeypatch.setattr("wsi_pipeline.maps.annotations.TILES_AT_ONCE", 256)

    def peak(batches):
        grid = a_grid(a_slide(), np.argwhere(np.ones((batches, 256))))
        scores = a_score(grid, np.zeros(len(grid)))
        tracemalloc.start()
        write_tiles(tmp_path / "a.geojson.gz", grid, scores)
        size = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return size

    assert peak(16) < 1.3 * peak(2)


def test_no_tile_and_no_tissue_are_valid_empty_collections(tmp_path):
    grid = a_grid(a_slide(), [])
    assert read(write_tiles(tmp_path / "a.geojson.gz", grid, a_score(grid, []))) == []
    assert read(write_tissue(tmp_path / "t.geojson", shapely.MultiPolygon(), a_slide(), tissue_mm2=0)) == []
    assert read(write_annotations(tmp_path / "a.geojson", (), a_slide(), class_name="tumour")) == []


def test_a_file_that_cannot_be_finished_leaves_nothing(tmp_path):
    grid = a_grid(a_slide(), [[0, 0], [0, 1]])
    with pytest.raises(ValueError, match="shorter"):
        write_tiles(tmp_path / "a.geojson.gz", grid, a_score(a_grid(a_slide(), [[0, 0]]), [0.5]))
    assert list(tmp_path.iterdir()) == []


def test_the_tissue_is_one_annotation_with_its_area(tmp_path):
    pieces = shapely.MultiPolygon([shapely.box(0, 0, 16, 16), shapely.box(32, 0, 48, 16)])
    (feature,) = read(write_tissue(tmp_path / "t.geojson", pieces, a_slide(), tissue_mm2=0.25))
    assert feature["properties"]["measurements"] == {"area_mm2": 0.25}
    assert shapely.geometry.shape(feature["geometry"]).equals(pieces)


def test_the_tissue_is_one_locked_annotation_with_a_coloured_class(tmp_path):
    tissue = shapely.MultiPolygon([shapely.box(0, 0, 16, 16), shapely.box(32, 0, 48, 16)])
    path = write_tissue(tmp_path / "t.geojson", tissue, a_slide(), tissue_mm2=1.5)
    (feature,) = json.loads(path.read_text())["features"]
    properties = feature["properties"]
    assert properties["classification"]["name"] == "Tissue" and len(properties["classification"]["color"]) == 3
    assert properties["isLocked"] and properties["measurements"] == {"area_mm2": 1.5}
    assert shapely.geometry.shape(feature["geometry"]).equals(tissue)


def test_equal_tiles_give_equal_bytes_whatever_the_hour(tmp_path, monkeypatch):
    grid = a_grid(a_slide(), [[0, 1]])
    written = []
    for now in (1e9, 2e9):
        monkeypatch.setattr("time.time", lambda now=now: now)
        written.append(write_tiles(tmp_path / "a.geojson.gz", grid, a_score(grid, [1.0])).read_bytes())
    assert written[0] == written[1]
    assert written[0][4:8] == bytes(4)  # where gzip keeps the time


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "a.geojson.gz"
    path.write_bytes(b"old")
    grid = a_grid(a_slide(), [[0, 1]])
    scores = replace(a_score(grid, [1.0]), class_names=("tumour", "too many"))
    with pytest.raises(ValueError, match="shorter"):
        write_tiles(path, grid, scores)
    assert [(item, item.read_bytes()) for item in tmp_path.iterdir()] == [(path, b"old")]


def test_detections_are_confidence_x_y_without_a_header(tmp_path):
    # two cells of 32 px below each other, the right column: centre 32 + 16, 32
    assert write_detections(tmp_path / "a.csv", LESIONS).read_text() == "1.000000,48,32\n"


def test_a_detection_lies_inside_a_lesion_whose_centre_does_not(tmp_path):
    ring = [[1.0, 1.0, 1.0], [1.0, 0, 1.0], [1.0, 1.0, 1.0]]
    (lesion,) = find_lesions(an_extent(ring))
    _, x, y = write_detections(tmp_path / "a.csv", [lesion]).read_text().split(",")
    assert lesion.centroid_l0 == (48, 48) and not lesion.polygon.covers(shapely.Point(48, 48))
    assert lesion.polygon.covers(shapely.Point(int(x), int(y)))


@pytest.mark.parametrize(
    ("positive", "name"),
    [(("tumour",), "tumour"), (("ductal", "lobular"), "cancer")],
    ids=["one class keeps its name", "several are cancer"],
)
def test_classes_that_count_as_cancer_are_named_together(positive, name):
    assert cancer_name(positive) == name


def test_no_lesion_gives_an_empty_file_of_detections(tmp_path):
    assert write_detections(tmp_path / "a.csv", ()).read_text() == ""
