"""Tiles of slides with labels from what was drawn on them: a drawn slide, whose truth is known, and many mishaps."""

import json
import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import shapely
import tifffile
import zarr
from small_slide import TILE, a_grid, a_slide, a_store, all_tissue

from wsi_pipeline.errors import ConfigError, SlideError, StoreError
from wsi_pipeline.learn.data.labels import LabelledImages
from wsi_pipeline.learn.datasets import open_dataset
from wsi_pipeline.learn.datasets.tiles import open_tiles
from wsi_pipeline.maps.asap import write_asap
from wsi_pipeline.maps.lesions import Lesion
from wsi_pipeline.schedulers import open_cluster
from wsi_pipeline.slide.handles import reader_for
from wsi_pipeline.slide.reader import open_slide
from wsi_pipeline.slide.synthetic import SlideTruth, Tumour, draw_slide, tumour_mask
from wsi_pipeline.slide.tissue import TissueSettings, find_tissue
from wsi_pipeline.tiles.grid import lay_grid
from wsi_pipeline.tiles.making import create_store, mark_complete
from wsi_pipeline.tiles.tiler import cut_tiles

BOX = [[0, 0], [80, 0], [80, 64], [0, 64]]  # covers the tiles of 32 px of rows 0, 1 and columns 0, 1, and half of 2


def feature(ring, name: str) -> dict:
    geometry = {"type": "Polygon", "coordinates": [ring]}
    return {"type": "Feature", "geometry": geometry, "properties": {"classification": {"name": name}}}


