"""What signals ask of a server, from its first moment to its last.

SIGTERM or SIGINT: stop, and exit with 0. A second one: leave at once. SIGHUP: look for new
versions, and never an end. It knows the order of things, and nothing of what is started or stopped.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from types import FrameType
from typing import Any, Final, NoReturn, Self

_STOPPING: Final = (signal.SIGTERM, signal.SIGINT)


class Signals:
    """Answers signals while its context lasts; the process's main thread enters it.

    Args:
        leaves_early: Whether the process just ends where it is told to stop before `follow`. An
            error raised in the middle of loading would not do: libraries make others of it.
    """

    def __init__(self, *, leaves_early: bool) -> None:
        self._leaves_early = leaves_early
        self._number = 0
        self._is_asked = False
        self._on_stop: Callable[[], object] | None = None
        self._on_reload: Callable[[], object] | None = None
        self._on_hurry: Callable[[], object] = lambda: None
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        numbers = [*_STOPPING]
        if hasattr(signal, "SIGHUP"):
            numbers.append(signal.SIGHUP)
        for number in numbers:
            self._before[number] = signal.signal(number, self._answer)
        return self

    def __exit__(self, *_: object) -> None:
        for number, before in self._before.items():
            signal.signal(number, before)

    def on_hurry(self, act: Callable[[], object]) -> None:
        """Says what is done, in a moment, before the process leaves at a second signal."""
        self._on_hurry = act

    def follow(
        self, on_stop: Callable[[], object], on_reload: Callable[[], object] | None = None
    ) -> None:
        """Says what is done at signals, and does it for those that came before.

        Args:
            on_stop: At the first that asks to stop. Called between any two lines of the main
                thread, as the other is.
            on_reload: At SIGHUP; None: nothing is there yet that could look.
        """
        self._on_stop, self._on_reload = on_stop, on_reload
        if self._number:
            on_stop()
        if self._is_asked and on_reload is not None:
            self._is_asked = False
            on_reload()

    def _answer(self, number: int, _frame: FrameType | None) -> None:
        if number not in _STOPPING:
            if self._on_reload is not None:
                self._on_reload()
            else:
                self._is_asked = True
            return
        if self._number:
            self._leave(number)
        self._number = number
        if self._on_stop is not None:
            self._on_stop()
        elif self._leaves_early:
            os._exit(0)

    def _leave(self, number: int) -> NoReturn:
        """Ends the process without what Python and libraries do at an end.

        They would wait for models that run, and abort where calls are under way.
        """
        try:
            self._on_hurry()
        finally:
            os._exit(128 + number)
