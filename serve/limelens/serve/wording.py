"""Small pieces of messages."""

from __future__ import annotations


def counted(number: int, noun: str) -> str:
    """`1 frame`, `2 frames`: the plural must end in s."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def first_line(error: Exception) -> str:
    """The first line of an error's message, its reason alone if it comes from the system."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return (str(error).strip() or type(error).__name__).splitlines()[0]
