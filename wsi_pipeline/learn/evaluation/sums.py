"""What a threshold and a calibration come to, as functions of sums over rows, for `bootstrap_totals`.

Sensitivity, F1, ECE, Brier score, accuracy and kappa all are such functions. A bootstrap round only weighs
the patients' sums then: 1,000 rounds cost 1,000 products with a matrix in place of 1,000 passes over the rows.
"""

import numpy as np

BINS = 15  # of equal width, for the expected calibration error
BINARY = ("sensitivity", "specificity", "ppv", "npv", "f1", "brier", "ece", "ppv_stated")
CALLED = ("accuracy", "balanced_accuracy", "quadratic_kappa")
_COUNTS = 6


def binary_rows(labels: np.ndarray, probs: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    """What each row adds to the sums of `binary_statistics`: (N, C, 6 + BINS), 0 where label or probability is NaN.

    labels, probs: (N, C); thresholds: (C,), taken in the precision of `probs`. Last axis: true positive, false
    positive, false negative, true negative (positive is p >= threshold), squared error, known, and p - y in
    each bin k of k / BINS <= p < (k + 1) / BINS, the last also with p = 1.
    """
    known = ~(np.isnan(labels) | np.isnan(probs))
    called = probs >= thresholds.astype(probs.dtype)
    y, p = np.where(known, labels, 0.0), np.where(known, probs, 0.0).astype(np.float64)
    rows = np.zeros((*y.shape, _COUNTS + BINS))
    for k, values in enumerate((y * called, (1 - y) * called, y * ~called, (1 - y) * ~called, (p - y) ** 2, 1.0)):
        rows[..., k] = values
    place = np.minimum((p * BINS).astype(np.intp), BINS - 1)
    np.put_along_axis(rows, _COUNTS + place[..., None], (p - y)[..., None], axis=-1)
    return rows * known[..., None]


def binary_statistics(sums: np.ndarray, prevalence: np.ndarray) -> np.ndarray:
    """The figures of BINARY, (..., C, 8), of sums (..., C, 6 + BINS); NaN where a class is absent.

    `prevalence` (C,) is that at which ppv_stated stands (Bayes), NaN for none. The expected calibration error
    is the sum of |sum of p - y| over the bins, which is their mean difference weighted by size.
    """
    tp, fp, fn, tn, squares, known = np.moveaxis(sums[..., :_COUNTS], -1, 0)
    sensitivity, specificity = _share(tp, tp + fn), _share(tn, tn + fp)
    one_class = np.where((tp + fn > 0) & (fp + tn > 0), 0.0, np.nan)
    true, false = sensitivity * prevalence, (1 - specificity) * (1 - prevalence)
    return np.stack(
        [
            sensitivity,
            specificity,
            _share(tp, tp + fp) + one_class,
            _share(tn, tn + fn) + one_class,
            _share(2 * tp, 2 * tp + fp + fn) + one_class,
            _share(squares, known),
            _share(np.abs(sums[..., _COUNTS:]).sum(axis=-1), known),
            _share(true, true + false),
        ],
        axis=-1,
    )


def confusion_rows(truth: np.ndarray, called: np.ndarray, classes: int) -> np.ndarray:
    """Each row's cell of the confusion matrix, one-hot (N, classes ** 2); truth, called: (N,) int codes."""
    rows = np.zeros((len(truth), classes**2))
    rows[np.arange(len(truth)), truth * classes + called] = 1
    return rows


def confusion_statistics(sums: np.ndarray) -> np.ndarray:
    """The figures of CALLED, (..., 3), of sums (..., K ** 2), rows of the matrix the truth.

    Balanced accuracy is the mean share found of the classes that occur, NaN for one. Kappa (Cohen 1968) is
    1 - sum(w O) / sum(w E), w the squared distance of the grades.
    """
    classes = round(sums.shape[-1] ** 0.5)
    table = sums.reshape(*sums.shape[:-1], classes, classes)
    total, of_truth, of_called = table.sum(axis=(-1, -2)), table.sum(axis=-1), table.sum(axis=-2)
    right = np.diagonal(table, axis1=-2, axis2=-1)
    weights = np.subtract.outer(np.arange(classes), np.arange(classes)) ** 2.0
    expected = (of_truth[..., :, None] * of_called[..., None, :] * weights).sum(axis=(-1, -2))
    occurring = (of_truth > 0).sum(axis=-1)
    balanced = _share(np.nan_to_num(_share(right, of_truth)).sum(axis=-1), np.where(occurring > 1, occurring, 0))
    kappa = 1 - _share((table * weights).sum(axis=(-1, -2)) * total, expected)
    return np.stack([_share(right.sum(axis=-1), total), balanced, kappa], axis=-1)


def mean_of_known(values: np.ndarray, axis: int) -> np.ndarray:
    """Mean over an axis of what is not NaN; NaN where nothing is."""
    known = ~np.isnan(values)
    return _share(np.where(known, values, 0.0).sum(axis=axis), known.sum(axis=axis))


def _share(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """part / whole; NaN where the whole is 0 or NaN."""
    whole = np.asarray(whole, np.float64)
    return np.divide(part, whole, out=np.full(whole.shape, np.nan), where=whole > 0)
