"""Which faces to look for, and which to explain, checked field by field."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from limelens.serve.decisions.decision import FacePrediction
from limelens.serve.errors import InvalidRequestError
from limelens.serve.faces.judging import index_of_worst
from limelens.serve.faces.options import MAX_FACES, FaceOptions
from limelens.v1 import classifier_service_pb2 as service_pb2
from limelens.v1 import face_pb2

_DEFAULTS: Final = FaceOptions()
_STREAM_FIELDS: Final = ("detect_every", "skip_still_frames", "max_unseen_ms")


@dataclass(frozen=True, slots=True)
class WantedFace:
    """The face of an image that is explained.

    Args:
        options: Which faces to look for.
        index: Of these the wanted one; None is the worst that can be judged.
    """

    options: FaceOptions
    index: int | None

    def choose(self, faces: Sequence[FacePrediction]) -> int:
        """Which of the faces that were found is explained.

        Raises:
            InvalidRequestError: It was not found, or cannot be judged.
        """
        if not faces:
            raise InvalidRequestError("faces", "there is no face in the image; expected one")
        index = self.index
        if index is None:
            judged = [i for i, face in enumerate(faces) if face.issue is None]
            if judged:
                return judged[index_of_worst([faces[i] for i in judged])]
            issues = ", ".join(dict.fromkeys(one.issue.in_words for one in faces if one.issue))
            raise InvalidRequestError(
                "faces", f"of {len(faces)} found none can be judged: {issues}; expected one"
            )
        if index >= len(faces):
            raise InvalidRequestError(
                "face", f"{index}; expected 0 to {len(faces) - 1}: {len(faces)} were found"
            )
        if (issue := faces[index].issue) is not None:
            raise InvalidRequestError(
                "face", f"{index} is {issue.in_words} and cannot be judged; expected another"
            )
        return index


def read_wanted_face(request: service_pb2.ExplainRequest) -> WantedFace | None:
    """The face to explain; None explains the image."""
    if not request.HasField("faces"):
        if request.HasField("face"):
            raise InvalidRequestError(
                "face", f"{request.face} without faces; expected faces to be set, too"
            )
        return None
    index = request.face if request.HasField("face") else None
    if index is not None and not 0 <= index < MAX_FACES:
        raise InvalidRequestError(
            "face", f"{index}; expected 0 to {MAX_FACES - 1}, or unset for the worst"
        )
    return WantedFace(read_faces(request.faces, "faces"), index)


def read_faces(message: face_pb2.FaceOptions, name: str, *, is_stream: bool = False) -> FaceOptions:
    """Reads which faces to look for; `name` is the field's, such as `config.faces`."""
    for field in _STREAM_FIELDS:
        if not is_stream and (value := getattr(message, field)):
            raise InvalidRequestError(
                f"{name}.{field}", f"{value}; expected unset: only streams follow people"
            )
    threshold = message.threshold if message.HasField("threshold") else None
    if threshold is not None and not 0 < threshold <= 1:  # NaN fails too
        raise InvalidRequestError(
            f"{name}.threshold", f"{threshold:g}; expected over 0 to 1, or unset"
        )
    max_unseen_ms = round(1000 * _DEFAULTS.max_unseen_s)
    return FaceOptions(
        min_size_px=_number(message, name, "min_size_px", 8, 4096, _DEFAULTS.min_size_px),
        threshold=threshold,
        max_faces=_number(message, name, "max_faces", 1, MAX_FACES, _DEFAULTS.max_faces),
        detect_every=_number(message, name, "detect_every", 1, 100, _DEFAULTS.detect_every),
        skip_still_frames=message.skip_still_frames,
        max_unseen_s=_number(message, name, "max_unseen_ms", 1, 60_000, max_unseen_ms) / 1000,
    )


def _number(
    message: face_pb2.FaceOptions, name: str, field: str, least: int, most: int, default: int
) -> int:
    value: int = getattr(message, field)
    if value != 0 and not least <= value <= most:
        raise InvalidRequestError(
            f"{name}.{field}", f"{value}; expected {least} to {most}, or 0 for {default}"
        )
    return value or default
