"""Reads secrets, which are never in a configuration itself: from a file, or the environment."""

from __future__ import annotations

import os
from pathlib import Path

from pydantic import SecretStr

from limelens.serve.errors import LimelensError

MAX_BYTES = 64 * 1024


class SecretError(LimelensError):
    """A secret cannot be read; the message says where it was looked for, and never what it is."""


def read_secret(
    what: str, file: Path | None, variable: str | None, max_lines: int = 1
) -> SecretStr | None:
    """A secret without the space around it; None if neither a file nor a variable is named.

    Args:
        what: What it is, for messages, such as `the token`.
        file: The file that holds it.
        variable: The variable of the environment that holds it.
        max_lines: How many lines it may have.

    Raises:
        SecretError: It is not there, cannot be read, is empty or has more lines.
    """
    if file is not None:
        where, text = str(file), _read(what, file)
    elif variable is not None:
        found = os.environ.get(variable)
        if found is None:
            raise SecretError(
                f"{what}: the variable {variable} is not set; expected it in the environment of "
                "this process"
            )
        where, text = f"the variable {variable}", found
    else:
        return None
    secret = text.strip()
    num_lines = len(secret.splitlines())
    if not 1 <= num_lines <= max_lines:
        expected = "one" if max_lines == 1 else f"1 to {max_lines}"
        raise SecretError(f"{what}: {where} holds {num_lines} lines; expected {expected}")
    return SecretStr(secret)


def _read(what: str, file: Path) -> str:
    try:
        with file.open("rb") as opened:
            content = opened.read(MAX_BYTES + 1)
    except OSError as error:
        raise SecretError(
            f"{what}: {file}: {error.strerror}; expected a file that holds it"
        ) from None
    if len(content) > MAX_BYTES:
        raise SecretError(f"{what}: {file} is larger than {MAX_BYTES} bytes; expected one line")
    try:
        return content.decode()
    except UnicodeDecodeError:
        raise SecretError(f"{what}: {file} is no text in UTF-8; expected one line") from None
