"""An event as a sink sends it: JSON, made once, without the images behind it."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field

from limelens.serve.decisions.camera_state import CameraState
from limelens.watch.event import Event, EventType, document


@dataclass(frozen=True, slots=True)
class Message:
    """One event, ready to be sent.

    Args:
        id: The event's.
        camera_id: Its camera.
        type: What kind of news it is.
        state: The camera's state from then on.
        body: `document` of it as JSON in UTF-8, on one line, without its end.
        at: When it was made, by `time.monotonic`.
    """

    id: str
    camera_id: str
    type: EventType
    state: CameraState
    body: bytes
    at: float = field(default_factory=time.monotonic)


def message_of(event: Event) -> Message:
    """The message of an event; the images behind the event are not kept."""
    body = json.dumps(document(event), ensure_ascii=False, separators=(",", ":"))
    # A lone surrogate, such as of a file's undecodable name, is not UTF-8.
    encoded = body.encode("utf-8", errors="replace")
    return Message(event.id, event.camera_id, event.type, event.state, encoded)
