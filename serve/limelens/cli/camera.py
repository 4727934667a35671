"""`limelens camera`: classifies a camera, a video or a folder by a server, and explains changes."""

from __future__ import annotations

import json
import os
import re
import signal
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer
from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.text import Text

from limelens.cli.classifying import (
    DEFAULT_SERVER,
    RegionOption,
    Threshold,
    Version,
    parse_region,
    prediction_document,
)
from limelens.cli.explain.explaining import parse_hide
from limelens.cli.explain.explanations import explanation_document
from limelens.cli.options import option
from limelens.cli.options.connection import NOTHING, Credentials, connect, securely
from limelens.cli.terminal.printing import AsJson, err, out, print_json
from limelens.serve.errors import PermissionDeniedError
from limelens.serve.files import write_whole
from limelens.serve.wording import counted

if TYPE_CHECKING:
    from limelens.serve.client.results import FrameAnswer, ModelInfo
    from limelens.serve.tools.camera import Source, SourceAnswer

_MAX_CHANGES: Final = 1000
"""The last changes, which the document at the end names."""
_RATE_OVER_S: Final = 5.0
_LONGEST_PART: Final = 80
"""Bytes of a camera's name and of a label in the name of a file."""
_BAD: Final = ("invalid", "failed")


@securely
def camera(
    source: Annotated[
        str,
        typer.Argument(
            help="A device's number, /dev/videoN, rtsp://…, http(s)://…, a video, a folder of "
            "images, or - for a video on standard input.",
            show_default=False,
        ),
    ],
    server: Annotated[str, option("The server to call.", metavar="HOST:PORT")] = DEFAULT_SERVER,
    model: Annotated[
        str, option("A model on the server.", metavar="NAME", show_default="the only one")
    ] = "",
    version: Version = 0,
    camera_id: Annotated[
        str, option("The camera's name in the server's log and in overlays' names.")
    ] = "camera",
    region: RegionOption = None,
    threshold: Threshold = None,
    window: Annotated[
        int, option("Number of frames that a decision considers.", min=1, max=1000)
    ] = 1,
    required: Annotated[
        int, option("How many of them must agree.", min=0, max=1000, show_default="more than half")
    ] = 0,
    required_to_alert: Annotated[
        int,
        option(
            "How many must agree on an alert label; clearing it needs --required.",
            min=0,
            max=1000,
            show_default="as --required",
        ),
    ] = 0,
    max_decision_age_s: Annotated[
        float,
        option(
            "Seconds without a frame after which the decision becomes unknown; 0: never.", min=0.0
        ),
    ] = 0.0,
    fps: Annotated[
        float | None, option("Frames a second at most.", min=0.001, show_default="all")
    ] = None,
    live: Annotated[
        bool | None,
        option(
            "Send only the newest frame, or every frame.",
            "--newest-only/--every-frame",
            show_default="newest for a camera, every frame of a file",
        ),
    ] = None,
    quality: Annotated[
        int, option("JPEG quality of the frames that are sent.", min=1, max=95)
    ] = 90,
    explain_on_change: Annotated[
        Path | None,
        option("Write an overlay for each change: green for, red against.", metavar="DIR"),
    ] = None,
    alerts_only: Annotated[
        bool, option("Explain only changes to alert labels.", "--alerts-only")
    ] = False,
    hide: Annotated[
        str | None,
        option(
            "What replaces a hidden segment: mean, blur, shuffle, or a colour.", show_default="mean"
        ),
    ] = None,
    num_segments: Annotated[
        int, option("Segments of an explanation.", min=0, max=1000, show_default="40")
    ] = 0,
    num_samples: Annotated[
        int, option("Samples of an explanation.", min=0, show_default="1000")
    ] = 0,
    as_jsonl: Annotated[
        bool, option("Print each answer as a line of JSON, as soon as it comes.", "--jsonl")
    ] = False,
    credentials: Credentials = NOTHING,
    as_json: AsJson = False,
) -> None:
    """Classifies the frames of a camera, a video or a folder of images.

    Prints a line for each change of the decision. From a camera only the newest frame is sent; a
    lost camera or server is tried again until it is back. From a file every frame is sent, and the
    exit code is 1 if one of them was not an image. Ctrl-C ends it with exit code 0.

    With --json, one document is printed at the end; with --jsonl, a line for each answer.

    Example: limelens camera rtsp://door/live --window 5 --required-to-alert 1 --fps 5

    Example: limelens camera visit.mp4 --explain-on-change why --hide shuffle
    """
    if as_json and as_jsonl:
        raise typer.BadParameter("--json and --jsonl; expected only one of them")
    required = required or window // 2 + 1
    if not window < 2 * required <= 2 * window:
        raise typer.BadParameter(
            f"--required {required} of --window {window}; expected {window // 2 + 1} to {window}"
        )
    if required_to_alert > required:
        raise typer.BadParameter(
            f"--required-to-alert {required_to_alert}; expected at most --required, {required}"
        )
    if explain_on_change is None:
        explaining = {
            "--alerts-only": alerts_only,
            "--hide": hide,
            "--num-segments": num_segments,
            "--num-samples": num_samples,
        }
        if without := [name for name, value in explaining.items() if value]:
            raise typer.BadParameter(
                f"{', '.join(without)} without explanations; expected --explain-on-change DIR too"
            )
    settings: dict[str, Any] = {
        "camera_id": camera_id,
        "model": model,
        "version": version,
        "region": parse_region(region),
        "threshold": threshold,
        "smoothing": (window, required),
        "required_to_alert": required_to_alert,
        "max_decision_age_s": max_decision_age_s,
    }
    if explain_on_change is not None:
        explain_on_change.mkdir(parents=True, exist_ok=True)
        settings["explain_alerts_only"] = alerts_only
        settings["explain_on_change"] = {
            "hide": parse_hide(hide or "mean"),
            "num_segments": num_segments,
            "num_samples": num_samples,
            "renderings": ["overlay"],
        }
    # Loaded here because gRPC reads its settings from the environment when it is loaded.
    from limelens.serve.tools.camera import open_source, watch

    with connect(server, credentials) as client:
        try:
            info = client.model(model, version)  # an unknown one fails at once
        except PermissionDeniedError:  # a caller who may classify need not see the models
            info = None
        with (
            open_source(
                source, live=live, max_fps=fps, quality=quality, tell=_report_line
            ) as frames,
            _stopping(frames),
        ):
            report = _Report(frames, info, camera_id, explain_on_change)
            show = _jsonl if as_jsonl else _nothing if as_json else _lines
            with show(report) as on_seen:
                for seen in watch(client, frames, tell=_report_line, **settings):
                    on_seen(seen, report.add(seen))
    if as_json:
        print_json(report.document())
    elif not as_jsonl:
        out.print(report.summary())
    if report.num_bad and not frames.is_live:
        raise typer.Exit(1)


