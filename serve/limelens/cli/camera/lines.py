"""What `limelens camera` prints while it runs: lines for changes, a status line, messages."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.text import Text

from limelens.cli.camera.report import BAD, Report, answer_document
from limelens.cli.terminal.printing import err, out
from limelens.serve.decisions.decision import Decision
from limelens.serve.wording import counted

if TYPE_CHECKING:
    from limelens.serve.client.results import FrameAnswer
    from limelens.serve.tools.camera import SourceAnswer


class _Messages:
    """Prints messages to stderr, or above the status line that another console draws."""

    def __init__(self) -> None:
        self.console = err

    def __call__(self, message: str) -> None:
        self.console.print(escape(message))

    @contextmanager
    def above(self, console: Console) -> Iterator[None]:
        """Prints messages above the status line of a console."""
        self.console = console
        try:
            yield
        finally:
            self.console = err


messages: Final = _Messages()


def jsonl(found: SourceAnswer, written: Path | None) -> None:
    """Prints an answer as a line of JSON."""
    print(json.dumps(answer_document(found, written)), flush=True)


@contextmanager
def lines(report: Report) -> Iterator[Any]:
    """A line for each change, and on a terminal a status line."""
    if not out.is_terminal:
        yield _print_news
        return
    with (
        Live(console=out, auto_refresh=True, refresh_per_second=5, transient=True) as live,
        messages.above(out if err.is_terminal else err),
    ):

        def print_answer(found: SourceAnswer, written: Path | None) -> None:
            _print_news(found, written)
            if found.answer.prediction is not None:
                live.update(_status(report, found.answer))

        yield print_answer


def _print_news(found: SourceAnswer, written: Path | None) -> None:
    answer = found.answer
    where = f"{datetime.now():%H:%M:%S}  frame {answer.frame_id}"
    if found.place:
        where += f" ({escape(found.place)})"
    if (change := answer.explanation) is not None:
        who = "" if change.person is None else f"person {change.person} is "
        if change.explanation is None:
            reason = escape(change.reason)
            out.print(f"{where}  {who}{escape(change.label)} is not explained: {reason}")
        elif written is not None:
            out.print(f"{where}  why {who}{escape(change.label)}: {escape(str(written))}")
        return
    if answer.status in BAD:
        messages.console.print(f"{where}: [red]{escape(answer.reason)}[/]")
    people = [face for face in answer.faces if face.changed]
    for face in people:
        decided = _decision(face.smoothed_label, alert=face.alert)
        out.print(f"{where}  person {face.person}: {decided}")
    # The line of one person who is the worst says what the line of the frame would.
    if answer.changed and all(face.smoothed_label != answer.smoothed_label for face in people):
        out.print(f"{where}  {_together(answer)}")


def _together(answer: FrameAnswer) -> str:
    """The decision about a frame; with faces that about the worst of the people."""
    if answer.smoothed_decision is Decision.NO_FACE:
        return "[dim]nobody[/]"
    decided = _decision(answer.smoothed_label, alert=answer.alert)
    if not answer.faces:
        return decided
    is_of_all = answer.smoothed_label is not None and not answer.alert
    return f"{'everybody' if is_of_all else 'somebody'}: {decided}"


def _decision(label: str | None, *, alert: bool) -> str:
    if label is None:
        return "[dim]unknown[/]"
    return f"[bold red]{escape(label)}[/] [red](alert)[/]" if alert else f"[bold]{escape(label)}[/]"


def _status(report: Report, answer: FrameAnswer) -> Text:
    scores = answer.prediction.scores if answer.prediction is not None else ()
    best = f"now {escape(scores[0].label)} {scores[0].probability:.2f}" if scores else ""
    if answer.faces:
        best = counted(len(answer.faces), "face")
    dropped = answer.dropped_frames + report.source.num_skipped
    line = (
        f"{_together(answer)}   [dim]{best}   {report.fps:.1f} frames/s   {dropped} dropped   "
        f"{answer.timings_ms.total:.0f} ms[/]"
    )
    # A line that wraps would leave its second half behind when it is drawn again.
    text = Text.from_markup(line, overflow="ellipsis")
    text.no_wrap = True
    return text
