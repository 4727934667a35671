"""How cameras are now."""

from __future__ import annotations

import time
from dataclasses import replace
from datetime import UTC, datetime

from limelens.serve.decisions.camera_state import CameraState, UnknownReason
from limelens.watch.live import LiveCamera


def test_a_state_does_not_outlive_its_decision_though_its_thread_hangs() -> None:
    clear = LiveCamera(
        "door",
        "rtsp://door/live",
        CameraState.CLEAR,
        datetime.now(UTC),
        label="with_mask",
        decided_at=time.monotonic() - 2.1,
        max_age_s=2.0,
    )
    now = clear.current
    assert (now.state, now.reason, now.label) == (CameraState.UNKNOWN, UnknownReason.EXPIRED, None)
    for other in (
        replace(clear, max_age_s=None),
        replace(clear, decided_at=time.monotonic()),
        replace(clear, state=CameraState.UNKNOWN, reason=UnknownReason.FROZEN),
    ):
        assert other.current is other
        assert not other.is_stale
    assert not clear.is_stale  # its thread has a second to say so
    assert replace(clear, decided_at=time.monotonic() - 3.1).is_stale
