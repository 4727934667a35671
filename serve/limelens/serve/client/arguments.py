"""Keyword arguments that no method has: the error names the method and the one that was meant."""

from __future__ import annotations

import difflib
import functools
from collections.abc import Callable, Iterable
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


def check_arguments(method: str, given: Iterable[str], accepted: Iterable[str]) -> None:
    """Refuses arguments that a method does not have.

    Raises:
        TypeError: As Python raises it for any function.
    """
    known = sorted(accepted)
    for name in given:
        if name not in known:
            near = difflib.get_close_matches(name, known, 1)
            meant = f"did you mean {near[0]!r}?" if near else f"expected {', '.join(known)}"
            raise TypeError(f"{method}() got an unexpected keyword argument {name!r}; {meant}")


def arguments_of(method: str, arguments: type[Any]) -> Callable[[Callable[P, T]], Callable[P, T]]:
    """Has a function speak of the method that callers know.

    Args:
        method: The name of that method.
        arguments: A typed dictionary of its keyword arguments.
    """
    accepted = {*arguments.__optional_keys__, *arguments.__required_keys__}

    def decorate(function: Callable[P, T]) -> Callable[P, T]:
        @functools.wraps(function)
        def call(*positional: P.args, **named: P.kwargs) -> T:
            check_arguments(method, named, accepted)
            return function(*positional, **named)

        return call

    return decorate
