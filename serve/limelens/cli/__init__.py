"""The command line. It parses, prints and sets exit codes; the work is done by the parts."""

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
            # Loading the commands takes a while, in which signals are answered already.
            from limelens.cli.app import main as run

            run()
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)


@contextlib.contextmanager
def _signals_of_a_server() -> Iterator[None]:
    """Until there is a server that answers them: it is told to stop, and there is nothing to stop.

    SIGHUP asks for a look at models, all of which are still to be looked at.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    answers = {signal.SIGTERM: _leave, signal.SIGINT: _leave}
    if hasattr(signal, "SIGHUP"):
        answers[signal.SIGHUP] = _stay
    before = {number: signal.signal(number, answer) for number, answer in answers.items()}
    try:
        yield
    finally:
        for number, answer in before.items():
            signal.signal(number, answer)


def _leave(_number: int, _frame: object) -> None:
    os._exit(0)


def _stay(_number: int, _frame: object) -> None:
    pass
