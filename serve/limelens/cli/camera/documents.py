"""News of a camera as documents of `limelens camera --jsonl`."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from limelens.cli.explain.explanations import explanation_document
from limelens.cli.terminal.faces import face_document, prediction_document
from limelens.serve.decisions.camera_state import CameraState, EventType

if TYPE_CHECKING:
    from limelens.cli.camera.telling import News
    from limelens.serve.tools.camera import SourceAnswer


def document(news: News, camera_id: str) -> dict[str, Any]:
    """One line; those of every type have the keys that a door needs."""
    now = news.now
    line: dict[str, Any] = {
        "type": news.type.value,
        "camera_id": camera_id,
        "sequence": news.sequence,
        "time": _as_text(news.time),
        "state": now.state.value,
        "position_s": None if news.found is None else news.found.position_s,
    }
    if news.type is EventType.FRAME:
        assert news.found is not None  # it is what the news is about
        return line | _answer(news.found, news.written)
    return line | {
        "previous": news.previous.value,
        "reason": "" if now.reason is None else now.reason.value,
        "detail": news.detail or now.detail or ("" if now.reason is None else now.reason.in_words),
        "age_s": None if now.age_s is None else round(now.age_s, 3),
        "frame_id": None if news.found is None else news.found.answer.frame_id,
        "capture_time": _captured(news.found),
        "status": news.type.value,
        "smoothed_label": now.label,
        "changed": False,  # what did is said by a line of a frame
        "alert": now.state is CameraState.ALERT,
    }


def _as_text(time: datetime) -> str:
    return time.isoformat(timespec="milliseconds")


def _captured(found: SourceAnswer | None) -> str | None:
    """When the camera took it; a file has positions in place of times."""
    if found is None or found.position_s is not None or found.answer.capture_time is None:
        return None
    return _as_text(found.answer.capture_time)


def _answer(found: SourceAnswer, written: Path | None) -> dict[str, Any]:
    """An answer, with the file of its overlay."""
    answer, prediction = found.answer, found.answer.prediction
    line: dict[str, Any] = {
        "frame_id": answer.frame_id,
        "place": found.place,
        "status": answer.status.value,
        "smoothed_label": answer.smoothed_label,
        "smoothed_decision": answer.smoothed_decision.value,
        "changed": answer.changed,
        "alert": answer.alert,
        "dropped_frames": answer.dropped_frames,
        "reason": answer.reason,
        "model": answer.model.name,
        "version": answer.model.version,
        "provider": answer.model.provider,
        "capture_time": _captured(found),
        "total_ms": answer.timings_ms.total,
    }
    if prediction is not None:
        line |= prediction_document(prediction)
        line["faces"] = [face_document(face) for face in prediction.faces]
    if (change := answer.explanation) is not None:
        line["explanation"] = {
            "status": change.status.value,
            "label": change.label,
            "person": change.person,
            "reason": change.reason,
            "superseded_changes": change.superseded_changes,
            "overlay": None if written is None else str(written),
        }
        if change.explanation is not None:
            line["explanation"] |= explanation_document(Path(found.place), change.explanation)
    return line
