"""Why a server cannot be reached, in better words than gRPC's, if they are found at once."""

from __future__ import annotations

import functools
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as LateError
from typing import Final

from limelens.serve.errors import LimelensError, UnavailableError
from limelens.serve.tools.doctor import State, check_way
from limelens.serve.wording import first_line
from limelens.watch.cameras.aside import aside
from limelens.watch.cameras.connections import tls_of
from limelens.watch.cameras.settings import ServerSettings

_AT_ONCE_S: Final = 0.3
"""That something is lost must not wait for the reason."""
_PROBE_S: Final = 3.0


def why_lost(server: ServerSettings, error: LimelensError, later: Callable[[str], object]) -> str:
    """A sentence about why a call failed.

    Args:
        server: How the server is reached.
        error: How the call failed.
        later: Called from another thread with a better sentence if that takes longer.
    """
    words = first_line(error)
    if not isinstance(error, UnavailableError):
        return words
    looking = aside(functools.partial(_look, server))
    try:
        return looking.result(_AT_ONCE_S) or words
    except LateError:
        looking.add_done_callback(lambda found: _tell(found, later))
        return words


def _look(server: ServerSettings) -> str:
    """The first thing that is wrong on the way to a server; empty if nothing is."""
    try:
        for check in check_way(server.address, tls_of(server), _PROBE_S):
            if check.state is State.WRONG:
                return str(check)
    except (ValueError, OSError, LimelensError):  # a socket of this machine, for example
        pass
    return ""


def _tell(found: Future[str], later: Callable[[str], object]) -> None:
    if found.exception() is None and (words := found.result()):
        later(words)
