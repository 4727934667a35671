"""Tells a camera's state at once when it changes, and again while it stays.

Answers come from the thread that watches, losses from the one that reads the camera, and what time
brings, expiry and heartbeats, from a thread here. One lock keeps what is told in order. How it is
printed is up to others.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

from limelens.serve.decisions.camera_state import CameraState, EventType, UnknownReason
from limelens.serve.errors import LimelensError, UnavailableError

if TYPE_CHECKING:
    from limelens.serve.tools.camera import SourceAnswer, SourceError, StateKeeper, StateReport

_TICK_S: Final = 1.0


@dataclass(frozen=True)
class News:
    """One thing that is told of the camera.

    Args:
        type: What kind of news it is.
        sequence: Rises by one with each, from 1.
        time: When it was told, UTC.
        now: The camera's state.
        previous: The state that was told before.
        found: The answer that it is about; None if it is about none.
        written: The file of an explanation's overlay.
        detail: Of a loss: what was lost and why.
        is_last: Whether nothing else is told.
    """

    type: EventType
    sequence: int
    time: datetime
    now: StateReport
    previous: CameraState
    found: SourceAnswer | None = None
    written: Path | None = None
    detail: str = ""
    is_last: bool = False


class Teller:
    """Tells what is new of one camera; a context manager. Safe to use from any thread.

    Args:
        keeper: Keeps its state.
        heartbeat_s: How often the state is told while it stays, in seconds; 0 is never.
        tell: Takes the news, one at a time.
        failed: Called once, by the thread here, if `tell` raised; `close` then raises that.
        tick: Called about once a second by the thread here; it must be quick and may not raise.
    """

    def __init__(
        self,
        keeper: StateKeeper,
        heartbeat_s: float,
        tell: Callable[[News], object],
        failed: Callable[[], object],
        tick: Callable[[], object] = lambda: None,
    ) -> None:
        self._tick = tick
        self._keeper = keeper
        self._heartbeat_s = heartbeat_s
        self._tell = tell
        self._failed = failed
        self._error: Exception | None = None
        self._changed = threading.Condition(threading.RLock())
        self._sequence = 0
        self._beats_at = 0.0
        self._last: StateReport | None = None
        self._is_over = False
        self._thread = threading.Thread(target=self._run, name="limelens-state", daemon=True)

    def __enter__(self) -> Self:
        with self._changed:
            self._tell_state()
        self._thread.start()
        return self

    def __exit__(self, _kind: object, error: BaseException | None, _where: object) -> None:
        self.close(error)

    def answered(self, found: SourceAnswer, written: Path | None) -> None:
        """Takes an answer, and the file of its overlay."""
        with self._changed:
            self._keeper.answered(found.answer, found.taken_at)
            now = self._tell_state(found)
            self._put(EventType.FRAME, now, found=found, written=written)
            self._changed.notify_all()

    def lost(self, reason: UnknownReason, detail: str) -> None:
        """Notes that the camera or the server is lost, or is lost for another reason now."""
        with self._changed:
            self._keeper.lost(reason, detail)
            self._put(EventType.LOST, self._tell_state(), detail=detail)

    def back(self, reason: UnknownReason) -> None:
        """Notes that what was lost for such a reason is back."""
        with self._changed:
            self._keeper.back(reason, at=time.monotonic())
            self._put(EventType.BACK, self._keeper.report(time.monotonic()))
            self._tell_state()

    def close(self, error: BaseException | None = None) -> None:
        """Tells that nothing is known from now on, and ends.

        Args:
            error: Why watching ended, if it failed.

        Raises:
            Exception: What `tell` raised in the thread here.
        """
        with self._changed:
            is_first, self._is_over = not self._is_over, True
            if is_first and self._error is None:
                self._keeper.lost(*_why_ended(error))
                self._tell_state()
            self._changed.notify_all()
        if self._thread.is_alive():
            self._thread.join()
        if self._error is not None:
            raise self._error

    def _run(self) -> None:
        try:
            with self._changed:
                while not self._is_over:
                    self._tick()
                    self._changed.wait(min(_TICK_S, self._wait_s()))
                    if self._is_over:
                        return
                    now = self._tell_state()
                    if self._heartbeat_s and time.monotonic() >= self._beats_at:
                        self._put(EventType.HEARTBEAT, now)
        except Exception as error:
            self._error = error
            self._failed()

    def _wait_s(self) -> float:
        """Seconds until the state changes by itself, or is to be told again."""
        due = [self._beats_at] if self._heartbeat_s else []
        if self._last is not None and self._last.state is not CameraState.UNKNOWN:
            until = self._keeper.holds_until
            due += [] if until is None else [until]
        return max(0.0, min(due) - time.monotonic()) if due else _TICK_S

    def _tell_state(self, found: SourceAnswer | None = None) -> StateReport:
        """Tells the state if it is new; returns it."""
        now, last = self._keeper.report(time.monotonic()), self._last
        if last is None or now.is_news_after(last):
            self._put(EventType.STATE, now, found=found)
        return now

    def _put(
        self,
        kind: EventType,
        now: StateReport,
        *,
        found: SourceAnswer | None = None,
        written: Path | None = None,
        detail: str = "",
    ) -> None:
        previous = CameraState.UNKNOWN if self._last is None else self._last.state
        self._sequence += 1
        if kind in (EventType.STATE, EventType.HEARTBEAT):
            self._last = now
            self._beats_at = time.monotonic() + self._heartbeat_s
        at = datetime.now(UTC)
        is_last = self._is_over
        self._tell(News(kind, self._sequence, at, now, previous, found, written, detail, is_last))


class Losses:
    """What the source's thread says of it, told to a `Teller` that may come later."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._teller: Teller | None = None
        self._now: SourceError | None = None

    @contextmanager
    def told_to(self, teller: Teller) -> Iterator[None]:
        """Tells what was said until now, and what is said meanwhile."""
        with self._lock:
            if self._now is not None:
                teller.lost(self._now.unknown_reason, str(self._now))
            self._teller = teller
        try:
            yield
        finally:
            with self._lock:
                self._teller = None

    def lost(self, error: SourceError) -> None:
        """The source is lost, frozen, or lost for another reason now."""
        with self._lock:
            self._now = error
            if self._teller is not None:
                self._teller.lost(error.unknown_reason, str(error))

    def back(self) -> None:
        """Its frames come again."""
        with self._lock:
            self._now = None
            if self._teller is not None:
                self._teller.back(UnknownReason.CAMERA_LOST)


def _why_ended(error: BaseException | None) -> tuple[UnknownReason, str]:
    from limelens.serve.tools.camera import SourceError

    if isinstance(error, SourceError):
        return UnknownReason.CAMERA_LOST, str(error)
    if isinstance(error, UnavailableError):
        return UnknownReason.SERVER_LOST, str(error)
    if isinstance(error, LimelensError):
        return UnknownReason.REFUSED, str(error)
    return UnknownReason.OFF, ""
