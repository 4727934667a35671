"""What happened at a camera: plain values that every sink, the record and the page share.

It knows nothing of threads, files and connections.
"""

from __future__ import annotations

import secrets
import time
import uuid
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

from limelens.serve.client.results import ServedExplanation
from limelens.serve.decisions.camera_state import CameraState
from limelens.serve.decisions.camera_state import EventType as EventType
from limelens.serve.decisions.decision import FacePrediction, Score
from limelens.serve.image import Region

SCHEMA: Final = 1
"""Version of `document`; keys are only ever added."""
ON_CHANGE: Final = (EventType.STATE, EventType.LOST, EventType.BACK)
"""The types of events that say that something changed; these are recorded."""


@dataclass(frozen=True, slots=True)
class FrameVote:
    """One of the frames behind a decision.

    Args:
        frame_id: Its number in the stream.
        time: When it was answered, UTC.
        label: What the model decided on; None if it abstained or nobody was there.
        scores: The most probable labels, most probable first.
    """

    frame_id: int
    time: datetime
    label: str | None
    scores: tuple[Score, ...]


@dataclass(frozen=True, slots=True)
class DecisionRule:
    """How frames become a decision.

    Args:
        threshold: The probability that a frame's label needs; None if each label has its own.
        window: How many frames count.
        required: How many of them must agree.
        required_to_alert: How many must agree on an alert label.
        alert_labels: The model's.
    """

    threshold: float | None
    window: int
    required: int
    required_to_alert: int
    alert_labels: tuple[str, ...]


@dataclass(frozen=True)
class Evidence:
    """What a decision was made from; kept in memory until the record has it.

    Args:
        frame_id: The frame that brought it.
        jpeg: That frame as it was sent, with faces as they are; empty if it was not kept.
        region: The part of it that was looked at; None is all of it.
        faces: The people in it, if faces were asked for.
        votes: The frames of the window, oldest first, this one last.
        rule: How these votes became the decision; None if it is not known.
    """

    frame_id: int
    jpeg: bytes = field(repr=False)
    region: Region | None = None
    faces: tuple[FacePrediction, ...] = ()
    votes: tuple[FrameVote, ...] = ()
    rule: DecisionRule | None = None


@dataclass(frozen=True)
class Event:
    """One event of one camera.

    Args:
        id: The same wherever the event goes; ids rise with time (RFC 9562, version 7).
        camera_id: The camera.
        sequence: Rises by one with each event of the camera, from 1 when watching starts.
        type: What kind of news it is.
        time: When it happened, UTC.
        state: The camera's state from now on.
        previous: The state before.
        reason: Why the state is unknown, as `UnknownReason`; else empty.
        detail: The same for people, without secrets; may be empty.
        label: The decided label; None if there is none.
        probability: The model's for that label in the frame that brought it, 0 to 1; None without.
        person: With faces: the number of the person it is about, within the stream.
        people: With faces: how many are there; otherwise None.
        frame_id: The frame that brought it; None if none did.
        capture_time: When the camera took it, UTC; None for files and where it is not known.
        position_s: For files: where in the file, in seconds; otherwise None.
        model: The model's name; empty if none answered.
        version: Its version; 0 if none answered.
        provider: What it ran on; empty if none answered.
        evidence: What it rests on; None for what no frame brought.
    """

    id: str
    camera_id: str
    sequence: int
    type: EventType
    time: datetime
    state: CameraState
    previous: CameraState
    reason: str = ""
    detail: str = ""
    label: str | None = None
    probability: float | None = None
    person: int | None = None
    people: int | None = None
    frame_id: int | None = None
    capture_time: datetime | None = None
    position_s: float | None = None
    model: str = ""
    version: int = 0
    provider: str = ""
    evidence: Evidence | None = field(default=None, repr=False)

    @property
    def votes(self) -> dict[str, int]:
        """How many frames of the window said what; a frame without a label says `""`."""
        counts: dict[str, int] = {}
        for vote in () if self.evidence is None else self.evidence.votes:
            counts[vote.label or ""] = counts.get(vote.label or "", 0) + 1
        return counts


@dataclass(frozen=True)
class EventExplanation:
    """Why an event's decision was made; it comes later than the event.

    Args:
        event_id: The event.
        explanation: With the segments; None if there is none.
        reason: Why there is none; else empty.
        overlay_png: The frame with the strongest segments, with label, camera and time in it;
            empty if there is none.
        title: What is written in it: the label, and whom it is about.
        jpeg: The frame as it was sent, to draw another overlay; empty if it was not kept.
    """

    event_id: str
    explanation: ServedExplanation | None
    reason: str = ""
    overlay_png: bytes = field(default=b"", repr=False)
    title: str = ""
    jpeg: bytes = field(default=b"", repr=False)


def new_event_id() -> str:
    """A new id: a UUID of version 7, whose first 48 bits are the time in milliseconds."""
    milliseconds = time.time_ns() // 1_000_000
    value = (milliseconds << 80) | secrets.randbits(80)
    value = value & ~(0xF << 76) | 0x7 << 76
    value = value & ~(0x3 << 62) | 0x2 << 62
    return str(uuid.UUID(int=value))


def document(event: Event) -> dict[str, Any]:
    """An event as JSON, the same in every sink; times are ISO 8601 in UTC."""
    return {
        "schema": SCHEMA,
        "id": event.id,
        "camera_id": event.camera_id,
        "sequence": event.sequence,
        "type": event.type.value,
        "time": event.time.isoformat(timespec="milliseconds"),
        "state": event.state.value,
        "previous": event.previous.value,
        "reason": event.reason,
        "detail": event.detail,
        "label": event.label,
        "probability": event.probability,
        "votes": event.votes,
        "person": event.person,
        "people": event.people,
        "frame_id": event.frame_id,
        "capture_time": None
        if event.capture_time is None
        else event.capture_time.isoformat(timespec="milliseconds"),
        "position_s": event.position_s,
        "model": event.model,
        "version": event.version,
        "provider": event.provider,
    }
