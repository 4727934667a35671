"""The result of one check."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class State(StrEnum):
    """How severe it is; after a `WARNING` it still works."""

    OK = "ok"
    WARNING = "warning"
    WRONG = "wrong"


@dataclass(frozen=True)
class Check:
    """The result of one check: what was checked, what was found, and what to do, if anything."""

    name: str
    state: State
    found: str
    advice: str = ""

    def __str__(self) -> str:
        return f"{self.found}; {self.advice}" if self.advice else self.found


def ok(name: str, found: str) -> Check:
    """A check that needs nothing done."""
    return Check(name, State.OK, found)


def warning(name: str, found: str, advice: str) -> Check:
    """A check of something that works, with advice."""
    return Check(name, State.WARNING, found, advice)


def wrong(name: str, found: str, advice: str) -> Check:
    """A check of something that does not work."""
    return Check(name, State.WRONG, found, advice)
