"""Events as cameras make them, and a secret."""

from __future__ import annotations

import base64
from datetime import UTC, datetime
from typing import Any

from limelens.serve.decisions.camera_state import CameraState
from limelens.watch.event import Event, EventType, new_event_id

KEY = bytes(range(32))
SECRET = "whsec_" + base64.b64encode(KEY).decode()


def event(sequence: int = 1, state: str = "alert", **more: Any) -> Event:
    """An event of the camera `door` that happens now."""
    values: dict[str, Any] = {
        "id": new_event_id(),
        "camera_id": "door",
        "sequence": sequence,
        "type": EventType.STATE,
        "time": datetime.now(UTC),
        "state": CameraState(state),
        "previous": CameraState.UNKNOWN,
        "label": "without_mask",
        "probability": 0.93,
        **more,
    }
    return Event(**values)
