"""The interface of what runs models, and the values that pass through it.

In front of an engine stands what speaks gRPC, checks rights, decides and responds; behind it are
queues, threads, devices and sessions. It knows neither.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import IntEnum, StrEnum
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from limelens.serve.bundle import Bundle

Prepare = Callable[[], NDArray[np.uint8]]
"""Makes the pixels that the model sees; runs in a worker's thread when the item's turn has come."""


class Priority(IntEnum):
    """What goes first."""

    FRAME = 0
    """A camera's frame. One for each stream at a time, so it is never refused for a full queue."""
    REQUEST = 1
    """An image of a request."""


@dataclass(frozen=True, slots=True, eq=False)
class InferenceResult:
    """The model's numbers for one image.

    Args:
        probabilities: `(C,)` float32.
        embedding: `(D,)` float32 where it was asked for.
        started_at: When its turn came, by `time.monotonic`.
        decode_s: Preparing its pixels, in seconds.
        run_s: The model, in seconds; on a GPU that of the whole batch.
        run_at: When the model was begun, by `time.monotonic`.
    """

    probabilities: NDArray[np.float32]
    embedding: NDArray[np.float32] | None
    started_at: float
    decode_s: float
    run_s: float
    run_at: float = 0.0


class InferenceStatus(StrEnum):
    """How it ended for one image."""

    ANSWERED = "answered"
    """The model was run and its numbers are usable."""
    FAILED = "failed"
    """The model was run, and failed or gave numbers that are no probabilities."""
    UNREADABLE = "unreadable"
    """Its pixels could not be prepared; the model was not run."""
    DROPPED = "dropped"
    """Nobody waited for it any more when its turn came; the model was not run."""


@dataclass(frozen=True, slots=True, eq=False)
class Completion:
    """One image that left an engine, for whoever counts.

    Args:
        bundle: The model.
        priority: What it was.
        fate: How it ended.
        waited_s: From its arrival until its turn came, in seconds.
        decode_s: Preparing its pixels, in seconds; 0 where that was not begun.
        run_s: The model, in seconds, that of the whole batch; 0 where it was not run.
        batch_size: Images in the run, padding not counted; 0 where there was none.
        error: Why it failed or could not be read; else None.
    """

    bundle: Bundle
    priority: Priority
    fate: InferenceStatus
    waited_s: float
    decode_s: float
    run_s: float
    batch_size: int
    error: Exception | None = None


@dataclass(frozen=True)
class Counts:
    """What an engine has done so far.

    Args:
        run: Images that a model was run for.
        dropped: Images that nobody waited for any more when their turn came.
        refused: Images refused because the queue was full.
        not_finite: Images for which the model's numbers were unusable.
        overdue: Images that a model was run for although their deadline had passed when the run
            began.
    """

    run: int
    dropped: int
    refused: int
    not_finite: int
    overdue: int = 0


class Engine(Protocol):
    """Runs the models of one device."""

    async def classify(
        self,
        bundle: Bundle,
        prepare: Sequence[Prepare],
        *,
        priority: Priority = Priority.REQUEST,
        deadline: float | None = None,
        embed: bool = False,
    ) -> list[InferenceResult]:
        """Waits for the model's numbers for some images.

        If the wait is cancelled, images that have not run are dropped.

        Args:
            bundle: The model to run.
            prepare: One for each image.
            priority: What goes first.
            deadline: By `time.monotonic`; images whose turn comes later are not run.
            embed: Whether feature vectors are wanted.

        Returns:
            One outcome for each image, in the order given.

        Raises:
            OverloadedError: The queue is full, or the device has no memory left.
            ExpiredError: The deadline passed first.
            Exception: Whatever `prepare` or the bundle raised for the first image that failed.
        """
        ...

    @property
    def counts(self) -> Counts:
        """What was done so far."""
        ...

    @property
    def num_waiting(self) -> int:
        """Images of requests that wait."""
        ...

    def close(self) -> None:
        """Ends the threads. What still waits ends with `OverloadedError`."""
        ...
