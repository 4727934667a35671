"""What one camera says: its state over time, as events, and how it is now.

It is told of answers and of losses by the camera's thread, and of the time by another. It knows
neither sources nor connections, and hands events on without waiting.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from enum import StrEnum
from typing import NamedTuple

from limelens.serve.client.results import FrameAnswer, FrameStatus
from limelens.serve.decisions.camera_state import CameraState, UnknownReason
from limelens.serve.decisions.decision import FacePrediction
from limelens.serve.tools.camera import SourceAnswer, StateKeeper, StateReport
from limelens.watch.cameras.event_maker import EventMaker
from limelens.watch.cameras.explanations import Explained, Unexplained
from limelens.watch.cameras.live_view import LiveView
from limelens.watch.cameras.settings import CameraSettings
from limelens.watch.cameras.telling import Complaint, ReasonNews
from limelens.watch.event import Event, EventType
from limelens.watch.live import LiveCameras


class Part(StrEnum):
    """What may be lost."""

    CAMERA = "camera"
    SERVER = "server"


class _Loss(NamedTuple):
    """Why something is lost, since when, by `time.monotonic`, and whether that is said."""

    reason: UnknownReason
    detail: str
    at: float
    news: ReasonNews


class CameraStatus:
    """Turns what happens at one camera into events. Safe to use from any thread.

    Args:
        settings: The camera's.
        source: Where its frames come from, without secrets.
        live: Where it is said how the camera is now.
        deliver: Takes each event, in order; it must not wait.
        explain: Takes each explanation; it must not wait.
        say: Called with sentences for people.
    """

    def __init__(
        self,
        settings: CameraSettings,
        source: str,
        live: LiveCameras,
        deliver: Callable[[Event], object],
        explain: Callable[[Explained], object],
        say: Callable[[str], object],
    ) -> None:
        self.source = source
        self._settings = settings
        self._deliver = deliver
        self._lock = threading.RLock()
        self._keeper = StateKeeper(
            max_decision_age_s=settings.holds_for_s or 0.0, nobody=settings.state_of_nobody
        )
        self._maker = EventMaker(settings)
        self._live = LiveView(live, settings, source, datetime.now(UTC))
        self._complaints = {
            part: Complaint(lambda text: say(f"{settings.id}: {text}")) for part in Part
        }
        self._lost: dict[Part, _Loss] = {}
        self._report = StateReport(CameraState.UNKNOWN, UnknownReason.STARTING)
        self._num_alerts = 0
        self._unexplained = Unexplained(explain)
        self._is_off = self._is_over = False

    def start(self) -> None:
        """Says that nothing is known yet."""
        with self._lock:
            self._emit(EventType.STATE, self._report, self._report)
            self._live.update(time.monotonic())

    def answered(self, found: SourceAnswer, num_skipped: int) -> None:
        """Takes an answer of the stream.

        Args:
            found: The answer, with its frame.
            num_skipped: Frames that the source left out so far.
        """
        answer = found.answer
        with self._lock:
            if self._is_over:
                return
            if answer.explanation is not None:
                self._unexplained.came(answer.frame_id, answer.explanation)
                return
            at = time.monotonic()
            if answer.status is FrameStatus.CLASSIFIED:
                # A frame that was taken since shows that both are there.
                for part in [part for part, one in self._lost.items() if one.at <= found.taken_at]:
                    self.back(part)
            self._keeper.answered(answer, found.taken_at)
            if answer.status is not FrameStatus.CLASSIFIED:
                self._look(at)
                return
            now = datetime.now(UTC)
            self._maker.count(answer, now)
            self._live.answered(found, num_skipped, now)
            # What a door waits for goes first.
            self._look(at, found)
            self._emit(EventType.FRAME, self._report, self._report, found)

    def lost(
        self, part: Part, reason: UnknownReason, detail: str, *, is_said: bool = False
    ) -> None:
        """The camera or the server is lost, or still is, for another reason.

        Args:
            part: What is lost.
            reason: Why, for programs.
            detail: Why, for people; without secrets.
            is_said: Whether people are told by somebody else.
        """
        with self._lock:
            before = self._lost.get(part)
            if (
                self._is_over
                or self._is_off
                or (before is not None and before[:2] == (reason, detail))
            ):
                return
            at = time.monotonic()
            news = ReasonNews((reason, detail), at) if before is None else before.news
            self._lost[part] = _Loss(reason, detail, at, news)
            self._keeper.lost(reason, detail)
            if not is_said:
                self._complaints[part].is_wrong(detail, at)
            self._live.says(last_error=detail)
            if before is None:
                self._emit_loss(self._lost[part])
            else:
                self._look_for_reasons(at)
            if part is Part.SERVER:
                self._maker.forget()
                self._unexplained.ended("the server was lost before the explanation")
            self._look(at)

    def lost_because(self, part: Part, detail: str) -> None:
        """Knows better now why something is lost, if it still is."""
        with self._lock:
            if (loss := self._lost.get(part)) is not None:
                self.lost(part, loss.reason, detail)

    def back(self, part: Part) -> None:
        """The camera or the server is back; nothing happens if it was not lost."""
        with self._lock:
            if self._is_over or (loss := self._lost.pop(part, None)) is None:
                return
            at = time.monotonic()
            message = f"the {part} is back"
            # Frames from before the loss may still be answered.
            self._keeper.back(loss.reason, at=loss.at)
            self._complaints[part].is_right(message)
            report = self._keeper.report(at)
            self._emit(
                EventType.BACK,
                StateReport(report.state, report.reason, message),
                self._report,
            )
            self._look(at)

    def off(self, detail: str) -> None:
        """Nobody watches any more, for now."""
        with self._lock:
            if self._is_over:
                return
            self._is_off = True
            self._lost.clear()
            self._keeper.lost(UnknownReason.OFF, detail)
            self._maker.forget()
            self._look(time.monotonic())

    def on(self) -> None:
        """It is watched again."""
        with self._lock:
            if not self._is_over:
                self._is_off = False
                self._keeper.back()
                self._look(time.monotonic())

    def stream_ended(self, reason: str) -> None:
        """No more explanations will come for what happened so far."""
        with self._lock:
            self._unexplained.ended(reason)

    def knows_model(self, alert_labels: tuple[str, ...]) -> None:
        """Takes what a server says of the model."""
        with self._lock:
            self._maker.alert_labels = alert_labels
            self._live.says(alert_labels=alert_labels)

    def tick(self, at: float) -> None:
        """Looks whether a decision expired; called often, from another thread."""
        with self._lock:
            if self._is_over:
                return
            for complaint in self._complaints.values():
                complaint.remind(at)
            self._look_for_reasons(at)
            self._look(at)

    def expires_at(self) -> float | None:
        """When the decision will expire, by `time.monotonic`; None if there is none."""
        with self._lock:
            if self._is_over or self._report.state is CameraState.UNKNOWN:
                return None
            return self._keeper.holds_until

    def heartbeat(self) -> None:
        """Says the state as it is."""
        with self._lock:
            if not self._is_over:
                report = self._keeper.report(time.monotonic())
                self._emit(EventType.HEARTBEAT, report, self._report)

    def end(self, detail: str) -> None:
        """Says that nobody watches any more, and nothing after that."""
        with self._lock:
            self.stream_ended(detail)
            self.off(detail)
            self._is_over = True

    def remove(self) -> None:
        """Forgets the camera."""
        self._live.remove()

    def _look_for_reasons(self, at: float) -> None:
        """Says of each loss if it goes on for another reason than was said; the lock is held."""
        for loss in self._lost.values():
            if loss.news.is_news((loss.reason, loss.detail), at):
                self._emit_loss(loss)

    def _emit_loss(self, loss: _Loss) -> None:
        report = StateReport(CameraState.UNKNOWN, loss.reason, loss.detail)
        self._emit(EventType.LOST, report, self._report)

    def _look(self, at: float, found: SourceAnswer | None = None) -> None:
        """Compares the state with the last one that was said; the lock is held."""
        report, before = self._keeper.report(at), self._report
        is_news = report.is_news_after(before)
        self._report = report
        people = [] if found is None else _people_of_note(found.answer, report, is_news=is_news)
        if is_news:
            is_new_state = report.state is not before.state
            if is_new_state and report.state is CameraState.ALERT:
                self._num_alerts += 1
            event = self._emit(
                EventType.STATE, report, before, found, people[0] if people else None
            )
            self._live.says(
                state=report.state,
                reason=report.reason,
                label=report.label,
                num_alerts=self._num_alerts,
                last_event_id=event.id,
                **({"since": event.time} if is_new_state else {}),
            )
            people = people[1:]
        if report.detail != before.detail or is_news:
            self._live.says(detail=report.detail)
        for person in people:
            event = self._emit(EventType.STATE, report, report, found, person)
            self._live.says(last_event_id=event.id)
        self._live.update(at)

    def _emit(
        self,
        type_: EventType,
        report: StateReport,
        before: StateReport,
        found: SourceAnswer | None = None,
        person: FacePrediction | None = None,
    ) -> Event:
        event = self._maker.make(type_, report, before.state, found, person)
        is_brought_by_frame = type_ is EventType.STATE and event.frame_id is not None
        if is_brought_by_frame and self._will_be_explained(event):
            self._unexplained.add(event)
        self._deliver(event)
        return event

    def _will_be_explained(self, event: Event) -> bool:
        wanted = self._settings.explain
        if wanted == "never" or event.label is None:
            return False
        return wanted == "changes" or event.state is CameraState.ALERT


def _people_of_note(
    answer: FrameAnswer, report: StateReport, *, is_news: bool
) -> list[FacePrediction]:
    """The people whose decision changed to an alert; else one who changed the camera's."""
    changed = [face for face in answer.faces if face.changed]
    if alerting := [face for face in changed if face.alert]:
        return alerting
    return [face for face in changed if is_news and face.smoothed_label == report.label][:1]
