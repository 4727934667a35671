from __future__ import annotations

from limelens.serve.decisions.smoothing import Smoothing


def smoothed(smoothing: Smoothing, frames: str) -> str:
    """The decision after each frame; a dot where a frame abstains or the decision is unknown."""
    return "".join(
        smoothing.add(None if one == "." else one, is_alert=one == "R") or "." for one in frames
    )


def test_a_decision_needs_k_of_n_and_stays_in_between() -> None:
    assert smoothed(Smoothing(3, 2), "RGRGG.RR") == "..RGGGGR"


def test_as_many_abstentions_make_it_unknown() -> None:
    assert smoothed(Smoothing(3, 2), "RR.R..") == ".RRR.."


def test_an_alert_comes_at_once_and_is_cleared_slowly() -> None:
    door = Smoothing(5, 3, required_to_alert=1)
    # The greens before the alert do not count against it.
    assert smoothed(door, "GGGGRGGGG") == "..GGRRRGG"


def test_a_second_alert_frame_does_not_make_clearing_start_again() -> None:
    door = Smoothing(5, 3, required_to_alert=1)
    assert smoothed(door, "RGRGG") == "RRRRG"


def test_alerts_that_need_as_many_frames_are_smoothed_like_others() -> None:
    fast = Smoothing(5, 3, required_to_alert=3)
    frames = "GGGRRRGGRGG"
    assert smoothed(fast, frames) == smoothed(Smoothing(5, 3), frames)


def test_forgotten_frames_do_not_count() -> None:
    smoothing = Smoothing(3, 2)
    smoothed(smoothing, "RR")
    smoothing.forget()
    assert smoothing.label is None
    assert smoothed(smoothing, "RR") == ".R"
