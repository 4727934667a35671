"""Numbers with the right form of their noun."""

from __future__ import annotations


def counted(number: int, noun: str) -> str:
    """`1 frame`, `2 frames`.

    Args:
        number: How many.
        noun: In the singular; its plural ends in s.
    """
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
