"""Overlay and tissue PNG: what is drawn lies where it should, on tissue only, for slides of any shape."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from math import nan

import numpy as np
import pytest
import shapely
from map_samples import a_slide, a_tissue, an_extent
from PIL import Image

from wsi_pipeline.maps.lesions import Lesion
from wsi_pipeline.maps.overlay import blend, draw_overlay, draw_tissue
from wsi_pipeline.maps.sheet import BOTTOM, PAGE_PX, fit_view, resize_thumbnail
from wsi_pipeline.maps.wording import PICTURE_KEY

ONES = np.ones((8, 8))


def a_lesion(box_l0) -> Lesion:
    polygon = shapely.MultiPolygon([shapely.box(*box_l0)])
    fields = {"centroid_um": (0.0, 0.0), "centroid_l0": (0.0, 0.0), "mean_probability": 0.8}
    return Lesion(1, 0.1, 1234.0, max_probability=0.9, tiles=4, polygon=polygon, **fields)


def draw(path, extent, slide, *, tissue=None, lesions=(), title="a"):
    tissue = a_tissue(ONES) if tissue is None else tissue
    return draw_overlay(path, tissue.thumbnail, tissue, extent, lesions, slide, title=title)


def picture_of(path) -> np.ndarray:
    """The slide's own part of a PNG, (height, width, 3) int."""
    with Image.open(path) as image:
        left, top, width, height = map(int, image.info[PICTURE_KEY].split())
        return np.asarray(image.crop((left, top, left + width, top + height))).astype(int)


def lit_box_l0(pixels, view, grey=200):
    """Level-0 box (x0, y0, x1, y1) of the pixels that are no longer grey."""
    rows, cols = np.nonzero((pixels != grey).any(axis=-1))
    corners = np.array([cols.min(), rows.min(), cols.max() + 1, rows.max() + 1])
    return corners * np.tile(view.pixel_l0, 2) + np.tile(view.box_l0[:2], 2)


@pytest.mark.parametrize("bounds", [None, (32, 16, 80, 96)], ids=["whole slide", "bounds"])
@pytest.mark.parametrize("cell", [(2, 1), (3, 3)], ids=str)
def test_one_cell_lights_its_own_place_on_the_slide(tmp_path, bounds, cell):
    cells = np.full((4, 4), np.nan)
    cells[cell] = 1.0
    slide, extent = a_slide((128, 128), bounds_l0=bounds), an_extent(cells, tissue=np.zeros((4, 4)))
    view = fit_view(slide, (16.0, 16.0))
    pixels = picture_of(draw(tmp_path / "a.png", extent, slide))
    x, y, width, height = bounds or (0, 0, 128, 128)
    whole = 32 * np.array([cell[1], cell[0], cell[1] + 1, cell[0] + 1])
    expected = np.clip(whole, [x, y] * 2, [x + width, y + height] * 2)
    np.testing.assert_allclose(lit_box_l0(pixels, view), expected, atol=max(view.pixel_l0))


def test_cells_that_reach_over_the_slide_stay_aligned(tmp_path):
    slide = a_slide((100, 70))  # 4 x 3 cells of 32 px, thumbnail of 7 x 5 px of 16
    cells = np.full((3, 4), np.nan)
    cells[1, 2] = 1.0
    tissue, extent = a_tissue(np.ones((5, 7))), an_extent(cells, tissue=np.zeros((3, 4)))
    pixels = picture_of(draw(tmp_path / "a.png", extent, slide, tissue=tissue))
    view = fit_view(slide, tissue.cell_l0)
    np.testing.assert_allclose(lit_box_l0(pixels, view), (64, 32, 96, 64), atol=max(view.pixel_l0))


def test_a_finer_thumbnail_covers_the_same_ground_as_the_mask(tmp_path):
    tissue, slide = a_tissue(ONES), a_slide((128, 128))
    fine = np.full((32, 32, 3), 200, dtype=np.uint8)
    fine[8:12, 16:20] = 0  # level-0 x 64-80, y 32-48
    empty = an_extent([[None]], cell_l0=(128.0, 128.0))
    path = draw_overlay(tmp_path / "a.png", fine, tissue, empty, (), slide, title="a")
    dark = picture_of(path).max(axis=-1) < 100
    view = fit_view(slide, (4.0, 4.0))
    box = lit_box_l0(np.where(dark, 0, 200)[..., None], view)
    np.testing.assert_allclose(box, (64, 32, 80, 48), atol=4)


