"""From probabilities to a decision: top labels, thresholds with abstention, alerts.

Pure functions on plain values, shared by the server and the client without a server.
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
    from limelens.serve.image import Region

DEFAULT_TOP_K: Final = 5
_MULTILABEL: Final = "multilabel"
_MANY_LABELS: Final = 64


class Decision(StrEnum):
    """Whether the model decided."""

    LABEL = "label"  # it decided on a label, or on several
    ABSTAINED = "abstained"  # no label reached its threshold
    NO_FACE = "no_face"  # faces were asked for, and there is none


class FaceIssue(StrEnum):
    """Why a face cannot be judged."""

    TOO_SMALL = "too_small"  # for the model
    CUT_OFF = "cut_off"  # by the edge of the image
    BLURRED = "blurred"

    @property
    def in_words(self) -> str:
        """For people: `too small`."""
        return self.replace("_", " ")


@dataclass(frozen=True, slots=True)
class Score:
    """A label and the model's probability for it.

    Args:
        label: The label.
        probability: 0 to 1.
    """

    label: str
    probability: float


@dataclass(frozen=True, slots=True)
class Prediction:
    """A model's prediction for one image.

    Args:
        decision: Whether the model decided or abstained, or had no face to decide about.
        label: The decided label; None if the model abstained, and for multilabel models.
        labels: Multilabel: all labels that reach their thresholds, most probable first.
        alert: Whether a decided label is an alert label.
        scores: The most probable labels, most probable first; ties in the model's order.
        threshold: The probability that a decision needed; 0 if a multilabel model used the
            thresholds of its labels.
        macro_label: The decided label's superclass; None if there is none.
        embedding: The feature vector; empty unless it was requested.
        faces: If faces were asked for, those found, the largest first; the prediction is then that
            of the worst of them: an alert before one that abstained before any other.
    """

    decision: Decision
    label: str | None
    labels: tuple[str, ...]
    alert: bool
    scores: tuple[Score, ...]
    threshold: float
    macro_label: str | None
    embedding: tuple[float, ...] = ()
    faces: tuple[FacePrediction, ...] = ()


@dataclass(frozen=True, slots=True)
class FacePrediction:
    """A face in an image, and what the model says of it.

    Args:
        box: Where it is, within the upright image.
        score: How sure the detector is, 0 to 1.
        prediction: Of the face; it abstains, without scores, if there is an issue.
        issue: Why the face cannot be judged; None if it can.
        alert: Whether the decision about the person (of a stream) or the face is an alert label.
        person: Streams: the person's number in this stream, from 1, which nobody else gets and
            which says nothing of who they are; None for a single image.
        smoothed_label: Streams: the decision about the person over the last frames; None while it
            is unknown.
        changed: Streams: whether that differs from the previous answer.
        seen: Streams: whether the face was found in this frame. If not, the person was followed to
            it, or is out of sight and keeps the last place and decision.
    """

    box: Region
    score: float
    prediction: Prediction
    issue: FaceIssue | None = None
    alert: bool = False
    person: int | None = None
    smoothed_label: str | None = None
    changed: bool = False
    seen: bool = True


def decide(
    probabilities: NDArray[np.float32],
    metadata: Metadata,
    *,
    top_k: int = 0,
    threshold: float | None = None,
    embedding: NDArray[np.float32] | None = None,
) -> Prediction:
    """Decides for one image.

    Args:
        probabilities: `(C,)` float32, 0 to 1, in the order of the metadata's labels.
        metadata: The bundle's.
        top_k: How many scores, 1 to C; 0 means 5 or all, whichever is less.
        threshold: Replaces the bundle's (multilabel: every label's) threshold.
        embedding: `(D,)` float32, copied into the prediction.

    Returns:
        The prediction. A label that exactly reaches its threshold is decided.
    """
    labels = metadata.labels
    values: list[float] = probabilities.tolist()
    order = _by_probability(probabilities, values)
    best = order[0]
    label: str | None = None
    decided: tuple[str, ...] = ()
    needed = needed_threshold(metadata, threshold)
    if metadata.task == _MULTILABEL:
        least: Sequence[float] = (
            metadata.label_thresholds if threshold is None else [threshold] * len(labels)
        )
        reached = probabilities >= np.asarray(least, dtype=np.float32)
        decided = tuple(labels[i] for i in order if reached[i])
        alert = not {*metadata.alert_labels}.isdisjoint(decided)
    else:
        # Compared as float32: the float32 nearest to 0.7 reaches a threshold of 0.7.
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


def needed_threshold(metadata: Metadata, threshold: float | None = None) -> float:
    """`Prediction.threshold` of a model's decisions; arguments as for `decide`."""
    if threshold is not None:
        return threshold
    return 0.0 if metadata.task == _MULTILABEL else metadata.threshold


def _by_probability(probabilities: NDArray[np.float32], values: list[float]) -> list[int]:
    """Indices of labels, most probable first, ties in the model's order."""
    if len(values) > _MANY_LABELS:
        order: list[int] = np.argsort(-probabilities, kind="stable").tolist()
        return order
    # For a few numbers, sorting costs less than numpy's calls.
    return sorted(range(len(values)), key=values.__getitem__, reverse=True)


def spoken_label(prediction: Prediction, alert_labels: Sequence[str]) -> str | None:
    """The one label of a prediction that smoothing counts.

    Among several decided labels, an alert label goes first; None if the model abstained.
    """
    if prediction.labels:
        alerts = [label for label in prediction.labels if label in alert_labels]
        return (alerts or prediction.labels)[0]
    return prediction.label
