from __future__ import annotations

from datetime import datetime

import pytest

from limelens.watch.cameras.schedule import parse_schedule


def at(day: int, time: str) -> datetime:
    """A day of a week that begins on Monday, the 1st."""
    return datetime.fromisoformat(f"2024-01-{day:02} {time}")


@pytest.mark.parametrize(
    ("text", "on", "off"),
    [
        ("mon-fri 07:00-19:00", [(1, "07:00"), (5, "18:59")], [(1, "06:59"), (6, "12:00")]),
        ("mon-fri 07:00-19:00", [(3, "12:00")], [(3, "19:00")]),
        # Over midnight it belongs to the day on which it began, and over Sunday to the week.
        ("sun 22:00-06:00", [(7, "22:00"), (8, "05:59")], [(7, "05:59"), (8, "06:00")]),
        ("fri-mon 00:00-24:00", [(5, "00:00"), (8, "23:59")], [(2, "00:00"), (4, "23:59")]),
        ("9:00-9:30, sat 10:00-11:00", [(2, "09:15"), (6, "10:00")], [(2, "10:00")]),
    ],
)
def test_days_and_times(text: str, on: list[tuple[int, str]], off: list[tuple[int, str]]) -> None:
    schedule = parse_schedule(text)
    assert all(schedule.is_on(at(*one)) for one in on)
    assert not any(schedule.is_on(at(*one)) for one in off)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("always", "expected days and times such as"),
        ("mon-fre 07:00-19:00", "'fre'; expected a day: mon, tue"),
        ("07:00-25:00", "expected a time from 00:00 to 24:00"),
        ("07:00-07:00", "begins when it ends"),
        ("07:00-08:00,", "expected days and times"),
    ],
)
def test_what_is_no_schedule_is_said(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_schedule(text)
