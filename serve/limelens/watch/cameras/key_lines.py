"""Finds the line of each key of a TOML file, for messages. It knows nothing of settings."""

from __future__ import annotations

import tomllib
from collections import Counter
from collections.abc import Iterator
from typing import Any

Key = tuple[str | int, ...]
"""The way to a value: names, and numbers within lists, such as `("camera", 0, "fps")`."""


def key_lines(text: str) -> dict[Key, int]:
    """The line, from 1, on which each key of a valid TOML document begins.

    tomllib says no places, but it says whether lines are a whole document: lines are added until
    they are, and then they are one statement, whose keys it names.
    """
    found: dict[Key, int] = {}
    numbers: Counter[Key] = Counter()
    table: Key = ()
    statement, first = "", 0
    for number, line in enumerate(text.split("\n"), 1):
        first = first if statement else number
        statement += line + "\n"
        try:
            values = tomllib.loads(statement)
        except tomllib.TOMLDecodeError:
            continue
        begin = statement.lstrip()
        statement = ""
        if begin.startswith("["):
            names = tuple(_names(values))
            table = _within(names[:-1], numbers) + names[-1:]
            found.setdefault(table, first)
            if begin.startswith("[["):
                numbers[table] += 1
                table += (numbers[table] - 1,)
                found.setdefault(table, first)
        else:
            for key in _keys(values):
                found.setdefault(table + key, first)
    return found


def _names(values: dict[str, Any]) -> Iterator[str]:
    """The names of a header, such as a and b of `[[a.b]]`."""
    inner: Any = values
    while inner:
        ((name, inner),) = inner.items()
        yield name
        if isinstance(inner, list):
            return


def _within(names: Key, numbers: Counter[Key]) -> Key:
    """The way to a table, through the last tables of lists."""
    way: Key = ()
    for name in names:
        way += (name,)
        if numbers[way]:
            way += (numbers[way] - 1,)
    return way


def _keys(value: Any) -> Iterator[Key]:
    """The ways to all values within a value."""
    inner = (
        value.items()
        if isinstance(value, dict)
        else enumerate(value)
        if isinstance(value, list)
        else ()
    )
    for name, one in inner:
        yield (name,)
        for key in _keys(one):
            yield (name, *key)
