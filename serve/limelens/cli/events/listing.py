"""`limelens events list` and `limelens events export`."""

from __future__ import annotations

import sys
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, get_args

import typer
from rich.markup import escape
from rich.table import Table

from limelens.cli.events.choosing import Choice, choose, open_record, shown
from limelens.cli.options import in_place_of, option
from limelens.cli.options.output_options import writable_file
from limelens.cli.terminal.folding import Folded
from limelens.cli.terminal.printing import AsJson, err, out, print_json
from limelens.serve.decisions.camera_state import CameraState, UnknownReason
from limelens.serve.files import writing_whole
from limelens.serve.wording import counted

if TYPE_CHECKING:
    from limelens.watch.record import Gap, RecordedEvent
    from limelens.watch.record.exporting import ExportFormat

STYLES: Final = {
    CameraState.ALERT: "bold red",
    CameraState.CLEAR: "green",
    CameraState.UNKNOWN: "yellow",
}
SHORT: Final = 12
"""So many characters at the end of an id tell it from all others; its start is a time."""
_STDOUT: Final = Path("-")


def _file_or_stdout(path: Path) -> Path:
    return path if path == _STDOUT else writable_file(path)


@in_place_of("choice", choose)
def list_(
    choice: Choice,
    limit: Annotated[int, option("How many at most.", min=1, max=1000)] = 20,
    before: Annotated[
        str, option("Continue a list: what it named at its end.", metavar="KEY", show_default=False)
    ] = "",
    as_json: AsJson = False,
) -> None:
    """Lists recorded events, the newest first.

    Example: limelens events list --camera door --state alert --since 24h
    """
    with open_record(choice.record) as record:
        page = record.list(choice.asked, choice.search, before=before, limit=limit)
        num_all = record.count(choice.asked, choice.search)
        gaps, silent = record.gaps(), record.silent()
    if as_json:
        print_json(
            {
                "num_events": num_all,
                "events": [one.document() for one in page.events],
                "before": page.before or None,
                "gaps": [_gap_document(gap) for gap in gaps],
                "silent": [
                    {"camera_id": one.camera_id, "since": _iso(one.since)} for one in silent
                ],
            }
        )
        return
    if page.events:
        _print_table(page.events)
    more = f"; continue with --before {page.before}" if page.before else ""
    out.print(f"{len(page.events)} of {counted(num_all, 'event')}{more}")
    if gaps:
        newest = gaps[0]
        err.print(
            f"[yellow]{counted(len(gaps), 'gap')} in the record, the last until "
            f"{newest.until:%Y-%m-%d %H:%M} UTC: {counted(newest.num_events, 'event')} and "
            f"{counted(newest.num_images, 'image')} lost ({shown(newest.reason)})[/]"
        )
    for one in silent:
        err.print(
            f"[yellow]{shown(one.camera_id)} is not watched any more: the last sign of life is of "
            f"{one.since:%Y-%m-%d %H:%M:%S} UTC[/]"
        )


@in_place_of("choice", choose)
def export(
    choice: Choice,
    path: Annotated[
        Path,
        option(
            "The file to write, or - for standard output; .csv, .jsonl or .parquet says the "
            "format.",
            "--out",
            metavar="FILE",
            callback=_file_or_stdout,
        ),
    ] = _STDOUT,
    form: Annotated[
        str | None,
        option(
            "One of csv, jsonl, parquet.", "--format", show_default="by the file's name, else csv"
        ),
    ] = None,
) -> None:
    """Writes recorded events as CSV, lines of JSON or Parquet, the oldest first.

    Example: limelens events export --since 7d --out week.csv
    """
    from limelens.watch.record.exporting import ExportFormat

    forms = get_args(ExportFormat)
    wanted = form or path.suffix.removeprefix(".").lower() or "csv"
    if wanted not in forms:
        raise typer.BadParameter(f"{wanted!r}; expected {', '.join(forms)}", param_hint="--format")
    with open_record(choice.record) as record:
        if path == _STDOUT:
            record.export(sys.stdout.buffer, _form(wanted), choice.asked, choice.search)
            return
        with writing_whole(path, mode=0o600) as file:
            number = record.export(file, _form(wanted), choice.asked, choice.search)
    out.print(f"Wrote {escape(str(path))}: {counted(number, 'event')}")


def _form(name: str) -> ExportFormat:
    from limelens.watch.record.exporting import ExportFormat

    found: ExportFormat = next(one for one in get_args(ExportFormat) if one == name)
    return found


def _print_table(events: tuple[RecordedEvent, ...]) -> None:
    table = Table(box=None, pad_edge=False)
    table.add_column("time (UTC)", no_wrap=True)
    table.add_column("camera")
    table.add_column("state", no_wrap=True)
    table.add_column("why")
    table.add_column("id", no_wrap=True)
    for one in events:
        table.add_row(
            f"{one.time:%Y-%m-%d %H:%M:%S}",
            Folded(shown(one.camera_id)),
            f"[{STYLES[one.state]}]{one.state}[/]",
            Folded(shown(_reason(one))),
            shown(one.id[-SHORT:]),
        )
    out.print(table)


def _reason(one: RecordedEvent) -> str:
    event = one.event
    text = event.label or event.reason.replace("_", " ") or event.type.value
    if event.reason == UnknownReason.OFF and event.detail:
        text += f": {event.detail}"
    if event.probability is not None:
        text += f" {event.probability:.2f}"
    if one.correction is not None:
        text += f", wrong: {one.correction.label}"
    return text


def _gap_document(gap: Gap) -> dict[str, Any]:
    return {
        "since": _iso(gap.since),
        "until": _iso(gap.until),
        "num_events": gap.num_events,
        "num_images": gap.num_images,
        "reason": gap.reason,
    }


def _iso(time: datetime) -> str:
    return time.isoformat(timespec="milliseconds")
