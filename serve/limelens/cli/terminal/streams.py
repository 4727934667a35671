"""Stdout and stderr, which may be full, closed or a terminal that is gone."""

from __future__ import annotations

import contextlib
import os
import sys
from typing import TextIO


def give_up(stream: TextIO) -> None:
    """Has what is still to be written to a stream, and all that follows, go nowhere.

    Else Python tries again when it ends, fails again, and makes its own exit code of it.

    Args:
        stream: Stdout or stderr, which cannot be written.
    """
    with contextlib.suppress(OSError, ValueError):  # closed already
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)


def flush() -> OSError | None:
    """Writes what is still to be written to both streams; why stdout could not be, if so."""
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
