"""The newest frame of a camera, and the turn in which a worker takes it."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from limelens.serve.errors import ExpiredError
from limelens.serve.image import ResizeRule
from limelens.serve.image.encoded import EncodedImage
from limelens.v1 import classifier_service_pb2 as service_pb2


@dataclass(frozen=True, eq=False)
class Arrival:
    """A frame that came.

    Args:
        message: Without its image.
        image: A copy of it, with its region of interest.
        arrived_at: By `time.monotonic`.
        taken_at: By the stream's `FrameClock`.
    """

    message: service_pb2.Frame
    image: EncodedImage
    arrived_at: float
    taken_at: float


class StaleFrameError(ExpiredError):
    """The newest frame was too old when its turn came."""


class NewestFrame:
    """The newest frame that came and was not taken; a worker's thread takes it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._arrival: Arrival | None = None

    @property
    def waiting(self) -> Arrival | None:
        """The frame, until it is taken."""
        return self._arrival

    def put(self, arrival: Arrival) -> Arrival | None:
        """Puts a frame in the place of the one that waits, and returns that."""
        with self._lock:
            superseded, self._arrival = self._arrival, arrival
        return superseded

    def take(self) -> Arrival:
        """Takes the frame; there is one, because a stream has one turn at a time."""
        with self._lock:
            arrival, self._arrival = self._arrival, None
        assert arrival is not None
        return arrival


class Turn:
    """A `PendingImage` that becomes the camera's newest frame when a worker asks for its pixels.

    Args:
        newest: Holds a frame until it is taken.
        max_age_s: Older frames are not classified; None is no limit.
    """

    def __init__(self, newest: NewestFrame, max_age_s: float | None) -> None:
        self._newest = newest
        self._max_age_s = max_age_s
        self._arrival: Arrival | None = None
        waiting = newest.waiting
        self.is_quick = waiting is None or waiting.image.is_quick
        """Whether a worker may decode it; see `PendingImage`."""
        self.decoded_bytes = 0 if waiting is None else waiting.image.decoded_bytes
        """About how many bytes its pixels take."""
        self.expected_at = 0.0 if waiting is None else waiting.taken_at
        """When the frame was taken, as long as no newer one comes; see `FrameClock`."""

    @property
    def arrival(self) -> Arrival:
        """The frame, which is taken now if no worker did."""
        if self._arrival is None:
            self._arrival = self._newest.take()
        return self._arrival

    def take(self) -> EncodedImage:
        """The frame's image.

        Raises:
            StaleFrameError: It is too old.
        """
        arrived_at = self.arrival.arrived_at
        if self._max_age_s is not None and time.monotonic() - arrived_at > self._max_age_s:
            raise StaleFrameError
        return self.arrival.image

    def fitted(self, rule: ResizeRule) -> NDArray[np.uint8]:
        """See `PendingImage`."""
        return self.take().fitted(rule)
