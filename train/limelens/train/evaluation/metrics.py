"""Figures from probabilities and targets.

It knows arrays, and neither networks nor files. Definitions are scikit-learn's where it has
them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize, minimize_scalar
from scipy.special import expit
from sklearn.metrics import (
    average_precision_score,
    confusion_matrix,
    precision_recall_curve,
    precision_recall_fscore_support,
    roc_auc_score,
)

from limelens.serve.bundle import Task

COVERAGE_THRESHOLDS: Final = (0.0, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99)
WANTED_ACCURACY: Final = 0.95
_NUM_BINS: Final = 15
_FEW_FOR_BIAS: Final = 30
_FEW: Final = 10
"""With fewer positive images a label gets no threshold of its own."""


def figures_of(
    probabilities: NDArray[np.floating],
    targets: NDArray[np.integer],
    labels: Sequence[str],
    task: Task,
    *,
    thresholds: Sequence[float] = (),
    macro_labels: Mapping[str, str] | None = None,
    wanted_accuracy: float = WANTED_ACCURACY,
) -> dict[str, Any]:
    """`multiclass_metrics` or `multilabel_metrics`, whichever the task asks for.

    Args:
        probabilities: `(N, C)`.
        targets: As `limelens.train.data.examples.targets_of` gives them.
        labels: C names.
        task: Of the model.
        thresholds: C, for multilabel.
        macro_labels: Label to coarser category.
        wanted_accuracy: For multiclass, see there.
    """
    if task is Task.MULTILABEL:
        return multilabel_metrics(probabilities, targets, labels, thresholds)
    return multiclass_metrics(
        probabilities, targets, labels, macro_labels=macro_labels, wanted_accuracy=wanted_accuracy
    )


def multiclass_metrics(
    probabilities: NDArray[np.floating],
    targets: NDArray[np.integer],
    labels: Sequence[str],
    *,
    macro_labels: Mapping[str, str] | None = None,
    wanted_accuracy: float = WANTED_ACCURACY,
) -> dict[str, Any]:
    """What `limelens evaluate --json` prints for a multiclass model, without the skipped files.

    Args:
        probabilities: `(N, C)`, rows sum to 1.
        targets: `(N,)`, 0 to C - 1; N at least 1.
        labels: C names.
        macro_labels: Label to coarser category; None or empty where there are none.
        wanted_accuracy: Of what is decided, 0 to 1, for `at_wanted_accuracy`.

    Returns:
        `accuracy`, `top5_accuracy`, `macro_f1` (over labels that are true or predicted of some
        image, as scikit-learn's), `loss` (mean negative log likelihood), `ece`, the tables
        `per_class`, `confusion` (rows: true label) and `coverage`, and `at_wanted_accuracy` (as
        `threshold_for`). With macro labels `macro_label_accuracy`: how often the decided label's
        category is the true label's.
    """
    indices = np.arange(len(labels))
    predicted = probabilities.argmax(axis=1)
    precision, recall, f1, support = precision_recall_fscore_support(
        targets, predicted, labels=indices, zero_division=0.0
    )
    true_probability = probabilities[np.arange(len(targets)), targets]
    rank = (probabilities > true_probability[:, np.newaxis]).sum(axis=1)
    macro_accuracy = {}
    if macro_labels:
        coarse = np.array([macro_labels[label] for label in labels])
        macro_accuracy["macro_label_accuracy"] = float(
            (coarse[predicted] == coarse[targets]).mean()
        )
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
        "at_wanted_accuracy": threshold_for(probabilities, targets, wanted_accuracy),
        **macro_accuracy,
    }


def multilabel_metrics(
    probabilities: NDArray[np.floating],
    targets: NDArray[np.integer],
    labels: Sequence[str],
    thresholds: Sequence[float],
) -> dict[str, Any]:
    """What `limelens evaluate --json` prints for a multilabel model, without the skipped files.

    Args:
        probabilities: `(N, C)`, each 0 to 1.
        targets: `(N, C)`, 0 or 1; N at least 1.
        labels: C names.
        thresholds: C; a label with at least its threshold is predicted.

    Returns:
        `loss` (binary cross-entropy, mean over images and labels), `base_rate_loss` (that of
        always answering these images' own shares: what a model must beat),
        `mean_average_precision` and `macro_auc` (over labels that some images have and some
        have not), `micro_f1`, `macro_f1` (over labels that are true or predicted of some
        image), `top3_accuracy` (a true label is among the three most probable, of images that
        have one), `top3_recall` (share of all true labels found there), `ece` (over all labels)
        and the table `per_class`.
    """
    true: NDArray[np.bool_] = targets.astype(np.bool_)
    predicted: NDArray[np.bool_] = probabilities >= np.asarray(thresholds)
    precision, recall, f1, support = precision_recall_fscore_support(
        true, predicted, zero_division=0.0
    )
    micro_f1 = precision_recall_fscore_support(true, predicted, average="micro", zero_division=0.0)[
        2
    ]
    ranked = [0 < count < len(true) for count in true.sum(axis=0)]
    auc = [
        float(roc_auc_score(true[:, i], probabilities[:, i])) if ranked[i] else None
        for i in range(len(labels))
    ]
    average_precision = [
        float(average_precision_score(true[:, i], probabilities[:, i])) if ranked[i] else None
        for i in range(len(labels))
    ]
    top3 = np.argsort(-probabilities, axis=1, kind="stable")[:, :3]
    found = np.take_along_axis(true, top3, axis=1)
    some = true.any(axis=1)
    return {
        "num_images": len(true),
        "labels": list(labels),
        "task": "multilabel",
        "loss": binary_cross_entropy(probabilities, true),
        "base_rate_loss": binary_cross_entropy(
            np.broadcast_to(true.mean(axis=0), true.shape), true
        ),
        "mean_average_precision": _mean(average_precision),
        "macro_auc": _mean(auc),
        "micro_f1": float(micro_f1),
        "macro_f1": _mean(f1[(support > 0) | np.any(predicted, axis=0)].tolist()) or 0.0,
        "top3_accuracy": float(found.max(axis=1)[some].mean()) if some.any() else None,
        "top3_recall": float(found.sum() / true.sum()) if some.any() else None,
        "ece": _binned_gap(probabilities.ravel(), true.ravel()),
        "per_class": {
            label: {
                "precision": float(precision[i]),
                "recall": float(recall[i]),
                "f1": float(f1[i]),
                "support": int(support[i]),
                "average_precision": average_precision[i],
                "auc": auc[i],
                "threshold": float(thresholds[i]),
            }
            for i, label in enumerate(labels)
        },
    }


def binary_cross_entropy(probabilities: NDArray[np.floating], targets: NDArray[Any]) -> float:
    """Mean over images and labels; probabilities are kept 1e-12 off 0 and 1."""
    p = np.clip(np.asarray(probabilities, dtype=np.float64), 1e-12, 1 - 1e-12)
    return float(-np.where(targets, np.log(p), np.log1p(-p)).mean())


def fit_thresholds(
    probabilities: NDArray[np.floating], targets: NDArray[np.integer]
) -> tuple[float, ...]:
    """For each label the threshold of the highest F1.

    A label with fewer than ten positive images takes the one of all labels together: its own
    would be chance.

    Args:
        probabilities: `(N, C)`, of validation images.
        targets: `(N, C)`, 0 or 1.

    Returns:
        C thresholds, 0 to 1.
    """
    shared = _best_threshold(probabilities.ravel(), targets.ravel())
    return tuple(
        _best_threshold(column, true) if true.sum() >= _FEW else shared
        for column, true in zip(probabilities.T, targets.T, strict=True)
    )


def _best_threshold(probabilities: NDArray[np.floating], true: NDArray[np.integer]) -> float:
    if not true.any():
        return 0.5
    precision, recall, thresholds = precision_recall_curve(true, probabilities)
    f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-12)
    best = int(f1[:-1].argmax())
    # Halfway to the next lower probability, so that rounding elsewhere changes nothing.
    lower = thresholds[best - 1] if best else 0.0
    return float((thresholds[best] + lower) / 2)


def threshold_for(
    probabilities: NDArray[np.floating], targets: NDArray[np.integer], accuracy: float
) -> dict[str, float | None]:
    """The lowest threshold at which what is decided is right often enough.

    Args:
        probabilities: `(N, C)`.
        targets: `(N,)`.
        accuracy: Wanted, 0 to 1.

    Returns:
        `wanted`, `threshold`, `coverage` (share decided) and `accuracy`; the last three are None
        where no threshold reaches it.
    """
    confidence = probabilities.max(axis=1)
    correct = probabilities.argmax(axis=1) == targets
    order = np.argsort(-confidence, kind="stable")
    right = np.cumsum(correct[order]) / np.arange(1, len(order) + 1)
    # Equal confidences are decided together.
    last = np.append(np.diff(confidence[order]) < 0, True)
    reached = np.flatnonzero(last & (right >= accuracy))
    if not len(reached):
        return {"wanted": accuracy, "threshold": None, "coverage": None, "accuracy": None}
    end = int(reached[-1])
    return {
        "wanted": accuracy,
        "threshold": float(confidence[order][end]),
        "coverage": (end + 1) / len(order),
        "accuracy": float(right[end]),
    }


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


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
    return _binned_gap(probabilities.max(axis=1), probabilities.argmax(axis=1) == targets)


def _binned_gap(confidence: NDArray[np.floating], correct: NDArray[np.bool_]) -> float:
    bins = np.minimum((confidence * _NUM_BINS).astype(int), _NUM_BINS - 1)
    gap = np.bincount(bins, weights=confidence - correct, minlength=_NUM_BINS)
    return float(np.abs(gap).sum() / len(confidence))


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
    return _least_loss(lambda t: negative_log_likelihood(softmax(logits / t), targets))


def fit_label_bias(
    logits: NDArray[np.floating], targets: NDArray[np.integer], temperature: float
) -> NDArray[np.float64]:
    """What is added to the logits so that no label is said too often or too seldom.

    Bias-corrected temperature scaling (Alexandari et al. 2020, section 3.2), for a temperature
    that is given. A label with fewer than thirty images, or data without a mistake, would make
    it chance: then it is 0.

    Args:
        logits: `(N, C)`.
        targets: `(N,)`.
        temperature: As from `fit_temperature`.

    Returns:
        `(C,)`, with mean 0.
    """
    num_labels = logits.shape[1]
    counts = np.bincount(targets, minlength=num_labels)
    if counts.min() < _FEW_FOR_BIAS or (logits.argmax(axis=1) == targets).all():
        return np.zeros(num_labels)

    def loss(bias: NDArray[np.float64]) -> float:
        return negative_log_likelihood(softmax((logits + bias) / temperature), targets)

    found = minimize(loss, np.zeros(num_labels), method="L-BFGS-B")
    bias: NDArray[np.float64] = found.x - found.x.mean()
    return bias


def fit_temperature_multilabel(logits: NDArray[np.floating], targets: NDArray[np.integer]) -> float:
    """As `fit_temperature`, for sigmoid(logits / T) and `(N, C)` targets of 0 and 1."""
    if ((logits > 0) == (targets > 0)).all():
        return 1.0
    return _least_loss(lambda t: binary_cross_entropy(expit(logits / t), targets))


def _least_loss(loss: Callable[[float], float]) -> float:
    found = minimize_scalar(
        lambda log_temperature: loss(float(np.exp(log_temperature))),
        bounds=(np.log(0.25), np.log(10.0)),
        method="bounded",
    )
    return float(np.exp(found.x))


def softmax(logits: NDArray[np.floating]) -> NDArray[np.float64]:
    """Rows of logits as probabilities, in float64."""
    shifted = np.asarray(logits, dtype=np.float64)
    exponentials = np.exp(shifted - shifted.max(axis=1, keepdims=True))
    normalised: NDArray[np.float64] = exponentials / exponentials.sum(axis=1, keepdims=True)
    return normalised
