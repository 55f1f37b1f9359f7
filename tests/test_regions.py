"""Annotation files become polygons in level-0 px; shares of boxes are exact areas; bad files are named."""

import json

import numpy as np
import pytest
import shapely
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from map_samples import a_slide

from wsi_pipeline.errors import ConfigError
from wsi_pipeline.slide import region_files, region_masks
from wsi_pipeline.slide.region_files import qupath_corner, read_regions
from wsi_pipeline.slide.region_masks import mask_downsample
from wsi_pipeline.slide.regions import RegionDraft, at_points, share_in_boxes

SQUARE = [[0, 0], [10, 0], [10, 10], [0, 10]]
BOX = [[0, 0, 10, 10]]


def drawn(*shapes, group="tumour"):
    """Regions of (outer ring, group) or outer rings."""
    draft = RegionDraft()
    for shape in shapes:
        ring, name = shape if isinstance(shape, tuple) else (shape, group)
        draft.add([np.array(ring, float)], name)
    return draft.regions()


def square(left, top, side):
    return [[left, top], [left + side, top], [left + side, top + side], [left, top + side]]


def xml(folder, *annotations, head=""):
    """An ASAP XML of (type, group, points)."""
    text = "".join(
        f'<Annotation Name="a{k}" Type="{kind}" PartOfGroup="{group}"><Coordinates>'
        + "".join(f'<Coordinate Order="{i}" X="{x}" Y="{y}"/>' for i, (x, y) in enumerate(points))
        + "</Coordinates></Annotation>"
        for k, (kind, group, points) in enumerate(annotations)
    )
    path = folder / "a.xml"
    path.write_text(f"{head}<ASAP_Annotations><Annotations>{text}</Annotations></ASAP_Annotations>")
    return path


def geojson(folder, value, name="a.geojson"):
    path = folder / name
    path.write_text(json.dumps(value))
    return path


def feature(geometry, name=None, **properties):
    classification = {"classification": {"name": name, "color": [200, 0, 0]}} if name else {}
    return {"type": "Feature", "geometry": geometry, "properties": {"objectType": "annotation"} | classification
            | properties}  # fmt: skip


def polygon(*rings):
    return {"type": "Polygon", "coordinates": list(rings)}


# Areas


@pytest.mark.parametrize(
    ("box", "share"),
    [([0, 0, 10, 10], 1), ([5, 0, 10, 10], 0.5), ([5, 5, 10, 10], 0.25), ([10, 0, 5, 5], 0),
     ([-10, -10, 40, 40], 1 / 16)],
    ids=["all", "half", "quarter", "touching", "larger than the region"],
)  # fmt: skip
def test_a_share_is_the_area_inside_the_box(box, share):
    assert share_in_boxes(drawn(SQUARE), np.array([box]))[0] == pytest.approx(share, abs=1e-12)


def test_where_regions_overlap_a_place_counts_once():
    assert share_in_boxes(drawn(SQUARE, SQUARE, square(5, 0, 5)), np.array(BOX))[0] == pytest.approx(1)


def test_what_is_cut_out_is_taken_from_all_others():
    regions = drawn((SQUARE, "_0"), (square(0, 0, 5), "_2"))
    assert share_in_boxes(regions, np.array(BOX))[0] == pytest.approx(0.75)
    assert at_points(regions, np.array([[2, 2], [7, 7]])).tolist() == [False, True]


def test_a_selection_keeps_what_cuts_into_it_unless_that_is_selected():
    regions = drawn((SQUARE, "Tumor"), (square(5, 0, 5), "stroma"), (square(0, 0, 5), "normal"))
    assert share_in_boxes(regions.select(["tumor"]), np.array(BOX))[0] == pytest.approx(0.75)
    assert share_in_boxes(regions.select(["stroma"]), np.array(BOX))[0] == pytest.approx(0.25)
    assert share_in_boxes(regions.select(["Normal"]), np.array(BOX))[0] == pytest.approx(0.25)
    assert len(regions.select(["none of these"])) == 1  # the cut-out alone, which covers nothing
    assert share_in_boxes(regions.select(["none of these"]), np.array(BOX))[0] == 0


