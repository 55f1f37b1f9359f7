"""Slides, extents and tissue of a few cells, for the tests of what maps/ writes."""

from dataclasses import replace
from math import nan

import numpy as np

from wsi_pipeline.geometry import Mpp
from wsi_pipeline.maps.extent import ExtentMap
from wsi_pipeline.maps.result import SlideResult
from wsi_pipeline.slide.reader import Slide
from wsi_pipeline.slide.tissue import TissueMask


def a_slide(size_l0=(64, 64), *, mpp=(0.5, 0.5), bounds_l0=None) -> Slide:
    return Slide(
        id="a",
        path="a.svs",
        size_l0=size_l0,
        mpp_l0=Mpp(*mpp, source="vendor"),
        level_sizes=(size_l0,),
        level_downsamples=(1.0,),
        bounds_l0=bounds_l0,
        fingerprint="0-0",
        vendor="aperio",
        backend="openslide",
        codec="JPEG",
        objective_power=None,
    )


def an_extent(probability, *, cell_l0=(32.0, 32.0), names=("tumour",), classes=None, **other) -> ExtentMap:
    """An ExtentMap of rows of probabilities; None is NaN, and is off tissue unless `tissue` says else."""
    values = np.array([[nan if p is None else p for p in row] for row in probability], dtype=np.float32)
    fields = {
        "probability": values,
        "classes": values[None] if classes is None else np.asarray(classes, dtype=np.float32),
        "class_names": tuple(names),
        "cancer": np.nan_to_num(values) >= 0.5,
        "tissue": np.where(np.isnan(values), 0, 1).astype(np.float32),
        "cell_l0": cell_l0,
        "origin_l0": (0.0, 0.0),
        "mpp_l0": Mpp(0.5, 0.5),
        "threshold": 0.5,
    }
    fields["unread"] = np.zeros(values.shape, bool)
    areas = ("tissue_mm2", "unread_mm2", "cancer_mm2", "cancer_mm2_low", "cancer_mm2_high")
    fields |= dict.fromkeys((*areas, "share", "share_low", "share_high"), 0.25)
    return ExtentMap(**{**fields, **other})


def a_tissue(mask, *, cell_l0=(16.0, 16.0), grey=200) -> TissueMask:
    mask = np.asarray(mask, dtype=bool)
    thumbnail = np.full((*mask.shape, 3), grey, dtype=np.uint8)
    return TissueMask(mask=mask, cell_l0=cell_l0, thumbnail=thumbnail, tissue_mm2=1.5)


def a_result(slide_id="a", **changes) -> SlideResult:
    """A scored slide: 12.1 mm2 of 159 mm2, four lesions."""
    scored = SlideResult(slide_id=slide_id, status="ok", metastasis_class="macro", probability=0.9973)
    scored = replace(scored, share=0.0765, share_low=0.061, share_high=0.089, tissue_mm2=159.2)
    scored = replace(scored, unread_mm2=0.0, cancer_mm2=12.13, cancer_mm2_low=9.7, cancer_mm2_high=14.2)
    scored = replace(scored, lesions=4, longest_um=2974.0, tiles=2431, mpp_source="vendor")
    scored = replace(scored, mpp_x=0.25, mpp_y=0.25)
    return replace(scored, **changes)
