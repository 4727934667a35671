"""Classifies a source's frames on a server, and reconnects if it is lost.

It knows a source and a client, but not who uses the answers.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any, Final

from limelens.serve.client import Client
from limelens.serve.client.results import FrameAnswer, FrameStatus
from limelens.serve.errors import (
    ExpiredError,
    LimelensError,
    OverloadedError,
    UnavailableError,
)
from limelens.serve.tools.camera.source import Source, SourceFrame

_UNDER_WAY_LIVE: Final = 3
"""Enough to hide the network's latency; the server drops all but the newest of them."""
_PAUSE_S: Final = 0.5


@dataclass(frozen=True)
class SourceAnswer:
    """A server's answer.

    Args:
        answer: The answer.
        place: Its frame's file in a folder or time in a video, or empty.
        image: The encoded frame, if it was to be kept; empty otherwise, and without a frame.
        position_s: Seconds from the beginning of a video or folder to its frame; None for a camera
            and where no frame is meant. With a position, the capture time is made up.
        taken_at: When its frame was read, as `SourceFrame.read_at`; of an answer to no frame when
            it came. It is what `StateKeeper.answered` takes.
    """

    answer: FrameAnswer
    place: str
    image: bytes = field(default=b"", repr=False)
    position_s: float | None = None
    taken_at: float = 0.0


def watch(
    client: Client,
    source: Source,
    *,
    report: Callable[[str], object] = lambda _message: None,
    keep_images: bool = False,
    on_lost: Callable[[LimelensError], object] = lambda _error: None,
    on_back: Callable[[], object] = lambda: None,
    waits_for_server: bool = True,
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
        keep_images: Whether an answer comes with its frame.
        on_lost: Called with what happened when the server is lost, and when that changes.
        on_back: Called before the first answer to a frame after that.
        waits_for_server: Whether a file waits, silently, for a server that is not there yet; False
            raises `UnavailableError`. A camera's server is waited for, and lost meanwhile.
        settings: As for `Client.stream`.

    Yields:
        Answers as they come.

    Raises:
        LimelensError: As `Client.stream`, and `SourceError`.
    """
    sent: dict[int, SourceFrame] = {}
    reported = ""
    while (first := source.take()) is not None:
        # Inside a call, a live frame that waits for a server grows old, and the call cannot be
        # stopped: it is waited for here instead.
        settings["wait_for_ready"] = waits_for_server and not source.is_live
        try:
            for found in _one_stream(client, source, first, sent, keep_images, settings):
                # Answers to frames that were given up here do not come from the server.
                if reported and found.answer.status is FrameStatus.CLASSIFIED:
                    reported = ""
                    on_back()
                yield found
            return
        except (UnavailableError, OverloadedError, ExpiredError) as error:
            if source.is_stopped:
                return
            if not source.is_live:
                raise
            if not reported:
                report(f"{error}; trying again")
            if reported != str(error):
                on_lost(error)
            reported = str(error) or type(error).__name__
            sent.clear()
            source.wait_stopped(
                max(_PAUSE_S, error.retry_after_s)
                if isinstance(error, OverloadedError)
                else _PAUSE_S
            )


def _one_stream(
    client: Client,
    source: Source,
    first: SourceFrame,
    sent: dict[int, SourceFrame],
    keep_images: bool,
    settings: dict[str, Any],
) -> Iterator[SourceAnswer]:
    room = threading.Semaphore(_UNDER_WAY_LIVE if source.is_live else 1)
    over = threading.Event()
    failed: list[Exception] = []
    is_explaining = settings.get("explain_on_change") is not None
    alerts_only = settings.get("explain_alerts_only", False)
    unexplained: dict[int, int] = {}  # by frame, how many explanations will come

    def frames() -> Iterator[SourceFrame]:
        frame: SourceFrame | None = first
        room.acquire()
        while frame is not None and not over.is_set():
            sent[frame.frame_id] = frame if keep_images else replace(frame, image=b"")
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
        for answer in client.stream(frames(), **settings):
            number = answer.frame_id
            answered = sent.get(number)
            if answer.status is FrameStatus.DECISION_EXPIRED:
                answered = None
            elif answer.status is not FrameStatus.EXPLANATION:
                # The frame of a change is needed again for its explanations.
                unexplained[number] = _num_explained(answer, alerts_only) if is_explaining else 0
                # Of a file, the next frame waits until they have come.
                if not unexplained[number] or source.is_live:
                    room.release()
            elif number in unexplained:
                unexplained[number] -= 1
                if not unexplained[number] and not source.is_live:
                    room.release()
            if unexplained.get(number) == 0:
                sent.pop(number, None)
                del unexplained[number]
            if answered is None:
                yield SourceAnswer(answer, "", taken_at=time.monotonic())
            else:
                yield SourceAnswer(
                    answer, answered.place, answered.image, answered.position_s, answered.read_at
                )
        if failed:
            raise failed[0]
    finally:
        over.set()


def _num_explained(answer: FrameAnswer, alerts_only: bool) -> int:
    """How many changes of an answer will be explained: with faces, one for each person."""
    changes = [(one.changed, one.smoothed_label, one.alert) for one in answer.faces]
    if not changes:
        changes = [(answer.changed, answer.smoothed_label, answer.alert)]
    return sum(
        changed and label is not None and (alert or not alerts_only)
        for changed, label, alert in changes
    )
