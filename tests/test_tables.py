"""Tables: read back by other readers, ids as text, polygons in micrometres."""

import csv
import json
from dataclasses import fields, replace
from math import nan

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pyogrio
import pyogrio.raw
import pytest
import shapely
from map_samples import a_result, a_slide, an_extent
from rasterio.crs import CRS
from test_annotations import a_grid, a_score

from wsi_pipeline.learn.datasets.tiles import _slide_table
from wsi_pipeline.maps.frame import frame_wkt
from wsi_pipeline.maps.geopackage import write_geopackage
from wsi_pipeline.maps.lesions import find_lesions
from wsi_pipeline.maps.result import SlideResult, without_result
from wsi_pipeline.maps.tables import write_failures, write_slides_table, write_tiles_parquet

IDS = ["007", "NA", "null", "nan", 'a,"b', "two\nlines", "ü 🙂"]
FORMULAS = ["=1+1", "+1", "-1", "@a", "\ta", "'=1"]
SQUARES = shapely.MultiPolygon([shapely.box(0, 0, 64, 32), shapely.box(0, 40, 8, 48)])


def csv_row(result, folder):
    path, _ = write_slides_table([result], folder)
    (row,) = csv.DictReader(path.read_text(encoding="utf-8").splitlines())
    return row


def test_ids_stay_text_in_both_slide_tables(tmp_path):
    rows = [a_result(name, patient_id=name) for name in IDS]
    as_csv, as_parquet = write_slides_table(rows, tmp_path)
    for table in (pd.read_csv(as_csv, dtype=str, keep_default_na=False), pd.read_parquet(as_parquet)):
        assert table["slide_id"].tolist() == table["patient_id"].tolist() == IDS


def test_what_was_not_counted_is_empty_and_not_nought(tmp_path):
    rows = [a_result("a"), without_result("b", "unreadable"), replace(without_result("c", "ok"), stage="tile", tiles=7)]
    as_csv, as_parquet = write_slides_table(rows, tmp_path)
    mapped, failed, cut = csv.DictReader(as_csv.read_text(encoding="utf-8").splitlines())
    assert failed["lesions"] == failed["tiles"] == failed["unreadable_tiles"] == cut["lesions"] == ""
    assert (mapped["lesions"], cut["tiles"]) == (str(rows[0].lesions), "7")
    table = pq.read_table(as_parquet)
    assert table["lesions"].to_pylist() == [rows[0].lesions, None, None]
    assert table["tiles"].to_pylist() == [rows[0].tiles, None, 7] and table.schema.field("tiles").type == pa.int64()


def test_columns_are_the_fields_in_their_order_and_numbers_are_numbers(tmp_path):
    as_csv, as_parquet = write_slides_table([a_result()], tmp_path)
    names = [item.name for item in fields(SlideResult)]
    table = pq.read_table(as_parquet)
    assert table.column_names == as_csv.read_text().splitlines()[0].split(",") == names
    assert (table.schema.field("share").type, table.schema.field("tiles").type) == (pa.float64(), pa.int64())
    assert table["share"].to_pylist() == [0.0765]


def test_no_slide_gives_tables_of_a_header(tmp_path):
    as_csv, as_parquet = write_slides_table([], tmp_path)
    assert as_csv.read_text().count("\n") == 1
    assert pq.read_table(as_parquet).schema.field("slide_id").type == pa.string()


@pytest.mark.parametrize(
    ("value", "text"),
    [(nan, ""), (0.0, "0"), (0.1 + 0.2, "0.3"), (1 / 3, "0.333333"), (12345678.9, "12345700"), (1.5e-7, "0.00000015")],
)
def test_numbers_of_the_csv_have_six_digits_and_no_exponent(tmp_path, value, text):
    assert csv_row(a_result(cancer_mm2=value), tmp_path)["cancer_mm2"] == text


def test_what_does_not_exist_is_empty_in_the_csv_and_warnings_share_a_cell(tmp_path):
    row = csv_row(without_result("a", "no_mpp", message="no mpp"), tmp_path)
    assert (row["cancer_mm2"], row["label"], row["status"], row["message"]) == ("", "", "no_mpp", "no mpp")
    assert csv_row(a_result(warnings=("pen", "blur")), tmp_path)["warnings"] == "pen | blur"


