"""From a slide's extent and lesions -> its SlideResult, the row of slides.csv."""

from collections.abc import Sequence
from math import nan

import numpy as np

from wsi_pipeline.maps.extent import ExtentMap
from wsi_pipeline.maps.lesions import Lesion, metastasis_class
from wsi_pipeline.maps.result import SlideResult
from wsi_pipeline.scores.store import Scores
from wsi_pipeline.slide.reader import Slide


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
        tiles=scores.tiles,
        unreadable_tiles=scores.unreadable,
        mpp_x=slide.mpp_l0.x,
        mpp_y=slide.mpp_l0.y,
        mpp_source=slide.mpp_l0.source,
        warnings=tuple(warnings),
    )
