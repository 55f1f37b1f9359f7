"""SlideResult: what one slide comes to, one row of slides.csv; plain values, for whoever draws no maps."""

from dataclasses import dataclass
from math import nan

from wsi_pipeline.slide.reader import Slide

FAILED = ("no_mpp", "unreadable", "failed")  # statuses of slides that came to no map


@dataclass(frozen=True)
class SlideResult:
    """One row of slides.csv. Numbers that do not exist are NaN, texts that do not exist are empty or None.

    Attributes:
        metastasis_class: of the longest lesion, "negative", "itc", "micro" or "macro"; empty without a score.
        probability: that the slide holds cancer, 0-1.
        share, share_low, share_high: cancer / tissue, 0-1, with its 95 % interval.
        unread_mm2, unscored_mm2: tissue in tissue_mm2 without a probability, see `ExtentMap`.
        longest_um: of the longest lesion, which need not be the largest.
        stage, error, message: where a slide ended that came to no map, the error's name, its words.
    """

    slide_id: str
    status: str
    metastasis_class: str = ""
    probability: float = nan
    share: float = nan
    share_low: float = nan
    share_high: float = nan
    tissue_mm2: float = nan
    unread_mm2: float = nan
    unscored_mm2: float = nan
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


def without_result(
    slide_id: str, status: str, *, stage: str = "", error: str = "", message: str = "", slide: Slide | None = None
) -> SlideResult:
    """The row of a slide that did not come to a map: where it ended, and why."""
    mpp = slide.mpp_l0 if slide else None
    return SlideResult(
        slide_id=slide_id,
        status=status,
        mpp_x=mpp.x if mpp else nan,
        mpp_y=mpp.y if mpp else nan,
        mpp_source=mpp.source if mpp else "",
        stage=stage,
        error=error,
        message=message,
        warnings=slide.warnings if slide else (),
    )
