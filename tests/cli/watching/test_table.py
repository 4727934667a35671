"""The live table, as a terminal of 80 columns shows it."""

from __future__ import annotations

import io
import time
from datetime import UTC, datetime

from rich.console import Console

from limelens.cli.watching.table import table
from limelens.serve.decisions.camera_state import CameraState, UnknownReason
from limelens.watch.live import LiveCamera


def cameras() -> tuple[LiveCamera, ...]:
    now = datetime.now(UTC)
    return (
        LiveCamera(
            "main-entrance-of-the-old-building", "rtsp://door", CameraState.ALERT, now,
            label="without_mask", probability=0.987, people=3, fps=14.9, num_dropped=12345,
            decided_at=time.monotonic() - 0.4, max_age_s=60,
        ),
        LiveCamera(
            "hall", "rtsp://hall", CameraState.UNKNOWN, now, reason=UnknownReason.CAMERA_LOST,
            last_error="connection refused: nothing listens there, whatever that may mean",
        ),
        # Nobody says that its decision is old: the table sees it by itself.
        LiveCamera(
            "yard", "rtsp://yard", CameraState.CLEAR, now, label="with_mask", fps=5.0,
            decided_at=time.monotonic() - 99, max_age_s=2,
        ),
    )  # fmt: skip


def test_it_fits_80_columns_and_shows_what_there_is_no_room_for_by_an_ellipsis() -> None:
    drawn = io.StringIO()
    Console(file=drawn, width=80, highlight=False).print(table(cameras()))
    head, alert, lost, old = drawn.getvalue().splitlines()
    assert max(map(len, (head, alert, lost, old))) <= 80
    for name in ("camera", "state", "what", "age", "fps", "drops", "last error"):
        assert name in head
    # A word and a mark, for those who see no colours.
    assert "! alert" in alert
    for value in ("main-ent", "without_", "14.9", "12345"):
        assert value in alert
    assert "? unknown" in lost
    assert "camera lost" in lost
    assert "connection" in lost
    assert "? unknown" in old
    assert "expired" in old
