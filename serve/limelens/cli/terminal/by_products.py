"""Files that a command writes beside its output, which appears even if they cannot be written."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from rich.markup import escape

from limelens.cli.terminal.printing import out
from limelens.serve.errors import LimelensError


class ByProducts:
    """The files written so far, and those that could not be."""

    def __init__(self) -> None:
        self._written: list[Path] = []
        self._failures: list[str] = []

    @contextlib.contextmanager
    def writing(self, path: Path) -> Iterator[None]:
        """Records whether a file could be written in this context."""
        try:
            yield
        except OSError as error:
            where = error.filename or path
            self._failures.append(f"{where}: cannot be written: {error.strerror or error}")
        else:
            self._written.append(path)

    def report(self, *, as_json: bool) -> None:
        """Names the files, unless the output is JSON; call it after the output.

        Raises:
            LimelensError: A file could not be written.
        """
        if not as_json:
            for path in self._written:
                out.print(f"Wrote {escape(str(path))}")
        if self._failures:
            raise LimelensError("; ".join(self._failures))
