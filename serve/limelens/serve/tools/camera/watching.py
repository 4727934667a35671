"""A source's frames through a server: as many on their way as make sense, and on after a break.

It knows a source and a client, and nothing of what is done with the answers.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final

from limelens.serve.client import Client
from limelens.serve.client.results import FrameAnswer, FrameStatus
from limelens.serve.errors import ExpiredError, OverloadedError, UnavailableError
from limelens.serve.tools.camera.source import Source, SourceFrame

_ON_THEIR_WAY_LIVE: Final = 3
"""Enough to hide the way to a server; the server drops all but the newest of them."""
_PAUSE_S: Final = 0.5
_NEWS: Final = (FrameStatus.EXPLANATION, FrameStatus.DECISION_EXPIRED)


@dataclass(frozen=True)
class Seen:
    """An answer, and which frame of the source it is about.

    Args:
        answer: The server's.
        place: The file of a folder, the time in a video; empty for a camera.
    """

    answer: FrameAnswer
    place: str


def watch(
    client: Client,
    source: Source,
    *,
    tell: Callable[[str], object] = lambda _message: None,
    **settings: Any,
) -> Iterator[Seen]:
    """Has a source's frames classified.

    Of a file, the next frame is sent when the last one was answered, so that none is dropped, and
    explained where that was asked for, so that no change gives way to a newer one. Of a camera, a
    few are on their way; when the server goes away it is asked again and again, each time with the
    newest frame. Stopping the source ends it politely: what was sent is still answered, and a
    server that is lost meanwhile is no error.

    Args:
        client: Asks the server.
        source: Gives the frames.
        tell: Is told when the server is lost, once until it answers again.
        settings: As for `Client.stream`.

    Yields:
        Answers as they come.

    Raises:
        LimelensError: As `Client.stream`, and `SourceError`.
    """
    places: dict[int, str] = {}
    is_told = False
    while (first := source.take()) is not None:
        try:
            for seen in _one_stream(client, source, first, places, settings):
                # Frames that were given up here are answered without the server.
                is_told = is_told and seen.answer.status is not FrameStatus.CLASSIFIED
                yield seen
            return
        except (UnavailableError, OverloadedError, ExpiredError) as error:
            if source.is_stopped:
                return
            if not source.is_live:
                raise
            if not is_told:
                tell(f"{error}; trying again")
            is_told = True
            places.clear()
            source.wait_stopped(
                max(_PAUSE_S, error.retry_after_s)
                if isinstance(error, OverloadedError)
                else _PAUSE_S
            )


def _one_stream(
    client: Client,
    source: Source,
    first: SourceFrame,
    places: dict[int, str],
    settings: dict[str, Any],
) -> Iterator[Seen]:
    room = threading.Semaphore(_ON_THEIR_WAY_LIVE if source.is_live else 1)
    over = threading.Event()
    failed: list[Exception] = []
    is_explaining = settings.get("explain_on_change") is not None
    alerts_only = settings.get("explain_alerts_only", False)
    awaited = -1  # the frame of a file whose explanation goes before the next frame

    def frames() -> Iterator[SourceFrame]:
        frame: SourceFrame | None = first
        room.acquire()
        while frame is not None and not over.is_set():
            places[frame.frame_id] = frame.place
            yield frame
            while not room.acquire(timeout=0.2):
                if over.is_set() or source.is_stopped:
                    return
            try:
                frame = source.take()
            except Exception as error:
                # What was sent before is still answered.
                failed.append(error)
                return

    try:
        # A live frame that waits for a server inside a call grows old there, and the call cannot
        # be stopped: `watch` waits instead.
        for answer in client.stream(frames(), wait_for_ready=not source.is_live, **settings):
            number = answer.frame_id
            if answer.status in _NEWS:
                place = places.pop(number, "") if answer.explanation else ""
                if answer.explanation and number == awaited:
                    room.release()
            else:
                # A change is heard of again when it is explained.
                will_explain = (
                    is_explaining
                    and answer.changed
                    and answer.smoothed_label is not None
                    and (answer.alert or not alerts_only)
                )
                place = places.get(number, "") if will_explain else places.pop(number, "")
                if will_explain and not source.is_live:
                    awaited = number
                else:
                    room.release()
            yield Seen(answer, place)
        if failed:
            raise failed[0]
    finally:
        over.set()
