from __future__ import annotations

import pytest

from limelens.serve.tools.camera.timeline import Timeline


def times(stamps: list[float | None], rate: float = 10.0) -> list[float]:
    timeline = Timeline(rate)
    return [timeline.time_of(stamp) for stamp in stamps]


def test_rising_timestamps_are_kept() -> None:
    assert times([1.4, 1.5, 1.7]) == [1.4, 1.5, 1.7]


def test_negative_timestamps_are_kept() -> None:
    assert times([-0.2, -0.1, 0.0]) == [-0.2, -0.1, 0.0]


def test_restarted_timestamps_continue_where_the_last_ended() -> None:
    assert times([5.0, 5.1, 0.0, 0.1, 0.2]) == pytest.approx([5.0, 5.1, 5.2, 5.3, 5.4])


def test_short_clips_in_a_row_are_all_passed_through() -> None:
    stamps: list[float | None] = [0.1 * (number % 5) for number in range(20)]
    assert times(stamps) == pytest.approx([0.1 * number for number in range(20)])


def test_missing_timestamps_follow_the_rate() -> None:
    assert times([None] * 4) == pytest.approx([0, 0.1, 0.2, 0.3])
    assert times([0.0, None, None, 0.3]) == pytest.approx([0, 0.1, 0.2, 0.3])


def test_constant_timestamps_are_ignored() -> None:
    timeline = Timeline(10.0)
    assert [timeline.time_of(7.0) for _ in range(4)] == pytest.approx([7.0, 7.1, 7.2, 7.3])
    assert timeline.num_without == 3


def test_frames_out_of_order_never_go_back_in_time() -> None:
    assert times([0.0, 0.2, 0.1, 0.3]) == pytest.approx([0, 0.2, 0.2, 0.3])


def test_one_timestamp_far_ahead_loses_nothing_after_it() -> None:
    assert times([0.0, 99.0, 0.2, 0.3]) == pytest.approx([0, 99.0, 99.1, 99.2])