def test_no_region_covers_nothing():
    regions = drawn()
    assert share_in_boxes(regions, np.array(BOX)).tolist() == [0]
    assert at_points(regions, np.array([[1, 1]])).tolist() == [False]
    assert share_in_boxes(regions, np.empty((0, 4))).shape == (0,)


def star(rng, points):
    """A ring around (500, 500) whose radius jumps from corner to corner."""
    angle, radius = np.linspace(0, 2 * np.pi, points, endpoint=False), rng.uniform(100, 450, points)
    return 500 + radius[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=1)


@settings(max_examples=15, deadline=None)
@given(st.integers(3, 3000), st.integers(0, 99))
def test_shares_of_a_raster_add_up_to_the_polygon_and_agree_with_shapely(points, seed):
    rng = np.random.default_rng(seed)
    regions = drawn(star(rng, points))
    left, top = np.meshgrid(np.arange(0, 1000, 100.0), np.arange(0, 1000, 100.0))
    boxes = np.stack([left.ravel(), top.ravel(), np.full(100, 100.0), np.full(100, 100.0)], axis=1)
    shares = share_in_boxes(regions, boxes)
    assert shares.sum() * 1e4 == pytest.approx(regions.polygons[0].area, rel=1e-9)
    k = int(rng.integers(100))
    box = shapely.box(*boxes[k, :2], *(boxes[k, :2] + 100))
    assert shares[k] * 1e4 == pytest.approx(regions.polygons[0].intersection(box).area, abs=1e-6)


def test_points_agree_with_shapely_also_where_the_polygon_is_divided():
    rng = np.random.default_rng(1)
    regions, points = drawn(star(rng, 5000)), rng.uniform(0, 1000, (2000, 2))
    assert len(regions.pieces.geometries) > 10
    np.testing.assert_array_equal(at_points(regions, points), shapely.contains_xy(regions.polygons[0], *points.T))


# Mending


def test_both_halves_of_a_bow_tie_are_kept():
    regions = drawn([[0, 0], [10, 10], [10, 0], [0, 10]])
    assert regions.polygons[0].is_valid
    assert regions.polygons[0].area == 2 * 25  # two triangles, 10 wide and 5 high


def test_an_outline_drawn_twice_round_is_full_not_empty():
    regions = drawn([[0, 0], [10, 0], [10, 10], [0, 10], [1, 1], [9, 1], [9, 9], [1, 9]])
    assert regions.polygons[0].is_valid and at_points(regions, np.array([[5, 5]]))[0]


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 8), st.integers(0, 8)), min_size=3, max_size=25))
def test_every_scribble_comes_out_valid_or_not_at_all(ring):
    assert all(shape.is_valid and shape.area > 0 for shape in drawn(ring).polygons)


@pytest.mark.parametrize("ring", [SQUARE, [*SQUARE, SQUARE[0]]], ids=["open", "closed"])
def test_a_ring_may_be_closed_or_not(ring):
    assert drawn(ring).polygons[0].area == 100


@pytest.mark.parametrize(
    "ring", [[], [[1, 1]], [[0, 0], [5, 5]], [[0, 0], [5, 5], [0, 0]], [[0, 0], [5, 5], [9, 9]]],
    ids=["none", "one", "two", "two and back", "on a line"],
)  # fmt: skip
def test_what_encloses_nothing_is_left_out_and_said(ring):
    regions = drawn(SQUARE, ring)
    assert len(regions) == 1
    assert regions.skipped == ("1 x polygon without an area",)


# ASAP XML


