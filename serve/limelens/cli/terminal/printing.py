"""Output on a terminal and as JSON."""

from __future__ import annotations

import json
import logging
import os
import sys
from typing import Annotated, Any, Final, Self

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)

from limelens.cli.terminal.folding import at_spaces

AsJson = Annotated[
    bool, typer.Option("--json", help="Print one JSON document to stdout and nothing else.")
]


class _Console(Console):
    """Prints lines whole, for whoever reads them by a program; on a terminal, broken at spaces.

    A word that is longer than the terminal is wide, such as a path, stays whole: the terminal
    breaks it, and knows when it is copied that it is one.
    """

    def print(self, *objects: Any, **given: Any) -> None:
        """As of `rich`."""
        if self.is_terminal and "soft_wrap" not in given and [*map(type, objects)] == [str]:
            text = self.render_str(objects[0], markup=given.get("markup"))
            objects = (at_spaces(text, self.width),)
        super().print(*objects, **given)


out: Final[Console] = _Console(highlight=False, emoji=False, soft_wrap=True)
err: Final[Console] = _Console(stderr=True, highlight=False, emoji=False, soft_wrap=True)


class _Notes(logging.Handler):
    """Prints notes on data, each once."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self._printed: set[str] = set()

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        if text not in self._printed:
            self._printed.add(text)
            err.print(escape(text), style="yellow" if record.levelno >= logging.WARNING else None)


def print_notes() -> None:
    """Prints notes on data to stderr from now on."""
    logger = logging.getLogger("limelens.train")
    logger.handlers = [one for one in logger.handlers if not isinstance(one, _Notes)]
    # Of the processes that torchrun starts, only the first prints.
    if os.environ.get("RANK", "0") == "0":
        logger.addHandler(_Notes())
        logger.setLevel(logging.INFO)


def progress_bar(noun: str, *columns: ProgressColumn) -> Progress:
    """A bar on a terminal, removed once it is done; nothing elsewhere."""
    return Progress(
        TextColumn(noun),
        BarColumn(),
        MofNCompleteColumn(),
        *columns,
        TimeRemainingColumn(),
        console=err,
        transient=True,
        disable=not err.is_terminal,
    )


class Bar:
    """A bar with one task, shown while it is entered."""

    def __init__(self, noun: str, *columns: ProgressColumn, **fields: Any) -> None:
        self.bar = progress_bar(noun, *columns)
        self.task = self.bar.add_task("", total=None, **fields)

    def __enter__(self) -> Self:
        self.bar.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.bar.stop()


class ImageBar(Bar):
    """Shows how many images are done."""

    def __init__(self) -> None:
        super().__init__("images")

    def done(self, num_done: int, num_all: int) -> None:
        """Shows how many are done, and of how many."""
        self.bar.update(self.task, completed=num_done, total=num_all)


def print_next(command: str) -> None:
    """Prints the command that comes next, which can be copied even if a terminal breaks it."""
    out.print(f"Next: {escape(command)}", soft_wrap=True)


def print_json(document: Any) -> None:
    """Writes one document to stdout."""
    # ASCII is valid in every encoding and for every file name.
    json.dump(document, sys.stdout, indent=2)
    sys.stdout.write("\n")
