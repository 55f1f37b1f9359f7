"""SlideResult: what one slide comes to, one row of slides.csv, from its extent and lesions."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import nan

import numpy as np

from wsi_pipeline.maps.extent import ExtentMap
from wsi_pipeline.maps.lesions import Lesion, metastasis_class
from wsi_pipeline.scores.store import Scores
from wsi_pipeline.slide.reader import Slide


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


def summarise(
    extent: ExtentMap,
    lesions: Sequence[Lesion],
    scores: Scores,
    *,
    slide_id: str,
    status: str,
    slide: Slide,
    warnings: Sequence[str] = (),
) -> SlideResult:
    """The row of a slide that was mapped.

    Its probability is the highest of the map: a single sure place makes a slide positive (Liu et al. 2017,
    arXiv 1703.02442, score a slide by the maximum of its heatmap). Of the map and not of the tiles: where
    they overlap several must agree. It ranks slides and goes by no clean-up, so a slide may be probable
    though its one speck is too small for a lesion. NaN, and no class, where nothing was scored.
    """
    known = extent.probability[~np.isnan(extent.probability)]
    longest = max((lesion.longest_um for lesion in lesions), default=None)
    return SlideResult(
        slide_id=slide_id,
        status=status,
        metastasis_class=metastasis_class(longest) if known.size else "",
        probability=float(known.max()) if known.size else nan,
        share=extent.share,
        share_low=extent.share_low,
        share_high=extent.share_high,
        tissue_mm2=extent.tissue_mm2,
        unread_mm2=extent.unread_mm2,
        unscored_mm2=extent.unscored_mm2,
        cancer_mm2=extent.cancer_mm2,
        cancer_mm2_low=extent.cancer_mm2_low,
        cancer_mm2_high=extent.cancer_mm2_high,
        lesions=len(lesions),
        longest_um=nan if longest is None else longest,
        tiles=len(scores.probs),
        unreadable_tiles=int(np.isnan(scores.probs).any(axis=1).sum()),
        mpp_x=slide.mpp_l0.x,
        mpp_y=slide.mpp_l0.y,
        mpp_source=slide.mpp_l0.source,
        warnings=tuple(warnings),
    )


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
