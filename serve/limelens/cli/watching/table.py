"""The live table of `limelens watch` on a terminal: a row for each camera."""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Final, Self

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from limelens.cli.watching.lines import STYLES

if TYPE_CHECKING:
    from limelens.watch.live import LiveCamera, LiveCameras

_MARKS: Final = {"alert": "!", "clear": "✓", "unknown": "?"}
"""Beside the word: colours alone tell nothing to some."""


class LiveTable:
    """Draws how each camera is below what is printed; a context manager.

    Args:
        console: The terminal.
        live: The cameras.
    """

    def __init__(self, console: Console, live: LiveCameras) -> None:
        self._cameras = live
        self._live = Live(
            console=console, auto_refresh=False, transient=True, vertical_overflow="ellipsis"
        )

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._live.stop()

    def update(self, problems: Sequence[str], address: str) -> None:
        """Draws it anew, with what keeps sinks from delivering, and where the page is."""
        below = Table.grid(expand=True)
        for problem in problems:
            below.add_row(Text(problem, "yellow", overflow="fold"))
        if address:
            below.add_row(Text(f"page: {address}", "dim"))
        # A terminal echoes ^C where the drawing ends; behind a full line that is one line further
        # down, and the head of the table would stay.
        last = Text()
        self._live.update(Group(table(self._cameras.all()), below, last), refresh=True)


def table(cameras: Sequence[LiveCamera]) -> Table:
    """The cameras as a table that fits 80 columns; what does not fit is cut."""
    found = Table(box=None, pad_edge=False, expand=True, header_style="dim", padding=(0, 2, 0, 0))
    for name, right, ratio in (
        ("camera", False, 4), ("state", False, 0), ("what", False, 4),
        ("age", True, 0), ("fps", True, 0), ("drops", True, 0), ("last error", False, 5),
    ):  # fmt: skip
        found.add_column(
            name,
            justify="right" if right else "left",
            no_wrap=True,
            overflow="ellipsis",
            ratio=ratio or None,
        )
    for camera in cameras:
        one = camera.current
        age = "" if one.age_s is None else f"{min(one.age_s, 9999):.1f}s"
        found.add_row(
            Text(one.camera_id),
            Text(f"{_MARKS[one.state]} {one.state}", STYLES[one.state]),
            Text(_what(one)),
            Text(age),
            Text(f"{one.fps:.1f}"),
            Text(str(one.num_dropped)),
            Text(one.last_error, "dim"),
        )
    return found


def _what(camera: LiveCamera) -> str:
    if camera.label is not None:
        sure = "" if camera.probability is None else f" {camera.probability:.2f}"
        people = "" if camera.people is None else f" of {camera.people}"
        return f"{camera.label}{sure}{people}"
    if camera.reason is not None:
        return camera.reason.replace("_", " ")
    return "nobody" if camera.people == 0 else ""
