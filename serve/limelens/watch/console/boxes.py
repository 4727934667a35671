"""The faces of a frame as a page shows them: a box, a state and what was decided."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from limelens.serve import FacePrediction, Region
from limelens.serve.decisions.camera_state import CameraState


@dataclass(frozen=True, slots=True)
class FaceBox:
    """One face.

    Args:
        number: Its place among those of the frame, from 1.
        box: Where it is.
        state: What was decided about it.
        label: The label; None if there is none.
        probability: The model's for the most probable label; None if it was not judged.
        issue: Why it cannot be judged, as a key of `[issues]`; empty if it can.
    """

    number: int
    box: Region
    state: CameraState
    label: str | None
    probability: float | None
    issue: str


def face_boxes(faces: Iterable[FacePrediction]) -> tuple[FaceBox, ...]:
    """The faces in their order."""
    return tuple(_box(number, face) for number, face in enumerate(faces, 1))


def _box(number: int, face: FacePrediction) -> FaceBox:
    prediction = face.prediction
    label = prediction.label if face.person is None else face.smoothed_label
    if face.alert:
        state = CameraState.ALERT
    else:
        state = CameraState.UNKNOWN if label is None else CameraState.CLEAR
    return FaceBox(
        number=number,
        box=face.box,
        state=state,
        label=label,
        probability=prediction.scores[0].probability if prediction.scores else None,
        issue="" if face.issue is None else face.issue.value,
    )
