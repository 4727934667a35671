"""Explanations of events, which come later than the events, and their images.

It knows what a stream brings and what sinks take, and not when either happens.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from limelens.serve.client.results import ChangeExplanation
from limelens.watch.event import Event, EventExplanation
from limelens.watch.record.caption import captioned

_MAX_WAITING: Final = 64


@dataclass(frozen=True)
class Explained:
    """An event, and why it was decided.

    Args:
        event: The event.
        change: Its explanation as it came; None if none will come.
        reason: Why none will.
    """

    event: Event
    change: ChangeExplanation | None
    reason: str = ""


class Unexplained:
    """Events of one camera whose explanations will come; its caller locks.

    Args:
        explain: Takes each; it must not wait.
    """

    def __init__(self, explain: Callable[[Explained], object]) -> None:
        self._explain = explain
        self._events: dict[tuple[int | None, int | None], Event] = {}

    def add(self, event: Event) -> None:
        """Expects the explanation of an event that a frame brought."""
        if len(self._events) >= _MAX_WAITING:
            oldest = next(iter(self._events))
            self._explain(Explained(self._events.pop(oldest), None, "too many waited for theirs"))
        self._events[event.frame_id, event.person] = event

    def came(self, frame_id: int, change: ChangeExplanation) -> None:
        """Takes what came for a frame, and with faces for a person."""
        event = self._events.pop((frame_id, change.person), None)
        if event is not None:
            self._explain(Explained(event, change))

    def ended(self, reason: str) -> None:
        """No more will come."""
        events, self._events = self._events, {}
        for event in events.values():
            self._explain(Explained(event, None, reason))


def explanation_of(explained: Explained) -> EventExplanation:
    """What sinks take; the overlay has label, camera and time in it."""
    event, change = explained.event, explained.change
    if change is None or change.explanation is None:
        return EventExplanation(
            event.id, None, explained.reason or (change.reason if change else "")
        )
    one = change.explanation.explanations[0]
    who = "" if event.person is None else f"   person {event.person}"
    title = f"{one.label} {one.probability:.2f}{who}"
    overlay = b""
    if one.overlay_png:
        overlay = captioned(one.overlay_png, title, event.camera_id, event.time)
    jpeg = b"" if event.evidence is None else event.evidence.jpeg
    return EventExplanation(
        event.id, change.explanation, overlay_png=overlay, title=title, jpeg=jpeg
    )
