"""Heatmap GeoTIFF: every rule of its format, by rasterio, tifffile, rio-cogeo, gdalinfo and OpenSlide."""

import json
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from xml.etree import ElementTree

import numpy as np
import openslide
import pytest
import rasterio
import tifffile
from hypothesis import given
from hypothesis import strategies as st
from map_samples import a_slide, an_extent
from rio_cogeo import cog_validate

from wsi_pipeline.maps.frame import frame_wkt
from wsi_pipeline.maps.heatmap import choose_scale, fit_scale, write_heatmap, write_style

TWO_BY_TWO = [[0.1, 0.9], [None, 0.5]]


@pytest.fixture
def heatmap(tmp_path):
    """5 x 5 px of 16 level-0 px over a slide of 80 x 80 px with two by two cells of 40 px."""
    extent, slide = an_extent(TWO_BY_TWO, cell_l0=(40.0, 40.0)), a_slide((80, 80), mpp=(0.25, 0.5))
    return write_heatmap(tmp_path / "a_likelihood_map.tif", extent, slide, tags={"model_id": "demo"})


@pytest.fixture
def wide_heatmap(tmp_path):
    """600 x 512 px, so that there are overviews; blocks of 2 x 2 px hold 0.2, 0.4 and two without a value."""
    block = np.array([[0.2, np.nan], [0.4, np.nan]])
    cells = np.tile(block, (256, 300))
    extent = an_extent(cells, cell_l0=(16.0, 16.0))
    return write_heatmap(tmp_path / "w.tif", extent, a_slide((9600, 8192)), tags={})


@pytest.mark.parametrize(
    ("cell", "scale"),
    [(1, 16), (16, 16), (31.9, 16), (32, 32), (64 - 1e-9, 64), (127, 64), (128, 128), (512, 128)],
)
def test_scale_is_the_largest_step_not_above_the_cell(cell, scale):
    assert choose_scale((cell, cell)) == scale


def test_scale_follows_the_shorter_side_of_a_cell():
    assert choose_scale((130.0, 70.0)) == 64


@given(
    width=st.integers(1, 250_000),
    height=st.integers(1, 250_000),
    cell=st.sampled_from([16.0, 40.0, 64.0, 128.0, 512.0]),
)
def test_asap_accepts_every_heatmap_beside_its_slide(width, height, cell):
    scale = fit_scale((width, height), (cell, cell))
    across, down = width // scale, height // scale
    assert width // across == height // down == scale


@pytest.mark.parametrize(
    ("size_l0", "scale"),
    [((2220, 2967), 32), ((16, 16), 16), ((15, 15), 2), ((1, 1), 1), ((40_000, 40_000), 128)],
    ids=str,
)
def test_small_slides_get_a_finer_heatmap(size_l0, scale):
    assert fit_scale(size_l0, (512.0, 512.0)) == scale


def test_cells_are_upsampled_to_the_nearest(heatmap):
    cell = [0, 0, 1, 1, 1]  # pixel centres at 8, 24, 40, 56, 72; the second cell begins at 40
    with rasterio.open(heatmap) as source:
        np.testing.assert_array_equal(source.read(1), np.float32([[0.1, 0.9], [-1, 0.5]])[np.ix_(cell, cell)])


def test_a_pixel_takes_the_cell_under_its_centre(tmp_path):
    extent = an_extent([[0.1, 0.2, 0.3]], cell_l0=(20.0, 64.0), origin_l0=(9.0, 0.0))
    path = write_heatmap(tmp_path / "a.tif", extent, a_slide((80, 64)), tags={})
    with rasterio.open(path) as source:  # centres at 8, 24, 40, 56, 72: cells begin at 9, 29, 49, end at 69
        np.testing.assert_array_equal(source.read(1)[0], np.float32([-1, 0.1, 0.2, 0.3, -1]))


def test_probabilities_are_rounded_and_never_nan(tmp_path):
    path = write_heatmap(tmp_path / "a.tif", an_extent([[1 / 3, None]]), a_slide(), tags={})
    with rasterio.open(path) as source:
        assert source.nodata == -1 and source.dtypes == ("float32",)
        assert set(np.unique(source.read())) == {np.float32(0.3333), np.float32(-1)}


def test_a_slide_without_tissue_gives_a_valid_empty_heatmap(tmp_path):
    path = write_heatmap(tmp_path / "a.tif", an_extent([[None, None]]), a_slide(), tags={})
    with rasterio.open(path) as source:
        assert (source.read() == -1).all()
    assert cog_validate(path, strict=True)[0]


