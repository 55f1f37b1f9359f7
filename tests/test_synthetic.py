"""Drawn slides open anywhere, tell their exact areas, and look the same at every level."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import openslide
import pytest
import tifffile

from wsi_pipeline.slide.synthetic import SlideTruth, Tumour, draw_cohort, draw_slide, draw_tiles, tumour_mask

DISC = Tumour(1024, 1024, 300, 200)


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> SlideTruth:
    """A slide of 4096 x 4096 px at 0.5 um/px with one tumour about its centre."""
    return draw_slide(tmp_path_factory.mktemp("drawn") / "a.tif", size_px=(4096, 4096), tumours=[DISC], seed=1)


@pytest.fixture(scope="module")
def tiles() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """96 tiles in four stains, their share of tumour, and whether their centre lies in it."""
    return draw_tiles(96, tile_px=64, mpp=0.5, seed=0)


def pixels(truth: SlideTruth, level: int = 0) -> np.ndarray:
    with tifffile.TiffFile(truth.path) as tiff:
        return tiff.pages[level].asarray()


def test_openslide_opens_it_as_a_pyramid_of_256_px_tiles(drawn: SlideTruth) -> None:
    with openslide.OpenSlide(drawn.path) as slide:
        assert slide.properties["openslide.vendor"] == "generic-tiff"
        assert slide.level_dimensions == ((4096, 4096), (2048, 2048), (1024, 1024))
        assert slide.properties["openslide.level[0].tile-width"] == "256"
        assert float(slide.properties["openslide.mpp-x"]) == float(slide.properties["openslide.mpp-y"]) == 0.5


def test_openslide_and_tifffile_see_the_same_pixels(drawn: SlideTruth) -> None:
    with openslide.OpenSlide(drawn.path) as slide:
        region = np.asarray(slide.read_region((1500, 2000), 0, (300, 200)).convert("RGB")).astype(int)
    assert np.abs(region - pixels(drawn)[2000:2200, 1500:1800]).max() <= 3


def test_mpp_can_be_left_out(tmp_path: Path) -> None:
    truth = draw_slide(tmp_path / "a.tif", size_px=(300, 200), with_mpp=False)
    with openslide.OpenSlide(truth.path) as slide:
        assert "openslide.mpp-x" not in slide.properties


def test_nothing_of_this_machine_is_in_the_file(drawn: SlideTruth) -> None:
    with tifffile.TiffFile(drawn.path) as tiff:
        names = set(tiff.pages[0].tags.keys()) & {270, 305, 306, 315, 316}  # description, software, date, ...
    assert names == set()


def test_areas_are_those_of_the_formulas(drawn: SlideTruth) -> None:
    assert drawn.tumour_mm2 == pytest.approx(np.pi * 0.3 * 0.2)
    assert DISC.area_mm2 == drawn.tumour_mm2


def test_tissue_area_is_what_is_not_glass(drawn: SlideTruth) -> None:
    small = pixels(drawn, 2)  # 2 um/px
    tissue = small.max(axis=2).astype(int) - small.min(axis=2) > 12
    blocks = tissue.reshape(128, 8, 128, 8).mean(axis=(1, 3)) > 0.3  # clefts between fibres count as tissue
    assert blocks.sum() * 16**2 * 1e-6 == pytest.approx(drawn.tissue_mm2, rel=0.03)


def test_tumour_is_drawn_where_the_truth_says(drawn: SlideTruth) -> None:
    coarse = pixels(drawn, 2).reshape(128, 8, 128, 8, 3).mean(axis=(1, 3))  # 16 um
    purple = coarse[..., 0] < coarse[..., 2]  # red below blue: haematoxylin
    truth = tumour_mask(drawn, (128, 128), 16.0)
    rim = tumour_mask(drawn, (128, 128), 16.0) ^ (np.roll(truth, 1, 0) & np.roll(truth, 1, 1) & np.roll(truth, -1, 0))
    assert purple[truth & ~rim].mean() > 0.95


def test_the_border_of_a_tumour_is_sharp(drawn: SlideTruth) -> None:
    level_0 = pixels(drawn).astype(float)
    rows = np.arange(2008, 2088)  # along the tip of the ellipse at x = 1324 um, where it hardly curves
    redness = (level_0[rows, :, 0] - level_0[rows, :, 2]).mean(axis=0)
    inside, outside = redness[2500:2636].mean(), redness[2660:2760].mean()
    middle = (redness > (inside + outside) / 2)[2620:2676]
    assert abs(2620 + int(np.argmax(middle)) - 1324 / 0.5) <= 8  # 4 um, with 1.5 um of curve and nuclei


def test_a_level_is_the_mean_of_the_finer_one(drawn: SlideTruth) -> None:
    mean = pixels(drawn).reshape(2048, 2, 2048, 2, 3).mean(axis=(1, 3))
    level_1 = pixels(drawn, 1).astype(float)
    off, off_by_one = np.abs(mean - level_1).mean(), np.abs(mean - np.roll(level_1, 1, axis=1)).mean()
    assert abs((mean - level_1).mean()) < 0.5
    assert off < 4 and off < 0.4 * off_by_one  # what JPEG leaves; a pixel of shift would be far more


def test_tumour_mask_has_the_area_on_any_grid(drawn: SlideTruth) -> None:
    fine = tumour_mask(drawn, (1024, 512), (4.0, 2.0))
    assert fine.sum() * 8e-6 == pytest.approx(drawn.tumour_mm2, rel=2e-3)


def test_one_seed_gives_one_slide(tmp_path: Path) -> None:
    paths = [draw_slide(tmp_path / name, size_px=(700, 500), seed=3).path for name in ("a.tif", "b.tif")]
    other = draw_slide(tmp_path / "c.tif", size_px=(700, 500), seed=4).path
    first, second, third = (Path(path).read_bytes() for path in (*paths, other))
    assert first == second != third


@pytest.mark.parametrize("seed", range(0, 32, 4))  # every fourth seed has the same textures
def test_the_promised_middle_of_a_slide_is_tissue(tmp_path: Path, seed: int) -> None:
    widest = Tumour(200, 150, 0.32 * 400, 0.32 * 300)
    draw_slide(tmp_path / "a.tif", size_px=(400, 300), mpp=1.0, tumours=[widest], seed=seed)


@pytest.mark.parametrize(
    ("tumours", "message"),
    [
        pytest.param([Tumour(20, 20, 30, 30)], "not wholly in tissue", id="on-glass"),
        pytest.param([Tumour(250, 250, 240, 60)], "not wholly in tissue", id="over-the-edge"),
        pytest.param([Tumour(240, 250, 30, 30), Tumour(280, 250, 30, 30)], "touches another", id="overlap"),
        pytest.param([Tumour(250, 250, 90, 90), Tumour(250, 250, 20, 20)], "touches another", id="nested"),
    ],
)
def test_tumours_whose_area_would_not_be_exact_are_refused(tmp_path: Path, tumours: list, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        draw_slide(tmp_path / "a.tif", size_px=(1000, 1000), tumours=tumours)
    assert not (tmp_path / "a.tif").exists()


def test_an_unknown_pen_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="pen 'pink'"):
        draw_slide(tmp_path / "a.tif", size_px=(300, 300), pen="pink")


def test_a_slide_smaller_than_a_tile_can_be_drawn(tmp_path: Path) -> None:
    truth = draw_slide(tmp_path / "a.tif", size_px=(100, 60))
    assert pixels(truth).shape == (60, 100, 3)


def test_tiles_come_in_thirds_with_their_truth(tiles: tuple[np.ndarray, np.ndarray, np.ndarray]) -> None:
    rgb, share, centre = tiles
    assert rgb.shape == (96, 64, 64, 3) and rgb.dtype == np.uint8
    assert share.min() == 0 and share.max() == 1 and centre.dtype == bool
    for part in (share == 0, share == 1, (share > 0) & (share < 1)):
        assert 0.2 < part.mean() < 0.5


@pytest.mark.parametrize("mpp", [0.25, 1.0, 2.0], ids=str)
def test_tiles_of_any_scale_are_of_all_three_kinds(mpp: float) -> None:
    rgb, share, _ = draw_tiles(24, tile_px=64, mpp=mpp, seed=0)
    assert rgb.shape == (24, 64, 64, 3)
    assert all(part.sum() >= 3 for part in (share == 0, share == 1, (share > 0) & (share < 1)))


def test_the_centre_of_a_tile_agrees_with_its_share(tiles: tuple[np.ndarray, np.ndarray, np.ndarray]) -> None:
    _, share, centre = tiles
    assert centre[share == 1].all() and not centre[share == 0].any()
    assert 0.2 < centre[(share > 0) & (share < 1)].mean() < 0.8


def test_tiles_of_tumour_are_bluer_than_normal_ones_of_their_stain(
    tiles: tuple[np.ndarray, np.ndarray, np.ndarray],
) -> None:
    rgb, share = tiles[0][:24], tiles[1][:24]  # one stain
    blueness = (rgb[..., 2].astype(float) - rgb[..., 0]).mean(axis=(1, 2))
    assert blueness[share == 1].min() > np.median(blueness[share == 0])


def test_one_seed_gives_one_set_of_tiles() -> None:
    first, second = (draw_tiles(3, tile_px=32, mpp=0.5, seed=0)[0] for _ in range(2))
    np.testing.assert_array_equal(first, second)


def test_a_cohort_has_slides_without_and_with_one_to_three_tumours(tmp_path: Path) -> None:
    truths = draw_cohort(tmp_path / "slides", slides=4, size_px=(800, 640), mpp=0.5, seed=1)
    assert [len(truth.tumours) for truth in truths] == [0, 1, 2, 3]
    assert [Path(truth.path).name for truth in truths] == [f"synthetic_0{k}.tif" for k in (1, 2, 3, 4)]
    assert len({truth.tissue_mm2 for truth in truths}) == 4


@pytest.mark.big
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="peak memory is read from /proc")
def test_a_slide_of_20000_px_is_drawn_in_half_of_the_memory_of_its_pixels(tmp_path: Path) -> None:
    code = (
        "from wsi_pipeline.slide.synthetic import draw_slide;"
        f"draw_slide({str(tmp_path / 'a.tif')!r}, size_px=(20000, 20000));"
        "print([line.split()[1] for line in open('/proc/self/status') if line.startswith('VmHWM')][0])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(done.stdout) * 1024 < 550e6  # its pixels alone are 1.2 GB
