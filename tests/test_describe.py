"""A Slide from what the file says and what the user says."""

from pathlib import Path

import pytest

from wsi_pipeline.errors import ScaleError
from wsi_pipeline.geometry import Mpp
from wsi_pipeline.slide.describe import Facts, Slide, describe, working_mpp


def a_slide(folder: Path, *, mpp: tuple[float, float] | None = None, **facts: object) -> Slide:
    (folder / "case.svs").write_bytes(b"12345")
    known = {"level_sizes": ((400, 200), (100, 50)), "level_downsamples": (1.0, 4.0)} | facts
    found = Facts(vendor="aperio", backend="openslide", codec="JPEG", **known)
    return describe(folder / "case.svs", found, slide_id=None, mpp=mpp, mpp_default=None)


def test_the_name_without_suffix_is_the_id_where_none_is_given(tmp_path: Path) -> None:
    slide = a_slide(tmp_path, mpp=(0.5, 0.4))
    assert (slide.id, slide.size_l0, slide.mpp_l0) == ("case", (400, 200), Mpp(0.5, 0.4, "manifest"))


def test_the_fingerprint_is_quickhash_and_size_or_a_hash_of_its_own(tmp_path: Path) -> None:
    assert a_slide(tmp_path, mpp=(0.5, 0.5), quickhash="abc").fingerprint == "abc-5"
    assert a_slide(tmp_path, mpp=(0.5, 0.5)).fingerprint.endswith("-5")


def test_a_manifest_against_the_objective_is_taken_with_a_warning(tmp_path: Path) -> None:
    slide = a_slide(tmp_path, mpp=(0.5, 0.5), stated_mpp=(0.25, 0.25), objective_power=40.0)
    assert slide.mpp_l0.source == "manifest"
    assert slide.warnings == ("mpp 0.5 of the manifest does not fit the objective of 40x",)


def test_a_default_against_the_objective_is_taken_with_a_warning(tmp_path: Path) -> None:
    (tmp_path / "case.svs").write_bytes(b"12345")
    facts = Facts("aperio", "openslide", "JPEG", ((400, 200),), (1.0,), objective_power=40.0)
    slide = describe(tmp_path / "case.svs", facts, slide_id=None, mpp=None, mpp_default=0.5)
    assert "mpp 0.5 of the default does not fit the objective of 40x" in slide.warnings


def test_a_file_against_its_own_objective_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ScaleError, match=r"^case\.svs: .*objective of 40x"):
        a_slide(tmp_path, stated_mpp=(0.5, 0.5), objective_power=40.0)


def test_a_single_level_giant_is_said_to_be_slow(tmp_path: Path) -> None:
    facts = {"level_sizes": ((20_000, 10_000),), "level_downsamples": (1.0,)}
    assert a_slide(tmp_path, mpp=(0.5, 0.5), **facts).warnings == ("a single level: overviews are slow to read",)


def test_pixels_that_are_not_square_are_resampled_to_square_ones(tmp_path: Path) -> None:
    slide = a_slide(tmp_path, mpp=(0.25, 0.24))
    assert working_mpp(slide, 0.25) == Mpp(0.25, 0.25, "resampled")
    assert working_mpp(a_slide(tmp_path, mpp=(0.25, 0.252)), 0.25) == Mpp(0.25, 0.252, "level")


@pytest.mark.parametrize(
    ("asked", "got"),
    [(0.5, Mpp(0.4912, 0.4912, "reduced")), (0.25, Mpp(0.2456, 0.2456, "level")), (0.7, Mpp(0.7, 0.7, "resampled"))],
)
def test_what_the_decoder_reduces_to_within_2_percent_is_the_scale_of_the_tiles(
    tmp_path: Path, asked: float, got: Mpp
) -> None:
    slide = a_slide(tmp_path, mpp=(0.2456, 0.2456), level_sizes=((400, 200),), level_downsamples=(1.0,))
    assert working_mpp(slide, asked, reductions=(1, 2, 4, 8)) == got
    assert working_mpp(slide, 0.5) == Mpp(0.5, 0.5, "resampled")


def test_a_level_of_exactly_the_tolerance_is_near(tmp_path: Path) -> None:
    assert working_mpp(a_slide(tmp_path, mpp=(1.071, 1.071)), 1.05) == Mpp(1.071, 1.071, "level")
