"""Options that several commands share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

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
