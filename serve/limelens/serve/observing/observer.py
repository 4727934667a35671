"""What may be told of a server's work, and telling several listeners at once.

An observer is told of facts that have happened already; it cannot change an answer and may not
raise. Only `image_ended` is called from workers' threads, everything else on the event loop.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from limelens.serve.errors import (
    ExpiredError,
    InvalidRequestError,
    ModelOutputError,
    OverloadedError,
)

if TYPE_CHECKING:
    from limelens.serve.call_context import Call
    from limelens.serve.decisions.decision import Prediction
    from limelens.serve.explaining.rendering import RenderedExplanation
    from limelens.serve.repository.model_version import ModelVersion
    from limelens.serve.scheduling.inference import Completion, InferenceResult

Metadata = Iterable[tuple[str, str | bytes]]
Told = Callable[["RenderedExplanation"], "RenderedExplanation"]
"""Is handed an explanation that was made, and gives it back."""


class ExplanationFate(StrEnum):
    """How it ended for one explanation."""

    DONE = "done"
    """It was answered."""
    CANCELLED = "cancelled"
    """Its caller left, or its deadline passed on the way to the caller."""
    EXPIRED = "expired"
    """Its deadline passed first, or nobody read it."""
    REFUSED = "refused"
    """Too many were waiting."""
    INVALID = "invalid"
    """The image or a parameter could not be used."""
    FAILED = "failed"
    """Anything else."""


@dataclass(frozen=True, slots=True, eq=False)
class Answered:
    """The images of one request have their answers.

    Args:
        served: The model that answered.
        outcomes: One for each image.
        predictions: The same; empty where feature vectors alone were asked for.
        arrived_at: When the request came, by `time.monotonic`.
    """

    served: ModelVersion
    outcomes: Sequence[InferenceResult]
    predictions: Sequence[Prediction]
    arrived_at: float


@dataclass(frozen=True, slots=True, eq=False)
class FrameClassified:
    """A camera's frame was classified.

    Args:
        served: The model that answered.
        outcome: What it gave.
        prediction: The frame's own.
        arrived_at: When the frame came, by `time.monotonic`.
    """

    served: ModelVersion
    outcome: InferenceResult
    prediction: Prediction
    arrived_at: float


@dataclass(frozen=True, eq=False)
class ExplanationEnded:
    """One explanation that is over.

    Args:
        served: The model that was explained.
        fate: How it ended.
        explained: The last that was made; None where none was.
        began: When it was asked for, by `time.monotonic`.
        ended: When it was over.
        not_finite: Whether it ended because the model's numbers were unusable.
    """

    served: ModelVersion
    fate: ExplanationFate
    explained: RenderedExplanation | None
    began: float
    ended: float
    not_finite: bool = False


class Observer:
    """Is told what happens, and ignores all of it; listeners override what they care about."""

    def call_began(self, call: Call, metadata: Metadata) -> None:
        """A call arrived. `metadata` holds tokens: it is for looking up known keys alone."""

    def call_ended(self, call: Call, code: str) -> None:
        """A call is about to be answered with a status of this name, or was left."""

    def image_ended(self, ended: Completion) -> None:
        """An image left an engine. Called from a worker's thread; must be quick."""

    def answered(self, answered: Answered) -> None:
        """The images of one request have their answers."""

    def frame_ended(self, served: ModelVersion, fate: str) -> None:
        """A camera's frame has its answer; the fate is a name of `answers.FrameStatus`."""

    def frame_classified(self, classified: FrameClassified) -> None:
        """A camera's frame was classified; `frame_ended` is told as well."""

    def camera_alerted(self, served: ModelVersion) -> None:
        """A camera's decision changed to a label that somebody must be told of."""

    def answers_lost(self, served: ModelVersion, count: int) -> None:
        """Answers were thrown away because their camera does not read."""

    def explained(self, ended: ExplanationEnded) -> None:
        """An explanation is over."""

    def close(self) -> None:
        """The server is down."""


class Observers(Observer):
    """Tells several, in their order.

    Args:
        listeners: Who is told.
    """

    def __init__(self, listeners: Iterable[Observer]) -> None:
        self._listeners = tuple(listeners)

    def call_began(self, call: Call, metadata: Metadata) -> None:
        """See `Observer`."""
        for one in self._listeners:
            one.call_began(call, metadata)

    def call_ended(self, call: Call, code: str) -> None:
        """See `Observer`."""
        for one in self._listeners:
            one.call_ended(call, code)

    def image_ended(self, ended: Completion) -> None:
        """See `Observer`."""
        for one in self._listeners:
            one.image_ended(ended)

    def answered(self, answered: Answered) -> None:
        """See `Observer`."""
        for one in self._listeners:
            one.answered(answered)

    def frame_ended(self, served: ModelVersion, fate: str) -> None:
        """See `Observer`."""
        for one in self._listeners:
            one.frame_ended(served, fate)

    def frame_classified(self, classified: FrameClassified) -> None:
        """See `Observer`."""
        for one in self._listeners:
            one.frame_classified(classified)

    def camera_alerted(self, served: ModelVersion) -> None:
        """See `Observer`."""
        for one in self._listeners:
            one.camera_alerted(served)

    def answers_lost(self, served: ModelVersion, count: int) -> None:
        """See `Observer`."""
        for one in self._listeners:
            one.answers_lost(served, count)

    def explained(self, ended: ExplanationEnded) -> None:
        """See `Observer`."""
        for one in self._listeners:
            one.explained(ended)

    def close(self) -> None:
        """See `Observer`."""
        for one in self._listeners:
            one.close()


@contextmanager
def explaining(
    observer: Observer, served: ModelVersion, began: float | None = None
) -> Iterator[Told]:
    """Tells an observer how an explanation ended.

    Args:
        observer: Who is told, once.
        served: The model that is explained.
        began: When it was asked for, by `time.monotonic`; None is now.

    Yields:
        Is handed every explanation that is made, and gives it back.
    """
    began = time.monotonic() if began is None else began
    made: list[RenderedExplanation] = []

    def told(explained: RenderedExplanation) -> RenderedExplanation:
        made[:] = [explained]
        return explained

    error: BaseException | None = None
    try:
        yield told
    except BaseException as raised:
        error = raised
        raise
    finally:
        observer.explained(
            ExplanationEnded(
                served=served,
                fate=_fate(error),
                explained=made[0] if made else None,
                began=began,
                ended=time.monotonic(),
                not_finite=isinstance(error, ModelOutputError),
            )
        )


def _fate(error: BaseException | None) -> ExplanationFate:
    match error:
        case None:
            return ExplanationFate.DONE
        case asyncio.CancelledError():
            return ExplanationFate.CANCELLED
        case ExpiredError():
            return ExplanationFate.EXPIRED
        case OverloadedError():
            return ExplanationFate.REFUSED
        case InvalidRequestError():
            return ExplanationFate.INVALID
        case _:
            return ExplanationFate.FAILED
