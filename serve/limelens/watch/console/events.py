"""The log of events: filters, search, pages of any number of them, and CSV of what is filtered."""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import partial
from typing import Any, Final
from urllib.parse import urlencode

from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from limelens.serve.decisions.camera_state import CameraState, UnknownReason
from limelens.watch.console.details import english
from limelens.watch.console.language import Say
from limelens.watch.console.state import AppState
from limelens.watch.event import EventType
from limelens.watch.record.errors import RecordError
from limelens.watch.record.exporting import export
from limelens.watch.record.record import Record
from limelens.watch.record.recorded import EventFilter, EventPage, RecordedEvent

_ON_A_PAGE: Final = 50
_MOST_NEW: Final = 99
_DAY: Final = re.compile(r"(\d{4}-\d\d-\d\d)([+-]\d\d:\d\d)?")
_LONGEST: Final = 200
_PART: Final = 64 * 1024


@dataclass(frozen=True)
class Asked:
    """Which events a reader asks for, as the page's address has it.

    Args:
        camera: Of this camera; empty: of all.
        state: With this state; empty: with any.
        label: With this label; empty: with any.
        first: The first day, with the reader's distance from UTC; empty: from the beginning.
        last: The last day; empty: to the end.
        q: Text to search for.
        wrong: Only those that somebody marked as wrong.
        before: Continues a list.
    """

    camera: str = ""
    state: str = ""
    label: str = ""
    first: str = ""
    last: str = ""
    q: str = ""
    wrong: bool = False
    before: str = ""

    @classmethod
    def read(cls, query: Mapping[str, str]) -> Asked:
        """Reads a query; what cannot be used counts as not given."""

        def word(name: str) -> str:
            return query.get(name, "").strip()[:_LONGEST]

        state = word("state")
        return cls(
            camera=word("camera"),
            state=state if state in {*CameraState} else "",
            label=word("label"),
            first=word("from") if _midnight(word("from")) else "",
            last=word("to") if _midnight(word("to")) else "",
            q=word("q"),
            wrong=word("wrong") == "1",
            before=word("before"),
        )

    @property
    def is_narrow(self) -> bool:
        """Whether it leaves out some events."""
        return replace(self, before="") != Asked()

    @property
    def first_day(self) -> str:
        """The first day as an input of a form has it."""
        return self.first[:10]

    @property
    def last_day(self) -> str:
        """The last day, likewise."""
        return self.last[:10]

    def filter(self) -> EventFilter:
        """The same in the record's terms, without the search."""
        end = _midnight(self.last)
        return EventFilter(
            cameras=(self.camera,) if self.camera else (),
            states=(CameraState(self.state),) if self.state else (),
            labels=(self.label,) if self.label else (),
            since=_midnight(self.first),
            until=None if end is None else end + timedelta(days=1),
            corrected=True if self.wrong else None,
        )

    def chosen(self, say: Say) -> list[tuple[str, str]]:
        """What is chosen beside the state, in words, each with the query without it."""
        words = {
            "camera": self.camera,
            "label": self.label,
            "from": self.first and say("events.from_day", day=self.first_day),
            "to": self.last and say("events.to_day", day=self.last_day),
            "q": self.q and say("events.searched", text=self.q),
            "wrong": say("events.only_wrong") if self.wrong else "",
        }
        return [(text, self.query(**{name: ""})) for name, text in words.items() if text]

    def query(self, **changes: str) -> str:
        """The query that asks for the same with changes; without `before` unless that is given."""
        values = {
            "camera": self.camera,
            "state": self.state,
            "label": self.label,
            "from": self.first,
            "to": self.last,
            "q": self.q,
            "wrong": "1" if self.wrong else "",
            **changes,
        }
        return urlencode({name: value for name, value in values.items() if value})


def routes(state: AppState) -> list[Route]:
    """The log; none without a record."""
    if state.record is None:
        return []
    log = _Log(state, state.record)
    return [
        Route("/events", log.page),
        Route("/events.csv", log.csv),
        Route("/events.new", log.new),
    ]


