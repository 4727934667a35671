"""Files that a command writes beside its output, which appears even if they cannot be written."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from limelens.serve.errors import LimelensError


class ByProducts:
    """The files written so far, and those that could not be."""

    def __init__(self) -> None:
        self.written: list[Path] = []
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
            self.written.append(path)

    def check(self) -> None:
        """Reports, after the output, what could not be written.

        Raises:
            LimelensError: A file could not be written.
        """
        if self._failures:
            raise LimelensError("; ".join(self._failures))