def test_asap_polygons_keep_their_group_and_points_are_counted(tmp_path):
    path = xml(tmp_path, ("Polygon", "_0", SQUARE), ("Dot", "None", [[1, 1]]), ("PointSet", "None", SQUARE),
               ("Spline", "_2", square(0, 0, 5)))  # fmt: skip
    regions = read_regions(path)
    assert regions.groups == ("_0", "_2")
    assert regions.cut_out.tolist() == [False, True]
    assert regions.skipped == ("1 x Dot", "1 x PointSet")


def test_asap_points_go_by_their_order(tmp_path):
    path = xml(tmp_path, ("Polygon", "_0", SQUARE))
    lines = path.read_text().replace('Order="1"', 'Order="x"').replace('Order="2"', 'Order="1"')
    path.write_text(lines.replace('Order="x"', 'Order="2"'))  # now a bow-tie
    assert read_regions(path).polygons[0].area == 50


def test_normal_tissue_of_camelyon17_is_taken_out_of_its_metastases(tmp_path):
    regions = read_regions(xml(tmp_path, ("Polygon", "metastases", SQUARE), ("Polygon", "normal", square(0, 0, 5))))
    assert share_in_boxes(regions, np.array(BOX))[0] == pytest.approx(0.75)


BOMB = '<!DOCTYPE a [<!ENTITY b "ha"><!ENTITY c "&b;&b;&b;">]>'


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "empty"),
        ("<ASAP_Annotations><Annot", "cannot be read as ASAP XML"),
        ("<Annotations/>", "begins with <Annotations>"),
        (BOMB + "<ASAP_Annotations>&c;</ASAP_Annotations>", "Entit"),
        ("<ASAP_Annotations>" + "<a>" * 40 + "</a>" * 40 + "</ASAP_Annotations>", "16 deep"),
    ],
    ids=["empty", "cut short", "another program's", "entities", "deep"],
)
def test_a_bad_xml_is_named(tmp_path, text, says):
    (tmp_path / "a.xml").write_text(text)
    with pytest.raises(ConfigError, match=rf"a\.xml.*{says}"):
        read_regions(tmp_path / "a.xml")


@pytest.mark.parametrize("x", ["12711,29", "nan", "inf", ""], ids=["comma", "nan", "infinite", "empty"])
def test_a_coordinate_that_is_no_number_is_named(tmp_path, x):
    with pytest.raises(ConfigError, match=r"a\.xml"):
        read_regions(xml(tmp_path, ("Polygon", "_0", [[x, 0], *SQUARE])))


# GeoJSON


def test_holes_and_all_parts_of_a_multipolygon_are_kept(tmp_path):
    ring = [SQUARE, square(2, 2, 5)]
    shape = {"type": "MultiPolygon", "coordinates": [ring, [square(20, 20, 3)]]}
    regions = read_regions(geojson(tmp_path, {"type": "FeatureCollection", "features": [feature(shape, "Tumor")]}))
    assert [part.area for part in regions.polygons] == [100 - 25, 9]
    assert regions.groups == ("Tumor", "Tumor")


@pytest.mark.parametrize(
    ("rings", "area"),
    [
        ([SQUARE, square(20, 20, 5)], 100),
        ([SQUARE, square(5, 5, 10)], 100 - 25),
        ([SQUARE, square(2, 2, 2), square(3, 3, 2)], 100 - 7),
        ([SQUARE, square(2, 2, 6), square(3, 3, 2)], 100 - 36),
        ([[[0, 0], [10, 10], [10, 0], [0, 10]], square(20, 20, 5)], 50),
    ],
    ids=["outside", "over the border", "crossing each other", "in a hole", "of a crossed outline"],
)
def test_a_hole_only_takes_away(tmp_path, rings, area):
    shape = {"type": "Polygon", "coordinates": rings}
    assert read_regions(geojson(tmp_path, [feature(shape)])).area.area == pytest.approx(area)


