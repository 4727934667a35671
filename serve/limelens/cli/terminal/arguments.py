"""What every command does with its arguments before they have a meaning.

An empty path is refused: a shell makes one of a variable that is not set, and as a path it would be
the current folder. An option of other programs is hinted at by its name here.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final, get_args, get_type_hints

import typer

_FILES: Final = re.compile(r"\b(FILE|INDEX|INPUT|PATH|SOURCE)\b")
"""In the metavar of a text that may be a path."""
_OTHER_NAMES: Final = {
    "--address": ("--listen", "--server"),
    "--architecture": ("--arch",),
    "--batch": ("--batch-size", "--max-batch-size"),
    "--bind": ("--listen",),
    "--cuda": ("--device",),
    "--gpu": ("--device",),
    "--gpus": ("--device",),
    "--grpc-port": ("--listen",),
    "--host": ("--listen", "--server"),
    "--http-port": ("--http",),
    "--image-size": ("--input-size",),
    "--lr": ("--learning-rate",),
    "--metrics-port": ("--http",),
    "--model-dir": ("--models",),
    "--model-repository": ("--models",),
    "--model-store": ("--models",),
    "--network": ("--arch",),
    "--output": ("--out",),
    "--port": ("--listen", "--server"),
    "--ssl-certfile": ("--tls-cert",),
    "--ssl-keyfile": ("--tls-key",),
    "--threads": ("--num-threads", "--num-workers"),
    "--url": ("--server",),
    "--workers": ("--processes", "--num-workers"),
}
"""Options as other programs call them, and as a command here may."""


def refuse_empty_paths(
    parameters: Iterable[Any], command: Any, given: Mapping[str, Any], context: Any
) -> None:
    """Refuses empty paths.

    Args:
        parameters: Those of a command.
        command: Its function.
        given: What was typed for each of them, by name.
        context: For the message.

    Raises:
        typer.BadParameter: One is empty.
    """
    kinds: Mapping[str, Any] | None = None
    for one in parameters:
        typed = given.get(one.name)
        if typed != "" and not (isinstance(typed, list | tuple) and "" in typed):
            continue
        kinds = get_type_hints(command) if kinds is None else kinds
        may_be_text = one.default == ""
        if _is_path(kinds.get(one.name)) or (not may_be_text and _FILES.search(one.metavar or "")):
            raise typer.BadParameter(
                "the path is empty, perhaps from a shell variable that is not set; expected the "
                "name of a file or a folder",
                ctx=context,
                param=one,
            )


def like(name: str, parameters: Iterable[Any]) -> list[str]:
    """Options of a command that do what an option of other programs does."""
    options = {option for one in parameters for option in one.opts}
    return [option for option in _OTHER_NAMES.get(name, ()) if option in options][:1]


def _is_path(kind: Any) -> bool:
    return kind is Path or any(_is_path(one) for one in get_args(kind))