@pytest.mark.parametrize("text", FORMULAS)
def test_free_texts_that_a_spreadsheet_would_compute_are_marked_in_the_csv_alone(tmp_path, text):
    result = a_result("=1", label=text, patient_id=text, split=text, message=text, warnings=(text, "=b"))
    row = csv_row(result, tmp_path)
    assert [row[name] for name in ("label", "patient_id", "split", "message")] == [f"'{text}"] * 4
    assert (row["slide_id"], row["warnings"]) == ("=1", f"'{text} | =b")
    assert pq.read_table(tmp_path / "slides.parquet")["label"].to_pylist() == [text]
    failure = write_failures([without_result("-1", "failed", message=text)], tmp_path)
    (row,) = csv.DictReader(failure.read_text().splitlines())
    assert (row["slide_id"], row["message"]) == ("-1", f"'{text}")


def test_other_texts_are_written_as_they_are_and_numbers_may_be_negative(tmp_path):
    row = csv_row(a_result(label="a=b", message="'quoted'", cancer_mm2=-0.5), tmp_path)
    assert (row["label"], row["message"], row["cancer_mm2"]) == ("a=b", "'quoted'", "-0.5")


def test_patients_come_back_from_the_table_as_they_were_given(tmp_path):
    patients = [*FORMULAS, "'a", "007"]
    write_slides_table([a_result(f"s{n}", patient_id=name) for n, name in enumerate(patients)], tmp_path)
    assert _slide_table(tmp_path, None)["patient"].tolist() == patients


def test_a_file_name_of_no_encoding_is_spelt_out(tmp_path):
    as_csv, as_parquet = write_slides_table([a_result("k\udce4se")], tmp_path)
    assert pq.read_table(as_parquet)["slide_id"].to_pylist() == ["k\\udce4se"]
    assert "k\\udce4se" in as_csv.read_text(encoding="utf-8")


def test_failures_lists_only_slides_that_came_to_no_map(tmp_path):
    bad = without_result("b", "unreadable", stage="open", error="SlideError", message="empty file")
    kept = [a_result("a"), a_result("c", status="partial"), a_result("d", status="no_tissue")]
    path = write_failures([*kept, bad], tmp_path)
    rows = list(csv.DictReader(path.read_text().splitlines()))
    assert rows == [
        {"slide_id": "b", "status": "unreadable", "stage": "open", "error": "SlideError", "message": "empty file"}
    ]
    assert write_failures(kept, tmp_path).read_text() == "slide_id,status,stage,error,message\n"


def test_a_tile_table_holds_level_0_places_and_probabilities(tmp_path):
    grid = a_grid(a_slide(), [[0, 1], [1, 0]])
    table = pq.read_table(write_tiles_parquet(tmp_path / "a.parquet", grid, a_score(grid, [0.25, np.nan])))
    assert table.column_names == ["tile", "x", "y", "row", "col", "tissue", "readable", "prob_tumour"]
    assert (table.schema.field("x").type, table.schema.field("prob_tumour").type) == (pa.int64(), pa.float32())
    assert table["x"].to_pylist() == [32, 0] and table["y"].to_pylist() == [0, 32]
    assert table["readable"].to_pylist() == [True, False]
    assert table["prob_tumour"].to_numpy() == pytest.approx([0.25, np.nan], nan_ok=True)


def test_a_tile_table_tells_what_its_numbers_refer_to(tmp_path):
    grid = a_grid(replace(a_slide(mpp=(0.25, 0.5)), id="NA"), [])
    table = pq.read_table(write_tiles_parquet(tmp_path / "a.parquet", grid, a_score(grid, [])))
    facts = json.loads(table.schema.metadata[b"wsi_pipeline"])
    assert (facts["slide_id"], facts["model"], facts["tile_px"], facts["mpp_l0"]) == ("NA", "c", 32, [0.25, 0.5])
    assert facts["footprint_l0"] == [64.0, 32.0]
    assert len(table) == 0 and table["prob_tumour"].type == pa.float32()


def read_layer(path, layer):
    """The polygons of a layer, its columns by name, and its CRS."""
    facts, _, shapes, columns = pyogrio.raw.read(path, layer=layer)
    return shapely.from_wkb(shapes), dict(zip(facts["fields"], columns, strict=True)), facts["crs"]