def test_collections_are_opened_and_points_lines_and_cells_counted(tmp_path):
    point, line = {"type": "Point", "coordinates": [1, 1]}, {"type": "LineString", "coordinates": [[0, 0], [1, 1]]}
    inner = {"type": "GeometryCollection", "geometries": [polygon(SQUARE), point]}
    outer = {"type": "GeometryCollection", "geometries": [inner, line]}
    regions = read_regions(geojson(tmp_path, [feature(outer), feature(polygon(SQUARE), objectType="cell")]))
    assert regions.groups == ("None",)
    assert regions.skipped == ("1 x LineString", "1 x Point", "1 x cell")


@pytest.mark.parametrize(
    "wrap",
    [lambda f: {"type": "FeatureCollection", "features": [f]}, lambda f: [f], lambda f: f, lambda f: f["geometry"]],
    ids=["collection", "list", "feature", "geometry"],
)
def test_every_way_to_wrap_a_polygon_is_read(tmp_path, wrap):
    assert read_regions(geojson(tmp_path, wrap(feature(polygon(SQUARE))))).polygons[0].area == 100


@pytest.mark.parametrize(
    ("classification", "group"),
    [({"name": "Tumor"}, "Tumor"), ({"names": ["Tumor", "Positive"]}, "Tumor: Positive"), ("Tumor", "Tumor"),
     (None, "None"), ({"colorRGB": -1}, "None")],
    ids=["name", "derived", "text", "null", "without a name"],
)  # fmt: skip
def test_the_class_of_an_annotation_is_its_group(tmp_path, classification, group):
    path = geojson(tmp_path, feature(polygon(SQUARE), classification=classification))
    assert read_regions(path).groups == (group,)


def test_a_geojson_counts_from_qupaths_corner(tmp_path):
    corner = qupath_corner(a_slide(bounds_l0=(8, 4, 40, 50)))
    assert corner == (8, 4)
    assert read_regions(geojson(tmp_path, polygon(SQUARE)), corner_l0=corner).polygons[0].bounds == (8, 4, 18, 14)


@pytest.mark.parametrize("bounds", [None, (8, 0, 40, 64)], ids=["no bounds", "same height: QuPath does not crop"])
def test_qupath_counts_from_the_slides_corner_where_it_does_not_crop(bounds):
    assert qupath_corner(a_slide(bounds_l0=bounds)) == (0, 0)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{", "cannot be read"),
        ("7", "a feature that is none"),
        ('{"type": "Polygon"}', "'coordinates' is missing"),
        ('{"type": "Polygon", "coordinates": [[[0, NaN], [1, 1], [2, 2]]]}', "NaN"),
        ('{"type": "Polygon", "coordinates": [[["a", 1], [1, 1], [2, 2]]]}', "cannot be read"),
        ('{"type": "Polygon", "coordinates": [[1, 2, 3]]}', "no list of finite x, y"),
        ("[" * 100_000 + "]" * 100_000, "recursion"),
        ('{"type": "FeatureCollection", "features": [{"type": "Feature", "geometry": 3}]}', "cannot be read"),
    ],
    ids=["cut short", "number", "no coordinates", "NaN", "text", "flat", "deep", "geometry"],
)
def test_a_bad_geojson_is_named(tmp_path, text, says):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(ConfigError, match=rf"(?s)a\.json.*{says}"):
        read_regions(tmp_path / "a.json")


def test_a_text_of_too_many_bytes_is_not_read(tmp_path, monkeypatch):
    monkeypatch.setattr(region_files, "MAX_TEXT_BYTES", 20)
    with pytest.raises(ConfigError, match=r"a\.geojson.*more than 20; export annotations alone"):
        read_regions(geojson(tmp_path, polygon(SQUARE)))


def test_a_file_that_is_not_there_or_of_another_kind_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"a\.xml: no such file"):
        read_regions(tmp_path / "a.xml")
    (tmp_path / "a.ndpa").write_text("x")
    with pytest.raises(ConfigError, match=r"a\.ndpa: no known annotation file"):
        read_regions(tmp_path / "a.ndpa")


# NCRF JSON


