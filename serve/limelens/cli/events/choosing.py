"""The options of `limelens events` that choose a record, and events in it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer
from rich.markup import escape

from limelens.cli.options import option
from limelens.serve.decisions.camera_state import CameraState, EventType

if TYPE_CHECKING:
    from limelens.watch.record import EventFilter, Record

_AGO: Final = re.compile(r"(\d{1,6}(?:\.\d+)?)([smhdw])")
_SECONDS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}

RecordOption = Annotated[
    Path,
    option(
        "The folder of the record: [record] path in the file of limelens watch.",
        "--record",
        envvar="LIMELENS_RECORD",
        metavar="FOLDER",
    ),
]
RECORD: Final = Path("record")
Id = Annotated[
    str,
    typer.Argument(
        metavar="ID",
        help="The event: its id, or the end of it that limelens events list shows.",
        show_default=False,
    ),
]


class RecordedType(StrEnum):
    """The types of events that are recorded, as `ON_CHANGE` has them."""

    STATE = EventType.STATE.value
    LOST = EventType.LOST.value
    BACK = EventType.BACK.value


@dataclass(frozen=True)
class Choice:
    """Which events of which record.

    Args:
        record: The record's folder.
        asked: The filter.
        search: Text in them; may be empty.
    """

    record: Path
    asked: EventFilter
    search: str


def choose(
    record: RecordOption = RECORD,
    camera: Annotated[
        list[str] | None, option("Only of this camera; may be repeated.", show_default="all")
    ] = None,
    state: Annotated[
        list[CameraState] | None, option("Only with this state; may be repeated.")
    ] = None,
    label: Annotated[
        list[str] | None, option("Only with this label; may be repeated.", show_default="all")
    ] = None,
    type_: Annotated[
        list[RecordedType] | None,
        option("Only of this type; may be repeated.", "--type"),
    ] = None,
    since: Annotated[
        str | None,
        option(
            "From this time on: 2026-03-01, 2026-03-01T08:00 (UTC), or so long ago, such as 90m, "
            "24h or 7d.",
            metavar="TIME",
            show_default=False,
        ),
    ] = None,
    until: Annotated[
        str | None,
        option("Before this time, as for --since.", metavar="TIME", show_default=False),
    ] = None,
    search: Annotated[
        str,
        option(
            "Only with this text in camera, label, detail, reason, model or id.", show_default=False
        ),
    ] = "",
    wrong: Annotated[bool, option("Only what somebody marked as wrong.", "--wrong")] = False,
) -> Choice:
    """The choice that options describe.

    Raises:
        typer.BadParameter: A time cannot be read.
    """
    from limelens.watch.record import EventFilter

    asked = EventFilter(
        cameras=tuple(camera or ()),
        states=tuple(state or ()),
        labels=tuple(label or ()),
        types=tuple(EventType(one) for one in type_ or ()),
        since=_time(since, "--since"),
        until=_time(until, "--until"),
        corrected=True if wrong else None,
    )
    return Choice(record, asked, search)


def open_record(folder: Path) -> Record:
    """The record of a folder.

    Raises:
        RecordError: It cannot be used.
    """
    from limelens.watch.record import NoRecordError, Record

    try:
        return Record(folder)
    except NoRecordError as error:
        raise NoRecordError(f"{error}; name it with --record or LIMELENS_RECORD") from None


def shown(text: str) -> str:
    """A recorded text as markup; what a camera or a server said must not steer the terminal."""
    return escape(
        "".join(one if one.isprintable() else "\N{REPLACEMENT CHARACTER}" for one in text)
    )


def _time(text: str | None, name: str) -> datetime | None:
    if text is None:
        return None
    try:
        if found := _AGO.fullmatch(text):
            return datetime.now(UTC) - timedelta(seconds=float(found[1]) * _SECONDS[found[2]])
        time = datetime.fromisoformat(text)
        return time.replace(tzinfo=UTC) if time.tzinfo is None else time.astimezone(UTC)
    except (ValueError, OverflowError):
        raise typer.BadParameter(
            f"{text!r}; expected a date, a date with a time, or how long ago, such as 24h",
            param_hint=name,
        ) from None
