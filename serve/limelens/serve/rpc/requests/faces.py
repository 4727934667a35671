"""Which faces to look for, checked field by field; the same in all requests."""

from __future__ import annotations

from typing import Final

from limelens.serve.errors import InvalidRequestError
from limelens.serve.faces.options import MAX_FACES, FaceOptions
from limelens.v1 import face_pb2

_DEFAULTS: Final = FaceOptions()
_STREAM_FIELDS: Final = ("detect_every", "skip_still_frames", "max_unseen_ms")


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