class _Report:
    """Counts and changes so far."""

    def __init__(
        self, source: Source, model: ModelInfo | None, camera_id: str, folder: Path | None
    ) -> None:
        self.source = source
        self._model = model
        self._camera_id = camera_id
        self._folder = folder
        self._began = time.monotonic()
        self._statuses: Counter[str] = Counter()
        self._explained: Counter[str] = Counter()
        self._last: FrameAnswer | None = None
        self._num_changes = 0
        self._is_disk_reported = False
        self._changes: deque[dict[str, Any]] = deque(maxlen=_MAX_CHANGES)
        self._classified: deque[float] = deque()

    def add(self, seen: SourceAnswer) -> Path | None:
        """Counts an answer; returns the file of its overlay."""
        answer = seen.answer
        self._last = answer
        if answer.explanation is not None:
            self._explained[answer.explanation.status.value] += 1
            written = self._write(answer)
            for change in reversed(self._changes):
                if change["frame_id"] == answer.frame_id:
                    change["overlay"] = None if written is None else str(written)
                    break
            return written
        if answer.status != "decision_expired":
            self._statuses[answer.status.value] += 1
        if answer.status == "classified":
            now = time.monotonic()
            self._classified.append(now)
            while self._classified[0] < now - _RATE_OVER_S:
                self._classified.popleft()
        if answer.changed:
            self._num_changes += 1
            self._changes.append(
                {
                    "frame_id": answer.frame_id,
                    "place": seen.place,
                    "time": datetime.now().astimezone().isoformat(timespec="milliseconds"),
                    "label": answer.smoothed_label,
                    "alert": answer.alert,
                }
            )
        return None

    @property
    def num_bad(self) -> int:
        return sum(self._statuses[status] for status in _BAD)

    @property
    def fps(self) -> float:
        """Frames classified a second, over the last seconds."""
        if not self._classified:
            return 0.0
        now = time.monotonic()
        recent = sum(at > now - _RATE_OVER_S for at in self._classified)
        return recent / max(min(_RATE_OVER_S, now - self._began), 0.1)

    def document(self) -> dict[str, Any]:
        last = self._last
        model, info = None if last is None else last.model, self._model
        return {
            "source": self.source.name,
            "camera_id": self._camera_id,
            "model": model.name if model else info.name if info else None,
            "version": model.version if model else info.version if info else None,
            "provider": model.provider if model else info.provider if info else None,
            "seconds": round(time.monotonic() - self._began, 3),
            "num_frames": sum(self._statuses.values()),
            "statuses": dict(self._statuses),
            "dropped_frames": 0 if last is None else last.dropped_frames,
            "skipped_frames": self.source.num_skipped,
            "decision": None if last is None else last.smoothed_label,
            "alert": last is not None and last.alert,
            "num_changes": self._num_changes,
            "changes": list(self._changes),
            "explanations": dict(self._explained),
        }

    def summary(self) -> str:
        num_frames = sum(self._statuses.values())
        others = ", ".join(
            f"{count} {status}"
            for status, count in self._statuses.items()
            if status != "classified"
        )
        return (
            f"{counted(num_frames, 'frame')}{f' ({others})' if others else ''}, "
            f"{counted(self._num_changes, 'change')}, "
            f"{self.source.num_skipped} skipped"
        )

    def _write(self, answer: FrameAnswer) -> Path | None:
        change = answer.explanation
        if self._folder is None or change is None or change.explanation is None:
            return None
        name = f"{_file_name(self._camera_id)}-{answer.frame_id:06}-{_file_name(change.label)}.png"
        path = self._folder / name
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            write_whole(path, change.explanation.explanations[0].overlay_png)
        except OSError as error:
            # Watching matters more than an overlay.
            if not self._is_disk_reported:
                _report_line(
                    f"{path}: {error.strerror}; going on without overlays that cannot be written"
                )
            self._is_disk_reported = True
            return None
        self._is_disk_reported = False
        return path


