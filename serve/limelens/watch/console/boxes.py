"""The faces of a frame as a page shows them: a box, a state and what was decided."""

from __future__ import annotations

import io
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from PIL import ExifTags, Image

from limelens.serve import FacePrediction, Region
from limelens.serve.decisions.camera_state import CameraState
from limelens.serve.image import FORMATS
from limelens.serve.tools.faces.drawing import decided

_LYING: Final = 5
"""From this EXIF orientation on, width and height change places."""


@dataclass(frozen=True, slots=True)
class FaceBox:
    """One face.

    Args:
        number: The person's, or else its place among those of the frame, from 1.
        is_person: Whether it is the person's.
        box: Where it is.
        state: What was decided about it.
        label: The label, or labels; None if there is none.
        probability: The model's for the most probable label; None if it was not judged.
        issue: Why it cannot be judged, as a key of `[issues]`; empty if it can.
    """

    number: int
    is_person: bool
    box: Region
    state: CameraState
    label: str | None
    probability: float | None
    issue: str


def face_boxes(faces: Iterable[FacePrediction]) -> tuple[FaceBox, ...]:
    """The faces in their order."""
    return tuple(_box(number, face) for number, face in enumerate(faces, 1))


def state_of(face: FacePrediction) -> CameraState:
    """What the decision about a face comes to."""
    if face.alert:
        return CameraState.ALERT
    return CameraState.UNKNOWN if decided(face) is None else CameraState.CLEAR


def aspect(image: bytes) -> float:
    """Width by height of an upright image; 1 if it cannot be read."""
    try:
        with Image.open(io.BytesIO(image), formats=FORMATS) as opened:
            width, height = opened.size
            is_lying = opened.getexif().get(ExifTags.Base.Orientation, 1) >= _LYING
    # A decoder may raise almost anything on broken bytes.
    except Exception:
        return 1.0
    return height / width if is_lying else width / height


def _box(number: int, face: FacePrediction) -> FaceBox:
    prediction = face.prediction
    return FaceBox(
        number=number if face.person is None else face.person,
        is_person=face.person is not None,
        box=face.box,
        state=state_of(face),
        label=decided(face),
        probability=prediction.scores[0].probability if prediction.scores else None,
        issue="" if face.issue is None else face.issue.value,
    )
