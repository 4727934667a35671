"""Options that several commands share."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any, get_type_hints

import typer


def settings_of(kind: type[Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Those of a command's options that have the names of a dataclass's fields.

    Args:
        kind: The dataclass.
        given: The options by name, as of `locals()` where the command begins.
    """
    return {one.name: given[one.name] for one in fields(kind) if one.name in given}


def option(help_: str, *names: str, **given: Any) -> Any:
    """An option of a command, its help first; the rest as of `typer.Option`."""
    return typer.Option(*names, help=help_, **given)


def in_place_of(
    name: str, read: Callable[..., Any]
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Gives a command the options of a function in place of one of its parameters.

    Args:
        name: The parameter; its value is what the function returns.
        read: The function. Its parameters are options, and its return type is a plain name.
    """
    options = inspect.signature(read).parameters
    # The type that it returns may be known to type checkers alone.
    returned = {str(read.__annotations__["return"]): object}

    def give(command: Callable[..., None]) -> Callable[..., None]:
        theirs = inspect.signature(command).parameters
        hints = {
            **get_type_hints(command, include_extras=True),
            **get_type_hints(read, include_extras=True, localns=returned),
        }

        @functools.wraps(command)
        def run(*arguments: Any, **values: Any) -> None:
            given = {one: values.pop(one) for one in options if one in values}
            if given:
                values[name] = read(**given)
            command(*arguments, **values)

        before = list(theirs)[: list(theirs).index(name)]
        parameters = [
            one.replace(annotation=hints[one.name])
            if one.name in before
            else one.replace(annotation=hints[one.name], kind=inspect.Parameter.KEYWORD_ONLY)
            for given in theirs.values()
            for one in (options.values() if given.name == name else (given,))
        ]
        run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        run.__annotations__ = {one.name: one.annotation for one in parameters}
        return run

    return give
