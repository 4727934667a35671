"""What the record holds of an event: plain values."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from limelens.serve.client.results import ServedExplanation
from limelens.serve.decisions.camera_state import CameraState
from limelens.watch.event import Event, EventType, document


@dataclass(frozen=True, slots=True)
class Correction:
    """What somebody says that an event should have been.

    Args:
        label: The right label.
        by: Who says so; may be empty.
        time: When, UTC.
        file: Where the frame lies for `limelens train`; empty if there is none.
    """

    label: str
    by: str
    time: datetime
    file: str = ""


@dataclass(frozen=True)
class RecordedEvent:
    """One event as it was recorded.

    Args:
        number: Its place in the record, which rises as events are recorded.
        event: What happened; without evidence if it comes from a list.
        votes: How many frames of the window said what; a frame without a label says `""`.
        has_evidence: Whether it can be replayed.
        has_thumbnail: Whether there is a thumbnail.
        has_frame: Whether the frame was kept.
        has_overlay: Whether there is an overlay.
        has_explanation: Whether there is an explanation, or why there is none.
        correction: What somebody says that it should have been; None if nobody did.
    """

    number: int
    event: Event
    votes: dict[str, int]
    has_evidence: bool = False
    has_thumbnail: bool = False
    has_frame: bool = False
    has_overlay: bool = False
    has_explanation: bool = False
    correction: Correction | None = None

    @property
    def id(self) -> str:
        """The event's."""
        return self.event.id

    @property
    def camera_id(self) -> str:
        """The camera's."""
        return self.event.camera_id

    @property
    def time(self) -> datetime:
        """When it happened, UTC."""
        return self.event.time

    @property
    def state(self) -> CameraState:
        """The camera's state from then on."""
        return self.event.state

    @property
    def label(self) -> str | None:
        """The decided label; None if there is none."""
        return self.event.label

    def document(self) -> dict[str, Any]:
        """The event as every sink has it, and what the record has of it, as JSON."""
        correction = self.correction
        return {
            **document(self.event),
            "votes": self.votes,
            "evidence": self.has_evidence,
            "thumbnail": self.has_thumbnail,
            "frame": self.has_frame,
            "overlay": self.has_overlay,
            "explanation": self.has_explanation,
            "correction": None
            if correction is None
            else {
                "label": correction.label,
                "by": correction.by,
                "time": correction.time.isoformat(timespec="milliseconds"),
                "file": correction.file,
            },
        }


@dataclass(frozen=True, slots=True)
class EventFilter:
    """Which events are asked for; what is left out does not matter.

    Args:
        cameras: Of these cameras.
        states: With these states.
        labels: With these labels.
        types: Of these types.
        since: From this time on.
        until: Before this time.
        corrected: Whether somebody marked them as wrong.
    """

    cameras: tuple[str, ...] = ()
    states: tuple[CameraState, ...] = ()
    labels: tuple[str, ...] = ()
    types: tuple[EventType, ...] = ()
    since: datetime | None = None
    until: datetime | None = None
    corrected: bool | None = None


@dataclass(frozen=True)
class EventPage:
    """Some events, newest first.

    Args:
        events: Them.
        before: Continues the list; empty if these are the last.
    """

    events: tuple[RecordedEvent, ...]
    before: str = ""


@dataclass(frozen=True)
class RecordedExplanation:
    """Why an event's decision was made, as it was recorded.

    Args:
        explanation: With segments and without renderings; None if there is none.
        reason: Why there is none; else empty.
    """

    explanation: ServedExplanation | None
    reason: str = ""


@dataclass(frozen=True)
class RecordedImage:
    """An image of an event.

    Args:
        data: JPEG, or PNG for an overlay.
        media_type: `image/jpeg` or `image/png`.
        is_blurred: Whether faces in it were blurred.
    """

    data: bytes = field(repr=False)
    media_type: str = "image/jpeg"
    is_blurred: bool = False


@dataclass(frozen=True, slots=True)
class Gap:
    """A time in which events could not be recorded.

    Args:
        since: When the first one was lost, UTC.
        until: When recording went on, UTC.
        num_events: How many events, and explanations of events, were lost.
        num_images: How many images were lost, of events that were recorded too.
        reason: Why.
    """

    since: datetime
    until: datetime
    num_events: int
    num_images: int
    reason: str


@dataclass(frozen=True, slots=True)
class Silence:
    """A camera that nobody watches any more, though its last recorded state does not say so.

    Args:
        camera_id: The camera.
        since: The last sign of life of what watched it, UTC. It ended then, or some time after.
    """

    camera_id: str
    since: datetime
