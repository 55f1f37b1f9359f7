"""SlideResult: what one slide comes to, one row of slides.csv, from its extent and lesions."""

from dataclasses import dataclass
from math import nan


@dataclass(frozen=True)
class SlideResult:
    """One row of slides.csv. Numbers that do not exist are NaN, texts that do not exist are empty."""

    slide_id: str
    status: str
    metastasis_class: str = ""
    probability: float = nan
    share: float = nan
    share_low: float = nan
    share_high: float = nan
    tissue_mm2: float = nan
    unread_mm2: float = nan
    cancer_mm2: float = nan
    cancer_mm2_low: float = nan
    cancer_mm2_high: float = nan
    lesions: int = 0
    longest_um: float = nan
    tiles: int = 0
    unreadable_tiles: int = 0
    seconds: float = nan
    mpp_x: float = nan
    mpp_y: float = nan
    mpp_source: str = ""
    label: str | None = None
    patient_id: str | None = None
    split: str | None = None
    stage: str = ""
    error: str = ""
    message: str = ""
    warnings: tuple[str, ...] = ()
