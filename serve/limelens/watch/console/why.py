"""One event: what was decided and why, what other thresholds would have done, and a correction."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Final
from urllib.parse import parse_qsl, quote

from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.routing import Route

from limelens.serve import LimelensError
from limelens.serve.decisions.camera_state import CameraState
from limelens.watch.console.access.audit import audit, operators_only
from limelens.watch.console.boxes import FaceBox, aspect, face_boxes
from limelens.watch.console.details import Detail, InWords, english
from limelens.watch.console.event_images import Layers, event_image, layers_of
from limelens.watch.console.events import Asked, headline, reason
from limelens.watch.console.explained import Explained, explained
from limelens.watch.console.language import Say
from limelens.watch.console.state import AppState
from limelens.watch.record.errors import RecordError, UnknownEventError
from limelens.watch.record.record import Record
from limelens.watch.record.recorded import RecordedEvent
from limelens.watch.record.replay import Replay

_EXPLAINED_WITHIN: Final = timedelta(minutes=2)


@dataclass(frozen=True)
class EventPage:
    """What the page of an event shows.

    Args:
        found: The event.
        headline: What happened.
        reason_words: Why the state is unknown; else empty.
        detail: The same more closely; may be empty.
        why: Its explanation; None if there is none.
        reason: Why there is none, as it was recorded; else empty.
        is_waiting: Whether an explanation may still come.
        layers: The explanation's images; None if there are none.
        faces: The people in the frame.
        aspect: Width by height of the frame.
        labels: What it may be corrected to.
        replay: What was decided, frame by frame; None if that was not recorded.
    """

    found: RecordedEvent
    headline: str
    reason_words: str
    detail: Detail
    why: Explained | None
    reason: Detail
    is_waiting: bool
    layers: Layers | None
    faces: tuple[FaceBox, ...]
    aspect: float
    labels: tuple[str, ...]
    replay: Replay | None


def routes(state: AppState) -> list[Route]:
    """The pages of events; none without a record."""
    if state.record is None:
        return []
    pages = _Events(state, state.record)
    return [
        Route("/events/{id}", pages.page),
        Route("/events/{id}/replay", pages.replay),
        Route("/events/{id}/wrong", operators_only(pages.wrong), methods=["POST"]),
        Route("/events/{id}/{which}.{kind}", pages.image),
    ]


class _Events:
    def __init__(self, state: AppState, record: Record) -> None:
        self._pages = state.pages
        self._record = record
        self._review = state.settings.review
        self._may_try = state.client is not None

    async def page(self, request: Request) -> Response:
        """One event."""
        return await self._page(request)

    async def replay(self, request: Request) -> Response:
        """What other numbers would have decided, as a part of the page."""
        replayed, problem = await run_in_threadpool(
            self._replayed, request.path_params["id"], request.query_params
        )
        if replayed is None:
            return PlainTextResponse(problem, 400)
        return self._pages.render(request, "replayed.html", replay=replayed)

    async def wrong(self, request: Request) -> Response:
        """Notes what the event should have been."""
        event_id = request.path_params["id"]
        label = str((await request.form()).get("label", ""))
        try:
            correction = await run_in_threadpool(
                self._record.mark_wrong,
                event_id,
                label,
                request.state.visitor.name,
                self._review,
            )
        except UnknownEventError:
            raise HTTPException(404) from None
        except (LimelensError, OSError) as error:
            problem = self._pages.say(request, "wrong.failed", error=english(error))
            return await self._page(request, 400, problem=problem)
        audit(request, "marked wrong", event=event_id, label=label, file=correction.file)
        log = request.query_params.get("log", "")
        return RedirectResponse(_address(event_id, log) + "#wrong", 303)

    async def image(self, request: Request) -> Response:
        """An image of an event."""
        event_id, which = request.path_params["id"], request.path_params["which"]
        try:
            found = await run_in_threadpool(event_image, self._record, event_id, which)
        except LimelensError:
            found = None
        if found is None:
            raise HTTPException(404)
        return Response(found.data, media_type=found.media_type)

    async def _page(self, request: Request, status: int = 200, problem: str = "") -> Response:
        say = partial(self._pages.say, request)
        in_words = partial(self._pages.detail, request)

        def read() -> tuple[EventPage, Replay | None, str]:
            page = self._read(request.path_params["id"], say, in_words)
            if "window" not in request.query_params:
                return page, page.replay, ""
            return page, *self._replayed(page.found.id, request.query_params)

        try:
            page, replayed, refused = await run_in_threadpool(read)
        except UnknownEventError:
            raise HTTPException(404) from None
        except RecordError as error:
            return self._pages.error(request, 503, "record", error=english(error))
        log = request.query_params.get("log", "")
        return self._pages.render(
            request,
            "why.html",
            status,
            page=page,
            event=page.found.event,
            found=page.found,
            problem=problem,
            replayed=replayed,
            refused=refused,
            back="/events?" + _log(log),
            log=log,
            review=self._review,
            may_try=self._may_try,
        )

    def _read(self, event_id: str, say: Say, in_words: InWords) -> EventPage:
        found = self._record.get(event_id)
        recorded = self._record.explanation(event_id)
        served = None if recorded is None else recorded.explanation
        why = layers = None
        if served is not None and served.explanations:
            why = explained(say, served, served.explanations[0])
            try:
                layers = layers_of(self._record, event_id, served, why.strongest)
            except LimelensError:  # the words are still there
                layers = None
        evidence = found.event.evidence
        frame = self._record.frame(event_id) if found.has_frame else None
        try:
            replayed = None if evidence is None else self._record.replay(event_id)
        except RecordError:  # nobody was judged
            replayed = None
        return EventPage(
            found=found,
            headline=headline(say, found),
            reason_words=reason(say, found),
            detail=in_words(found.event.detail),
            why=why,
            reason=in_words("" if recorded is None else recorded.reason),
            is_waiting=recorded is None
            and found.state == CameraState.ALERT
            and datetime.now(UTC) - found.time < _EXPLAINED_WITHIN,
            layers=layers,
            faces=face_boxes(() if evidence is None else evidence.faces),
            aspect=1.0 if frame is None else aspect(frame.data),
            labels=self._labels(found),
            replay=replayed,
        )

    def _labels(self, found: RecordedEvent) -> tuple[str, ...]:
        """What the model, and the record, know; the decided label last."""
        evidence = found.event.evidence
        if evidence is None:
            return ()
        labels = {score.label for vote in evidence.votes for score in vote.scores}
        labels |= {*self._record.values("label")}
        if evidence.rule is not None:
            labels |= {*evidence.rule.alert_labels}
        return tuple(sorted(labels, key=lambda label: (label == found.label, label)))

    def _replayed(self, event_id: str, query: Mapping[str, str]) -> tuple[Replay | None, str]:
        """What other numbers would have decided, or why they cannot be used."""
        try:
            return self._record.replay(
                event_id,
                threshold=_number(query, "threshold"),
                window=_whole(query, "window"),
                required=_whole(query, "required"),
                required_to_alert=_whole(query, "required_to_alert"),
            ), ""
        except (RecordError, ValueError) as error:
            return None, str(error)


def _number(query: Mapping[str, str], name: str) -> float | None:
    return float(query[name]) if query.get(name) else None


def _whole(query: Mapping[str, str], name: str) -> int | None:
    return int(query[name]) if query.get(name) else None


def _log(log: str) -> str:
    """The query of the log that the reader came from, without what no log has."""
    query = dict(parse_qsl(log))
    return Asked.read(query).query(before=query.get("before", ""))


def _address(event_id: str, log: str) -> str:
    return f"/events/{event_id}" + (f"?log={quote(log, safe='')}" if log else "")