@pytest.mark.parametrize("mpp", [(1 / 16, 1 / 16), (1 / 16, 0.1)], ids=["both sides 1 um", "one side 1 um"])
def test_pixels_of_one_micrometre_keep_their_frame_without_a_warning(tmp_path, mpp):
    extent = an_extent([[0.5]], cell_l0=(16.0, 16.0))
    path = write_heatmap(tmp_path / "a.tif", extent, a_slide(mpp=mpp), tags={})
    with rasterio.open(path) as source:
        np.testing.assert_allclose(source.res, (16 * mpp[0], 16 * mpp[1]), rtol=1e-12)


def test_frame_is_micrometres_with_y_up(heatmap):
    with rasterio.open(heatmap) as source:
        assert source.transform == rasterio.Affine(16 * 0.25, 0, 0, 0, -16 * 0.5, 0)
        assert source.bounds == (0, -80 * 0.5, 80 * 0.25, 0)
        wkt = source.crs.to_wkt()  # GeoTIFF keeps the name of the frame and the factor of its unit
        assert wkt.split('"')[1] == frame_wkt().split('"')[1] and ",1E-06]" in wkt
        assert source.tags()["AREA_OR_POINT"] == "Area"


def test_pixel_size_lies_in_the_tiff_tags(heatmap):
    with tifffile.TiffFile(heatmap) as tiff:
        tags = tiff.pages[0].tags
        x, y = (np.divide(*tags[name].value) for name in ("XResolution", "YResolution"))
        assert (x, y) == pytest.approx((1e4 / (16 * 0.25), 1e4 / (16 * 0.5)), rel=1e-6)
        assert tags["ResolutionUnit"].value == tifffile.RESUNIT.CENTIMETER


@pytest.mark.parametrize("name", ["heatmap", "wide_heatmap"])
def test_every_page_is_lzw_in_tiles_without_palette_alpha_or_description(name, request):
    with tifffile.TiffFile(request.getfixturevalue(name)) as tiff:
        for page in tiff.pages:
            assert page.compression == tifffile.COMPRESSION.LZW and page.predictor == 1
            assert (page.tilewidth, page.tilelength, page.sampleformat) == (256, 256, 3)
            assert not {"ImageDescription", "ColorMap", "ExtraSamples"} & {tag.name for tag in page.tags}


def test_tifffile_reads_the_same_values_as_rasterio(wide_heatmap):
    with rasterio.open(wide_heatmap) as source:
        np.testing.assert_array_equal(tifffile.imread(wide_heatmap), source.read(1))


def test_overviews_average_only_what_has_a_value(wide_heatmap):
    with rasterio.open(wide_heatmap) as source:
        assert source.overviews(1) == [2, 4]
    with rasterio.open(wide_heatmap, overview_level=0) as half:
        np.testing.assert_allclose(half.read(1), 0.3, atol=1e-6)


@pytest.mark.parametrize(
    "size_l0", [(16, 16), (1, 1), (7, 90_000), (9600, 8192)], ids=["small", "one pixel", "strip", "overviews"]
)
def test_every_size_is_a_strictly_valid_cog(tmp_path, size_l0):
    path = write_heatmap(tmp_path / "a.tif", an_extent([[0.5]]), a_slide(size_l0), tags={})
    assert cog_validate(path, strict=True) == (True, [], [])


@pytest.mark.parametrize(
    ("names", "positive", "bands"),
    [
        (("tumour",), (), ["prob_tumour"]),
        (("normal", "tumour"), ("tumour",), ["prob_tumour", "prob_normal"]),
        (("normal", "tumour"), (), ["prob_cancer", "prob_normal", "prob_tumour"]),
        (("a", "b", "c"), ("b", "c"), ["prob_cancer", "prob_a", "prob_b", "prob_c"]),
    ],
    ids=["one class", "one positive", "positive unknown", "two positive"],
)
def test_first_band_is_cancer_and_every_class_has_one(tmp_path, names, positive, bands):
    classes = [[[k / 10]] for k in range(len(names))]
    extent = an_extent([[0.7]], names=names, classes=classes, cell_l0=(64.0, 64.0))
    path = write_heatmap(tmp_path / "a.tif", extent, a_slide(), tags={}, positive=positive)
    with rasterio.open(path) as source:
        assert list(source.descriptions) == bands
        shown = dict(zip(bands, source.read()[:, 0, 0], strict=True))
        alpha = {rasterio.enums.ColorInterp.alpha, rasterio.enums.ColorInterp.red}
        assert not alpha & set(source.colorinterp)
    expected = {f"prob_{name}": k / 10 for k, name in enumerate(names)} | {bands[0]: 0.7}
    assert shown == pytest.approx(expected)


