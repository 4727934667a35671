"""Runs a bulk command: shows how far it is, and says in the end what came of it."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

import typer
from rich.markup import escape
from rich.progress import TextColumn
from rich.table import Table

from limelens.cli.bulk.options import Run
from limelens.cli.terminal.folding import Folded
from limelens.cli.terminal.printing import Bar, err, out, print_json
from limelens.serve.wording import counted

if TYPE_CHECKING:
    from limelens.bulk.running import Progress, Report
    from limelens.bulk.work import WorkSpec

_LINE_EVERY_S: Final = 30.0
_LABELS_SHOWN: Final = 10


def run(
    given: str,
    run: Run,
    device: Literal["auto", "cpu", "cuda"],
    made_by: Mapping[str, Any],
    work: Callable[[], WorkSpec],
    images_per_file: int,
) -> None:
    """Does a command's work.

    Args:
        given: INPUT.
        run: The options that all commands share.
        device: Where the model runs.
        made_by: The command and its options, for whoever finds others in the output.
        work: Reads the model.
        images_per_file: Unless an option says otherwise.

    Raises:
        LimelensError: It cannot be done.
        typer.Exit: It was stopped.
    """
    from limelens.bulk.sources import open_source

    with _stopped_alike() as check, _Shown() as shown:

        def look(progress: Progress) -> None:
            check()
            shown.update(progress)

        shown.say(f"Listing {given}")
        source = open_source(given, run.column)
        spec = work()
        # A wrong path is reported before Ray is loaded, which takes seconds.
        from limelens.bulk.ray_session import import_ray

        import_ray()

        from limelens.bulk.running import run_bulk
        from limelens.bulk.workers import Workers

        report = run_bulk(
            spec,
            source,
            run.out,
            {name: _words(value) for name, value in made_by.items() if _is_given(value)},
            Workers(run.workers, run.threads, _wants_gpu(device), run.address),
            unit_size=run.images_per_file or images_per_file,
            restart=run.restart,
            on_progress=look,
        )
    if run.as_json:
        print_json({**report.to_json(), "out": str(run.out)})
    else:
        _print(report, run.out)


def _is_given(value: Any) -> bool:
    return not (value is None or value is False or value == () or value == [])


def _words(value: Any) -> str:
    return ", ".join(value) if isinstance(value, (list, tuple)) else str(value)


def _wants_gpu(device: Literal["auto", "cpu", "cuda"]) -> bool | None:
    """Whether workers need GPUs; None: if there are any."""
    if device != "auto":
        return device == "cuda"
    import onnxruntime

    return None if "CUDAExecutionProvider" in onnxruntime.get_available_providers() else False


@contextmanager
def _stopped_alike() -> Iterator[Callable[[], None]]:
    """Makes `kill` end a run as Ctrl-C does.

    Yields:
        What to call now and then: Python ignores an interrupt in a hook of a fork, for example.
    """
    is_stopped = False

    def stop(_number: int, _frame: object) -> None:
        nonlocal is_stopped
        is_stopped = True
        raise KeyboardInterrupt

    def check() -> None:
        if is_stopped:
            raise KeyboardInterrupt

    numbers = [signal.SIGTERM]
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:  # as in the background of a script
        numbers.append(signal.SIGINT)
    before = {number: signal.signal(number, stop) for number in numbers}
    try:
        yield check
    except KeyboardInterrupt:
        # What is left takes a moment, and a second signal would only make it end with a traceback.
        before = dict.fromkeys(numbers, signal.SIG_IGN)
        for number in numbers:
            signal.signal(number, signal.SIG_IGN)
        err.print("Stopped; what is written stays, and the same command goes on.")
        raise typer.Exit(1) from None
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class _Shown(Bar):
    """A bar with the rate and the errors; elsewhere a line now and then."""

    def __init__(self) -> None:
        super().__init__(
            "images",
            TextColumn("{task.fields[rate]}"),
            TextColumn("{task.fields[errors]}"),
            rate="",
            errors="",
        )
        self._last: Progress | None = None
        self._next_line = 0.0

    def say(self, text: str) -> None:
        """Shows what is done before anything can be counted."""
        if err.is_terminal:
            self.bar.update(self.task, rate=escape(text))

    def update(self, progress: Progress) -> None:
        """Shows how far it is."""
        first = self._last is None
        self._last = progress
        if first and progress.num_before:
            err.print(
                f"{progress.num_before:,} of {counted(progress.num_all, 'image')} are there already"
            )
        done = progress.num_before + progress.num_done
        rate = f"{progress.per_second:.3g}/s" if progress.num_done else "starting"
        errors = counted(progress.num_errors, "error") if progress.num_errors else ""
        if err.is_terminal:
            # Ours, because rich would count what was there before as done in no time.
            self.bar.update(
                self.task, completed=done, total=progress.num_all, rate=rate, errors=errors
            )
        elif time.monotonic() >= self._next_line:
            self._next_line = time.monotonic() + _LINE_EVERY_S
            left = "" if progress.left_s is None else f", {_duration(progress.left_s)} left"
            more = f", {errors}" if errors else ""
            err.print(f"{done:,} of {progress.num_all:,} images, {rate}{left}{more}")


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}"


def _print(report: Report, folder: Path) -> None:
    num_new = report.num_images - report.num_before
    speed = f", {report.per_second:.3g} images a second" if num_new else ", nothing was left to do"
    out.print(f"[bold]{report.num_rows:,}[/] rows in {escape(str(folder))}{speed}")
    if report.decided.decisions:
        _print_decided(report)
    if report.errors:
        kinds = ", ".join(f"{count:,} {escape(kind)}" for kind, count in report.errors.items())
        num_errors = counted(sum(report.errors.values()), "row")
        out.print(f"{num_errors} with an error, which the column error tells: {kinds}")


def _print_decided(report: Report) -> None:
    """How many rows have each label, or none; of a multilabel model a row may have several."""
    decided = report.decided
    table = Table(box=None, pad_edge=False)
    table.add_column("label")
    for name in ("rows", "share"):
        table.add_column(name, justify="right", no_wrap=True)

    def add(name: str, count: int) -> None:
        table.add_row(Folded(name), f"{count:,}", f"{count / report.num_rows:.1%}")

    for label, count in decided.labels.most_common(_LABELS_SHOWN):
        add(escape(label), count)
    for decision, count in decided.decisions.most_common():
        if decision != "label":
            add(f"[dim]{escape(decision.replace('_', ' '))}[/]", count)
    if report.errors:
        add("[red]error[/]", sum(report.errors.values()))
    out.print(table)
    if (num_more := len(decided.labels) - _LABELS_SHOWN) > 0:
        out.print(f"and {counted(num_more, 'more label')}; --json lists all")
    if decided.num_alerts:
        out.print(f"[red]{counted(decided.num_alerts, 'row')} with an alert[/]")
