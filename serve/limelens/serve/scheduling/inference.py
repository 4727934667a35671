"""The values that go into an engine and come out of it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum, StrEnum
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from limelens.serve.bundle import Bundle
    from limelens.serve.image import ResizeRule


class PendingImage(Protocol):
    """An image of a request whose pixels are not made yet."""

    @property
    def is_quick(self) -> bool:
        """Whether a worker thread may make the pixels: it takes no more than a moment."""
        ...

    def fitted(self, rule: ResizeRule) -> NDArray[np.uint8]:
        """The `(H, W, 3)` pixels that the model sees; called in a worker thread, once."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class FittedImage:
    """A `PendingImage` whose pixels, `(H, W, 3)` uint8, have the model's size already."""

    pixels: NDArray[np.uint8]

    @property
    def is_quick(self) -> bool:
        """See `PendingImage`."""
        return True

    def fitted(self, _rule: ResizeRule) -> NDArray[np.uint8]:
        """See `PendingImage`."""
        return self.pixels


class Sampler(Protocol):
    """Looks at what models give for some images, for itself: no caller waits for it or sees it."""

    def wants(self, bundle: Bundle) -> bool:
        """Whether it takes a bundle's next image; called from any thread, quick, never fails."""
        ...

    def take(
        self, bundle: Bundle, probabilities: NDArray[np.float32], embedding: NDArray[np.float32]
    ) -> None:
        """Takes `(C,)` probabilities and a `(D,)` feature vector, which the engine may overwrite.

        It is called as `wants` is.
        """
        ...


class NotNeededError(Exception):
    """Raised by `PendingImage.fitted`: its caller can do without a run, which no metric counts."""


class Priority(IntEnum):
    """What goes first."""

    FRAME = 0
    """A camera's frame. Each stream has one at a time, so a full queue never refuses it."""
    REQUEST = 1
    """An image of a request."""


@dataclass(frozen=True, slots=True, eq=False)
class InferenceResult:
    """The model's output for one image: `(C,)` and, if requested, `(D,)` float32.

    `started_at` and `run_at` are when its turn came and its run began, by `time.monotonic`; `run_s`
    is, on a GPU, that of the whole batch.
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
    """The model ran and its output is usable."""
    FAILED = "failed"
    """The model ran, and failed or gave an unusable output."""
    UNREADABLE = "unreadable"
    """Its pixels could not be prepared; the model did not run."""
    DROPPED = "dropped"
    """Its caller had left, its deadline passed or the device was lost; the model gave nothing."""


@dataclass(frozen=True, slots=True, eq=False)
class Completion:
    """One image that left an engine, for metrics.

    Args:
        waited_s: From its arrival until its turn, in seconds.
        decode_s: Time to prepare its pixels, in seconds; 0 if that did not start.
        run_s: Time of the model for the whole batch, in seconds; 0 if it did not run.
        batch_size: Images in the run, without padding; 0 if there was none.
    """

    bundle: Bundle
    priority: Priority
    status: InferenceStatus
    waited_s: float
    decode_s: float
    run_s: float
    batch_size: int
    error: Exception | None = None


@dataclass(frozen=True)
class Counts:
    """What an engine has done so far.

    Args:
        run: Images that a model ran for.
        dropped: Images whose caller had left or whose deadline had passed before their turn.
        refused: Images refused because the queue was full.
        not_finite: Images for which the model's output was unusable.
        overdue: Images that a model ran for although their deadline had passed when the run began.
    """

    run: int
    dropped: int
    refused: int
    not_finite: int
    overdue: int = 0