def _file_name(text: str) -> str:
    """A text as part of a file name, short enough for every file system."""
    plain = re.sub(r"[^\w-]+", "_", text).encode()[:_LONGEST_PART]
    return plain.decode(errors="ignore")


@contextmanager
def _nothing(_report: _Report) -> Iterator[Any]:
    yield lambda _seen, _written: None


@contextmanager
def _jsonl(_report: _Report) -> Iterator[Any]:
    def show(seen: SourceAnswer, written: Path | None) -> None:
        sys.stdout.write(json.dumps(_line(seen, written)) + "\n")
        sys.stdout.flush()

    yield show


@contextmanager
def _lines(report: _Report) -> Iterator[Any]:
    """A line for each change, and on a terminal a status line."""
    if not out.is_terminal:
        yield lambda seen, written: _print_news(seen, written)
        return
    with (
        Live(console=out, auto_refresh=True, refresh_per_second=5, transient=True) as live,
        _report_line.above(out if err.is_terminal else err),
    ):

        def show(seen: SourceAnswer, written: Path | None) -> None:
            _print_news(seen, written)
            if seen.answer.prediction is not None:
                live.update(_status(report, seen.answer))

        yield show


def _print_news(seen: SourceAnswer, written: Path | None) -> None:
    answer = seen.answer
    where = f"{datetime.now():%H:%M:%S}  frame {answer.frame_id}"
    if seen.place:
        where += f" ({escape(seen.place)})"
    if (change := answer.explanation) is not None:
        if change.explanation is None:
            out.print(f"{where}  {escape(change.label)} is not explained: {escape(change.reason)}")
        elif written is not None:
            out.print(f"{where}  why {escape(change.label)}: {escape(str(written))}")
        return
    if answer.status in _BAD:
        _report_line.console.print(f"{where}: [red]{escape(answer.reason)}[/]")
    if answer.changed:
        out.print(f"{where}  {_decision(answer)}")


