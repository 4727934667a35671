"""How long work is stopped from outside: a function that it calls now and then."""

from collections.abc import Callable

Check = Callable[[], None]
"""Called between the steps of long work, at least every few tenths of a second of it. What it
raises stops the work."""


def go_on() -> None:
    """The check that stops nothing."""
