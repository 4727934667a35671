"""Metrics of probabilities and targets, and fits to them: temperature, thresholds.

It knows arrays, and neither networks nor files. Definitions are scikit-learn's if it has them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from scipy import special
from scipy.optimize import minimize, minimize_scalar
from sklearn.metrics import (
    average_precision_score,
    confusion_matrix,
    f1_score,
    precision_recall_curve,
    precision_recall_fscore_support,
    roc_auc_score,
)

from limelens.serve.bundle import Task

COVERAGE_THRESHOLDS: Final = (0.0, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99)
WANTED_ACCURACY: Final = 0.95
_NUM_BINS: Final = 15
_MIN_IMAGES_FOR_BIAS: Final = 30
_PRIOR_DEVIATION: Final = 0.5
"""Of the logarithm of the temperature."""
_MIN_IMAGES_FOR_THRESHOLD: Final = 10


def probabilities_of(
    logits: NDArray[np.floating], temperature: float, task: Task
) -> NDArray[np.float64]:
    """Softmax or sigmoid of logits `(N, C)` divided by a temperature."""
    scaled = np.asarray(logits, dtype=np.float64) / temperature
    found: NDArray[np.float64] = (special.expit if task is Task.MULTILABEL else softmax)(scaled)
    return found


def compute_metrics(
    probabilities: NDArray[np.floating],
    targets: NDArray[np.integer],
    labels: Sequence[str],
    task: Task,
    *,
    thresholds: Sequence[float] = (),
    threshold: float = 0.0,
    macro_labels: Mapping[str, str] | None = None,
    wanted_accuracy: float = WANTED_ACCURACY,
) -> dict[str, Any]:
    """Calls `multiclass_metrics` or `multilabel_metrics`, depending on the task.

    `targets` are as `limelens.train.data.examples.targets_of` returns them.
    """
    if task is Task.MULTILABEL:
        return multilabel_metrics(probabilities, targets, labels, thresholds)
    return multiclass_metrics(
        probabilities,
        targets,
        labels,
        threshold=threshold,
        macro_labels=macro_labels,
        wanted_accuracy=wanted_accuracy,
    )


def multiclass_metrics(
    probabilities: NDArray[np.floating],
    targets: NDArray[np.integer],
    labels: Sequence[str],
    *,
    threshold: float = 0.0,
    macro_labels: Mapping[str, str] | None = None,
    wanted_accuracy: float = WANTED_ACCURACY,
) -> dict[str, Any]:
    """What `limelens evaluate --json` prints for a multiclass model, without the skipped files.

    Probabilities are `(N, C)`, rows sum to 1; targets `(N,)`, 0 to C - 1; N is at least 1. Below
    `threshold` the model abstains; 0 never does.

    Returns:
        `accuracy`, `top5_accuracy`, `macro_f1` (over labels that some image has or is predicted
        to have, as scikit-learn's), `loss` (mean negative log likelihood), `ece`, the tables
        `per_class`, `confusion` (rows: true label) and `coverage`, and `at_wanted_accuracy` (as
        `threshold_for`). All of these count the most probable label, decided or not. With a
        threshold also `at_threshold` (as `decided_metrics`), and `abstained` in each row of
        `per_class`: how many of its images are not decided. With superclasses also
        `macro_label_accuracy`: how often the predicted label's category is the true label's.
    """
    indices = np.arange(len(labels))
    predicted = probabilities.argmax(axis=1)
    precision, recall, f1, support = precision_recall_fscore_support(
        targets, predicted, labels=indices, zero_division=0.0
    )
    correct = predicted == targets
    rank = (probabilities > probabilities[np.arange(len(targets)), targets, np.newaxis]).sum(axis=1)
    metrics: dict[str, Any] = {
        "num_images": len(targets),
        "labels": list(labels),
        "task": "multiclass",
        "accuracy": float(correct.mean()),
        "top5_accuracy": float((rank < 5).mean()),
        "macro_f1": float(f1[(support > 0) | np.isin(indices, predicted)].mean()),
        "loss": negative_log_likelihood(probabilities, targets),
        "ece": calibration_error(probabilities.max(axis=1), correct),
        "per_class": _by_label(labels, precision=precision, recall=recall, f1=f1, support=support),
        "confusion": confusion_matrix(targets, predicted, labels=indices).tolist(),
        "coverage": coverage(probabilities, targets),
        "at_wanted_accuracy": threshold_for(probabilities, targets, wanted_accuracy),
    }
    if threshold > 0:
        metrics["at_threshold"] = decided_metrics(probabilities, targets, threshold)
        for row, counts in zip(
            metrics["per_class"].values(), metrics["at_threshold"]["confusion"], strict=True
        ):
            row["abstained"] = counts[-1]
    if macro_labels:
        coarse = np.array([macro_labels[label] for label in labels])
        metrics["macro_label_accuracy"] = float((coarse[predicted] == coarse[targets]).mean())
    return metrics


def confidences(
    probabilities: NDArray[np.floating], targets: NDArray[np.integer], task: Task
) -> tuple[NDArray[np.floating], NDArray[np.bool_]]:
    """The confidence of every prediction and whether it is correct, `(N,)`, `(N * C,)` multilabel.

    Of a multilabel model every label of every image is a prediction.
    """
    if task is Task.MULTILABEL:
        return probabilities.ravel(), targets.ravel().astype(np.bool_)
    return probabilities.max(axis=1), probabilities.argmax(axis=1) == targets


def is_decided(probabilities: NDArray[np.floating], threshold: float) -> NDArray[np.bool_]:
    """Whether a model with a threshold decides about each row; compared as `decide` does."""
    reached: NDArray[np.bool_] = probabilities.max(axis=1).astype(np.float32) >= np.float32(
        threshold
    )
    return reached


def decided_metrics(
    probabilities: NDArray[np.floating], targets: NDArray[np.integer], threshold: float
) -> dict[str, Any]:
    """What a model with a threshold decides.

    Returns:
        `threshold`, `coverage` (share decided), `accuracy` (among these; None if there are none)
        and `confusion`, C rows of true labels and C + 1 columns: the decided labels, then how many
        it abstained from.
    """
    num_labels = probabilities.shape[1]
    decided = is_decided(probabilities, threshold)
    column = np.where(decided, probabilities.argmax(axis=1), num_labels)
    counts = confusion_matrix(targets, column, labels=np.arange(num_labels + 1))[:num_labels]
    return {
        "threshold": threshold,
        "coverage": float(decided.mean()),
        "accuracy": float((column == targets)[decided].mean()) if decided.any() else None,
        "confusion": counts.tolist(),
    }


def multilabel_metrics(
    probabilities: NDArray[np.floating],
    targets: NDArray[np.integer],
    labels: Sequence[str],
    thresholds: Sequence[float],
) -> dict[str, Any]:
    """What `limelens evaluate --json` prints for a multilabel model, without the skipped files.

    Probabilities and targets are `(N, C)`, 0 to 1; N is at least 1. A label with at least its
    threshold is predicted.

    Returns:
        `loss` (binary cross-entropy, mean over images and labels), `base_rate_loss` (the loss of
        always predicting these images' own label shares, which a model must beat),
        `mean_average_precision` and `macro_auc` (over labels that some images have and others
        lack), `micro_f1`, `macro_f1` (over labels that some image has or is predicted to have),
        `top3_accuracy` (share of labelled images with a true label among the three most
        probable), `top3_recall` (share of all true labels found there), `ece` (over all labels)
        and the table `per_class`.
    """
    true: NDArray[np.bool_] = targets.astype(np.bool_)
    predicted: NDArray[np.bool_] = probabilities >= np.asarray(thresholds)
    precision, recall, f1, support = precision_recall_fscore_support(
        true, predicted, zero_division=0.0
    )
    micro_f1 = f1_score(true, predicted, average="micro", zero_division=0.0)
    auc, average_precision = (
        [
            float(score(column, scores)) if 0 < column.sum() < len(true) else None
            for column, scores in zip(true.T, probabilities.T, strict=True)
        ]
        for score in (roc_auc_score, average_precision_score)
    )
    top3 = np.argsort(-probabilities, axis=1, kind="stable")[:, :3]
    found = np.take_along_axis(true, top3, axis=1)
    has_label = true.any(axis=1)
    return {
        "num_images": len(true),
        "labels": list(labels),
        "task": "multilabel",
        "loss": binary_cross_entropy(probabilities, true),
        "base_rate_loss": binary_cross_entropy(true.mean(axis=0), true),
        "mean_average_precision": _mean(average_precision),
        "macro_auc": _mean(auc),
        "micro_f1": float(micro_f1),
        "macro_f1": _mean(f1[(support > 0) | np.any(predicted, axis=0)].tolist()) or 0.0,
        "top3_accuracy": float(found.max(axis=1)[has_label].mean()) if has_label.any() else None,
        "top3_recall": float(found.sum() / true.sum()) if has_label.any() else None,
        "ece": calibration_error(probabilities.ravel(), true.ravel()),
        "per_class": _by_label(
            labels,
            precision=precision,
            recall=recall,
            f1=f1,
            support=support,
            average_precision=average_precision,
            auc=auc,
            threshold=np.asarray(thresholds, dtype=np.float64),
        ),
    }


def _by_label(labels: Sequence[str], **columns: Any) -> dict[str, dict[str, Any]]:
    """The rows of columns of numbers, by label."""
    rows = zip(*(np.asarray(column, dtype=object) for column in columns.values()), strict=True)
    return {
        label: dict(zip(columns, row, strict=True)) for label, row in zip(labels, rows, strict=True)
    }


def binary_cross_entropy(probabilities: NDArray[np.floating], targets: NDArray[Any]) -> float:
    """Mean over images and labels; probabilities are clipped to 1e-12 and 1 - 1e-12."""
    p = np.clip(np.asarray(probabilities, dtype=np.float64), 1e-12, 1 - 1e-12)
    return float(-np.where(targets, np.log(p), np.log1p(-p)).mean())


def fit_thresholds(
    probabilities: NDArray[np.floating], targets: NDArray[np.integer]
) -> tuple[float, ...]:
    """Finds for each label the threshold with the highest F1.

    Labels with fewer than ten positive images share one threshold, fitted on all labels together,
    because their own would depend on chance.
    """
    shared = _best_threshold(probabilities.ravel(), targets.ravel())
    return tuple(
        _best_threshold(column, true) if true.sum() >= _MIN_IMAGES_FOR_THRESHOLD else shared
        for column, true in zip(probabilities.T, targets.T, strict=True)
    )


def _best_threshold(probabilities: NDArray[np.floating], true: NDArray[np.integer]) -> float:
    if not true.any():
        return 0.5
    precision, recall, thresholds = precision_recall_curve(true, probabilities)
    f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-12)
    best = int(f1[:-1].argmax())
    # Halfway to the next lower probability, so that rounding does not change decisions.
    lower = thresholds[best - 1] if best else 0.0
    return float((thresholds[best] + lower) / 2)


def threshold_for(
    probabilities: NDArray[np.floating], targets: NDArray[np.integer], accuracy: float
) -> dict[str, float | None]:
    """Finds the lowest threshold at which the decided images reach an accuracy, 0 to 1.

    Returns:
        `wanted`, `threshold`, `coverage` (share decided) and `accuracy`; the last three are None
        if no threshold reaches it.
    """
    confidence = probabilities.max(axis=1)
    correct = probabilities.argmax(axis=1) == targets
    order = np.argsort(-confidence, kind="stable")
    accuracies = np.cumsum(correct[order]) / np.arange(1, len(order) + 1)
    # Equal confidences are decided together.
    last = np.append(np.diff(confidence[order]) < 0, True)
    reached = np.flatnonzero(last & (accuracies >= accuracy))
    if not len(reached):
        return {"wanted": accuracy, "threshold": None, "coverage": None, "accuracy": None}
    end = int(reached[-1])
    return {
        "wanted": accuracy,
        "threshold": float(confidence[order][end]),
        "coverage": (end + 1) / len(order),
        "accuracy": float(accuracies[end]),
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


def calibration_error(confidence: NDArray[np.floating], correct: NDArray[np.bool_]) -> float:
    """Mean gap between confidence and accuracy over 15 equal bins (Guo et al. 2017, eq. 3)."""
    bins = np.minimum((confidence * _NUM_BINS).astype(int), _NUM_BINS - 1)
    gap = np.bincount(bins, weights=confidence - correct, minlength=_NUM_BINS)
    return float(np.abs(gap).sum() / len(confidence))


def coverage(
    probabilities: NDArray[np.floating],
    targets: NDArray[np.integer],
    thresholds: Sequence[float] = COVERAGE_THRESHOLDS,
) -> list[dict[str, float | None]]:
    """For each threshold, the share of images decided and the accuracy on them."""
    confidence = probabilities.max(axis=1)
    correct = probabilities.argmax(axis=1) == targets
    return [
        {
            "threshold": threshold,
            "coverage": float(decided.mean()),
            "accuracy": float(correct[decided].mean()) if decided.any() else None,
        }
        for threshold in thresholds
        for decided in [confidence >= threshold]
    ]


def fit_temperature(
    logits: NDArray[np.floating], targets: NDArray[np.integer], task: Task = Task.MULTICLASS
) -> float:
    """Finds the temperature T, 0.25 to 10, with the lowest loss (Guo et al. 2017, section 4.2).

    The probabilities are softmax(logits / T), or sigmoid(logits / T) for multilabel. ln T has a
    normal prior around 0 with a standard deviation of 0.5: a dozen images say little about T, and
    move it little, while hundreds outweigh the prior. If there is no mistake, lower temperatures
    would always look better; 1 keeps the network's own confidence.
    """
    is_multilabel = task is Task.MULTILABEL
    predicted = (logits > 0) if is_multilabel else logits.argmax(axis=1)
    if (predicted == targets).all():
        return 1.0

    def loss(log_temperature: float) -> float:
        scaled = logits / float(np.exp(log_temperature))
        prior = (log_temperature / _PRIOR_DEVIATION) ** 2 / (2 * len(targets))
        if is_multilabel:
            return binary_cross_entropy(special.expit(scaled), targets) + prior
        return negative_log_likelihood(softmax(scaled), targets) + prior

    found = minimize_scalar(loss, bounds=(np.log(0.25), np.log(10.0)), method="bounded")
    return float(np.exp(found.x))


def fit_label_bias(
    logits: NDArray[np.floating], targets: NDArray[np.integer], temperature: float
) -> NDArray[np.float64]:
    """Finds a `(C,)` bias that makes no label predicted too often or too seldom.

    Bias-corrected temperature scaling (Alexandari et al. 2020, section 3.2) at a given
    temperature. It is 0 if a label has fewer than thirty images or there is no mistake, because
    the result would depend on chance.
    """
    num_labels = logits.shape[1]
    counts = np.bincount(targets, minlength=num_labels)
    if counts.min() < _MIN_IMAGES_FOR_BIAS or (logits.argmax(axis=1) == targets).all():
        return np.zeros(num_labels)

    def loss(bias: NDArray[np.float64]) -> float:
        return negative_log_likelihood(softmax((logits + bias) / temperature), targets)

    found = minimize(loss, np.zeros(num_labels), method="L-BFGS-B")
    bias: NDArray[np.float64] = found.x - found.x.mean()
    return bias


def softmax(logits: NDArray[np.floating]) -> NDArray[np.float64]:
    """The softmax of each row, in float64."""
    rows: NDArray[np.float64] = special.softmax(np.asarray(logits, dtype=np.float64), axis=1)
    return rows