def test_probability_is_laid_on_tissue_only():
    tissue, slide = a_tissue(np.eye(8)), a_slide((128, 128))
    view = fit_view(slide, tissue.cell_l0)
    base = resize_thumbnail(tissue.thumbnail, tissue.cell_l0, view)
    changed = (blend(base, tissue, an_extent(np.ones((4, 4))), view) != base).any(axis=-1)
    side = view.size_px[0] // 8
    np.testing.assert_array_equal(changed, np.kron(np.eye(8), np.ones((side, side))) > 0)


def test_low_probability_leaves_the_tissue_as_it_is():
    tissue, slide = a_tissue(ONES), a_slide((128, 128))
    view = fit_view(slide, tissue.cell_l0)
    base = resize_thumbnail(tissue.thumbnail, tissue.cell_l0, view)
    np.testing.assert_array_equal(blend(base, tissue, an_extent(np.zeros((4, 4))), view), base)


def test_tissue_that_could_not_be_read_is_hatched_grey():
    tissue, slide = a_tissue(ONES), a_slide((128, 128))
    view = fit_view(slide, tissue.cell_l0)
    base = resize_thumbnail(tissue.thumbnail, tissue.cell_l0, view)
    unread = np.array([[False, True]])
    extent = an_extent([[0.0, None]], cell_l0=(64.0, 128.0), tissue=np.ones((1, 2)), unread=unread)
    pixels, half = blend(base, tissue, extent, view), view.size_px[0] // 2
    np.testing.assert_array_equal(pixels[:, :half], base[:, :half])
    hatched = pixels[:, half:]
    assert (hatched == hatched[..., :1]).all() and len(np.unique(hatched)) == 2