def test_ncrf_negatives_are_taken_out_of_the_positives(tmp_path):
    lists = {"positive": SQUARE, "negative": square(0, 0, 5)}
    found = {name: [{"name": "_0", "vertices": ring}] for name, ring in lists.items()}
    regions = read_regions(geojson(tmp_path, found, "a.json"))
    assert regions.groups == ("positive", "negative")
    assert share_in_boxes(regions, np.array(BOX))[0] == pytest.approx(0.75)


# Masks


def mask(folder, values, **options):
    path = folder / "a_mask.tif"
    tifffile.imwrite(path, np.asarray(values), **({"photometric": "minisblack"} | options))
    return path


def test_a_mask_lies_where_its_pixels_lie_on_the_slide(tmp_path):
    values = np.zeros((16, 20), np.uint8)
    values[2:5, 4:8], values[10:, 15:] = 1, 2
    regions = read_regions(mask(tmp_path, values), size_l0=(80, 64))  # a quarter of the slide
    assert regions.groups == ("1", "2")
    assert [part.bounds for part in regions.polygons] == [(16, 8, 32, 20), (60, 40, 80, 64)]


@pytest.mark.parametrize(
    "options",
    [{"tile": (16, 16)}, {"rowsperstrip": 1}, {"rowsperstrip": 7, "compression": "deflate"}, {"tile": (32, 48)}],
    ids=["tiles", "strips of a row", "deflate", "tiles that are not square"],
)  # fmt: skip
def test_blocks_of_a_mask_join_without_a_seam(tmp_path, monkeypatch, options):
    monkeypatch.setattr(region_masks, "_BLOCK_PX", 20)
    values = np.random.default_rng(3).integers(0, 3, (70, 90)).repeat(2, 0).repeat(2, 1).astype(np.uint8)
    values[20:100, 30:150] = 2
    regions = read_regions(mask(tmp_path, values, **options), size_l0=(180, 140))
    rows, cols = np.indices(values.shape)
    centres = np.stack([cols.ravel() + 0.5, rows.ravel() + 0.5], axis=1)
    for value in ("1", "2"):
        inside = at_points(regions.select([value]), centres).reshape(values.shape)
        np.testing.assert_array_equal(inside, values == int(value))
    assert max(part.area for part in regions.polygons) >= 80 * 120


def test_tiles_of_a_mask_that_were_never_written_are_background(tmp_path):
    tiles = (np.full((16, 16, 1), 1, np.uint8).tobytes() if k == 1 else b"" for k in range(4))
    tifffile.imwrite(tmp_path / "a_mask.tif", tiles, shape=(32, 32), dtype=np.uint8, tile=(16, 16))
    (part,) = read_regions(tmp_path / "a_mask.tif", size_l0=(32, 32)).polygons
    assert part.bounds == (16, 0, 32, 16)


def test_a_mask_of_yes_and_no_has_the_group_1(tmp_path):
    assert read_regions(mask(tmp_path, np.eye(8) > 0), size_l0=(8, 8)).groups == ("1",) * 8


@pytest.mark.parametrize(
    ("size", "size_l0", "downsample"),
    [((100, 80), (100, 80), 1), ((25, 20), (100, 80), 4), ((195, 195), (100_000, 100_000), 512),
     ((196, 196), (100_000, 100_000), 512), ((33, 26), (100, 80), 3)],
    ids=["same", "exact", "rounded down", "rounded up", "three"],
)  # fmt: skip
def test_the_downsample_of_a_mask_is_whole(size, size_l0, downsample):
    assert mask_downsample(size, size_l0, name="a") == downsample


@pytest.mark.parametrize(
    ("values", "says"),
    [
        (np.zeros((9, 8), np.uint8), "no whole downsample"),
        (np.zeros((8, 8, 3), np.uint8), "3 channel"),
        (np.zeros((8, 8), np.float32), "float32"),
        (np.arange(256, dtype=np.uint16).reshape(16, 16), "more than 64 values"),
    ],
    ids=["size", "colour", "float", "objects"],
)
def test_a_mask_that_is_none_is_named(tmp_path, values, says):
    colour = {"photometric": "rgb"} if values.ndim == 3 else {}
    with pytest.raises(ConfigError, match=rf"a_mask\.tif.*{says}"):
        read_regions(mask(tmp_path, values, **colour), size_l0=(16, 16))


