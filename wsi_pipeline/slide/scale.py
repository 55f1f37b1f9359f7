"""Micrometres per pixel of a slide: what the manifest, the vendor and the TIFF tags say -> one Mpp with its source."""

from wsi_pipeline.errors import ScaleError
from wsi_pipeline.geometry import Mpp

Pair = tuple[float, float]

PLAUSIBLE_UM = (0.05, 20.0)  # 200x to 0.5x; outside it a tag holds dots per inch of a screen or nonsense
OBJECTIVE_UM = 10.0  # a 20x objective samples at about 0.5 um/px, a 40x one at 0.25
OBJECTIVE_RATIOS = (0.4, 1.6)  # of um/px to that; adapters and small pixels of cameras make it finer, hardly coarser
_UM_PER_UNIT = {2: 25_400.0, 3: 10_000.0}  # TIFF ResolutionUnit: inch, centimetre; 1 means none


def resolve_mpp(
    *,
    manifest: Pair | None,
    vendor: Pair | None,
    tiff: Pair | None,
    default: float | None,
    objective_power: float | None,
    name: str,
) -> Mpp:
    """The scale of level 0 in um/px, x and y apart: manifest, vendor, TIFF resolution, default, in that order.

    A value of the file that is implausible is refused, not passed over: the next source would hide it.
    What the user gives is only held against the plausible range. Raises ScaleError with what to do.
    """
    given = ((manifest, "manifest"), (vendor, "vendor"), (tiff, "tiff-resolution"))
    for pair, source in given:
        if pair is not None:
            mpp = Mpp(float(pair[0]), float(pair[1]), source)
            break
    else:
        if default is None:
            raise ScaleError(f"{name}: no mpp in the file; give a manifest column mpp, or --mpp-default")
        mpp = Mpp(default, default, "default")
    _check_range(mpp, name)
    if mpp.source in ("vendor", "tiff-resolution") and contradicts_objective(mpp, objective_power):
        raise ScaleError(
            f"{name}: mpp {mpp.x:g} x {mpp.y:g} um/px ({mpp.source}) does not fit its objective of "
            f"{objective_power:g}x; give the right mpp in a manifest column mpp"
        )
    return mpp


def contradicts_objective(mpp: Mpp, objective_power: float | None) -> bool:
    """Whether a scale is below 0.4 or above 1.6 times what the objective's power leads to expect."""
    if not objective_power or objective_power <= 0:
        return False
    low, high = OBJECTIVE_RATIOS
    ratios = [value * objective_power / OBJECTIVE_UM for value in (mpp.x, mpp.y)]
    return any(not low <= ratio <= high for ratio in ratios)


def tiff_resolution_mpp(x_resolution: float | None, y_resolution: float | None, unit: int | str | None) -> Pair | None:
    """um/px from TIFF resolution tags (pixels per unit; 2 inch, 3 cm); None where the unit or a value is missing."""
    names = {"inch": 2, "cm": 3, "centimeter": 3, "centimetre": 3}
    code = names.get(unit.lower()) if isinstance(unit, str) else unit
    per_unit = _UM_PER_UNIT.get(int(code)) if code is not None else None
    if per_unit is None or not x_resolution or not y_resolution or x_resolution <= 0 or y_resolution <= 0:
        return None
    return per_unit / x_resolution, per_unit / y_resolution


def _check_range(mpp: Mpp, name: str) -> None:
    low, high = PLAUSIBLE_UM
    if not (low <= mpp.x <= high and low <= mpp.y <= high):
        raise ScaleError(
            f"{name}: mpp {mpp.x:g} x {mpp.y:g} um/px ({mpp.source}) is implausible, outside {low:g} to {high:g}; "
            "give the right one in a manifest column mpp"
        )
