"""FROC: curves counted by hand, lesions drawn so that the official rules join, fill or leave them out."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsi_pipeline.errors import ConfigError
from wsi_pipeline.maps.froc import FALSE_POSITIVES, EvaluationMask, evaluation_mask, froc, match_detections

NAN = float("nan")


def test_a_curve_counted_by_hand() -> None:
    # Thresholds 0.9, 0.8, 0.7, 0.4: false positives an image 0, 1/2, 1/2, 1 (two images), found 1, 1, 2, 2 of 3.
    found, score = froc([0.9, 0.7, 0.0], [0.8, 0.4], 2)
    expected = [1 / 3, 2 / 3, 2 / 3, 2 / 3, 2 / 3, 2 / 3]  # at 1/4 between (0, 1/3) and (1/2, 1/3)
    np.testing.assert_allclose(found, expected)
    assert score == pytest.approx(np.mean(expected))


def test_between_two_thresholds_the_sensitivity_is_interpolated() -> None:
    # (0, 0), then both lesions and two false positives at once: (2, 1).
    found, _ = froc([0.5, 0.5], [0.5, 0.5], 1)
    np.testing.assert_allclose(found, [1 / 8, 1 / 4, 1 / 2, 1, 1, 1])


def test_all_found_without_a_false_positive_is_perfect_and_nothing_found_is_zero() -> None:
    assert froc([0.9, 0.2], [], 4)[1] == 1.0
    assert froc([0.0, NAN], [0.3], 4)[1] == 0.0
    assert froc([0.0], [], 1)[1] == 0.0


def test_without_lesions_there_is_no_sensitivity() -> None:
    found, score = froc([], [0.5, 0.1], 3)
    assert np.isnan(found).all() and np.isnan(score)


@given(
    st.lists(st.integers(0, 5), max_size=8).map(lambda scores: [0, *scores]),
    st.lists(st.integers(1, 5), max_size=20),
    st.integers(1, 5),
)
def test_with_a_missed_lesion_it_is_the_curve_of_the_official_rules(lesions: list, false: list, images: int) -> None:
    points = [(0.0, 0.0)]
    for threshold in sorted(set(lesions + false), reverse=True)[:-1]:  # all but the lowest, the 0 of the missed
        hits = [sum(score >= threshold for score in scores) for scores in (false, lesions)]
        points.append((hits[0] / images, hits[1] / len(lesions)))
    found, score = froc(np.array(lesions, np.float16), np.array(false), images)
    np.testing.assert_allclose(found, np.interp(FALSE_POSITIVES, *zip(*points, strict=True)))
    assert score == pytest.approx(found.mean())


@pytest.mark.parametrize(
    ("lesions", "false", "images", "message"),
    [
        ([-0.1], [], 1, r"\[-0.1\]; give confidences"),
        ([0.5], [NAN], 1, r"\[nan\]; give confidences"),
        ([0.5], [], 0, "0 images; give how many"),
    ],
    ids=["negative", "nan", "no images"],
)
def test_scores_without_an_order_are_refused(lesions, false, images: int, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        froc(lesions, false, images)


def drawn(*boxes: tuple[int, int, int, int], size: int = 60) -> np.ndarray:
    """Tumour where the boxes (top, left, bottom, right) are."""
    mask = np.zeros((size, size), dtype=bool)
    for top, left, bottom, right in boxes:
        mask[top:bottom, left:right] = True
    return mask


@pytest.mark.parametrize(("gap", "lesions"), [(6, 1), (7, 2)], ids=["60 um apart", "70 um apart"])
def test_tumour_grows_by_less_than_37_micrometres_and_joins(gap: int, lesions: int) -> None:
    # At 10 um a pixel the 3 pixels within 3.75 are added on either side.
    mask = evaluation_mask(drawn((10, 5, 40, 20), (10, 20 + gap, 40, 40 + gap)), mpp=10.0)
    assert mask.labels.max() == lesions and len(mask.lesions) == lesions
    assert mask.labels[25, 2] == 1 and mask.labels[25, 1] == 0


def test_corners_that_touch_after_growing_are_one_lesion_and_holes_are_tumour() -> None:
    ring = drawn((10, 10, 50, 50)) & ~drawn((20, 20, 40, 40))
    assert evaluation_mask(ring, mpp=10.0).labels[30, 30] == 1
    touching = evaluation_mask(drawn((0, 0, 20, 20), (20, 20, 40, 40)), mpp=80.0)  # grows by nothing
    assert touching.labels.max() == 1


def test_a_lesion_under_275_micrometres_is_isolated_tumour_cells() -> None:
    # Three and four pixels in a row of 76 um, which grow by nothing: 4 sqrt((n^2 - 1) / 12) = 3.27 and 4.47 px,
    # around 275 / 76 = 3.62.
    small, large = (evaluation_mask(drawn((5, 5, 6, 5 + n)), mpp=76.0) for n in (3, 4))
    assert small.lesions == () and small.labels.max() == 1
    assert large.lesions == (1,)


def test_the_scale_of_the_official_masks_is_the_default() -> None:
    mask = evaluation_mask(drawn((20, 20, 21, 60)))  # 40 px of 7.776 um: 311 um and 37.5 at one end
    assert mask.labels[16, 30] == 1 and mask.labels[15, 30] == 0  # 4 pixels within 4.82
    assert mask.lesions == (1,) and mask.downsample == 32


def test_an_empty_mask_has_no_lesion_and_every_detection_is_false() -> None:
    mask = evaluation_mask(np.zeros((10, 10), dtype=np.uint8))
    lesions, false = match_detections(mask, [[0.9, 0, 0], [0.2, 319, 319]])
    assert lesions.tolist() == [] and false.tolist() == [0.9, 0.2]


def test_a_lesion_is_found_once_at_its_highest_confidence_and_itc_is_neither() -> None:
    labels = np.zeros((4, 6), dtype=np.int32)
    labels[0, :2], labels[2, :2], labels[:, 4] = 1, 2, 3
    mask = EvaluationMask(labels, lesions=(1, 3), downsample=10)
    detections = [[0.4, 0, 0], [0.8, 19, 9], [0.9, 5, 25], [0.7, 35, 5], [0.6, 30, 39]]  # confidence, x, y
    lesions, false = match_detections(mask, detections)
    assert lesions.tolist() == [0.8, 0.0]
    assert false.tolist() == [0.7, 0.6]


def test_no_detections_miss_every_lesion() -> None:
    mask = EvaluationMask(np.ones((2, 2), dtype=np.int32), lesions=(1,), downsample=1)
    assert [part.tolist() for part in match_detections(mask, [])] == [[0.0], []]


def test_the_strip_that_a_floored_size_cuts_off_belongs_to_the_last_cell() -> None:
    mask = EvaluationMask(np.array([[0, 1]], dtype=np.int32), lesions=(1,), downsample=32)
    assert match_detections(mask, [[0.5, 90, 31]])[0].tolist() == [0.5]


@pytest.mark.parametrize(
    ("detection", "message"),
    [
        ([0.5, 400, 0], r"detection at \(400, 0\).*give x, y in level-0 px"),
        ([0.5, -1, 0], r"detection at \(-1, 0\)"),
        ([0.5, NAN, 0], r"detection at \(nan, 0\)"),
        ([NAN, 1, 0], "give confidences"),
        ([0.5, 1], r"give \(D, 3\)"),
    ],
    ids=["right", "left", "nan", "confidence", "columns"],
)
def test_a_detection_that_is_not_on_the_mask_is_refused(detection: list, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        match_detections(evaluation_mask(np.zeros((10, 10), dtype=bool)), [detection])


def test_a_mask_without_scale_or_rows_is_refused() -> None:
    with pytest.raises(ConfigError, match="a scale above 0"):
        evaluation_mask(np.ones((3, 3)), mpp=0.0)
    with pytest.raises(ConfigError, match=r"shape \(3,\)"):
        evaluation_mask(np.ones(3))
