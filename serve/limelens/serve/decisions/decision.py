"""From probabilities to a decision: top labels, thresholds with abstention, alerts.

Pure functions on plain values, the same for the server and for the command line in process. It
knows nothing of messages, of sessions or of queues.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from limelens.serve.bundle import Metadata

DEFAULT_TOP_K: Final = 5
_MULTILABEL: Final = "multilabel"
_MANY_LABELS: Final = 64


class Decision(StrEnum):
    """Whether an answer was given."""

    LABEL = "label"
    """The label or the labels are the decision."""
    ABSTAINED = "abstained"
    """No label reached its threshold."""


@dataclass(frozen=True, slots=True)
class Score:
    """A label with the model's probability for it.

    Args:
        label: Its name.
        probability: 0 to 1.
    """

    label: str
    probability: float


@dataclass(frozen=True, slots=True)
class Prediction:
    """What a model says of one image.

    Args:
        decision: Whether the model decides or abstains.
        label: The decided label; None when it abstained, and for multilabel models.
        labels: Multilabel: every label at or over its threshold, most probable first.
        alert: Whether a decided label is one that somebody must be told of.
        scores: The most probable labels, most probable first; equal ones in the model's order.
        threshold: The probability that a decision needed; 0 for multilabel models that used
            their labels' own.
        macro_label: The decided label's coarser category; None where there is none.
        embedding: The feature vector; empty unless it was asked for.
    """

    decision: Decision
    label: str | None
    labels: tuple[str, ...]
    alert: bool
    scores: tuple[Score, ...]
    threshold: float
    macro_label: str | None
    embedding: tuple[float, ...] = ()


def decide(
    probabilities: NDArray[np.float32],
    metadata: Metadata,
    *,
    top_k: int = 0,
    threshold: float | None = None,
    embedding: NDArray[np.float32] | None = None,
) -> Prediction:
    """Decides one image.

    Args:
        probabilities: `(C,)`, in the order of the metadata's labels.
        metadata: The bundle's labels, thresholds and alert labels.
        top_k: How many scores, 1 to C; 0 means 5 or all, whichever is less.
        threshold: In place of the bundle's own (multilabel: of every label's own).
        embedding: `(D,)`, to be carried along.

    Returns:
        The prediction. A label that exactly meets its threshold is decided.
    """
    labels = metadata.labels
    values: list[float] = probabilities.tolist()
    order = _by_probability(probabilities, values)
    best = order[0]
    label: str | None = None
    decided: tuple[str, ...] = ()
    if metadata.task == _MULTILABEL:
        needed = threshold or 0.0
        least: Sequence[float] = (
            metadata.label_thresholds if threshold is None else [threshold] * len(labels)
        )
        reached = probabilities >= np.asarray(least, dtype=np.float32)
        decided = tuple(labels[i] for i in order if reached[i])
        alert = not {*metadata.alert_labels}.isdisjoint(decided)
    else:
        needed = metadata.threshold if threshold is None else threshold
        # Compared as float32: a threshold of 0.7 is met by the float32 next to 0.7.
        label = labels[best] if probabilities[best] >= np.float32(needed) else None
        alert = label in metadata.alert_labels
    return Prediction(
        decision=Decision.LABEL if label is not None or decided else Decision.ABSTAINED,
        label=label,
        labels=decided,
        alert=alert,
        scores=tuple(
            [Score(labels[i], values[i]) for i in order[: top_k or min(DEFAULT_TOP_K, len(labels))]]
        ),
        threshold=needed,
        macro_label=None if label is None else metadata.macro_labels.get(label),
        embedding=() if embedding is None else tuple(embedding.tolist()),
    )


def _by_probability(probabilities: NDArray[np.float32], values: list[float]) -> list[int]:
    """Labels' numbers, the most probable first, equal ones in the model's order."""
    if len(values) > _MANY_LABELS:
        order: list[int] = np.argsort(-probabilities, kind="stable").tolist()
        return order
    # For a few numbers numpy's calls cost more than the sorting.
    return sorted(range(len(values)), key=values.__getitem__, reverse=True)


def spoken_label(prediction: Prediction, alert_labels: Sequence[str]) -> str | None:
    """The one label that a prediction says, for looking at several in a row.

    Args:
        prediction: Of a multiclass or a multilabel model.
        alert_labels: The model's; of several decided labels one of these goes first.

    Returns:
        The label; None where the model abstained.
    """
    if prediction.labels:
        alerts = [label for label in prediction.labels if label in alert_labels]
        return (alerts or prediction.labels)[0]
    return prediction.label