def headline(say: Say, found: RecordedEvent) -> str:
    """What happened, in a few words."""
    event = found.event
    if event.type == EventType.BACK:
        return say("events.back")
    return event.label or reason(say, found) or say("reasons.nobody")


def reason(say: Say, found: RecordedEvent) -> str:
    """Why the state is unknown, in the reader's language; else empty."""
    word = found.event.reason
    return say(f"reasons.{word}") if word in {*UnknownReason} else word


class _Log:
    def __init__(self, state: AppState, record: Record) -> None:
        self._pages = state.pages
        self._record = record

    async def page(self, request: Request) -> Response:
        """A page of the log."""
        asked = Asked.read(request.query_params)
        say = partial(self._pages.say, request)

        def read() -> dict[str, Any]:
            try:
                found = self._record.list(
                    asked.filter(), asked.q, before=asked.before, limit=_ON_A_PAGE
                )
                return {
                    "found": found,
                    "count": self._record.count(asked.filter(), asked.q),
                    "cameras": self._record.values("camera_id"),
                    "labels": self._record.values("label"),
                    "silent": self._record.silent(),
                    "problem": "",
                }
            except RecordError as error:
                problem = say("events.unreadable", error=english(error))
                empty = {"found": EventPage(()), "count": 0, "cameras": (), "labels": ()}
                return {**empty, "silent": (), "problem": problem}

        values = await run_in_threadpool(read)
        found: EventPage = values.pop("found")
        newest = found.events[0].id if found.events and not asked.before else ""
        return self._pages.render(
            request,
            "events.html",
            asked=asked,
            quick={one: "/events?" + asked.query(state=one) for one in ("", *CameraState)},
            chosen=[(words, "/events?" + query) for words, query in asked.chosen(say)],
            events=found.events,
            headlines=[headline(say, one) for one in found.events],
            newest="/events?" + asked.query() if asked.before else "",
            older="/events?" + asked.query(before=found.before) if found.before else "",
            csv="/events.csv?" + asked.query(),
            log="?" + urlencode({"log": here})
            if (here := asked.query(before=asked.before))
            else "",
            new="/events.new?" + asked.query(after=newest) if newest else "",
            **values,
        )

    async def csv(self, request: Request) -> Response:
        """Everything that is filtered, oldest first, as it is read."""
        asked = Asked.read(request.query_params)
        found = self._record.oldest_first(asked.filter(), asked.q)
        return StreamingResponse(
            _csv(found),
            media_type="text/csv; charset=utf-8",
            headers={"content-disposition": 'attachment; filename="events.csv"'},
        )

    async def new(self, request: Request) -> Response:
        """How many events came above one that the reader has; at most 99."""
        asked, after = Asked.read(request.query_params), request.query_params.get("after", "")

        def count() -> int:
            try:
                found = self._record.list(asked.filter(), asked.q, limit=_MOST_NEW).events
            except RecordError:
                raise HTTPException(503) from None
            return next((n for n, one in enumerate(found) if one.id == after), len(found))

        return JSONResponse({"count": await run_in_threadpool(count)})


def _midnight(day: str) -> datetime | None:
    """When a day begins where the reader is, or in UTC if that is not known."""
    match = _DAY.fullmatch(day)
    if match is None:
        return None
    try:
        return datetime.fromisoformat(f"{match[1]}T00:00:00{match[2] or '+00:00'}")
    except ValueError:
        return None


def _csv(found: Iterable[RecordedEvent]) -> Iterator[bytes]:
    """A CSV file in parts, written while they are sent.

    Raises:
        RecordError: The record cannot be read to its end.
    """
    reading, writing = os.pipe()
    failed: list[Exception] = []

    def write() -> None:
        try:
            with os.fdopen(writing, "wb") as file:
                export(found, file, "csv")
        except BrokenPipeError:  # whoever downloads has left
            pass
        except Exception as error:
            failed.append(error)

    writer = threading.Thread(target=write, name="limelens-export", daemon=True)
    with os.fdopen(reading, "rb") as file:
        writer.start()
        while part := file.read(_PART):
            yield part
    writer.join()
    if failed:
        raise failed[0]  # a download that breaks off, not one that seems whole
