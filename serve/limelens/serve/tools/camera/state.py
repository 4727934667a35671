"""The state of one camera over time: alert, clear, or unknown and why.

It is told of answers and of losses, and asked for the state; a decision expires by itself. It knows
neither sources nor servers, and no clock: times are handed in.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, replace
from typing import Final

from limelens.serve.client.results import FrameAnswer, FrameStatus
from limelens.serve.decisions.camera_state import CameraState, UnknownReason
from limelens.serve.decisions.decision import Decision

_OF_SERVER: Final = (UnknownReason.SERVER_LOST, UnknownReason.REFUSED)
"""Losses that an answer ends; any other lasts until `back`."""


@dataclass(frozen=True, slots=True)
class StateReport:
    """What a camera says at one moment.

    Args:
        state: Its state.
        reason: Why it is unknown; None if it is not.
        detail: The same for people; may be empty.
        label: The decided label; None without, and while the state is unknown.
        age_s: Seconds since the last classified frame was taken; None before the first.
    """

    state: CameraState
    reason: UnknownReason | None = None
    detail: str = ""
    label: str | None = None
    age_s: float | None = None

    def is_news_after(self, last: StateReport) -> bool:
        """Whether it says something else than an earlier report, apart from detail and age."""
        return (self.state, self.reason, self.label) != (last.state, last.reason, last.label)


class StateKeeper:
    """Keeps the state of one camera. Safe to use from any thread.

    Only a classified frame can make it `CLEAR`; other answers can only take that away.

    Args:
        max_decision_age_s: How long a decision holds after its frame was taken; 0 is for ever,
            which suits files alone.
        nobody: The state while nobody is there, if faces are asked for.
    """

    def __init__(
        self, *, max_decision_age_s: float, nobody: CameraState = CameraState.CLEAR
    ) -> None:
        self._max_age_s = max_decision_age_s
        self._nobody = nobody
        self._lock = threading.Lock()
        self._classified_at: float | None = None
        self._decided = _STARTING
        self._camera_lost: StateReport | None = None
        self._server_lost: StateReport | None = None
        self._bad_frame = ""  # why frames after the last classified one could not be read
        self._not_before = 0.0  # when a camera came back

    def answered(self, answer: FrameAnswer, at: float) -> None:
        """Takes an answer of the stream, also one to no frame.

        Args:
            answer: The answer.
            at: When its frame was taken, by `time.monotonic`, so that a late answer expires early;
                if that is not known, when the answer came.
        """
        with self._lock:
            if answer.status in (FrameStatus.LOST, FrameStatus.SERVER_LOST):
                self._lose(UnknownReason.SERVER_LOST, answer.reason)
                return
            if self._server_lost is not None and answer.status is not FrameStatus.SUPERSEDED:
                self._server_lost = None  # it answers again
            if at < self._not_before and answer.state is not CameraState.ALERT:
                return
            if answer.status is FrameStatus.CLASSIFIED:
                self._classified_at = at
                self._bad_frame = ""
                self._decided = self._said_by(answer)
            elif answer.status is FrameStatus.DECISION_EXPIRED:
                self._decided = _unknown(UnknownReason.EXPIRED, self._in_words)
            elif answer.status is FrameStatus.FAILED:
                self._decided = _unknown(UnknownReason.FAILED, answer.reason)
            elif answer.state is CameraState.ALERT:
                # The response to the frame that brought it may have been dropped.
                self._classified_at = at if self._classified_at is None else self._classified_at
                self._decided = StateReport(answer.state, label=answer.smoothed_label)
            elif answer.state is CameraState.UNKNOWN and self._decided.reason is None:
                self._decided = _STARTING
            if answer.status is FrameStatus.INVALID:
                self._bad_frame = answer.reason

    def lost(self, reason: UnknownReason, detail: str = "") -> None:
        """Makes the state unknown: the camera or the server is lost, or the stream was refused.

        Args:
            reason: What is lost. `SERVER_LOST` and `REFUSED` hold until an answer comes or `back`
                is called, the others until `back` is called.
            detail: The same for people, without secrets.
        """
        with self._lock:
            self._lose(reason, detail)

    def back(self, reason: UnknownReason | None = None, *, at: float = 0.0) -> None:
        """Ends a loss. The state is unknown until the next decision.

        Args:
            reason: `SERVER_LOST` or `REFUSED` for that of the server, any other for that of the
                camera; None ends both.
            at: When, by `time.monotonic`; answers to frames that were taken before say nothing.
        """
        with self._lock:
            if reason is None or reason in _OF_SERVER:
                self._server_lost = None
            if reason not in _OF_SERVER:
                self._camera_lost = None
                self._not_before = at
            self._decided = _STARTING
            self._bad_frame = ""

    def report(self, at: float) -> StateReport:
        """The state at a time, by `time.monotonic`."""
        with self._lock:
            age_s = None if self._classified_at is None else max(0.0, at - self._classified_at)
            lost = self._camera_lost or self._server_lost
            return replace(lost or self._still_decided(age_s), age_s=age_s)

    @property
    def holds_until(self) -> float | None:
        """When the decision expires by itself, by `time.monotonic`; None if it does not."""
        with self._lock:
            if not self._max_age_s or self._classified_at is None:
                return None
            if self._camera_lost or self._server_lost or self._decided.reason is not None:
                return None
            return self._classified_at + self._max_age_s

    @property
    def _in_words(self) -> str:
        return f"no frame was classified for {self._max_age_s:g} s" if self._max_age_s else ""

    def _lose(self, reason: UnknownReason, detail: str) -> None:
        self._decided = _STARTING
        if reason in _OF_SERVER:
            self._server_lost = _unknown(reason, detail)
        else:
            self._camera_lost = _unknown(reason, detail)

    def _said_by(self, answer: FrameAnswer) -> StateReport:
        """What a classified frame's answer says."""
        if answer.smoothed_decision is Decision.NO_FACE:
            reason = None if self._nobody is not CameraState.UNKNOWN else UnknownReason.NOBODY
            return StateReport(self._nobody, reason)
        if answer.state is not CameraState.UNKNOWN:
            return StateReport(answer.state, label=answer.smoothed_label)
        own = None if answer.prediction is None else answer.prediction.decision
        if own is Decision.ABSTAINED or self._decided.reason is UnknownReason.ABSTAINED:
            return _unknown(UnknownReason.ABSTAINED)
        return _STARTING

    def _still_decided(self, age_s: float | None) -> StateReport:
        """The decision, unless it is too old."""
        decided = self._decided
        if decided.state is not CameraState.UNKNOWN:
            if age_s is None or not self._max_age_s or age_s < self._max_age_s:
                return decided
            decided = _unknown(UnknownReason.EXPIRED, self._in_words)
        if self._bad_frame and decided.reason in (UnknownReason.STARTING, UnknownReason.EXPIRED):
            return _unknown(UnknownReason.FAILED, self._bad_frame)
        return decided


def _unknown(reason: UnknownReason, detail: str = "") -> StateReport:
    return StateReport(CameraState.UNKNOWN, reason, detail)


_STARTING: Final = _unknown(UnknownReason.STARTING)