@pytest.mark.parametrize("kept", [0.02, 0.5, 0.99], ids=["magic", "half", "almost all"])
def test_a_mask_that_is_cut_short_is_named(tmp_path, kept):
    path = mask(tmp_path, np.random.default_rng(0).integers(0, 2, (64, 64), np.uint8), tile=(16, 16))
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * kept)])
    with pytest.raises(ConfigError, match=r"a_mask\.tif: c(annot be read as a mask|ut short)"):
        read_regions(path, size_l0=(64, 64))


def test_a_mask_with_damaged_pixels_is_named(tmp_path):
    path = mask(tmp_path, np.random.default_rng(0).integers(0, 2, (64, 64), np.uint8), compression="deflate")
    with tifffile.TiffFile(path) as tiff:
        start = tiff.pages[0].dataoffsets[0]
    data = bytearray(path.read_bytes())
    data[start : start + 40] = bytes(40)
    path.write_bytes(data)
    with pytest.raises(ConfigError, match=r"a_mask\.tif: cannot be read as a mask"):
        read_regions(path, size_l0=(64, 64))


# Real files


@pytest.mark.real
def test_every_real_file_reads_with_the_count_that_its_text_has(real_data):
    files = [path for path in (real_data / "annotations").rglob("*") if path.suffix in (".xml", ".json")]
    assert len(files) >= 18
    for path in files:
        text = path.read_text()
        outlines = text.count('Type="Polygon"') + text.count('"vertices"') + text.count('"type": "Polygon"')
        others = sum(text.count(word) for word in ('"Dot"', '"PointSet"', '"Point"', '"MultiPoint"', '"LineString"'))
        regions = read_regions(path)
        assert (len(regions), len(regions.skipped)) == (outlines, others), path.name
        assert all(shape.is_valid for shape in regions.polygons)


@pytest.mark.real
@pytest.mark.parametrize("name", ["Tumor_001", "Tumor_004", "Tumor_010", "Tumor_064", "Tumor_073"])
def test_the_area_of_real_lesions_agrees_with_the_shoelace_formula(real_data, name):
    path = real_data / "annotations" / "camelyon16" / "ncrf_json" / "train" / f"{name}.json"
    regions = read_regions(path)
    for polygon, shape in zip(json.loads(path.read_text())["positive"], regions.polygons, strict=False):
        x, y = np.array(polygon["vertices"], float).T
        shoelace = abs(np.dot(x, np.roll(y, 1)) - np.dot(y, np.roll(x, 1))) / 2
        assert shape.area == pytest.approx(shoelace, rel=0.002)  # pens cross themselves by a few pixels


@pytest.mark.real
def test_real_tiles_of_camelyon16_lie_where_their_polygons_say(real_data):
    shares = {"tumor": [], "normal": []}
    for path in sorted((real_data / "annotations" / "camelyon16" / "ncrf_json" / "train").glob("Tumor_*.json")):
        regions = read_regions(path)
        for kind, found in shares.items():
            tiles = (real_data / "histology" / "camelyon16_256" / kind).glob(f"{path.stem.lower()}_*.png")
            corners = np.array([tile.stem.split("_")[2:4] for tile in tiles], float).reshape(-1, 2)
            found += share_in_boxes(regions, np.hstack([corners, np.full(corners.shape, 256.0)])).tolist()
    assert (len(shares["tumor"]), len(shares["normal"])) == (44, 45)
    assert max(shares["normal"]) == 0
    assert min(shares["tumor"]) > 0 and np.mean(np.array(shares["tumor"]) > 0.5) > 0.95
