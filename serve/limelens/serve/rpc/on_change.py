"""Why a camera's decision changed: at most one explanation at a time, of the newest change.

A change waits until its explanation's turn comes, and gives way to a newer one until then. What
it tells goes through a function that it is handed; it knows explanations and one camera's changes,
and nothing of frames, smoothing or the stream.
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
from limelens.serve.observing.observer import Told
from limelens.serve.repository.model_version import ModelVersion
from limelens.serve.rpc.responses import explain_response
from limelens.serve.scheduling.memory_budget import Budget
from limelens.v1 import classifier_service_pb2 as service_pb2

_SUPERSEDED: Final = service_pb2.CHANGE_EXPLANATION_STATUS_SUPERSEDED
_OVERLOADED: Final = service_pb2.CHANGE_EXPLANATION_STATUS_OVERLOADED
_FAILED: Final = service_pb2.CHANGE_EXPLANATION_STATUS_FAILED
_UNFINISHED: Final = service_pb2.CHANGE_EXPLANATION_STATUS_UNFINISHED
_log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Change:
    """A change of the smoothed decision that is to be explained.

    Args:
        frame: The frame that brought it, without its image.
        label: What the decision changed to.
        question: What is explained, and how.
        served: The model that brought it.
    """

    frame: service_pb2.Frame
    label: str
    question: ExplainSpec
    served: ModelVersion


Tell = Callable[[Change, service_pb2.ChangeExplanation], None]
"""Is told of every change once; called on the event loop."""
Accounting = Callable[[ModelVersion, float], AbstractContextManager[Told]]
"""Is entered for every explanation that began, or was refused, with the model and the time at
which it was asked for; what ends the explanation is raised within."""


@dataclass(frozen=True, eq=False)
class _Waiting:
    change: Change
    held: ExitStack  # the image's bytes, in the budget


class Changes:
    """The changes of one camera; for one event loop.

    Args:
        explainer: Whose threads explain.
        budget: Images that wait are counted in it.
        tell: Is told what came of each change.
        accounting: Whoever counts explanations learns of each by it.
    """

    def __init__(
        self, explainer: Explainer, budget: Budget, tell: Tell, accounting: Accounting
    ) -> None:
        self._explainer = explainer
        self._budget = budget
        self._tell = tell
        self._accounting = accounting
        self._lock = threading.Lock()  # of the next two, which a thread of the explainer moves
        self._newest: _Waiting | None = None
        self._under_way: _Waiting | None = None
        self._task: asyncio.Task[None] | None = None
        self._read = asyncio.Event()
        self._read.set()
        self._num_superseded = 0

    @property
    def is_idle(self) -> bool:
        """Whether nothing is explained or waits to be."""
        return self._task is None

    def add(self, change: Change) -> None:
        """Explains a change when its turn comes, unless a newer one comes before."""
        held = ExitStack()
        try:
            held.enter_context(self._budget.holding(change.question.image.size_bytes))
        except OverloadedError as error:
            self._say(change, _OVERLOADED, str(error))
            return
        with self._lock:
            overtaken, self._newest = self._newest, _Waiting(change, held)
        if overtaken is not None:
            self._num_superseded += 1
            self._let_go(overtaken, _SUPERSEDED, "a newer change came before its turn")
        if self._task is None:
            self._task = asyncio.create_task(self._work())

    def failed(self, label: str, reason: str) -> service_pb2.ChangeExplanation:
        """What is told of a change to a label of which nothing can be asked."""
        return self._without(_FAILED, label, reason)

    def was_read(self) -> None:
        """The last explanation is on its way: there may be another.

        An explanation carries images, so that no more than one waits for a slow reader.
        """
        self._read.set()

    async def give_up(self) -> None:
        """Stops, and tells so of every change that is left."""
        for waiting in await self._stop():
            self._say(waiting.change, _UNFINISHED, "the stream ended before it was explained")

    async def close(self) -> None:
        """Stops: nothing is told any more, and no work goes on."""
        await self._stop()

    async def _stop(self) -> list[_Waiting]:
        """Ends the work and returns what is left of it, which no longer holds anything."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        with self._lock:
            left = [one for one in (self._under_way, self._newest) if one is not None]
            self._under_way = self._newest = None
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
                self._under_way = waiting
            if waiting is None:
                raise ExpiredError("the camera left")
            return waiting.change.served.bundle, waiting.change.question

        failure: Exception | None = None
        try:
            explained = await self._explainer.explain_newest(take)
        except asyncio.CancelledError as left:
            with self._lock:
                begun = self._under_way
            if begun is not None:
                with suppress(asyncio.CancelledError), self._accounted(begun.change):
                    raise left
            raise
        except Exception as error:
            failure = error
        with self._lock:
            waiting, self._under_way = self._under_way, None
            if waiting is None:  # refused before its turn came
                waiting, self._newest = self._newest, None
        if waiting is None:
            return
        change = waiting.change
        try:
            # Only now is it known which change it was.
            with self._accounted(change) as told:
                if failure is not None:
                    raise failure
                told(explained)
        except OverloadedError as error:
            self._let_go(waiting, _OVERLOADED, str(error))
            return
        except LimelensError as error:
            self._let_go(waiting, _FAILED, str(error))
            return
        except Exception:
            _log.exception("a change could not be explained")
            self._let_go(waiting, _FAILED, "the server failed; its log tells more")
            return
        waiting.held.close()
        self._read.clear()
        self._tell(
            change,
            service_pb2.ChangeExplanation(
                status=service_pb2.CHANGE_EXPLANATION_STATUS_EXPLAINED,
                label=change.label,
                explanation=explain_response(
                    explained, change.served, change.question.arrived_at, time.monotonic()
                ),
                superseded_changes=self._num_superseded,
            ),
        )

    def _accounted(self, change: Change) -> AbstractContextManager[Told]:
        return self._accounting(change.served, change.question.arrived_at)

    def _let_go(
        self, waiting: _Waiting, status: service_pb2.ChangeExplanationStatus, reason: str
    ) -> None:
        waiting.held.close()
        self._say(waiting.change, status, reason)

    def _say(
        self, change: Change, status: service_pb2.ChangeExplanationStatus, reason: str
    ) -> None:
        self._tell(change, self._without(status, change.label, reason))

    def _without(
        self, status: service_pb2.ChangeExplanationStatus, label: str, reason: str
    ) -> service_pb2.ChangeExplanation:
        return service_pb2.ChangeExplanation(
            status=status,
            label=label,
            reason=reason,
            superseded_changes=self._num_superseded,
        )
