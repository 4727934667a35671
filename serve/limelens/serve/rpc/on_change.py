"""Explains why a camera's decision changed: one explanation at a time, always the newest change.

A change waits for a free explanation thread and is superseded by newer ones until then; with faces,
by newer ones of the same person. It knows explanations and one camera's changes; it reports through
a function and knows nothing of frames, smoothing or the stream.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack, suppress
from dataclasses import dataclass, field

from limelens.serve.bundle import Bundle
from limelens.serve.decisions.frame_status import ChangeStatus
from limelens.serve.errors import ExpiredError, LimelensError, OverloadedError
from limelens.serve.explaining.pool import Explainer
from limelens.serve.explaining.spec import ExplainSpec
from limelens.serve.observing.observer import ExplanationRecord
from limelens.serve.repository.model_version import ModelVersion
from limelens.serve.rpc.frames.frame_classifier import ChangedDecision
from limelens.serve.rpc.responses import explain_response, face_message
from limelens.serve.scheduling.memory_budget import Budget
from limelens.v1 import classifier_service_pb2 as service_pb2

_log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Change:
    """A change of the smoothed decision that is to be explained.

    Args:
        frame: The frame that caused it, without its image.
        spec: What to explain, and how.
        model: The model that classified the frame.
        held: The image's bytes, in the budget.
    """

    frame: service_pb2.Frame
    decision: ChangedDecision
    spec: ExplainSpec
    model: ModelVersion
    held: ExitStack = field(default_factory=ExitStack)


Report = Callable[[service_pb2.Frame, ModelVersion, service_pb2.ChangeExplanation], None]
"""Receives the result of every change once; called on the event loop."""
Accounting = Callable[[ModelVersion, float], AbstractContextManager[ExplanationRecord]]
"""Counts an explanation; its arguments are the model and the time of the request."""


class Changes:
    """The changes of one camera, for one event loop.

    Args:
        accounting: Is entered for every explanation that begins or is refused; errors pass
            through it.
    """

    def __init__(
        self, explainer: Explainer, budget: Budget, report: Report, accounting: Accounting
    ) -> None:
        self._explainer = explainer
        self._budget = budget
        self._report = report
        self._accounting = accounting
        self._lock = threading.Lock()  # of the next two, which an explanation thread moves
        self._waiting: dict[int, Change] = {}  # of each person the newest, in the order they came
        self._running: Change | None = None
        self._task: asyncio.Task[None] | None = None
        self._read = asyncio.Event()
        self._read.set()
        self._num_superseded = 0

    @property
    def is_idle(self) -> bool:
        """Whether no change is being explained or waits."""
        return self._task is None

    def add(self, change: Change) -> None:
        """Explains a change when its turn comes, unless a newer one supersedes it."""
        try:
            change.held.enter_context(self._budget.holding(change.spec.image.size_bytes))
        except OverloadedError as error:
            self._give_up_on(change, ChangeStatus.OVERLOADED, str(error))
            return
        with self._lock:
            superseded = self._waiting.get(change.decision.person)
            self._waiting[change.decision.person] = change
        if superseded is not None:
            self._num_superseded += 1
            reason = "a newer change came before its turn"
            self._give_up_on(superseded, ChangeStatus.SUPERSEDED, reason)
        if self._task is None:
            self._task = asyncio.create_task(self._work())

    def result(
        self, decision: ChangedDecision, status: ChangeStatus, reason: str = ""
    ) -> service_pb2.ChangeExplanation:
        """The result of a change, without an explanation."""
        return service_pb2.ChangeExplanation(
            status=f"CHANGE_EXPLANATION_STATUS_{status.name}",
            label=decision.label,
            reason=reason,
            superseded_changes=self._num_superseded,
            person=decision.person,
        )

    def was_read(self) -> None:
        """Allows the next explanation: the last one has left.

        An explanation carries images, so that only one at a time waits for a slow reader.
        """
        self._read.set()

    async def give_up(self) -> None:
        """Stops, and reports every unfinished change."""
        reason = "the stream ended before it was explained"
        for change in await self.close():
            self._give_up_on(change, ChangeStatus.UNFINISHED, reason)

    async def close(self) -> list[Change]:
        """Ends the work, frees the budget and returns the unfinished changes."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        with self._lock:
            left = [*([] if self._running is None else [self._running]), *self._waiting.values()]
            self._running = None
            self._waiting.clear()
        for change in left:
            change.held.close()
        return left

    async def _work(self) -> None:
        try:
            while self._waiting:
                await self._read.wait()
                await self._explain_newest()
        finally:
            self._task = None

    async def _explain_newest(self) -> None:
        def take() -> tuple[Bundle, ExplainSpec]:
            with self._lock:
                self._running = change = self._next()
            if change is None:
                raise ExpiredError("the camera left")
            return change.model.bundle, change.spec

        failure: Exception | None = None
        try:
            explained = await self._explainer.explain_newest(take)
        except asyncio.CancelledError as cancelled:
            with self._lock:
                running = self._running
            if running is not None:
                with suppress(asyncio.CancelledError), self._accounted(running):
                    raise cancelled
            raise
        except Exception as error:
            failure = error
        with self._lock:
            change, self._running = self._running, None
            if change is None:  # refused before its turn came
                change = self._next()
        if change is None:
            return
        try:
            # Only now is it known which change was explained.
            with self._accounted(change) as record:
                if failure is not None:
                    raise failure
                record.explained = explained
        except OverloadedError as error:
            self._give_up_on(change, ChangeStatus.OVERLOADED, str(error))
            return
        except LimelensError as error:
            self._give_up_on(change, ChangeStatus.FAILED, str(error))
            return
        except Exception:
            _log.exception("a change could not be explained")
            reason = "the server failed; see its log"
            self._give_up_on(change, ChangeStatus.FAILED, reason)
            return
        change.held.close()
        self._read.clear()
        result = self.result(change.decision, ChangeStatus.EXPLAINED)
        result.explanation.CopyFrom(
            explain_response(explained, change.model, change.spec.arrived_at, time.monotonic())
        )
        if (face := change.decision.face) is not None:
            result.explanation.face.CopyFrom(face_message(face))
        self._report(change.frame, change.model, result)

    def _next(self) -> Change | None:
        """Takes the change that has waited longest; the lock is held."""
        return self._waiting.pop(next(iter(self._waiting))) if self._waiting else None

    def _accounted(self, change: Change) -> AbstractContextManager[ExplanationRecord]:
        return self._accounting(change.model, change.spec.arrived_at)

    def _give_up_on(self, change: Change, status: ChangeStatus, reason: str) -> None:
        change.held.close()
        self._report(change.frame, change.model, self.result(change.decision, status, reason))
