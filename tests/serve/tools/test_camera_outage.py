from __future__ import annotations

import pytest

from limelens.serve.tools.camera.faults import LossReason
from limelens.serve.tools.camera.outage import Outage

REFUSED, UNAUTHORIZED = LossReason.REFUSED, LossReason.UNAUTHORIZED


def waits(outage: Outage, reason: LossReason, count: int, at: float = 100.0) -> list[float]:
    found = []
    for _ in range(count):
        outage.failed(reason, at)
        found.append(outage.wait_s())
    return found


def test_a_camera_is_tried_at_growing_intervals() -> None:
    assert waits(Outage(), REFUSED, 9) == [0.5, 1, 2, 4, 8, 16, 30, 30, 30]
    assert waits(Outage(), REFUSED, 5000)[-1] == 30


def test_after_a_wrong_password_it_is_tried_more_rarely() -> None:
    outage = Outage()
    waits(outage, REFUSED, 5)
    assert waits(outage, UNAUTHORIZED, 7) == [10, 20, 40, 80, 160, 300, 300]


@pytest.mark.parametrize(("steady_s", "first_s"), [(1.0, 4.0), (60.0, 0.5)])
def test_a_camera_that_is_soon_lost_again_was_not_back(steady_s: float, first_s: float) -> None:
    outage = Outage()
    waits(outage, REFUSED, 3, at=100)
    outage.back(110)
    assert waits(outage, LossReason.ENDED, 1, at=110 + steady_s) == [first_s]


def test_a_camera_that_was_frozen_is_tried_as_soon_as_any_other() -> None:
    outage = Outage()
    waits(outage, LossReason.FROZEN, 100, at=100)
    outage.back(200)
    assert waits(outage, LossReason.TIMEOUT, 2, at=205) == [0.5, 1]


def test_only_another_reason_is_news_and_the_rest_is_said_at_growing_intervals() -> None:
    outage = Outage()
    assert not outage.is_lost
    assert outage.failed(REFUSED, 100)
    assert not outage.failed(REFUSED, 101)
    assert outage.failed(UNAUTHORIZED, 102)
    said = []
    for at in range(103, 1103):
        assert not outage.failed(UNAUTHORIZED, at)
        if lost_s := outage.reminds(at):
            said.append(lost_s)
    assert said == [62, 124, 248, 496, 992]
    assert outage.back(1200)
    assert not outage.back(1201)
    assert not outage.is_lost
