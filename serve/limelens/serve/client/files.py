"""Reads files that a caller names; an error says what was expected."""

from __future__ import annotations

import os
from pathlib import Path

from limelens.serve.errors import MissingFileError, UnreadableFileError


def read_file(path: str | os.PathLike[str], expected: str) -> bytes:
    """The bytes of a file.

    Args:
        path: Its path.
        expected: What it should be, for the error.

    Raises:
        UnreadableFileError: It is missing, a folder, or cannot be read.
    """
    try:
        return Path(path).read_bytes()
    except FileNotFoundError as error:
        raise MissingFileError(error, f"expected {expected}") from error
    except OSError as error:
        raise UnreadableFileError(error, f"expected {expected}") from error
