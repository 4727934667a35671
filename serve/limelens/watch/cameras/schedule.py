"""When a camera is watched: days of the week and times of the day, by this machine's local time."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

_DAYS: Final = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_SPAN: Final = re.compile(
    r"(?:(?P<days>[a-z]{3}(?:-[a-z]{3})?)\s+)?(?P<begin>\d\d?:\d\d)-(?P<end>\d\d?:\d\d)"
)
_DAY_MINUTES: Final = 24 * 60
_EXPECTED: Final = (
    "expected days and times such as 'mon-fri 07:00-19:00', several of them with a comma between, "
    "and times alone for every day"
)


@dataclass(frozen=True)
class _Span:
    """On some days, from one minute of the day to another; over midnight if that is earlier."""

    days: frozenset[int]
    begin: int
    end: int

    def holds(self, day: int, minute: int) -> bool:
        if self.begin < self.end:
            return day in self.days and self.begin <= minute < self.end
        # Over midnight: it belongs to the day on which it began.
        return (day in self.days and minute >= self.begin) or (
            (day - 1) % 7 in self.days and minute < self.end
        )


@dataclass(frozen=True)
class Schedule:
    """Times of the week; see `parse_schedule`."""

    spans: tuple[_Span, ...]

    def is_on(self, at: datetime) -> bool:
        """Whether a local time is within it."""
        minute = at.hour * 60 + at.minute
        return any(span.holds(at.weekday(), minute) for span in self.spans)

    def next_on(self, at: datetime) -> datetime | None:
        """The next local time, to the minute, at which it begins; None if there is none in a week.

        The time has no zone: what a clock on the wall shows.
        """
        begin = at.replace(second=0, microsecond=0, tzinfo=None)
        begins = {span.begin for span in self.spans}
        for day in range(8):
            for minute in sorted(begins):
                when = begin.replace(hour=0, minute=0) + timedelta(days=day, minutes=minute)
                if when > begin and self.is_on(when):
                    return when
        return None


def parse_schedule(text: str) -> Schedule:
    """Reads a schedule, such as `mon-fri 07:00-19:00, sat 22:00-02:00`.

    Days without a comma are a range, which may go over Sunday. An end before its begin is on the
    next day; 24:00 is midnight.

    Raises:
        ValueError: It is not one; the message says what is expected.
    """
    spans = tuple(_span(part.strip().lower(), text) for part in text.split(","))
    return Schedule(spans)


def _span(part: str, whole: str) -> _Span:
    found = _SPAN.fullmatch(part)
    if found is None:
        raise ValueError(f"{part or whole!r}; {_EXPECTED}")
    begin, end = _minute(found["begin"]), _minute(found["end"])
    if begin == end:
        raise ValueError(f"{part!r} begins when it ends; expected 00:00-24:00 for a whole day")
    return _Span(_days(found["days"]), begin % _DAY_MINUTES, end)


def _minute(time: str) -> int:
    hour, minute = map(int, time.split(":"))
    if minute > 59 or hour * 60 + minute > _DAY_MINUTES:
        raise ValueError(f"{time!r}; expected a time from 00:00 to 24:00")
    return hour * 60 + minute


def _days(text: str | None) -> frozenset[int]:
    if text is None:
        return frozenset(range(7))
    first, _, last = text.partition("-")
    for day in (first, last or first):
        if day not in _DAYS:
            raise ValueError(f"{day!r}; expected a day: {', '.join(_DAYS)}")
    begin, end = _DAYS.index(first), _DAYS.index(last or first)
    return frozenset((begin + n) % 7 for n in range((end - begin) % 7 + 1))