def test_tags_tell_the_slide_and_the_run(tmp_path):
    slide = a_slide((64, 64), bounds_l0=(4, 8, 32, 16))
    path = write_heatmap(tmp_path / "a.tif", an_extent(TWO_BY_TWO), slide, tags={"config_hash": "c0ffee"})
    with rasterio.open(path) as source:
        tags = source.tags()
    assert tags["WSI_CONFIG_HASH"] == "c0ffee" and tags["WSI_USE"] == "Research use only"
    assert [tags[f"WSI_LEVEL0_{side}"] for side in ("WIDTH", "HEIGHT", "PX_PER_PIXEL")] == ["64", "64", "32"]
    assert [tags[f"WSI_BOUNDS_{k}"] for k in ("X", "Y", "WIDTH", "HEIGHT")] == ["4", "8", "32", "16"]
    assert (tags["WSI_MPP_X"], tags["WSI_THRESHOLD"]) == ("0.5", "0.5")


def test_no_tag_given_can_become_an_image_description(tmp_path):
    tags = {"TIFFTAG_IMAGEDESCRIPTION": "canary"}
    path = write_heatmap(tmp_path / "a.tif", an_extent(TWO_BY_TWO), a_slide(), tags=tags)
    with tifffile.TiffFile(path) as tiff:
        assert "ImageDescription" not in {tag.name for tag in tiff.pages[0].tags}


@pytest.mark.skipif(shutil.which("gdalinfo") is None, reason="gdalinfo is not installed")
def test_gdalinfo_shows_the_frame(heatmap):
    run = subprocess.run(["gdalinfo", "-json", heatmap], capture_output=True, check=True)
    told = json.loads(run.stdout)
    assert told["size"] == [5, 5] and told["geoTransform"] == [0, 4, 0, 0, 0, -8]
    assert "Slide frame: micrometres" in told["coordinateSystem"]["wkt"]
    assert told["metadata"]["IMAGE_STRUCTURE"]["LAYOUT"] == "COG"
    assert told["bands"][0]["description"] == "prob_tumour" and told["bands"][0]["noDataValue"] == -1


def test_openslide_takes_a_heatmap_for_a_slide_so_finding_slides_must_leave_it_out(heatmap):
    assert openslide.OpenSlide.detect_format(heatmap) == "generic-tiff"


def test_a_heatmap_is_replaced_whole_and_leaves_nothing_beside_it(heatmap):
    write_heatmap(heatmap, an_extent([[0.25]], cell_l0=(64.0, 64.0)), a_slide(), tags={})
    with rasterio.open(heatmap) as source:
        assert set(np.unique(source.read())) == {np.float32(0.25)}
    assert [path.name for path in heatmap.parent.iterdir()] == [heatmap.name]


def test_threads_write_the_same_bytes(tmp_path):
    def write(k):
        path = write_heatmap(tmp_path / f"{k}.tif", an_extent(TWO_BY_TWO), a_slide(), tags={})
        return path.read_bytes()

    with ThreadPoolExecutor(4) as pool:
        assert len(set(pool.map(write, range(8)))) == 1


def test_import_sets_up_no_gdal():
    code = "import wsi_pipeline.maps.heatmap, rasterio.env; raise SystemExit(rasterio.env.hasenv())"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_style_has_a_fixed_scale_from_clear_to_strong(tmp_path):
    root = ElementTree.parse(write_style(tmp_path / "a_likelihood_map.qml")).getroot()
    renderer, shader = root.find(".//rasterrenderer"), root.find(".//colorrampshader")
    assert (renderer.get("type"), renderer.get("band")) == ("singlebandpseudocolor", "1")
    assert (shader.get("minimumValue"), shader.get("maximumValue")) == ("0", "1")
    items = [(float(item.get("value")), int(item.get("alpha"))) for item in shader]
    assert items[0] == (0, 0) and items[-1][0] == 1 and items == sorted(items)
