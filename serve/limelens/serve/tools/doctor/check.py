"""What one check found."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class State(StrEnum):
    """How bad it is. `WARNING` works, and somebody should know."""

    OK = "ok"
    WARNING = "warning"
    WRONG = "wrong"


@dataclass(frozen=True)
class Check:
    """One thing that was looked at.

    Args:
        name: What was looked at, in a word or two.
        state: How bad it is.
        found: What is there.
        advice: What to do; empty where there is nothing to do.
    """

    name: str
    state: State
    found: str
    advice: str = ""

    def __str__(self) -> str:
        return f"{self.found}; {self.advice}" if self.advice else self.found


def ok(name: str, found: str) -> Check:
    """Nothing to do."""
    return Check(name, State.OK, found)


def warning(name: str, found: str, advice: str) -> Check:
    """It works, and somebody should know."""
    return Check(name, State.WARNING, found, advice)


def wrong(name: str, found: str, advice: str) -> Check:
    """It does not work."""
    return Check(name, State.WRONG, found, advice)
