"""Classifies a source's frames on a server, and reconnects if it is lost.

It knows a source and a client, but not who uses the answers.
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

_UNDER_WAY_LIVE: Final = 3
"""Enough to hide the network's latency; the server drops all but the newest of them."""
_PAUSE_S: Final = 0.5
_NEWS: Final = (FrameStatus.EXPLANATION, FrameStatus.DECISION_EXPIRED)


@dataclass(frozen=True)
class SourceAnswer:
    """A server's answer; `place` is its frame's file in a folder or time in a video, or empty."""

    answer: FrameAnswer
    place: str


def watch(
    client: Client,
    source: Source,
    *,
    report: Callable[[str], object] = lambda _message: None,
    **settings: Any,
) -> Iterator[SourceAnswer]:
    """Classifies a source's frames.

    From a file, a frame is sent once the one before has its answer (and its explanation, if
    requested), so that no frame is dropped and no change superseded. From a camera, a few frames
    are in flight; if the server is lost, the newest frame is retried until it is back. After the
    source stops, answers to sent frames still come, and a lost server is no error.

    Args:
        client: Calls the server.
        source: Gives the frames.
        report: Called with a sentence when the server is lost, once until it answers again.
        settings: As for `Client.stream`.

    Yields:
        Answers as they come.

    Raises:
        LimelensError: As `Client.stream`, and `SourceError`.
    """
    places: dict[int, str] = {}
    is_reported = False
    while (first := source.take()) is not None:
        try:
            for found in _one_stream(client, source, first, places, settings):
                # Answers to frames that were given up here do not come from the server.
                is_reported = is_reported and found.answer.status is not FrameStatus.CLASSIFIED
                yield found
            return
        except (UnavailableError, OverloadedError, ExpiredError) as error:
            if source.is_stopped:
                return
            if not source.is_live:
                raise
            if not is_reported:
                report(f"{error}; trying again")
            is_reported = True
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
) -> Iterator[SourceAnswer]:
    room = threading.Semaphore(_UNDER_WAY_LIVE if source.is_live else 1)
    over = threading.Event()
    failed: list[Exception] = []
    is_explaining = settings.get("explain_on_change") is not None
    alerts_only = settings.get("explain_alerts_only", False)
    awaited = -1  # the frame of a file whose explanation must come before the next frame

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
                # Answers to sent frames still come.
                failed.append(error)
                return

    try:
        # Inside a call, a live frame that waits for a server grows old, and the call cannot be
        # stopped: `watch` waits instead.
        for answer in client.stream(frames(), wait_for_ready=not source.is_live, **settings):
            number = answer.frame_id
            if answer.status in _NEWS:
                place = places.pop(number, "") if answer.explanation else ""
                if answer.explanation and number == awaited:
                    room.release()
            else:
                # The place of a change is needed again for its explanation.
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
            yield SourceAnswer(answer, place)
        if failed:
            raise failed[0]
    finally:
        over.set()
