"""What the page is told of a camera: plain values, with words in the reader's language."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from limelens.serve.decisions.camera_state import UnknownReason
from limelens.serve.decisions.decision import FacePrediction
from limelens.serve.image import Region
from limelens.serve.tools.faces.drawing import decided
from limelens.watch.console.boxes import state_of
from limelens.watch.console.details import InWords
from limelens.watch.console.language import Say
from limelens.watch.live import LiveCamera, LiveFrame

_MOST_FACES: Final = 64
"""They travel in a header."""

_STALE: Final = {
    UnknownReason.STARTING,
    UnknownReason.EXPIRED,
    UnknownReason.FROZEN,
    UnknownReason.CAMERA_LOST,
    UnknownReason.SERVER_LOST,
    UnknownReason.REFUSED,
    UnknownReason.OFF,
}
"""Reasons why the last frame, with what was decided about its faces, says nothing of now."""


def shown(camera: LiveCamera, say: Say, in_words: InWords) -> dict[str, Any]:
    """A camera's tile; a decision that expired is unknown."""
    now = camera.current
    detail, error = in_words(now.detail), in_words(now.last_error)
    age_s = now.age_s
    return {
        "id": now.camera_id,
        "state": now.state.value,
        "since": now.since.isoformat(),
        "reason": "" if now.reason is None else say(f"reasons.{now.reason.value}"),
        "detail": detail.text,
        "detail_language": detail.language,
        "is_stale": now.reason in _STALE,
        "label": now.label,
        "probability": now.probability,
        "people": now.people,
        "age_s": None if age_s is None else round(age_s, 2),
        "fps": round(now.fps, 1),
        "dropped": now.num_dropped,
        "alerts": now.num_alerts,
        "error": error.text,
        "error_language": error.language,
        "event": now.last_event_id,
        "frame": None if now.frame is None else frame_number(now.frame),
    }


def frame_number(frame: LiveFrame) -> str:
    """Tells a frame from the camera's others."""
    return f"{frame.time.timestamp():.6f}"


def shown_region(region: Region | None) -> list[float] | None:
    """Left, top, right and bottom in fractions of the frame; None is all of it."""
    if region is None:
        return None
    return [round(one, 4) for one in (region.left, region.top, region.right, region.bottom)]


def shown_faces(faces: Iterable[FacePrediction]) -> list[dict[str, Any]]:
    """The faces of a frame, the largest first, with what was decided about each."""
    return [_face(face) for _, face in zip(range(_MOST_FACES), faces, strict=False)]


def _face(face: FacePrediction) -> dict[str, Any]:
    return {
        "box": shown_region(face.box),
        "state": state_of(face).value,
        "label": decided(face),
        "issue": None if face.issue is None else face.issue.value,
        "seen": face.seen,
    }
