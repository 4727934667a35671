"""What `limelens watch` prints: lines of JSON, or lines for people."""

from __future__ import annotations

import json
import sys
import threading
from contextlib import suppress
from datetime import datetime
from queue import Full, Queue
from typing import TYPE_CHECKING, Final

from rich.console import Console
from rich.markup import escape

from limelens.cli.terminal.printing import err

if TYPE_CHECKING:
    from limelens.watch.event import Event, EventExplanation

_MAX_WAITING: Final = 1000
_FLUSH_S: Final = 2.0
STYLES = {"alert": "bold red", "clear": "green", "unknown": "yellow"}


def _print(console: Console, text: str) -> None:
    """Prints a line; on a terminal it breaks between words."""
    console.print(text, soft_wrap=not console.is_terminal)


class Messages:
    """Prints messages to stderr, or above the table that another console draws.

    Nobody waits for that but a thread of its own: a terminal that is held, or a pipe that nobody
    reads, must not keep cameras from saying that they are lost.
    """

    def __init__(self) -> None:
        self.console = err
        self._waiting: Queue[str] = Queue(_MAX_WAITING)
        threading.Thread(target=self._print_on, name="limelens-messages", daemon=True).start()

    def __call__(self, message: str) -> None:
        """Prints a message with the time; if too many wait to be printed, it is left out."""
        with suppress(Full):
            self._waiting.put_nowait(f"{datetime.now():%H:%M:%S}  {escape(message)}")

    def flush(self) -> bool:
        """Waits until all are printed, at most for some seconds; returns whether they are."""
        with self._waiting.all_tasks_done:
            return self._waiting.all_tasks_done.wait_for(
                lambda: not self._waiting.unfinished_tasks, _FLUSH_S
            )

    def _print_on(self) -> None:
        while True:
            message = self._waiting.get()
            # Where stderr is closed or its disk is full, there is nobody to tell.
            with suppress(OSError, ValueError):
                _print(self.console, message)
            self._waiting.task_done()


class JsonLines:
    """A sink: each event as a line of JSON on stdout."""

    name = "stdout"
    problem = ""

    def __init__(self) -> None:
        self.is_broken = False
        """Whether the reader of stdout has left."""

    def put(self, event: Event) -> None:
        """Prints an event."""
        from limelens.watch.event import document

        try:
            sys.stdout.write(json.dumps(document(event)) + "\n")
            sys.stdout.flush()
        except BrokenPipeError:
            self.is_broken = True
            raise

    def explain(self, explanation: EventExplanation) -> None:
        """Leaves explanations out: lines are for programs that act."""

    def close(self, timeout_s: float) -> None:
        """Has nothing left to do."""


class EventLines:
    """A sink: a line for people about each change of a state."""

    name = "terminal"
    problem = ""
    is_broken = False

    def __init__(self, console: Console) -> None:
        self._console = console

    def put(self, event: Event) -> None:
        """Prints a change."""
        if event.type != "state":
            return
        style = STYLES[event.state]
        what = f"{event.label} {event.probability:.2f}" if event.probability else event.label or ""
        why = event.reason.replace("_", " ")
        if event.reason == "off" and event.detail:
            why += f": {event.detail}"
        who = "" if event.person is None else f"person {event.person}: "
        _print(
            self._console,
            f"{event.time.astimezone():%H:%M:%S}  {escape(event.camera_id)}  "
            f"[{style}]{event.state}[/]  {escape(who + (what or why))}",
        )

    def explain(self, explanation: EventExplanation) -> None:
        """Says nothing of explanations."""

    def close(self, timeout_s: float) -> None:
        """Has nothing left to do."""
