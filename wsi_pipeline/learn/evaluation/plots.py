"""Plots as SVG text for a page: ROC, precision-recall and reliability of one label, and an interval on a line.

Drawn by hand, not by matplotlib: 14 labels are 42 plots, sharp at any zoom, a few KB each, in milliseconds.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from sklearn.metrics import precision_recall_curve, roc_curve

from wsi_pipeline.learn.evaluation.figures import Estimate
from wsi_pipeline.learn.evaluation.intervals import wilson

BLUE, ORANGE, GREY = "#0b57b0", "#b8560f", "#7d8590"  # this model, the other one, before calibration
RELIABILITY_GROUPS = 10
_MOST_POINTS = 250  # of a curve: more cannot be told apart
_WIDTH, _HEIGHT, _LEFT, _TOP, _SIDE = 240, 236, 50, 10, 180  # px; the axes are a square of _SIDE
_LIMITS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)  # ends of the axes of a reliability plot
Points = tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True, eq=False)
class Curve:
    """A line through points (x, y), each (n,), in a colour; `dash` for the second of two."""

    points: Points
    colour: str = BLUE
    dash: bool = False


def roc_points(labels: np.ndarray, scores: np.ndarray) -> Points:
    """(1 - specificity, sensitivity), thinned; both classes must be there. NaN labels are left out."""
    known = ~(np.isnan(labels) | np.isnan(scores))
    false, true, _ = roc_curve(labels[known], scores[known])
    return _thinned(false, true)


def precision_recall_points(labels: np.ndarray, scores: np.ndarray) -> Points:
    """(recall, precision) from the highest score down, thinned; both classes must be there."""
    known = ~(np.isnan(labels) | np.isnan(scores))
    precision, recall, _ = precision_recall_curve(labels[known], scores[known])
    return _thinned(recall[-2::-1], precision[-2::-1])


def reliability_groups(labels: np.ndarray, probs: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(mean probability, share positive, count) of ten groups of about equally many images by rising probability.

    Groups of equal size, not of equal width: of a rare label nearly all images lie in the lowest tenth.
    Equal probabilities stay in one group.
    """
    known = ~(np.isnan(labels) | np.isnan(probs))
    y, p = labels[known].astype(np.float64), probs[known].astype(np.float64)
    edges = np.unique(np.quantile(p, np.arange(1, RELIABILITY_GROUPS) / RELIABILITY_GROUPS))
    place = np.searchsorted(edges, p, side="right")
    count = np.bincount(place)
    full = count > 0
    sums = [np.bincount(place, weights=values)[full] / count[full] for values in (p, y)]
    return sums[0], sums[1], count[full]


def draw_roc(curves: Sequence[Curve], *, chosen: tuple[float, float] | None, name: str) -> str:
    """ROC curves on one pair of axes; `chosen` (1 - specificity, sensitivity) is marked, at the threshold."""
    body = [_line(([0, 1], [0, 1]), GREY, width=1, dash="2 3"), *map(_curve, curves)]
    if chosen is not None:
        body.append(_dot(*chosen))
    return _axes(body, x="1 − specificity", y="sensitivity", title=f"ROC curve of {name}")


def draw_precision_recall(
    curves: Sequence[Curve], *, chosen: tuple[float, float] | None, share: float, name: str
) -> str:
    """Precision-recall curves; the dotted line is the share of positives, what calling all positive comes to."""
    body = [_line(([0, 1], [share, share]), GREY, width=1, dash="2 3"), *map(_curve, curves)]
    if chosen is not None:
        body.append(_dot(*chosen))
    return _axes(body, x="recall (sensitivity)", y="precision (PPV)", title=f"Precision-recall curve of {name}")


def draw_reliability(labels: np.ndarray, probs: np.ndarray, *, raw: np.ndarray | None, level: float, name: str) -> str:
    """Share positive against mean probability, with Wilson intervals; `raw` is before calibration, in grey."""
    mean, share, count = reliability_groups(labels, probs)
    spans = [wilson(round(s * n), n, level) for s, n in zip(share, count, strict=True)]
    top = max(mean.max(), share.max(), *(high for _, high in spans))
    limit = next(end for end in _LIMITS if end >= min(top, 1))
    body = [_line(([0, 1], [0, 1]), GREY, width=1, dash="2 3")]
    if raw is not None:
        before, shown, _ = reliability_groups(labels, raw)
        inside = before <= limit
        body.append(_curve(Curve((before[inside] / limit, shown[inside] / limit), GREY, dash=True)))
    for x, (low, high) in zip(mean, spans, strict=True):
        body.append(_line(([x / limit] * 2, [low / limit, high / limit]), BLUE, width=1.2, extra=' opacity=".55"'))
    body.append(_curve(Curve((mean / limit, share / limit))))
    body += [_dot(x / limit, y / limit, radius=2.6) for x, y in zip(mean, share, strict=True)]
    return _axes(body, x="probability said", y="share positive", title=f"Reliability of {name}", limit=limit)


