"""Measurements in words and digits, shared by overlay and report; NaN is a dash, units never break off."""

from math import isnan, log10

DASH = "–"
JOIN = "\N{NO-BREAK SPACE}"
_LEAST = 1e-4  # mm2: 10 x 10 um
PICTURE_KEY = "picture-box"  # PNG text: "left top width height", so that a report can cut the picture out


def say_number(value: float) -> str:
    """Three significant digits, whole from 100 on, never with an exponent; a dash for NaN."""
    if isnan(value):
        return DASH
    if abs(value) < 1e-9:
        return "0"
    decimals = max(0, 2 - int(log10(abs(value)) // 1))
    text = f"{value:,.{decimals}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def say_area(mm2: float) -> str:
    """An area with its unit."""
    return DASH if isnan(mm2) else f"{_above_least(mm2)}{JOIN}mm²"


def say_length(um: float) -> str:
    """A length in um, from 1,000 um on in mm."""
    if isnan(um):
        return DASH
    return f"{say_number(um / 1000)}{JOIN}mm" if um >= 1000 else f"{um:.0f}{JOIN}µm"


def say_share(share: float) -> str:
    """A share of 0-1 in percent."""
    return DASH if isnan(share) else f"{say_number(100 * share)}{JOIN}%"


def say_span(low: float, high: float, *, unit: str) -> str:
    """An interval "low to high unit"; empty where either end is unknown."""
    if isnan(low) or isnan(high):
        return ""
    return f"{_above_least(low)} to {_above_least(high)}{JOIN}{unit}"


def _above_least(value: float) -> str:
    """An area in mm2, or a share in percent: what is smaller than any cell is not counted out in digits."""
    return f"<{JOIN}{say_number(_LEAST)}" if 1e-9 <= value < _LEAST else say_number(value)


def say_time(seconds: float) -> str:
    """A duration in seconds, minutes or hours."""
    if isnan(seconds):
        return DASH
    if seconds < 120:
        return f"{say_number(seconds)}{JOIN}s"
    minutes = seconds / 60
    return f"{say_number(minutes)}{JOIN}min" if minutes < 120 else f"{say_number(minutes / 60)}{JOIN}h"
