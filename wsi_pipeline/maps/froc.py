"""FROC of lesion detections on slides, as CAMELYON16's official script counts it; from masks and points.

The tumour mask is at level 5 of a slide of 0.243 um/px, the detections are (confidence, x, y) in level-0 px.
"""

from dataclasses import dataclass

import numpy as np
import scipy.ndimage
from numpy.typing import ArrayLike
from skimage.measure import regionprops

from wsi_pipeline.errors import ConfigError

FALSE_POSITIVES = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0)  # per image, at which sensitivity is read
MASK_MPP = 0.243 * 2**5  # um/px of the official masks, level 5
MASK_DOWNSAMPLE = 2**5
GROW_UM = 75 / 2  # tumour closer than twice this is one lesion
ITC_UM = 275.0  # a lesion with a shorter longest axis is isolated tumour cells


@dataclass(frozen=True, eq=False)
class EvaluationMask:
    """The lesions of one slide, as they are counted.

    Attributes:
        labels: (H, W) int32, 0 outside, else the number of the lesion.
        lesions: the numbers that count; the others are isolated tumour cells (ITC), where a hit is neither
            true nor false.
        downsample: level-0 px per mask px.
    """

    labels: np.ndarray
    lesions: tuple[int, ...]
    downsample: float = MASK_DOWNSAMPLE


def evaluation_mask(
    tumour: np.ndarray, *, mpp: float = MASK_MPP, downsample: float = MASK_DOWNSAMPLE
) -> EvaluationMask:
    """The lesions of a tumour mask (H, W) bool with `mpp` um per mask px; an empty mask has none.

    Grown by less than 37.5 um, holes filled, 8-connected. A lesion is ITC when the longest axis of the ellipse
    of the same second moments (scikit-image) is under 275 um.
    """
    inside = np.asarray(tumour) != 0
    if inside.ndim != 2 or not mpp > 0:
        raise ConfigError(f"evaluation_mask: shape {inside.shape}, {mpp} um/px; give (H, W) and a scale above 0")
    if not inside.any():  # there is no distance to a tumour
        return EvaluationMask(np.zeros(inside.shape, dtype=np.int32), (), downsample)
    grown = scipy.ndimage.distance_transform_edt(~inside) < GROW_UM / mpp
    labels, _ = scipy.ndimage.label(scipy.ndimage.binary_fill_holes(grown), np.ones((3, 3)))
    lesions = [one.label for one in regionprops(labels) if one.axis_major_length >= ITC_UM / mpp]
    return EvaluationMask(labels.astype(np.int32), tuple(lesions), downsample)


def match_detections(mask: EvaluationMask, detections: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """(lesion scores (L,), false positive scores (F,)) of one slide; concatenate those of all for `froc`.

    detections: (D, 3) of confidence, x, y with x and y in level-0 px. A lesion is found once, at its highest
    confidence, and 0 when missed; every detection off the lesions is false; one on ITC is left out. Raises
    ConfigError on a detection outside the mask, or a negative confidence.
    """
    found = np.asarray(detections, dtype=np.float64)
    found = found if found.size else np.empty((0, 3))
    if found.ndim != 2 or found.shape[1] != 3:
        raise ConfigError(f"detections {found.shape}: give (D, 3) of confidence, x, y")
    confidence = _confidences(found[:, 0])
    row, col = _cells(mask, found[:, 1:])
    hit = mask.labels[row, col]
    best = np.zeros(int(mask.labels.max(initial=0)) + 1)
    np.maximum.at(best, hit, confidence)
    return best[list(mask.lesions)], confidence[hit == 0]


def froc(lesion_scores: ArrayLike, false_positive_scores: ArrayLike, images: int) -> tuple[np.ndarray, float]:
    """(sensitivities at 1/4, 1/2, 1, 2, 4, 8 false positives an image (6,), their mean: the score).

    lesion_scores: of each lesion of all images the confidence with which it was found, 0 or NaN when missed;
    false_positive_scores: of each false detection; images: how many were searched, also those without lesions.
    Between two thresholds the sensitivity is interpolated, beyond the last it stays, as in the official script.
    (That drops the lowest score of all, taking it for the 0 of a missed lesion; here only a 0 is dropped.) All
    NaN without lesions. Raises ConfigError on a negative score, or no images.
    """
    lesions = _confidences(np.nan_to_num(np.asarray(lesion_scores, dtype=np.float64).ravel(), nan=0.0, posinf=np.inf))
    false = _confidences(np.asarray(false_positive_scores, dtype=np.float64).ravel())
    if not images >= 1:
        raise ConfigError(f"froc: {images} images; give how many were searched, at least 1")
    if not len(lesions):
        return np.full(len(FALSE_POSITIVES), np.nan), np.nan
    thresholds = np.unique(np.concatenate([lesions, false]))
    thresholds = thresholds[thresholds > 0][::-1]
    per_image = np.concatenate([[0.0], _at_least(false, thresholds) / images])
    sensitivity = np.concatenate([[0.0], _at_least(lesions, thresholds) / len(lesions)])
    read = np.interp(FALSE_POSITIVES, per_image, sensitivity)
    return read, float(read.mean())


def _at_least(scores: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    """How many scores reach each threshold."""
    return len(scores) - np.searchsorted(np.sort(scores), thresholds, side="left")


def _confidences(scores: np.ndarray) -> np.ndarray:
    if not (scores >= 0).all():  # False for NaN too
        raise ConfigError(f"froc: scores {scores[~(scores >= 0)][:3].tolist()}; give confidences of 0 and more")
    return scores


def _cells(mask: EvaluationMask, xy_l0: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(row, col) in the mask of (D, 2) level-0 points; the last cell also takes the strip that floored sizes cut."""
    col, row = np.floor(xy_l0.T / mask.downsample)
    height, width = mask.labels.shape
    outside = ~((col >= 0) & (row >= 0) & (col <= width) & (row <= height))
    if outside.any():
        x, y = xy_l0[outside][0]
        raise ConfigError(f"detection at ({x:g}, {y:g}) of {width} x {height} cells of {mask.downsample:g} px; "
                          "give x, y in level-0 px")  # fmt: skip
    return np.minimum(row, height - 1).astype(np.intp), np.minimum(col, width - 1).astype(np.intp)
