"""The state of a camera over time, as a door sees it."""

from __future__ import annotations

import pytest

from limelens.serve.client.results import FrameAnswer, FrameStatus, ModelRef, Timings
from limelens.serve.decisions.camera_state import CameraState, UnknownReason
from limelens.serve.decisions.decision import Decision, Prediction
from limelens.serve.tools.camera import StateKeeper

ALERT, CLEAR, UNKNOWN = CameraState.ALERT, CameraState.CLEAR, CameraState.UNKNOWN


def answer(
    label: str | None = None,
    status: FrameStatus = FrameStatus.CLASSIFIED,
    *,
    own: Decision = Decision.LABEL,
    nobody: bool = False,
    reason: str = "",
) -> FrameAnswer:
    """What a server answers; `red` is its alert label."""
    decision = Decision.LABEL if label else Decision.ABSTAINED
    return FrameAnswer(
        frame_id=1,
        status=status,
        prediction=Prediction(own, label, (), label == "red", (), 0.5, None)
        if status is FrameStatus.CLASSIFIED
        else None,
        smoothed_label=label,
        changed=False,
        alert=label == "red",
        dropped_frames=0,
        reason=reason,
        model=ModelRef("colours", 1, "cpu"),
        timings_ms=Timings(0, 0, 0, 0),
        capture_time=None,
        smoothed_decision=Decision.NO_FACE if nobody else decision,
        state=ALERT if label == "red" else CLEAR if label or nobody else UNKNOWN,
    )


def said(keeper: StateKeeper, at: float) -> tuple[CameraState, UnknownReason | None]:
    report = keeper.report(at)
    return report.state, report.reason


def test_nothing_is_clear_before_a_frame_was_classified() -> None:
    keeper = StateKeeper(max_decision_age_s=2)
    assert said(keeper, 100) == (UNKNOWN, UnknownReason.STARTING)
    assert keeper.report(100).age_s is None
    keeper.back()
    keeper.answered(answer("green", FrameStatus.SUPERSEDED), 100)
    keeper.answered(answer(None), 100)
    assert said(keeper, 100) == (UNKNOWN, UnknownReason.STARTING)
    keeper.answered(answer("green"), 101)
    report = keeper.report(101.5)
    assert (report.state, report.label, report.age_s) == (CLEAR, "green", 0.5)


@pytest.mark.parametrize("label", ["green", "red"])
def test_a_decision_expires_by_itself_after_its_frame_was_taken(label: str) -> None:
    keeper = StateKeeper(max_decision_age_s=2)
    keeper.answered(answer(label), 10)
    assert keeper.report(11.999).label == label
    report = keeper.report(12)
    assert (report.state, report.reason, report.label) == (UNKNOWN, UnknownReason.EXPIRED, None)
    assert report.detail == "no frame was classified for 2 s"
    keeper.answered(answer("green", FrameStatus.SUPERSEDED), 12)  # proves nothing
    assert keeper.report(12).state is UNKNOWN
    keeper.answered(answer("green"), 9)  # an answer that was on its way for too long
    assert keeper.report(12).state is UNKNOWN
    keeper.answered(answer(None, FrameStatus.DECISION_EXPIRED), 12)
    assert said(keeper, 12) == (UNKNOWN, UnknownReason.EXPIRED)


def test_without_a_limit_a_decision_holds() -> None:
    keeper = StateKeeper(max_decision_age_s=0)
    keeper.answered(answer("green"), 0)
    assert said(keeper, 1e6) == (CLEAR, None)


def test_every_answer_can_take_a_clearance_away() -> None:
    keeper = StateKeeper(max_decision_age_s=2)

    def after(news: FrameAnswer) -> tuple[CameraState, UnknownReason | None]:
        keeper.answered(answer("green"), 10)
        keeper.answered(news, 10)
        return said(keeper, 10)

    failed = answer(None, FrameStatus.FAILED, reason="NaN")
    assert after(failed) == (UNKNOWN, UnknownReason.FAILED)
    assert keeper.report(10).detail == "NaN"
    assert after(answer("red", FrameStatus.STALE)) == (ALERT, None)
    assert after(answer(None, FrameStatus.STALE)) == (UNKNOWN, UnknownReason.STARTING)
    assert after(answer(None, FrameStatus.LOST)) == (UNKNOWN, UnknownReason.SERVER_LOST)
    assert after(answer(None, own=Decision.ABSTAINED)) == (UNKNOWN, UnknownReason.ABSTAINED)
    keeper.answered(answer(None), 10)  # a label again, but too few frames
    assert said(keeper, 10) == (UNKNOWN, UnknownReason.ABSTAINED)


