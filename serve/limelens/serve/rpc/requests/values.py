"""Single values of requests: numbers within bounds, and names of enums.

Knows fields by the name that an error gives them. Does not know what they mean.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from limelens.serve.errors import InvalidRequestError


def number(
    name: str, value: float, *, most: float, least: float = 0.0, over: float | None = None
) -> float:
    """A number within its bounds.

    Raises:
        InvalidRequestError: It is not; `name` is the field's.
    """
    bad = not math.isfinite(value) or value > most or value < least
    if bad or (over is not None and value <= over):
        expected = f"over {over:g}" if over is not None else f"{least:g}"
        raise InvalidRequestError(name, f"{value:g}; expected {expected} to {most:g}")
    return value


def enum_name(kind: Any, value: int, name: str, *, may_be_unset: bool = True) -> str | None:
    """An enum's value as an option of `limelens.explain`; None where it is unset."""
    names: Sequence[str] = kind.keys()
    prefix = names[0].removesuffix("UNSPECIFIED")
    if value not in kind.values() or (value == 0 and not may_be_unset):
        found = kind.Name(value) if value in kind.values() else value
        raise InvalidRequestError(name, f"{found}; expected one of {', '.join(names[1:])}")
    if value == 0:
        return None
    return str(kind.Name(value).removeprefix(prefix).lower())
