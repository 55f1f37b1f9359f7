"""Evaluation: every figure of one model on one set of images, with intervals; what `evaluate` makes."""

from dataclasses import dataclass, field, fields, is_dataclass
from math import isnan, nan
from typing import Any


@dataclass(frozen=True)
class Estimate:
    """A value with its interval; NaN where it is not defined: none of a figure of 0 or 1 that no draw can move."""

    value: float = nan
    low: float = nan
    high: float = nan

    @property
    def at_end(self) -> bool:
        """Whether all is right, or all wrong: so it is in every draw from the sample, too."""
        return self.value in (0.0, 1.0)


def estimate(value: float, low: float, high: float) -> Estimate:
    """What a bootstrap came to; without an interval where no round moved a figure of exactly 0 or 1."""
    found = Estimate(float(value), float(low), float(high))
    return Estimate(found.value) if isnan(found.value) or (found.at_end and low == high) else found


@dataclass(frozen=True)
class LabelResult:
    """One label's figures.

    Attributes:
        positives, negatives, unknown: images.
        positive_patients, negative_patients: patients with such an image.
        counts: true positive, false positive, false negative, true negative; positive is p >= threshold.
        figures: by name, with the interval of the bootstrap by patient: auroc, average_precision, sensitivity,
            specificity, ppv, npv, f1, brier, ece, and ppv_stated where a prevalence was stated. Of exactly 0 or 1,
            which hardly a round can move, an AUROC and a share have the interval by formula, others none.
        by_formula: auroc (DeLong), sensitivity, specificity, ppv, npv (Wilson): images as independent.
        before: brier and ece before calibration, where the raw output is known.
        note: why figures are not defined, or empty.
    """

    name: str
    threshold: float
    positives: int
    negatives: int
    unknown: int
    positive_patients: int
    negative_patients: int
    counts: tuple[int, int, int, int]
    figures: dict[str, Estimate]
    by_formula: dict[str, Estimate]
    before: dict[str, Estimate] = field(default_factory=dict)
    prevalence: float | None = None
    note: str = ""


@dataclass(frozen=True)
class Confusion:
    """Counts (K, K) of images, rows what is true, columns what was called."""

    names: tuple[str, ...]
    counts: tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class Subgroup:
    """The figures of the images with one value of one column."""

    column: str
    value: str
    images: int
    patients: int
    labels: tuple[LabelResult, ...]
    mean: dict[str, Estimate]


@dataclass(frozen=True)
class Evaluation:
    """All figures.

    Attributes:
        mean: over the labels where the figure is defined; brier_before, ece_before where raw output is known.
        whole: accuracy, balanced_accuracy and, for grades, quadratic_kappa of what was called; for exclusive classes
            also balanced_accuracy_before_calibration, called by the raw output, where that is known.
        confusion: for classes that exclude each other, and for grades.
        by_patient: whether patients were resampled; images if not, and `patients` then counts images.
        level: of the intervals, such as 0.95.
        warnings: what must be read before the figures.
    """

    class_names: tuple[str, ...]
    exclusive: bool
    ordinal: bool
    images: int
    patients: int
    by_patient: bool
    level: float
    rounds: int
    seed: int
    labels: tuple[LabelResult, ...]
    mean: dict[str, Estimate]
    whole: dict[str, Estimate]
    confusion: Confusion | None
    subgroups: tuple[Subgroup, ...]
    warnings: tuple[str, ...]


def plain(value: Any) -> Any:
    """A result as what JSON holds: dataclasses become objects, NaN becomes null."""
    if is_dataclass(value) and not isinstance(value, type):
        return {part.name: plain(getattr(value, part.name)) for part in fields(value)}
    if isinstance(value, dict):
        return {str(name): plain(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [plain(part) for part in value]
    return None if isinstance(value, float) and isnan(value) else value
