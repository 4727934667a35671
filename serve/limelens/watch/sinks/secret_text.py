"""Reads a secret from a file or from the environment. It does not know what it is for."""

from __future__ import annotations

import os
from pathlib import Path

from limelens.watch.sinks.errors import SinkError


def read_secret(file: Path | None, env: str | None) -> str:
    """The secret, without the space around it.

    Args:
        file: The file that holds it.
        env: The variable that holds it, if no file is given.

    Raises:
        SinkError: There is none.
    """
    if file is not None:
        try:
            text = file.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or "is not text in UTF-8"
            raise SinkError(f"{file}: {reason}; expected a file that holds the secret") from error
        if not text:
            raise SinkError(f"{file}: is empty; expected a file that holds the secret")
        return text
    text = os.environ.get(env or "", "").strip()
    if not text:
        raise SinkError(f"{env}: is not set in the environment; it should hold the secret")
    return text
