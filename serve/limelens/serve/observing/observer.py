"""What happens in a server, as notifications for metrics and traces.

Observers are notified after the fact: they cannot change a response and must not raise. Only
`image_completed` is called from worker threads, everything else on the event loop.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from limelens.serve.errors import (
    ExpiredError,
    InvalidRequestError,
    ModelOutputError,
    OverloadedError,
)

if TYPE_CHECKING:
    from limelens.serve.call_context import Call
    from limelens.serve.decisions.decision import FaceIssue, Prediction
    from limelens.serve.decisions.frame_status import FrameStatus
    from limelens.serve.explaining.rendering import RenderedExplanation
    from limelens.serve.repository.model_version import ModelVersion
    from limelens.serve.scheduling.inference import Completion, InferenceResult

Metadata = Iterable[tuple[str, str | bytes]]


class ExplanationStatus(StrEnum):
    """How an explanation ended."""

    DONE = "done"  # it was sent
    CANCELLED = "cancelled"  # the client left, or the deadline passed while it was being sent
    EXPIRED = "expired"  # the deadline passed first, or the client did not read
    REFUSED = "refused"  # too many were waiting
    INVALID = "invalid"  # the image or a parameter cannot be used
    FAILED = "failed"  # any other error


@dataclass(frozen=True, slots=True, eq=False)
class RequestClassified:
    """A model ran all images of a request.

    Args:
        results: One for each image; if faces were asked for, also one for each face.
        predictions: Empty if only feature vectors were requested.
        arrived_at: When the request arrived, by `time.monotonic`.
    """

    model: ModelVersion
    results: Sequence[InferenceResult]
    predictions: Sequence[Prediction]
    arrived_at: float


@dataclass(frozen=True, slots=True, eq=False)
class FrameClassified:
    """A model ran a camera's frame.

    Args:
        prediction: The decision for this frame alone.
        arrived_at: When the frame arrived, by `time.monotonic`.
    """

    model: ModelVersion
    result: InferenceResult
    prediction: Prediction
    arrived_at: float


@dataclass(frozen=True, eq=False)
class ExplanationEnded:
    """An explanation ended.

    Args:
        model: The model that was explained.
        explained: The last that was computed.
        began: When it was requested, by `time.monotonic`.
        not_finite: Whether it ended because the model's output was not finite.
    """

    model: ModelVersion
    status: ExplanationStatus
    explained: RenderedExplanation | None
    began: float
    ended: float
    not_finite: bool = False


class Observer:
    """Ignores every notification; subclasses override those that they need."""

    def call_began(self, call: Call, metadata: Metadata) -> None:
        """A call arrived. `metadata` holds tokens: look up known keys only."""

    def call_ended(self, call: Call, code: str) -> None:
        """A call is about to end with a status of this name, or its client left."""

    def image_completed(self, completion: Completion) -> None:
        """An image left an engine. Called from a worker's thread; must be quick."""

    def request_classified(self, classified: RequestClassified) -> None:
        """A model ran all images of a request."""

    def faces_found(self, issues: Sequence[FaceIssue | None]) -> None:
        """Faces were found in images; says for each why it cannot be judged, None if it can."""

    def frame_ended(self, model: ModelVersion, status: FrameStatus) -> None:
        """The response to a camera's frame is ready."""

    def frame_classified(self, classified: FrameClassified) -> None:
        """A camera's frame was classified; `frame_ended` follows."""

    def camera_alerted(self, model: ModelVersion) -> None:
        """A camera's smoothed decision changed to an alert label."""

    def responses_lost(self, model: ModelVersion, count: int) -> None:
        """Responses were dropped because their camera does not read."""

    def explanation_ended(self, ended: ExplanationEnded) -> None:
        """An explanation ended."""

    def close(self) -> None:
        """The server stopped."""


def notify_all(observers: Sequence[Observer]) -> Observer:
    """One observer that notifies several, in their order; it skips what they ignore."""
    combined = Observer()
    for name, ignored in vars(Observer).items():
        if name.startswith("_"):
            continue
        functions = [getattr(one, name) for one in observers]
        needed = [one for one in functions if getattr(one, "__func__", None) is not ignored]
        if needed:
            setattr(combined, name, _call_all(needed))
    return combined


def _call_all(functions: Sequence[Callable[..., None]]) -> Callable[..., None]:
    if len(functions) == 1:
        return functions[0]

    def call(*arguments: Any) -> None:
        for function in functions:
            function(*arguments)

    return call


@dataclass(slots=True, eq=False)
class ExplanationRecord:
    """Holds the last explanation that the code inside `explaining` computed."""

    explained: RenderedExplanation | None = None


@contextmanager
def explaining(
    observer: Observer, model: ModelVersion, began: float | None = None
) -> Iterator[ExplanationRecord]:
    """Notifies an observer once of how an explanation ended, which began now if not at `began`."""
    began = time.monotonic() if began is None else began
    record = ExplanationRecord()
    error: BaseException | None = None
    try:
        yield record
    except BaseException as raised:
        error = raised
        raise
    finally:
        observer.explanation_ended(
            ExplanationEnded(
                model=model,
                status=_status(error),
                explained=record.explained,
                began=began,
                ended=time.monotonic(),
                not_finite=isinstance(error, ModelOutputError),
            )
        )


def _status(error: BaseException | None) -> ExplanationStatus:
    match error:
        case None:
            return ExplanationStatus.DONE
        case asyncio.CancelledError():
            return ExplanationStatus.CANCELLED
        case ExpiredError():
            return ExplanationStatus.EXPIRED
        case OverloadedError():
            return ExplanationStatus.REFUSED
        case InvalidRequestError():
            return ExplanationStatus.INVALID
        case _:
            return ExplanationStatus.FAILED
