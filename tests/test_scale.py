"""Micrometres per pixel: which source wins, what is refused, and the units of TIFF tags."""

import pytest

from wsi_pipeline.errors import ScaleError
from wsi_pipeline.geometry import Mpp
from wsi_pipeline.slide.scale import contradicts_objective, resolve_mpp, tiff_resolution_mpp

NOTHING = {"manifest": None, "vendor": None, "tiff": None, "default": None, "objective_power": None, "name": "a.tif"}
ALL = {"manifest": (0.5, 0.6), "vendor": (0.3, 0.31), "tiff": (0.4, 0.41), "default": 0.7}


@pytest.mark.parametrize(
    ("absent", "expected"),
    [
        pytest.param((), Mpp(0.5, 0.6, "manifest"), id="manifest first"),
        pytest.param(("manifest",), Mpp(0.3, 0.31, "vendor"), id="then vendor"),
        pytest.param(("manifest", "vendor"), Mpp(0.4, 0.41, "tiff-resolution"), id="then TIFF resolution"),
        pytest.param(("manifest", "vendor", "tiff"), Mpp(0.7, 0.7, "default"), id="default last"),
    ],
)
def test_the_first_source_that_speaks_is_taken(absent: tuple[str, ...], expected: Mpp) -> None:
    assert resolve_mpp(**NOTHING | {name: pair for name, pair in ALL.items() if name not in absent}) == expected


def test_no_source_at_all_names_the_file_and_both_ways_out() -> None:
    with pytest.raises(ScaleError, match=r"a\.tif: no mpp in the file; give a manifest column mpp, or --mpp-default"):
        resolve_mpp(**NOTHING)


@pytest.mark.parametrize("source", ["manifest", "vendor", "tiff"])
@pytest.mark.parametrize(
    "pair",
    [
        pytest.param((0.049, 0.5), id="too fine along x"),
        pytest.param((0.5, 20.1), id="too coarse along y"),
        pytest.param((352.778, 352.778), id="72 dpi"),
        pytest.param((0.0, 0.0), id="zero"),
        pytest.param((-0.5, -0.5), id="negative"),
        pytest.param((float("nan"), 0.5), id="no number"),
    ],
)
def test_an_implausible_scale_is_refused_and_not_passed_over(source: str, pair: tuple[float, float]) -> None:
    with pytest.raises(ScaleError, match=r"a\.tif: mpp .* is implausible, outside 0\.05 to 20"):
        resolve_mpp(**NOTHING | {source: pair, "default": 0.5})


@pytest.mark.parametrize("edge", [0.05, 20.0])
def test_the_plausible_range_includes_its_ends(edge: float) -> None:
    assert resolve_mpp(**NOTHING | {"default": edge}).x == edge


def test_an_implausible_default_is_refused_too() -> None:
    with pytest.raises(ScaleError, match=r"\(default\) is implausible"):
        resolve_mpp(**NOTHING | {"default": 250.0})


@pytest.mark.parametrize("source", ["vendor", "tiff"])
def test_a_scale_of_the_file_that_contradicts_its_objective_is_refused(source: str) -> None:
    with pytest.raises(
        ScaleError, match=r"mpp 0\.5 x 0\.5 um/px .*does not fit its objective of 40x; give the right mpp"
    ):
        resolve_mpp(**NOTHING | {source: (0.5, 0.5), "objective_power": 40.0})


def test_what_the_user_gives_is_not_held_against_the_objective() -> None:
    told = NOTHING | {"vendor": (0.5, 0.5), "objective_power": 40.0}
    assert resolve_mpp(**told | {"manifest": (0.5, 0.5)}).source == "manifest"
    assert resolve_mpp(**NOTHING | {"default": 0.5, "objective_power": 40.0}).source == "default"


@pytest.mark.parametrize(
    ("x", "y", "power", "expected"),
    [
        pytest.param(0.5, 0.5, 20.0, False, id="20x"),
        pytest.param(0.25, 0.25, 40.0, False, id="40x"),
        pytest.param(0.23, 0.23, 20.0, False, id="Pannoramic at 20x"),
        pytest.param(0.22, 0.22, 20.0, False, id="Axioscan at 20x"),
        pytest.param(0.274, 0.274, 20.0, False, id="VS200 at 20x"),
        pytest.param(0.79, 0.5, 20.0, False, id="a little coarser"),
        pytest.param(0.81, 0.5, 20.0, True, id="x above it"),
        pytest.param(0.5, 0.19, 20.0, True, id="y below it"),
        pytest.param(5.0, 5.0, None, False, id="no power"),
        pytest.param(5.0, 5.0, 0.0, False, id="power 0"),
    ],
)
def test_a_scale_far_from_that_of_its_objective_contradicts_it(
    x: float, y: float, power: float | None, expected: bool
) -> None:
    assert contradicts_objective(Mpp(x, y), power) is expected


@pytest.mark.parametrize(
    ("resolution", "unit", "expected"),
    [
        pytest.param((50_800.0, 25_400.0), 2, (0.5, 1.0), id="inch"),
        pytest.param((20_000.0, 40_000.0), 3, (0.5, 0.25), id="centimetre"),
        pytest.param((20_000.0, 20_000.0), "cm", (0.5, 0.5), id="cm in words"),
        pytest.param((50_800.0, 50_800.0), "INCH", (0.5, 0.5), id="inch in words"),
        pytest.param((20_000.0, 20_000.0), 1, None, id="unit none"),
        pytest.param((20_000.0, 20_000.0), None, None, id="no unit"),
        pytest.param((20_000.0, 20_000.0), "ell", None, id="unknown unit"),
        pytest.param((0.0, 20_000.0), 3, None, id="zero"),
        pytest.param((20_000.0, None), 3, None, id="one side missing"),
        pytest.param((-1.0, 20_000.0), 3, None, id="negative"),
    ],
)
def test_tiff_resolution_is_pixels_per_unit(
    resolution: tuple[float | None, float | None], unit: int | str | None, expected: tuple[float, float] | None
) -> None:
    found = tiff_resolution_mpp(*resolution, unit)
    assert found == (pytest.approx(expected) if expected else None)
