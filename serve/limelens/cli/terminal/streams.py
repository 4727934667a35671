"""Stdout and stderr, which may be closed, or lead to a full disk or a lost terminal."""

from __future__ import annotations

import contextlib
import os
import sys
from typing import TextIO


def give_up(stream: TextIO) -> None:
    """Discards what stdout or stderr holds, which cannot be written, and all that follows.

    Otherwise Python tries again when it exits, fails again, and sets its own exit code.
    """
    with contextlib.suppress(OSError, ValueError):  # closed already
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)


def flush() -> OSError | None:
    """Flushes both streams; returns the error if stdout could not be written."""
    failure: OSError | None = None
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None:
                stream.flush()
        except OSError as error:
            give_up(stream)
            if stream is sys.stdout:
                failure = error
        except ValueError:  # closed
            pass
    return failure