def _decision(answer: FrameAnswer) -> str:
    if answer.smoothed_label is None:
        return "[dim]unknown[/]"
    label = escape(answer.smoothed_label)
    return f"[bold red]{label}[/] [red](alert)[/]" if answer.alert else f"[bold]{label}[/]"


def _status(report: _Report, answer: FrameAnswer) -> Text:
    scores = answer.prediction.scores if answer.prediction is not None else ()
    best = f"{escape(scores[0].label)} {scores[0].probability:.2f}" if scores else ""
    dropped = answer.dropped_frames + report.source.num_skipped
    line = (
        f"{_decision(answer)}   [dim]now {best}   {report.fps:.1f} frames/s   {dropped} dropped   "
        f"{answer.timings_ms.total:.0f} ms[/]"
    )
    # A line that wraps would leave its second half behind when it is drawn again.
    text = Text.from_markup(line, overflow="ellipsis")
    text.no_wrap = True
    return text


def _line(seen: SourceAnswer, written: Path | None) -> dict[str, Any]:
    answer, prediction = seen.answer, seen.answer.prediction
    line: dict[str, Any] = {
        "frame_id": answer.frame_id,
        "place": seen.place,
        "status": answer.status.value,
        "smoothed_label": answer.smoothed_label,
        "changed": answer.changed,
        "alert": answer.alert,
        "dropped_frames": answer.dropped_frames,
        "reason": answer.reason,
        "model": answer.model.name,
        "version": answer.model.version,
        "provider": answer.model.provider,
        "capture_time": answer.capture_time and answer.capture_time.isoformat(),
        "total_ms": answer.timings_ms.total,
    }
    if prediction is not None:
        line |= prediction_document(prediction)
    if (change := answer.explanation) is not None:
        line["explanation"] = {
            "status": change.status.value,
            "label": change.label,
            "reason": change.reason,
            "superseded_changes": change.superseded_changes,
            "overlay": None if written is None else str(written),
        }
        if change.explanation is not None:
            line["explanation"] |= explanation_document(Path(seen.place), change.explanation)
    return line


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


_report_line: Final = _Messages()


@contextmanager
def _stopping(source: Source) -> Iterator[None]:
    """The first Ctrl-C or SIGTERM stops the source, the second ends the process."""
    reading, writing = os.pipe()

    def handle(_number: int, _frame: Any) -> None:
        # Nothing else is safe here: the main thread may hold any lock.
        os.write(writing, b".")
        for number, handler in before.items():
            signal.signal(number, handler)

    def wait() -> None:
        if os.read(reading, 1) == b".":
            source.stop()

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        os.write(writing, b"-")
        thread.join()
        os.close(reading)
        os.close(writing)