def test_tissue_under_no_tile_is_veiled_and_not_hatched():
    tissue, slide = a_tissue(ONES), a_slide((128, 128))
    view = fit_view(slide, tissue.cell_l0)
    base = resize_thumbnail(tissue.thumbnail, tissue.cell_l0, view)
    extent = an_extent([[0.0, None]], cell_l0=(64.0, 128.0), tissue=np.ones((1, 2)))
    veiled = blend(base, tissue, extent, view)[:, view.size_px[0] // 2 :]
    assert np.unique(veiled).tolist() == [round(200 * 0.55 + 0x8C * 0.45)]


def test_lesion_outline_follows_its_polygon(tmp_path):
    slide, extent = a_slide((128, 128)), an_extent(np.zeros((4, 4)))
    pixels = picture_of(draw(tmp_path / "a.png", extent, slide, lesions=[a_lesion((32, 32, 96, 64))]))
    view = fit_view(slide, (16.0, 16.0))
    rows, cols = np.nonzero(pixels.max(axis=-1) < 90)
    x, y = (cols + 0.5) * view.pixel_l0[0], (rows + 0.5) * view.pixel_l0[1]
    x, y = x[x < 97], y[x < 97]  # beyond stands the lesion's number
    outline = shapely.box(32, 32, 96, 64).exterior
    near = shapely.distance(shapely.points(x, y), outline) < 3 * view.pixel_l0[0]
    assert near.mean() > 0.99 and x.min() == pytest.approx(32, abs=2) and y.min() == pytest.approx(32, abs=2)


@pytest.mark.parametrize(
    ("size_l0", "cell_l0"),
    [
        ((16, 16), (16.0, 16.0)),
        ((1, 1), (1.0, 1.0)),
        ((64, 30_000), (16.0, 16.0)),
        ((30_000, 64), (16.0, 16.0)),
        ((100_000, 80_000), (800.0, 800.0)),
    ],
    ids=["16 px", "1 px", "tall", "wide", "large"],
)
def test_pages_are_bounded_for_slides_of_any_shape(tmp_path, size_l0, cell_l0):
    rows, cols = (-(-side // int(cell)) for side, cell in zip(size_l0[::-1], cell_l0[::-1], strict=True))
    slide, tissue = a_slide(size_l0), a_tissue(np.ones((rows, cols)), cell_l0=cell_l0)
    extent = an_extent(np.full((rows, cols), 0.7), cell_l0=cell_l0)
    overlay = draw(tmp_path / "o.png", extent, slide, tissue=tissue, lesions=[a_lesion((0, 0, *size_l0))])
    for path in (overlay, draw_tissue(tmp_path / "t.png", tissue, slide, title="a")):
        with Image.open(path) as image:
            assert max(image.size) <= PAGE_PX and image.mode == "RGB"


@pytest.mark.parametrize(
    "title",
    ["", "a $x_1$ \\frac", "🧬 切片 \udcff\n\t<b>", "W" * 400],
    ids=["empty", "math", "marks", "long"],
)
def test_any_title_is_drawn_without_a_warning(tmp_path, title):
    assert draw(tmp_path / "a.png", an_extent(ONES / 2), a_slide(), title=title).stat().st_size > 0


@pytest.mark.parametrize("box", [(64, 32, 128, 96), (32, 0, 96, 64)], ids=["right", "top"])
def test_a_lesion_at_the_edge_of_the_picture_bears_its_number_too(tmp_path, box):
    slide, extent, lesion = a_slide((128, 128)), an_extent(np.zeros((4, 4))), a_lesion(box)
    plain, numbered = tmp_path / "a.png", tmp_path / "b.png"
    draw(plain, extent, slide, lesions=[replace(lesion, number=1)])
    draw(numbered, extent, slide, lesions=[replace(lesion, number=2)])
    rows, _ = np.nonzero((picture_of(plain) != picture_of(numbered)).any(axis=-1))
    assert len(rows) and np.ptp(rows) >= 8  # of the whole digit


def test_a_lesion_outside_of_the_bounds_shown_bears_no_number(tmp_path):
    slide, extent = a_slide((128, 128), bounds_l0=(0, 40, 64, 88)), an_extent(np.zeros((4, 4)))
    plain, outside = tmp_path / "a.png", tmp_path / "b.png"
    draw(plain, extent, slide)
    draw(outside, extent, slide, lesions=[a_lesion((72, 48, 120, 96)), a_lesion((8, 0, 56, 32))])
    np.testing.assert_array_equal(picture_of(plain), picture_of(outside))


def test_the_legend_ends_on_a_narrow_page(tmp_path):
    cells, unread, slide = np.full((16, 2), 0.9), np.zeros((16, 2), bool), a_slide((64, 512))
    cells[4:8, 0], unread[4:6, 0] = nan, True  # two rows of each: not read, and under no tile
    extent, tissue = an_extent(cells, tissue=np.ones((16, 2)), unread=unread), a_tissue(np.ones((32, 4)))
    draw(tmp_path / "a.png", extent, slide, tissue=tissue, lesions=[a_lesion((0, 0, 64, 64))])
    with Image.open(tmp_path / "a.png") as image:
        row = np.asarray(image.convert("L"))[-BOTTOM + 16 : -BOTTOM + 36]
    assert np.flatnonzero((row < 200).any(axis=0)).max() < row.shape[1] - 8


def test_a_slide_without_tissue_or_numbers_is_drawn(tmp_path):
    numbers = dict.fromkeys(("share", "cancer_mm2", "cancer_mm2_low", "tissue_mm2"), nan)
    extent, tissue = an_extent([[None]], cell_l0=(128.0, 128.0), **numbers), a_tissue(np.zeros((8, 8)))
    assert (picture_of(draw(tmp_path / "a.png", extent, a_slide((128, 128)), tissue=tissue)) == 200).all()
    assert (picture_of(draw_tissue(tmp_path / "t.png", tissue, a_slide((128, 128)), title="a")) == 200).all()


def test_tissue_outline_runs_along_the_mask(tmp_path):
    mask = np.zeros((8, 8))
    mask[2:4, 2:6] = 1  # level-0 x 32-96, y 32-64
    slide = a_slide((128, 128))
    pixels = picture_of(draw_tissue(tmp_path / "t.png", a_tissue(mask), slide, title="a"))
    blue = np.where((pixels[..., 2] - pixels[..., 0])[..., None] > 60, 0, 200)
    view = fit_view(slide, (16.0, 16.0))
    np.testing.assert_allclose(lit_box_l0(blue, view), (32, 32, 96, 64), atol=2 * view.pixel_l0[0])


def test_threads_draw_the_same_bytes(tmp_path):
    extent, slide = an_extent(np.linspace(0, 1, 16).reshape(4, 4)), a_slide((128, 128))

    def draw_one(k):
        return draw(tmp_path / f"{k}.png", extent, slide, lesions=[a_lesion((32, 32, 96, 64))]).read_bytes()

    with ThreadPoolExecutor(4) as pool:
        assert len(set(pool.map(draw_one, range(8)))) == 1


def test_an_overlay_is_replaced_whole_and_leaves_nothing_beside_it(tmp_path):
    for _ in range(2):
        draw(tmp_path / "a.png", an_extent(ONES), a_slide())
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


def test_unequal_scales_keep_the_shape_of_the_glass():
    slide = replace(a_slide((128, 128)), mpp_l0=a_slide(mpp=(0.5, 1.0)).mpp_l0)
    width, height = fit_view(slide, (16.0, 16.0)).size_px
    assert height == 2 * width