def annotate(folder: Path, *shapes: tuple[list, str], name: str = "a.geojson") -> None:
    (folder / name).write_text(json.dumps([feature(ring, group) for ring, group in shapes]))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Stores of coordinates of slides a and b, 80 tiles each, a raster of 8 x 10; annotations/a.geojson."""
    slide, _ = a_slide(tmp_path)
    for name in ("a", "b"):
        add_store(tmp_path, replace(slide, id=name))
    (tmp_path / "annotations").mkdir()
    annotate(tmp_path / "annotations", (BOX, "Tumor"))
    return tmp_path


def add_store(folder: Path, slide, **grid: object) -> None:
    store = create_store(folder / f"{slide.id}.zarr", a_grid(slide, **grid), all_tissue(slide), pixels=False,
                         shard_tiles=16, key="k", settings={})  # fmt: skip
    mark_complete(store)


def labels_of(images: LabelledImages, slide: str = "a") -> np.ndarray:
    """(8, 10) labels of the first class of one slide."""
    return images.labels[images.columns["slide"] == slide, 0].reshape(8, 10)


# The truth


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, SlideTruth]:
    """A drawn slide of two tumours in tiles of 64 px at 1 um/px, its tumours as ASAP XML."""
    folder = tmp_path_factory.mktemp("drawn")
    tumours = [Tumour(500, 520, 200, 150), Tumour(900, 600, 90, 120)]
    truth = draw_slide(folder / "d.tif", size_px=(2800, 2400), mpp=0.5, tumours=tumours, seed=4)
    slide = open_slide(folder / "d.tif")
    tissue = find_tissue(reader_for(slide), TissueSettings(mpp=8.0))
    grid = lay_grid(slide, tissue, tile_px=64, stride_px=64, mpp=replace(slide.mpp_l0, x=1.0, y=1.0), min_tissue=0.3)
    store = create_store(folder / "d.zarr", grid, tissue, pixels=True, shard_tiles=32, key="k", settings={})
    with open_cluster("threads", workers=1) as cluster:
        cut_tiles(store, cluster)
    lesions = [as_lesion(number, tumour) for number, tumour in enumerate(tumours, start=1)]
    write_asap(folder / "d.xml", lesions, group="Tumor")
    return folder, truth


def as_lesion(number: int, tumour: Tumour) -> Lesion:
    outline = shapely.MultiPolygon([shapely.Polygon(tumour.blob.border() / 0.5)])
    return Lesion(number, tumour.area_mm2, 1.0, (0, 0), (0, 0), 1.0, 1.0, 1, outline)


def true_shares(images: LabelledImages, truth: SlideTruth) -> np.ndarray:
    """(N,) share of each tile of 64 um in tumour, by cells of 2 um."""
    mask = tumour_mask(truth, (600, 700), 2.0).astype(float)
    corners = images.columns[["x", "y"]].to_numpy() * 0.5 / 2
    return np.array([mask[y : y + 32, x : x + 32].mean() for x, y in corners.astype(int)])


def test_labels_of_a_drawn_slide_agree_with_what_was_drawn(drawn):
    folder, truth = drawn
    images = open_tiles(folder, positive_share=0.5)
    shares, labels = true_shares(images, truth), images.labels[:, 0]
    assert (labels == 1).sum() > 20 and (labels == 0).sum() > 100
    assert (shares[labels == 1] > 0.48).all() and (shares[labels == 0] < 0.02).all()
    between = shares[np.isnan(labels)]
    assert len(between) > 5 and (between < 0.52).all()
    assert images.mpp == pytest.approx(1.0) and images.kind == "histology" and images.positive == ("tumour",)


def test_by_its_centre_a_tile_of_a_drawn_slide_is_what_lies_there(drawn):
    folder, truth = drawn
    images = open_tiles(folder, label_from="centre")
    x, y = (images.columns[["x", "y"]].to_numpy(float) + 64).T * 0.5
    inside = np.any([tumour.blob.field(x, y) < 0 for tumour in truth.tumours], axis=0)
    np.testing.assert_array_equal(images.labels[:, 0], inside)


def test_an_image_is_the_slides_pixels_and_tumour_is_darker(drawn):
    folder, _ = drawn
    images = pickle.loads(pickle.dumps(open_tiles(folder)))
    tiles = [images.image(k) for k in range(len(images))]
    assert tiles[0].shape == (64, 64, 3) and tiles[0].dtype == np.uint8
    row = images.columns.iloc[7]
    direct = reader_for(open_slide(folder / "d.tif")).read_box((row.x, row.y, 128, 128), (64, 64))
    np.testing.assert_array_equal(tiles[7], direct)
    dark = np.array([tile.mean() for tile in tiles])
    assert dark[images.labels[:, 0] == 1].mean() < dark[images.labels[:, 0] == 0].mean()


# Labels


@pytest.mark.parametrize(
    ("options", "third"),
    [({}, 1), ({"positive_share": 0.6}, np.nan), ({"positive_share": 0.6, "negative_share": 0.5}, 0),
     ({"label_from": "centre"}, 1)],
    ids=["half is enough", "between", "up to half is normal", "the centre is on the border"],
)  # fmt: skip
def test_a_tile_half_covered_is_what_the_options_say(folder, options, third):
    labels = labels_of(open_tiles(folder, unannotated="skip", **options))
    np.testing.assert_array_equal(labels[:2, :4], [[1, 1, third, 0]] * 2)
    assert (labels[2:] == 0).all() and (labels[:, 3:] == 0).all()


def test_tiles_under_ignore_are_unknown(folder):
    annotate(folder / "annotations", (BOX, "Tumor"), ([[32, 0], [64, 0], [64, 32], [32, 32]], "Ignore*"))
    labels = labels_of(open_tiles(folder, unannotated="skip"))
    np.testing.assert_array_equal(labels[0, :3], [1, np.nan, 1])


def test_classes_are_made_of_the_groups_that_they_name(folder):
    annotate(folder / "annotations", (BOX, "DCIS"), ([[96, 0], [128, 0], [128, 32], [96, 32]], "Stroma"))
    classes = {"cancer": ["dcis", "Tumor"], "stroma": "Stroma"}
    images = open_tiles(folder, unannotated="skip", classes=classes, positive=["cancer"])
    assert (images.class_names, images.positive) == (("cancer", "stroma"), ("cancer",))
    np.testing.assert_array_equal(images.labels[:5], [[1, 0], [1, 0], [1, 0], [0, 1], [0, 0]])


def test_a_tile_over_the_edge_counts_by_its_part_inside(tmp_path):
    slide, _ = a_slide(tmp_path, width=320, height=240)  # the last row of tiles has 16 of 32 px inside
    add_store(tmp_path, slide)
    annotate(tmp_path, ([[0, 224], [24, 224], [24, 240], [0, 240]], "Tumor"))
    assert labels_of(open_tiles(tmp_path, positive_share=0.75))[7, 0] == 1


@pytest.mark.parametrize(("full_frame", "columns"), [(False, [1, 2]), (True, [0, 1])], ids=["QuPath's", "the slide's"])
def test_a_geojson_counts_from_the_corner_that_qupath_shows(tmp_path, full_frame, columns):
    slide, _ = a_slide(tmp_path)
    add_store(tmp_path, replace(slide, bounds_l0=(32, 0, 200, 200)))
    annotate(tmp_path, ([[0, 0], [64, 0], [64, 32], [0, 32]], "Tumor"))
    assert np.flatnonzero(labels_of(open_tiles(tmp_path, full_frame=full_frame))[0]).tolist() == columns


@pytest.mark.parametrize("kind", ["xml", "json", "mask"])
def test_every_kind_of_file_gives_the_same_labels(folder, kind):
    wanted = labels_of(open_tiles(folder, unannotated="skip"))
    (folder / "annotations" / "a.geojson").unlink()
    if kind == "xml":
        points = "".join(f'<Coordinate Order="{k}" X="{x}" Y="{y}"/>' for k, (x, y) in enumerate(BOX))
        (folder / "annotations" / "A.XML").write_text(
            "<ASAP_Annotations><Annotations><Annotation Type='Polygon' PartOfGroup='_0'><Coordinates>"
            f"{points}</Coordinates></Annotation></Annotations></ASAP_Annotations>"
        )
    elif kind == "json":
        text = json.dumps({"positive": [{"name": "_0", "vertices": BOX}], "negative": []})
        (folder / "annotations" / "a.json").write_text(text)
    else:
        values = np.zeros((64, 80), np.uint8)  # a quarter of 320 x 256
        values[:16, :20] = 1
        tifffile.imwrite(folder / "annotations" / "a_mask.tif", values, photometric="minisblack")
    np.testing.assert_array_equal(labels_of(open_tiles(folder, unannotated="skip")), wanted)


# Slides, patients, parts


def test_a_tile_has_the_id_slide_row_column_and_its_place(folder):
    images = open_tiles(folder, unannotated="normal")
    assert len(images) == 160
    assert images.ids[13] == "a:1:3" and images.columns.iloc[13].to_dict() == {
        "slide": "a", "x": 3 * TILE, "y": TILE, "tissue": 1.0
    }  # fmt: skip
    assert set(images.patients) == {"a", "b"} and images.official is None


@pytest.mark.parametrize(("unannotated", "tiles"), [("skip", 80), ("normal", 160)])
def test_a_slide_without_annotation_is_what_the_user_says(folder, unannotated, tiles):
    images = open_tiles(folder, unannotated=unannotated)
    assert len(images) == tiles
    assert (images.labels[80:] == 0).all()


def test_a_slide_without_annotation_is_never_taken_for_normal_unasked(folder):
    with pytest.raises(ConfigError, match=r"1 of 2 slides have no annotation, such as b.*normal or skip"):
        open_tiles(folder)


def test_a_run_folder_gives_patients_and_parts_and_leaves_failed_slides_out(folder):
    (folder / "tiles").mkdir()
    for name in ("a.zarr", "b.zarr"):
        (folder / name).rename(folder / "tiles" / name)
    zarr.create_group(folder / "tiles" / "c.zarr")  # nothing of ours yet: its slide failed
    (folder / "slides.csv").write_text(
        "slide_id,status,patient_id,split\na,ok,007,train\nb,ok,,test\nc,failed,007,train\n"
    )
    images = open_tiles(folder, unannotated="normal")
    assert (images.patients[0], images.patients[80]) == ("007", "b")
    assert (images.official[0], images.official[80]) == ("train", "test")


def test_patients_come_from_a_table_that_has_every_slide(folder):
    (folder / "who.csv").write_text("slide_id,path,patient_id\na,a.svs,p1\nb,b.svs,p1\n")
    assert set(open_tiles(folder, unannotated="normal", patients="who.csv").patients) == {"p1"}
    (folder / "who.csv").write_text("slide_id,path,patient_id\na,a.svs,p1\n")
    with pytest.raises(ConfigError, match="slide 'b' is not in the table"):
        open_tiles(folder, unannotated="normal", patients="who.csv")


def test_an_annotation_is_found_however_an_accent_in_its_name_is_written(tmp_path):
    slide, _ = a_slide(tmp_path)
    add_store(tmp_path, replace(slide, id="Fa\u0308lle"))  # as macOS writes it
    (tmp_path / "annotations").mkdir()
    annotate(tmp_path / "annotations", (BOX, "Tumor"), name="F\u00e4lle.geojson")
    assert labels_of(open_tiles(tmp_path, unannotated="normal"), "Fa\u0308lle")[0, 0] == 1


def test_annotations_may_be_listed_in_a_table(folder):
    (folder / "marks").mkdir()
    (folder / "annotations" / "a.geojson").rename(folder / "marks" / "x1.geojson")
    (folder / "list.csv").write_text("slide_id,annotation\na,marks/x1.geojson\nb,\n")
    images = open_tiles(folder, annotations="list.csv", unannotated="normal")
    assert labels_of(images)[0, 0] == 1 and not images.labels[80:].any()


# Mishaps


def test_a_tile_that_could_not_be_read_is_left_out(tmp_path):
    slide, _ = a_slide(tmp_path)
    with open_cluster("threads", workers=1) as cluster:
        store = a_store(tmp_path, slide)
        cut_tiles(store, cluster)
    zarr.open_array(store.path, path="readable", mode="r+")[1] = False
    annotate(tmp_path, (BOX, "Tumor"))
    images = open_tiles(tmp_path)
    assert len(images) == 79 and list(images.ids[:2]) == ["a:0:0", "a:0:2"]
    np.testing.assert_array_equal(images.image(1), store.read(2, 3)[0][0])


def test_a_slide_that_is_gone_is_named_when_a_tile_is_wanted(folder):
    images = open_tiles(folder, unannotated="skip")
    (folder / "a.tif").unlink()
    with pytest.raises(SlideError, match=r"a\.tif"):
        images.image(0)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"label_from": "area"}, "label_from 'area': give share or centre"),
        ({"positive_share": 0.2, "negative_share": 0.4}, "negative_share 0.4, positive_share 0.2"),
        ({"positive_share": 0.0}, "positive_share 0"),
        ({"unannotated": "no"}, "unannotated 'no'"),
        ({"annotations": "nowhere"}, "nowhere: no such folder or CSV"),
        ({"classes": {}}, "classes: none given"),
        ({"classes": {"cancer": ["Tumr"]}}, r"class 'cancer'.*Tumr; there are 'Tumor' \(1\)"),
        ({"positive": ["cancer"]}, "positive 'cancer'.*there are tumour"),
        ({"patients": "nowhere.csv"}, r"nowhere\.csv: no such file"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_an_option_that_cannot_be_used_is_named(folder, options, says):
    with pytest.raises(ConfigError, match=says):
        open_tiles(folder, **{"unannotated": "normal"} | options)


def test_one_group_to_ignore_is_ignored_and_a_group_may_be_a_number(folder):
    annotate(folder / "annotations", (BOX, "Necrosis"), (BOX, "7"))
    images = open_dataset("tiles", folder, unannotated="skip", classes={"cancer": 7}, ignore="Necrosis")
    assert images.class_names == ("cancer",) and np.isnan(images.labels).any() and not (images.labels == 1).any()


def test_a_group_that_nobody_explained_is_not_guessed(folder):
    annotate(folder / "annotations", (BOX, "Tumor"), (BOX, "Stroma"), (BOX, "Stroma"))
    with pytest.raises(ConfigError, match=r"groups that nobody explained: 'Stroma' \(2\); .*classes"):
        open_tiles(folder, unannotated="skip")


def test_annotations_named_after_other_slides_are_told(folder):
    (folder / "annotations" / "a.geojson").rename(folder / "annotations" / "z.geojson")
    with pytest.raises(ConfigError, match=r"named after a slide; slides are a, b, annotations z\.geojson"):
        open_tiles(folder, unannotated="normal")


def test_a_run_folder_without_annotations_is_told_where_they_go(folder):
    (folder / "run.json").write_text("{}")
    (folder / "annotations").rename(folder / "elsewhere")
    with pytest.raises(ConfigError, match=r"no annotation of its 2 slides; put them in .*/annotations, or say where"):
        open_tiles(folder, unannotated="skip")
    assert len(open_tiles(folder, unannotated="skip", annotations="elsewhere")) == 80
    (folder / "elsewhere" / "a.geojson").rename(folder / "a.geojson")
    assert len(open_tiles(folder, unannotated="skip")) == 80


def test_two_annotations_of_one_slide_are_refused(folder):
    annotate(folder / "annotations", (BOX, "Tumor"), name="A.json")
    with pytest.raises(ConfigError, match=r"A\.json and a\.geojson annotate the same slide"):
        open_tiles(folder, unannotated="normal")


def test_stores_of_two_scales_are_refused(folder):
    slide, _ = a_slide(folder)
    add_store(folder, replace(slide, id="c"), tile=64)
    with pytest.raises(ConfigError, match=r"a\.zarr has tiles of 32 px at 0\.5 um/px, c\.zarr of 64 px"):
        open_tiles(folder, unannotated="normal")


def test_a_store_that_is_not_complete_is_named(folder):
    slide, _ = a_slide(folder)
    a_store(folder, replace(slide, id="c"), name="c.zarr")
    with pytest.raises(StoreError, match=r"c\.zarr: tile store is 'writing'"):
        open_tiles(folder, unannotated="normal")


def test_a_folder_without_stores_is_named(tmp_path):
    with pytest.raises(ConfigError, match="no tile stores in it"):
        open_tiles(tmp_path)


def test_tiles_are_opened_by_name_and_a_wrong_option_is_told(folder):
    assert len(open_dataset("tiles", folder, unannotated="skip")) == 80
    with pytest.raises(ConfigError, match="label_from"):
        open_dataset("tiles", folder, labels_from="centre")
