"""Figures from probabilities and targets.

It knows arrays, and neither networks nor files. Definitions are scikit-learn's where it has
them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

COVERAGE_THRESHOLDS: Final = (0.0, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99)
_NUM_BINS: Final = 15


def multiclass_metrics(
    probabilities: NDArray[np.floating], targets: NDArray[np.integer], labels: Sequence[str]
) -> dict[str, Any]:
    """What `limelens evaluate --json` prints for a multiclass model, without the skipped files.

    Args:
        probabilities: `(N, C)`, rows sum to 1.
        targets: `(N,)`, 0 to C - 1; N at least 1.
        labels: C names.

    Returns:
        `accuracy`, `top5_accuracy`, `macro_f1` (over labels that are true or predicted of some
        image, as scikit-learn's), `loss` (mean negative
        log likelihood), `ece` and the tables `per_class`, `confusion` (rows: true label) and
        `coverage`.
    """
    indices = np.arange(len(labels))
    predicted = probabilities.argmax(axis=1)
    precision, recall, f1, support = precision_recall_fscore_support(
        targets, predicted, labels=indices, zero_division=0.0
    )
    true_probability = probabilities[np.arange(len(targets)), targets]
    rank = (probabilities > true_probability[:, np.newaxis]).sum(axis=1)
    return {
        "num_images": len(targets),
        "labels": list(labels),
        "task": "multiclass",
        "accuracy": float((predicted == targets).mean()),
        "top5_accuracy": float((rank < 5).mean()),
        "macro_f1": float(f1[(support > 0) | np.isin(indices, predicted)].mean()),
        "loss": negative_log_likelihood(probabilities, targets),
        "ece": expected_calibration_error(probabilities, targets),
        "per_class": {
            label: {
                "precision": float(precision[i]),
                "recall": float(recall[i]),
                "f1": float(f1[i]),
                "support": int(support[i]),
            }
            for i, label in enumerate(labels)
        },
        "confusion": confusion_matrix(targets, predicted, labels=indices).tolist(),
        "coverage": coverage(probabilities, targets),
    }


def negative_log_likelihood(
    probabilities: NDArray[np.floating], targets: NDArray[np.integer]
) -> float:
    """Mean of -log p(true label), p at least 1e-12; arguments as for `multiclass_metrics`."""
    true_probability = probabilities[np.arange(len(targets)), targets]
    return float(-np.log(np.clip(true_probability, 1e-12, 1.0)).mean())


def expected_calibration_error(
    probabilities: NDArray[np.floating], targets: NDArray[np.integer]
) -> float:
    """Mean gap between confidence and accuracy over 15 equal bins (Guo et al. 2017, eq. 3)."""
    confidence = probabilities.max(axis=1)
    correct = probabilities.argmax(axis=1) == targets
    bins = np.minimum((confidence * _NUM_BINS).astype(int), _NUM_BINS - 1)
    gap = np.bincount(bins, weights=confidence - correct, minlength=_NUM_BINS)
    return float(np.abs(gap).sum() / len(targets))


def coverage(
    probabilities: NDArray[np.floating],
    targets: NDArray[np.integer],
    thresholds: Sequence[float] = COVERAGE_THRESHOLDS,
) -> list[dict[str, float | None]]:
    """For each threshold, the share of images decided and how many of those are right.

    Returns:
        `threshold`, `coverage` and `accuracy`; accuracy is None where nothing is decided.
    """
    confidence = probabilities.max(axis=1)
    correct = probabilities.argmax(axis=1) == targets
    rows: list[dict[str, float | None]] = []
    for threshold in thresholds:
        decided = confidence >= threshold
        rows.append(
            {
                "threshold": threshold,
                "coverage": float(decided.mean()),
                "accuracy": float(correct[decided].mean()) if decided.any() else None,
            }
        )
    return rows


def fit_temperature(logits: NDArray[np.floating], targets: NDArray[np.integer]) -> float:
    """The temperature that makes softmax(logits / T) fit best (Guo et al. 2017, section 4.2).

    Without a single mistake any temperature looks the better the lower it is: 1 is returned, and
    the network's own confidence stands.

    Args:
        logits: `(N, C)`.
        targets: `(N,)`.

    Returns:
        Between 0.25 and 10.
    """
    if (logits.argmax(axis=1) == targets).all():
        return 1.0

    def loss(log_temperature: float) -> float:
        return negative_log_likelihood(softmax(logits / np.exp(log_temperature)), targets)

    found = minimize_scalar(loss, bounds=(np.log(0.25), np.log(10.0)), method="bounded")
    return float(np.exp(found.x))


def softmax(logits: NDArray[np.floating]) -> NDArray[np.float64]:
    """Rows of logits as probabilities, in float64."""
    shifted = np.asarray(logits, dtype=np.float64)
    exponentials = np.exp(shifted - shifted.max(axis=1, keepdims=True))
    normalised: NDArray[np.float64] = exponentials / exponentials.sum(axis=1, keepdims=True)
    return normalised
