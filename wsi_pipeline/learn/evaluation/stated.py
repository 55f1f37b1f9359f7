"""Thresholds and prevalences as a user states them (a number, name=number, a file) -> one value a class."""

import difflib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from wsi_pipeline.errors import ConfigError


def stated_thresholds(text: str, class_names: Sequence[str]) -> np.ndarray:
    """Thresholds (C,) of a number for all, a CSV with columns label and threshold (such as an evaluation.csv), or
    a JSON: a card.json, or an object of numbers by class.

    Raises ConfigError where a class is missing or a value is no number of 0 to 1.
    """
    try:
        return _checked({name: float(text) for name in class_names}, class_names, "--thresholds")
    except ValueError as error:
        if isinstance(error, ConfigError):
            raise
    path = Path(text)
    try:
        found = _of_json(json.loads(path.read_text(encoding="utf-8"))) if path.suffix == ".json" else _of_csv(path)
    except OSError as error:
        raise ConfigError(f"--thresholds {text}: {error.strerror}; give a number, a CSV or a JSON") from None
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f"--thresholds {text}: holds no thresholds by class ({type(error).__name__}: {error}); give a CSV of "
            f"columns label and threshold, such as an evaluation.csv, a card.json, or a JSON of numbers by class"
        ) from None
    return _checked(found, class_names, text)


def stated_prevalence(texts: Sequence[str], class_names: Sequence[str]) -> np.ndarray | None:
    """Prevalences (C,) of words such as "0.05" (all classes) and "Mass=0.02"; NaN where none, None without words."""
    if not texts:
        return None
    found: dict[str, float] = {}
    for text in texts:
        name, equals, number = text.rpartition("=")
        try:
            value = float(number)
        except ValueError:
            raise ConfigError(f"--prevalence {text}: give a share such as 0.05, or Mass=0.05") from None
        if equals and name not in class_names:
            raise ConfigError(f"--prevalence {text}: no class {name!r}{_nearest(name, class_names)}")
        found |= {name: value} if equals else {one: value for one in class_names if one not in found}
    wrong = {name: value for name, value in found.items() if not 0 < value < 1}
    if wrong:
        raise ConfigError(f"--prevalence: got {wrong}; give shares above 0 and below 1")
    return np.array([found.get(name, np.nan) for name in class_names])


def _of_json(found: Any) -> dict[str, float]:
    if isinstance(found, Mapping) and "class_names" in found:
        names, each = found["class_names"], found.get("thresholds")
        return dict(zip(names, each or [found["threshold"]] * len(names), strict=True))
    return {str(name): float(value) for name, value in dict(found).items()}


def _of_csv(path: Path) -> dict[str, float]:
    table = pd.read_csv(
        path, dtype={"label": str}, encoding="utf-8-sig", keep_default_na=False, na_values={"threshold": [""]}
    ).dropna(subset=["threshold"])
    return dict(zip(table["label"], table["threshold"].astype(float), strict=True))


def _checked(found: Mapping[str, float], names: Sequence[str], place: str) -> np.ndarray:
    for name in names:
        if name not in found:
            raise ConfigError(f"{place}: no threshold for {name!r}{_nearest(name, list(found))}")
    values = np.array([found[name] for name in names], np.float64)
    if not ((values >= 0) & (values <= 1)).all():
        raise ConfigError(f"{place}: got {values.tolist()}; give thresholds of 0 to 1")
    return values


def _nearest(name: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.0)
    return f"; did you mean {near[0]!r}?" if near else ""