def test_lesions_for_qgis_are_in_micrometres_with_y_up(tmp_path):
    lesions = find_lesions(an_extent([[0, 1.0]]))
    shapes, columns, _ = read_layer(write_geopackage(tmp_path / "a.gpkg", lesions, SQUARES, a_slide()), "lesions")
    assert shapes[0].bounds == (16, -16, 32, 0)
    assert columns["area_mm2"][0] == pytest.approx(256e-6)
    assert (columns["centroid_x_um"][0], columns["centroid_y_um"][0]) == (24, -8)
    assert (columns["number"][0], columns["tiles"][0]) == (1, 1)


def test_each_piece_of_tissue_is_a_feature_with_its_area(tmp_path):
    shapes, columns, _ = read_layer(write_geopackage(tmp_path / "a.gpkg", (), SQUARES, a_slide()), "tissue")
    assert [shape.bounds for shape in shapes] == [(0, -16, 32, 0), (0, -24, 4, -20)]
    assert columns["area_mm2"].tolist() == pytest.approx([512e-6, 16e-6])


def test_both_layers_are_in_the_frame_of_the_heatmap(tmp_path):
    path = write_geopackage(tmp_path / "a.gpkg", find_lesions(an_extent([[1.0]])), SQUARES, a_slide())
    for layer in ("lesions", "tissue"):
        crs = CRS.from_wkt(read_layer(path, layer)[2])
        assert crs == CRS.from_wkt(frame_wkt("um"))
        assert 'UNIT["micrometre",1E-06]' in crs.to_wkt()


def test_empty_layers_are_valid_and_nothing_is_said(tmp_path, capfd):
    path = write_geopackage(tmp_path / "a.gpkg", (), shapely.MultiPolygon(), a_slide())
    assert [name for name, _ in pyogrio.list_layers(path)] == ["lesions", "tissue"]
    assert all(len(read_layer(path, layer)[0]) == 0 for layer in ("lesions", "tissue"))
    assert capfd.readouterr() == ("", "")


def test_a_second_run_replaces_the_geopackage(tmp_path):
    for lesions in (find_lesions(an_extent([[1.0, 0, 1.0]])), find_lesions(an_extent([[1.0]]))):
        path = write_geopackage(tmp_path / "a.gpkg", lesions, SQUARES, a_slide())
        assert len(read_layer(path, "lesions")[0]) == len(lesions)
    assert [file.name for file in tmp_path.iterdir()] == ["a.gpkg"]


def test_a_slide_with_unlike_x_and_y_scale_keeps_its_shape_in_micrometres(tmp_path):
    tissue = shapely.MultiPolygon([shapely.box(8, 16, 40, 48)])
    path = write_geopackage(tmp_path / "a.gpkg", (), tissue, a_slide(mpp=(0.25, 0.5)))
    _, _, shapes, (area,) = pyogrio.raw.read(path, layer="tissue")
    assert shapely.from_wkb(shapes[0]).bounds == (8 * 0.25, -48 * 0.5, 40 * 0.25, -16 * 0.5)
    assert area[0] == pytest.approx(32 * 0.25 * 32 * 0.5 * 1e-6)


def test_equal_polygons_give_an_equal_geopackage_with_no_date_of_its_own(tmp_path):
    lesions, tissue = find_lesions(an_extent([[0, 1.0]])), shapely.MultiPolygon([shapely.box(0, 0, 64, 32)])
    one, other = (write_geopackage(tmp_path / name, lesions, tissue, a_slide()) for name in ("a.gpkg", "b.gpkg"))
    dates = pyogrio.raw.read(one, sql="SELECT last_change FROM gpkg_contents")[3][0]
    assert {str(date)[:10] for date in dates} == {"2000-01-01"}
    assert one.read_bytes() == other.read_bytes()
    assert pyogrio.get_gdal_config_option("OGR_CURRENT_DATE") is None
    assert sorted(tmp_path.iterdir()) == [one, other]


@pytest.mark.parametrize(
    "mark", ["\r", "\n", "\r\n", '"', ",", " "], ids=["CR", "LF", "CR LF", "quote", "comma", "space"]
)
def test_marks_of_csv_inside_a_text_break_no_row(tmp_path, mark):
    text = f"{mark}a{mark}b{mark}"
    as_csv, _ = write_slides_table([a_result(text, message=text), a_result("next")], tmp_path)
    table = pd.read_csv(as_csv, dtype=str, keep_default_na=False)
    assert table["slide_id"].tolist() == [text, "next"] and table["message"].tolist() == [text, ""]
    with as_csv.open(newline="") as file:
        assert [row["slide_id"] for row in csv.DictReader(file)] == [text, "next"]
