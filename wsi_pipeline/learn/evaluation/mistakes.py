"""Worst mistakes: the images whose probability is farthest from the truth, with small pictures of them."""

from base64 import b64encode
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from io import BytesIO

import numpy as np
from PIL import Image

from wsi_pipeline.errors import SlideError

THUMBNAIL_PX = 200
_QUALITY = 80


@dataclass(frozen=True)
class Mistake:
    """One image that was called wrongly with the least doubt.

    `row` is its place among the images, `said` what was called and `true` what is so, in words;
    `probability` is that of `said` for a false call, and that of `true` for a missed one.
    """

    row: int
    kind: str
    true: str
    said: str
    probability: float
    picture: str = ""


def worst_mistakes(
    labels: np.ndarray,
    probs: np.ndarray,
    *,
    class_names: Sequence[str],
    thresholds: np.ndarray,
    exclusive: bool,
    count: int,
) -> list[Mistake]:
    """At most `count` mistakes, spread over the classes, worst first in each.

    Exclusive classes: images whose largest probability is of another class, by that probability. Others:
    for each label as many false alarms, by falling probability, as missed ones, by rising probability.
    """
    if exclusive:
        return _confused(labels, probs, class_names, count)
    each = max(1, count // (2 * len(class_names)))
    found = []
    for c, name in enumerate(class_names):
        called = probs[:, c] >= probs.dtype.type(thresholds[c])
        missed = np.flatnonzero((labels[:, c] == 1) & ~called & ~np.isnan(probs[:, c]))
        alarms = np.flatnonzero((labels[:, c] == 0) & called)
        for row in alarms[np.argsort(-probs[alarms, c], kind="stable")][:each]:
            found.append(Mistake(int(row), "false alarm", f"no {name}", name, float(probs[row, c])))
        for row in missed[np.argsort(probs[missed, c], kind="stable")][:each]:
            found.append(Mistake(int(row), "missed", name, f"no {name}", float(probs[row, c])))
    return found[:count]


def _confused(labels: np.ndarray, probs: np.ndarray, names: Sequence[str], count: int) -> list[Mistake]:
    known = np.flatnonzero(~(np.isnan(labels) | np.isnan(probs)).any(axis=1))
    truth, called = labels[known].argmax(axis=1), probs[known].argmax(axis=1)
    surest = probs[known].max(axis=1)
    wrong = np.flatnonzero(truth != called)
    worst = wrong[np.argsort(-surest[wrong], kind="stable")][:count]
    return [
        Mistake(int(known[k]), "confused", names[truth[k]], names[called[k]], float(surest[k])) for k in worst
    ]  # fmt: skip


def thumbnail(read: Callable[[int], np.ndarray], row: int) -> str:
    """Image `row` as a small JPEG in a data URI; empty where it cannot be read."""
    try:
        small = Image.fromarray(read(row))
    except SlideError:
        return ""
    small.thumbnail((THUMBNAIL_PX, THUMBNAIL_PX), Image.Resampling.LANCZOS)
    stream = BytesIO()
    small.save(stream, format="JPEG", quality=_QUALITY, optimize=True)
    return f"data:image/jpeg;base64,{b64encode(stream.getvalue()).decode('ascii')}"
