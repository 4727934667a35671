"""The command line: parses, prints and sets exit codes. Other packages do the work."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator

__all__ = ["main"]


def main() -> None:
    """Runs the command line; the console script `limelens`."""
    try:
        with _signals_of_a_server() if sys.argv[1:2] == ["serve"] else contextlib.nullcontext():
            # Loading the commands takes a while; signals must work meanwhile.
            from limelens.cli.app import main as run

            run()
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)


@contextlib.contextmanager
def _signals_of_a_server() -> Iterator[None]:
    """Handles signals until there is a server that does.

    SIGTERM and SIGINT exit at once, as there is nothing to stop. SIGHUP does nothing, as all models
    are still to be loaded.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handlers = {signal.SIGTERM: _leave, signal.SIGINT: _leave}
    if hasattr(signal, "SIGHUP"):
        handlers[signal.SIGHUP] = _stay
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _leave(_number: int, _frame: object) -> None:
    os._exit(0)


def _stay(_number: int, _frame: object) -> None:
    pass
