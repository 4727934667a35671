"""When the frames of a stream were taken."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest

from limelens.serve.rpc.frames.clock import FrameClock
from limelens.v1 import classifier_service_pb2 as service_pb2

MORNING = datetime(2026, 5, 1, 8, tzinfo=UTC)


def frame(captured_s: float | None) -> service_pb2.Frame:
    message = service_pb2.Frame()
    if captured_s is not None:
        message.capture_time.FromDatetime(MORNING + timedelta(seconds=captured_s))
    return message


@pytest.mark.parametrize(
    ("captured", "arrived", "steps"),
    [
        # A video that waits for explanations, and one that is read fast.
        ([0, 0.2, 0.4], [50, 50.1, 57], [0.2, 0.2]),
        ([0, 5, 10], [50, 50.1, 50.2], [5, 5]),
        # A camera that says nothing of when.
        ([None, None, None], [50, 50.2, 51], [0.2, 0.8]),
        # Only between two frames that say when, that counts.
        ([0, None, 9, 9.5], [50, 51, 52, 53], [1, 1, 0.5]),
        # A clock that was set back.
        ([0, 0.2, -3600, -3599.8], [50, 50.2, 50.4, 50.6], [0.2, 0.2, 0.2]),
        # One that stands still: people who left must be gone some time.
        ([0, 0, 0], [50, 51, 52], [1, 1]),
        # One that tells whole seconds only.
        ([0, 0, 0, 1, 1, 2], [50, 50.3, 50.6, 50.9, 51.2, 52.5], [0.3, 0.3, 0.4, 0.3, 0.7]),
        # Nonsense once.
        ([0, 7e10, 7e10 + 0.5], [50, 50.2, 50.4], [3600, 0.5]),
    ],
)
def test_time_goes_on_as_it_did_for_the_camera(
    captured: list[float | None], arrived: list[float], steps: list[float]
) -> None:
    clock = FrameClock()
    times = [clock.taken_at(frame(c), a) for c, a in zip(captured, arrived, strict=True)]
    assert [b - a for a, b in pairwise(times)] == pytest.approx(steps)
