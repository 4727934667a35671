"""Explains why a camera's decision changed: one explanation at a time, always the newest change.

A change waits for a free explanation thread and is superseded by newer ones until then. It knows
explanations and one camera's changes; it reports through a function and knows nothing of frames,
smoothing or the stream.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack, suppress
from dataclasses import dataclass
from typing import Final

from limelens.serve.bundle import Bundle
from limelens.serve.errors import ExpiredError, LimelensError, OverloadedError
from limelens.serve.explaining.pool import Explainer
from limelens.serve.explaining.spec import ExplainSpec
from limelens.serve.observing.observer import ExplanationRecord
from limelens.serve.repository.model_version import ModelVersion
from limelens.serve.rpc.responses import explain_response
from limelens.serve.scheduling.memory_budget import Budget
from limelens.v1 import classifier_service_pb2 as service_pb2

_EXPLAINED: Final = service_pb2.CHANGE_EXPLANATION_STATUS_EXPLAINED
_SUPERSEDED: Final = service_pb2.CHANGE_EXPLANATION_STATUS_SUPERSEDED
_OVERLOADED: Final = service_pb2.CHANGE_EXPLANATION_STATUS_OVERLOADED
_FAILED: Final = service_pb2.CHANGE_EXPLANATION_STATUS_FAILED
_UNFINISHED: Final = service_pb2.CHANGE_EXPLANATION_STATUS_UNFINISHED
_log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Change:
    """A change of the smoothed decision that is to be explained.

    Args:
        frame: The frame that caused it, without its image.
        label: The new decision.
        spec: What to explain, and how.
        model: The model that classified the frame.
    """

    frame: service_pb2.Frame
    label: str
    spec: ExplainSpec
    model: ModelVersion


Report = Callable[[Change, service_pb2.ChangeExplanation], None]
"""Receives the result of every change once; called on the event loop."""
Accounting = Callable[[ModelVersion, float], AbstractContextManager[ExplanationRecord]]
"""Counts an explanation; its arguments are the model and the time of the request."""


@dataclass(frozen=True, eq=False)
class _Waiting:
    change: Change
    held: ExitStack  # the image's bytes, in the budget


class Changes:
    """The changes of one camera, for one event loop.

    Args:
        explainer: Runs the explanations.
        budget: Limits the bytes of images that wait.
        report: Receives the result of each change.
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
        self._newest: _Waiting | None = None
        self._running: _Waiting | None = None
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
        held = ExitStack()
        try:
            held.enter_context(self._budget.holding(change.spec.image.size_bytes))
        except OverloadedError as error:
            self._report_failure(change, _OVERLOADED, str(error))
            return
        with self._lock:
            superseded, self._newest = self._newest, _Waiting(change, held)
        if superseded is not None:
            self._num_superseded += 1
            self._give_up_on(superseded, _SUPERSEDED, "a newer change came before its turn")
        if self._task is None:
            self._task = asyncio.create_task(self._work())

    def failed(self, label: str, reason: str) -> service_pb2.ChangeExplanation:
        """The result of a change that cannot be explained."""
        return self._failure(_FAILED, label, reason)

    def was_read(self) -> None:
        """Allows the next explanation: the last one has left.

        An explanation carries images, so that only one at a time waits for a slow reader.
        """
        self._read.set()

    async def give_up(self) -> None:
        """Stops, and reports every unfinished change."""
        for waiting in await self._stop():
            self._report_failure(
                waiting.change, _UNFINISHED, "the stream ended before it was explained"
            )

    async def close(self) -> None:
        """Stops without reporting anything."""
        await self._stop()

    async def _stop(self) -> list[_Waiting]:
        """Ends the work, frees the budget and returns the unfinished changes."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        with self._lock:
            left = [one for one in (self._running, self._newest) if one is not None]
            self._running = self._newest = None
        for waiting in left:
            waiting.held.close()
        return left

    async def _work(self) -> None:
        try:
            while self._newest is not None:
                await self._read.wait()
                await self._explain_newest()
        finally:
            self._task = None

    async def _explain_newest(self) -> None:
        def take() -> tuple[Bundle, ExplainSpec]:
            with self._lock:
                waiting, self._newest = self._newest, None
                self._running = waiting
            if waiting is None:
                raise ExpiredError("the camera left")
            return waiting.change.model.bundle, waiting.change.spec

        failure: Exception | None = None
        try:
            explained = await self._explainer.explain_newest(take)
        except asyncio.CancelledError as cancelled:
            with self._lock:
                running = self._running
            if running is not None:
                with suppress(asyncio.CancelledError), self._accounted(running.change):
                    raise cancelled
            raise
        except Exception as error:
            failure = error
        with self._lock:
            waiting, self._running = self._running, None
            if waiting is None:  # refused before its turn came
                waiting, self._newest = self._newest, None
        if waiting is None:
            return
        change = waiting.change
        try:
            # Only now is it known which change was explained.
            with self._accounted(change) as record:
                if failure is not None:
                    raise failure
                record.explained = explained
        except OverloadedError as error:
            self._give_up_on(waiting, _OVERLOADED, str(error))
            return
        except LimelensError as error:
            self._give_up_on(waiting, _FAILED, str(error))
            return
        except Exception:
            _log.exception("a change could not be explained")
            self._give_up_on(waiting, _FAILED, "the server failed; see its log")
            return
        waiting.held.close()
        self._read.clear()
        self._report(
            change,
            service_pb2.ChangeExplanation(
                status=_EXPLAINED,
                label=change.label,
                explanation=explain_response(
                    explained, change.model, change.spec.arrived_at, time.monotonic()
                ),
                superseded_changes=self._num_superseded,
            ),
        )

    def _accounted(self, change: Change) -> AbstractContextManager[ExplanationRecord]:
        return self._accounting(change.model, change.spec.arrived_at)

    def _give_up_on(
        self, waiting: _Waiting, status: service_pb2.ChangeExplanationStatus, reason: str
    ) -> None:
        waiting.held.close()
        self._report_failure(waiting.change, status, reason)

    def _report_failure(
        self, change: Change, status: service_pb2.ChangeExplanationStatus, reason: str
    ) -> None:
        self._report(change, self._failure(status, change.label, reason))

    def _failure(
        self, status: service_pb2.ChangeExplanationStatus, label: str, reason: str
    ) -> service_pb2.ChangeExplanation:
        return service_pb2.ChangeExplanation(
            status=status,
            label=label,
            reason=reason,
            superseded_changes=self._num_superseded,
        )
