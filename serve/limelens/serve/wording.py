"""Small pieces of messages."""

from __future__ import annotations

from collections.abc import Sequence


def counted(number: int, noun: str) -> str:
    """`1 frame`, `2 frames`: the plural must end in s."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def listed(texts: Sequence[str], separator: str = "; ", most: int = 10) -> str:
    """The first few texts, and how many more there are."""
    more = f"{separator}and {len(texts) - most} more" if len(texts) > most else ""
    return separator.join(texts[:most]) + more


def first_line(error: BaseException) -> str:
    """The first line of an error's message, its reason alone if it comes from the system."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return (str(error).strip() or type(error).__name__).splitlines()[0]