def draw_interval(estimate: Estimate, *, low_end: float, high_end: float, middle: float) -> str:
    """An interval on a line from `low_end` to `high_end`, 150 x 18 px, with a mark at `middle`; empty for NaN."""
    if np.isnan(estimate.value):
        return ""

    def place(value: float) -> float:
        return 4 + 142 * (min(max(value, low_end), high_end) - low_end) / (high_end - low_end)

    bar = ""
    if not np.isnan(estimate.low):
        bar = f'<path d="M{place(estimate.low):.1f} 9H{place(estimate.high):.1f}" stroke="{BLUE}" stroke-width="2.4"/>'
    return (
        f'<svg class="interval" viewBox="0 0 150 18" width="150" height="18" aria-hidden="true">'
        f'<path d="M4 9H146" stroke="#dde1e6"/><path d="M{place(middle):.1f} 2V16" stroke="#aab2bd"/>{bar}'
        f'<circle cx="{place(estimate.value):.1f}" cy="9" r="4" fill="{BLUE}"/></svg>'
    )


def _axes(body: Iterable[str], *, x: str, y: str, title: str, limit: float = 1.0) -> str:
    """A square of axes from 0 to `limit` around what is drawn in it."""
    right, bottom = _LEFT + _SIDE, _TOP + _SIDE
    parts = [f'<rect x="{_LEFT}" y="{_TOP}" width="{_SIDE}" height="{_SIDE}" fill="#fff" stroke="#c6ccd3"/>']
    for k in range(1, 4):
        at = _SIDE * k / 4
        parts.append(f'<path d="M{_LEFT + at} {_TOP}V{bottom}M{_LEFT} {_TOP + at}H{right}" stroke="#eceff2"/>')
    for share in (0, 0.5, 1):
        words, along = f"{share * limit:g}", _SIDE * share
        parts.append(f'<text x="{_LEFT + along}" y="{bottom + 14}" text-anchor="middle">{words}</text>')
        parts.append(f'<text x="{_LEFT - 6}" y="{bottom - along + 4}" text-anchor="end">{words}</text>')
    middle = _TOP + _SIDE / 2
    parts.append(f'<text x="{_LEFT + _SIDE / 2}" y="{bottom + 30}" text-anchor="middle" class="axis">{x}</text>')
    turned = f'transform="rotate(-90 11 {middle})" x="11" y="{middle}"'
    parts.append(f'<text {turned} text-anchor="middle" class="axis">{y}</text>')
    return (
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img"><title>{_escaped(title)}</title>'
        f"{''.join(parts)}{''.join(body)}</svg>"
    )


def _curve(curve: Curve) -> str:
    return _line(curve.points, curve.colour, width=1.9, dash="5 3" if curve.dash else "")


def _line(
    points: tuple[Sequence[float] | np.ndarray, Sequence[float] | np.ndarray],
    colour: str,
    *,
    width: float,
    dash: str = "",
    extra: str = "",
) -> str:
    places = " ".join(f"{_across(x)},{_down(y)}" for x, y in zip(*points, strict=True))
    dashed = f' stroke-dasharray="{dash}"' if dash else ""
    return f'<polyline points="{places}" fill="none" stroke="{colour}" stroke-width="{width}"{dashed}{extra}/>'


def _dot(x: float, y: float, radius: float = 4.0) -> str:
    if np.isnan(x) or np.isnan(y):
        return ""
    return f'<circle cx="{_across(x)}" cy="{_down(y)}" r="{radius}" fill="{BLUE}" stroke="#fff" stroke-width="1.2"/>'


def _across(x: float) -> str:
    return f"{_LEFT + _SIDE * min(max(x, 0), 1):.1f}"


def _down(y: float) -> str:
    return f"{_TOP + _SIDE * (1 - min(max(y, 0), 1)):.1f}"


def _thinned(x: np.ndarray, y: np.ndarray) -> Points:
    """At most _MOST_POINTS of the points, spread evenly along the line, first and last kept."""
    if len(x) <= _MOST_POINTS:
        return x, y
    way = np.concatenate([[0], np.cumsum(np.abs(np.diff(x)) + np.abs(np.diff(y)))])
    picked = np.unique(np.searchsorted(way, np.linspace(0, way[-1], _MOST_POINTS)).clip(0, len(x) - 1))
    return x[picked], y[picked]


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
