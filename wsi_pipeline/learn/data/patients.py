"""Patient ids as one text each, whatever they were read as: 5, "5", "00000005" and 5.0 are one patient."""

import re
from collections.abc import Iterable

import numpy as np

from wsi_pipeline.errors import ConfigError

_WHOLE = re.compile(r"[0-9]+(\.0*)?")


def normalised(patient: object) -> str:
    """The id as text: without spaces around it, whole numbers without leading zeros or ".0"; "" when missing."""
    if patient is None or (isinstance(patient, float | np.floating) and np.isnan(patient)):
        return ""
    text = patient.decode() if isinstance(patient, bytes) else str(patient)
    if isinstance(patient, float | np.floating) and float(patient).is_integer():
        text = str(int(patient))
    text = text.strip()
    return str(int(text.partition(".")[0])) if _WHOLE.fullmatch(text) else text


def shared_patients(a: Iterable[object], b: Iterable[object]) -> list[str]:
    """The patients that occur in both, normalised and sorted; missing ids are nobody's."""
    return sorted({normalised(one) for one in a} & {normalised(one) for one in b} - {""})


def one_spelling(patients: Iterable[object]) -> np.ndarray:
    """(N,) str of N ids, those of one patient all as the first of them is spelt, without spaces around it.

    ConfigError names the rows of missing ones.
    """
    given = list(patients)
    _, first, of_row = np.unique(normalised_all(given), return_index=True, return_inverse=True)
    return np.array([str(one).strip() for one in given], dtype=str)[first][of_row]


def normalised_all(patients: Iterable[object]) -> np.ndarray:
    """(N,) str of N ids; ConfigError names the rows of missing ones."""
    ids = np.array([normalised(one) for one in patients], dtype=str)
    missing = np.flatnonzero(ids == "")
    if len(missing):
        raise ConfigError(f"patients: {len(missing)} are missing, in rows such as {missing[:5].tolist()}; "
                          "give an image that stands alone its own id")  # fmt: skip
    return ids
