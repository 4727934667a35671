"""What `limelens camera` prints while it runs: lines for changes, a status line, messages."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.text import Text

from limelens.cli.camera.documents import document
from limelens.cli.camera.report import BAD, Report
from limelens.cli.terminal.printing import err, out
from limelens.serve.decisions.camera_state import CameraState, EventType
from limelens.serve.decisions.decision import Decision
from limelens.serve.wording import counted

if TYPE_CHECKING:
    from limelens.cli.camera.telling import News
    from limelens.serve.client.results import FrameAnswer
    from limelens.serve.tools.camera import SourceAnswer, StateReport

_COLOURS: Final = {
    CameraState.ALERT: "[bold white on red]",
    CameraState.CLEAR: "[green]",
    CameraState.UNKNOWN: "[bold yellow]",
}


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


def jsonl(camera_id: str) -> Callable[[News], None]:
    """Prints news as lines of JSON."""

    def tell(news: News) -> None:
        print(json.dumps(document(news, camera_id)), flush=True)

    return tell


@contextmanager
def lines(report: Report) -> Iterator[Callable[[News], None]]:
    """A line for each change, and on a terminal a status line."""
    if not out.is_terminal:
        yield _print_news
        return
    with (
        Live(console=out, auto_refresh=True, refresh_per_second=5, transient=True) as live,
        messages.above(out if err.is_terminal else err),
    ):
        last: FrameAnswer | None = None

        def tell(news: News) -> None:
            nonlocal last
            _print_news(news)
            if news.found is not None and news.found.answer.prediction is not None:
                last = news.found.answer
            live.update(_status(report, news.now, last))

        yield tell


def _print_news(news: News) -> None:
    """Prints what is new for people: decisions, and why nothing is known."""
    if news.type is EventType.STATE:
        # What a frame decided is said of that frame.
        if not _is_of_frame(news.found) and news.sequence > 1 and not news.is_last:
            out.print(f"{_began(news)}  {escape(_why(news.now))}")
    elif news.type is EventType.FRAME and news.found is not None and _is_of_frame(news.found):
        _print_answer(news, news.found)


def _is_of_frame(found: SourceAnswer | None) -> bool:
    return found is not None and found.answer.status != "decision_expired"


def _began(news: News) -> str:
    return f"{news.time.astimezone():%H:%M:%S}  {_state(news.now.state)}"


def _state(state: CameraState) -> str:
    # Not by colour alone, and as wide as the longest.
    return f"{_COLOURS[state]}{state.value:<7}[/]"


def _why(now: StateReport) -> str:
    if now.reason is None:
        return now.label or ""
    return now.reason.in_words


def _print_answer(news: News, found: SourceAnswer) -> None:
    answer = found.answer
    where = f"{_began(news)}  frame {answer.frame_id}"
    if found.place:
        where += f" ({escape(found.place)})"
    if (change := answer.explanation) is not None:
        who = "" if change.person is None else f"person {change.person} is "
        if change.explanation is None:
            reason = escape(change.reason)
            out.print(f"{where}  {who}{escape(change.label)} is not explained: {reason}")
        elif news.written is not None:
            out.print(f"{where}  why {who}{escape(change.label)}: {escape(str(news.written))}")
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


def _status(report: Report, now: StateReport, last: FrameAnswer | None) -> Text:
    scores = last.prediction.scores if last is not None and last.prediction is not None else ()
    best = f"now {escape(scores[0].label)} {scores[0].probability:.2f}   " if scores else ""
    if last is not None and last.faces:
        best = f"{counted(len(last.faces), 'face')}   "
    if now.reason is not None:
        best = ""  # it is of before
    dropped = report.source.num_skipped + (0 if last is None else last.dropped_frames)
    took = "" if last is None else f"   {last.timings_ms.total:.0f} ms"
    said = escape(_why(now)) if now.reason is not None or last is None else _together(last)
    line = (
        f"{_state(now.state)} {said}   [dim]{best}{report.fps:.1f} frames/s   "
        f"{dropped} dropped{took}[/]"
    )
    # A line that wraps would leave its second half behind when it is drawn again.
    text = Text.from_markup(line, overflow="ellipsis")
    text.no_wrap = True
    return text