def test_unreadable_frames_are_named_once_no_decision_holds() -> None:
    keeper = StateKeeper(max_decision_age_s=2)
    bad = answer(None, FrameStatus.INVALID, reason="not an image")
    keeper.answered(bad, 9)
    assert said(keeper, 9) == (UNKNOWN, UnknownReason.FAILED)
    keeper.answered(answer("green"), 10)
    keeper.answered(answer("green", FrameStatus.INVALID, reason="not an image"), 11)
    assert said(keeper, 11) == (CLEAR, None)
    assert said(keeper, 12) == (UNKNOWN, UnknownReason.FAILED)
    assert keeper.report(12).detail == "not an image"


@pytest.mark.parametrize("reason", [UnknownReason.SERVER_LOST, UnknownReason.REFUSED])
def test_a_lost_server_is_back_once_it_answers(reason: UnknownReason) -> None:
    keeper = StateKeeper(max_decision_age_s=2)
    keeper.answered(answer("green"), 10)
    keeper.lost(reason, "connection refused")
    assert said(keeper, 10) == (UNKNOWN, reason)
    keeper.answered(answer("green", FrameStatus.SUPERSEDED), 10)  # given up by the client
    assert said(keeper, 10) == (UNKNOWN, reason)
    keeper.answered(answer(None, FrameStatus.STALE), 10)
    assert said(keeper, 10) == (UNKNOWN, UnknownReason.STARTING)
    keeper.answered(answer("green"), 10)
    assert said(keeper, 10) == (CLEAR, None)


@pytest.mark.parametrize(
    "reason", [UnknownReason.CAMERA_LOST, UnknownReason.FROZEN, UnknownReason.OFF]
)
def test_a_lost_camera_is_unknown_until_it_is_back_and_something_is_decided(
    reason: UnknownReason,
) -> None:
    keeper = StateKeeper(max_decision_age_s=2)
    keeper.answered(answer("green"), 10)
    keeper.lost(reason, "no frames")
    keeper.lost(UnknownReason.SERVER_LOST)
    keeper.answered(answer("green"), 10)  # of a frame from before
    report = keeper.report(10)
    assert (report.state, report.reason, report.detail) == (UNKNOWN, reason, "no frames")
    keeper.back()
    assert said(keeper, 10) == (UNKNOWN, UnknownReason.STARTING)
    keeper.answered(answer("red"), 10)
    assert said(keeper, 10) == (ALERT, None)


def test_nobody_there_is_clear_unless_it_is_to_be_unknown() -> None:
    keeper = StateKeeper(max_decision_age_s=2)
    keeper.answered(answer(nobody=True), 10)
    assert said(keeper, 10) == (CLEAR, None)
    keeper = StateKeeper(max_decision_age_s=2, nobody=UNKNOWN)
    keeper.answered(answer(nobody=True), 10)
    assert said(keeper, 10) == (UNKNOWN, UnknownReason.NOBODY)


def test_one_loss_ends_and_the_other_lasts() -> None:
    keeper = StateKeeper(max_decision_age_s=2)
    keeper.lost(UnknownReason.FROZEN)
    keeper.lost(UnknownReason.SERVER_LOST)
    keeper.back(UnknownReason.SERVER_LOST)
    keeper.answered(answer("green"), 10)
    assert said(keeper, 10) == (UNKNOWN, UnknownReason.FROZEN)
    keeper.lost(UnknownReason.REFUSED)
    keeper.back(UnknownReason.CAMERA_LOST)
    assert said(keeper, 10) == (UNKNOWN, UnknownReason.REFUSED)


def test_a_frame_from_before_a_camera_came_back_clears_nothing() -> None:
    keeper = StateKeeper(max_decision_age_s=2)
    keeper.lost(UnknownReason.CAMERA_LOST)
    keeper.back(UnknownReason.CAMERA_LOST, at=10)
    keeper.answered(answer("green"), 9.9)  # its answer was on its way
    assert said(keeper, 10) == (UNKNOWN, UnknownReason.STARTING)
    keeper.answered(answer("green"), 10.1)
    assert said(keeper, 10.2) == (CLEAR, None)
