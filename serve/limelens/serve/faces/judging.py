"""From a face's probabilities to a decision about it, and from the faces to that of the image.

It knows plain values, and neither runs models nor knows messages.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from limelens.serve.bundle import Metadata
from limelens.serve.decisions.decision import (
    Decision,
    FacePrediction,
    Prediction,
    decide,
    needed_threshold,
)
from limelens.serve.faces.boxes import DEFAULT_MARGIN, Face
from limelens.serve.faces.quality import FoundFace
from limelens.serve.image import Region


def crop_of(face: Face, metadata: Metadata, height: int, width: int) -> Region:
    """The part of an image, of this height and width in pixels, that a classifier is shown."""
    margin = DEFAULT_MARGIN if metadata.crop is None else metadata.crop
    return face.region(margin, height, width)


def judge(
    found: Sequence[FoundFace],
    probabilities: Iterable[NDArray[np.float32]],
    metadata: Metadata,
    size: tuple[int, int],
    *,
    top_k: int = 0,
    threshold: float | None = None,
) -> list[FacePrediction]:
    """Decides about the faces of an image.

    Args:
        found: The faces.
        probabilities: `(C,)` float32 of the crop of each face without an issue, in their order.
        metadata: The classifier's.
        size: Height and width of the upright image, in pixels.
        top_k: As for `decide`.
        threshold: As for `decide`.
    """
    rows = iter(probabilities)
    return [
        judge_one(
            face,
            next(rows) if face.issue is None else None,
            metadata,
            size,
            top_k=top_k,
            threshold=threshold,
        )
        for face in found
    ]


def judge_one(
    found: FoundFace,
    probabilities: NDArray[np.float32] | None,
    metadata: Metadata,
    size: tuple[int, int],
    *,
    top_k: int = 0,
    threshold: float | None = None,
) -> FacePrediction:
    """As `judge`, for one face; without probabilities the model abstains."""
    if probabilities is None:
        prediction = _without_label(Decision.ABSTAINED, metadata, threshold)
    else:
        prediction = decide(probabilities, metadata, top_k=top_k, threshold=threshold)
    return FacePrediction(
        box=found.face.region(0.0, *size),
        score=found.face.score,
        prediction=prediction,
        issue=found.issue,
        alert=prediction.alert,
    )


def of_faces(
    faces: Sequence[FacePrediction], metadata: Metadata, threshold: float | None = None
) -> Prediction:
    """The prediction for an image: that of its worst face, with all faces.

    An alert goes before a face for which the model abstained, and that before all others; of equal
    ones the first. Without a face the decision is `NO_FACE`.
    """
    if not faces:
        return _without_label(Decision.NO_FACE, metadata, threshold)
    return replace(faces[index_of_worst(faces)].prediction, faces=tuple(faces))


def index_of_worst(faces: Sequence[FacePrediction]) -> int:
    """Which of the faces, at least one, is the worst; see `of_faces`."""
    return min(range(len(faces)), key=lambda i: _rank(faces[i].prediction))


def _rank(prediction: Prediction) -> int:
    if prediction.alert:
        return 0
    return 1 if prediction.decision is Decision.ABSTAINED else 2


def _without_label(decision: Decision, metadata: Metadata, threshold: float | None) -> Prediction:
    return Prediction(
        decision=decision,
        label=None,
        labels=(),
        alert=False,
        scores=(),
        threshold=needed_threshold(metadata, threshold),
        macro_label=None,
    )
