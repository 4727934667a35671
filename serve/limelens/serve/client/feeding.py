"""A camera's frames on their way: which is sent next, which are given up, what is told of them.

Both clients keep their streams by it. It is plain state and waits for nothing: threads and locks
are one client's business, tasks the other's. At most one frame is held that was not sent.
"""

from __future__ import annotations

import itertools
import random
from collections import deque
from dataclasses import replace
from typing import Final

from limelens.serve.client.requests import Frame, ImageInput
from limelens.serve.client.results import FrameAnswer, FrameStatus, ModelRef, Timings
from limelens.serve.errors import (
    ExpiredError,
    LimelensError,
    OverloadedError,
    UnavailableError,
)

MAX_UNANSWERED: Final = 64
"""Frames of a live source that may be sent before the oldest answer is read."""
PAUSE_S: Final = 0.001
"""After a frame that took another's place: a source without a pace of its own takes no core."""
_MAX_TOLD: Final = 256
_LONGEST_PAUSE_S: Final = 10.0
_OVERTAKING: Final = (FrameStatus.CLASSIFIED, FrameStatus.STALE)
"""Statuses by which all frames before are answered too, or never will be."""


class Feed:
    """The frames of one stream, over one connection or several.

    Args:
        drop_old: Whether a newer frame takes the place of one that was not sent yet. Else each
            frame waits until the one before is answered, so that the server drops none either.
    """

    def __init__(self, drop_old: bool) -> None:
        self._drop_old = drop_old
        self._window = MAX_UNANSWERED if drop_old else 1
        self._numbers = itertools.count()
        self._next: Frame | None = None
        self._sent: dict[int, Frame] = {}
        self._told: deque[FrameAnswer] = deque(maxlen=_MAX_TOLD)
        self._num_dropped = 0  # here, and by servers that are gone
        self._num_dropped_there = 0
        self._label: str | None = None
        self._alert = False
        self._is_first = False
        self._pauses = _pauses()
        self._model = ModelRef("", 0, "")
        self.error: Exception | None = None
        """Why there are no more frames, where that is a fault of their source."""
        self.closed = False
        """Whether nobody reads answers any more."""
        self.exhausted = False
        """Whether the source has given all."""

    @property
    def wants(self) -> bool:
        """Whether the source is to be asked for its next frame."""
        return self._drop_old or (self._next is None and len(self._sent) < self._window)

    @property
    def has_next(self) -> bool:
        """Whether a frame may be sent now."""
        return self._next is not None and len(self._sent) < self._window

    @property
    def has_news(self) -> bool:
        """Whether there is anything to do for who opens a stream again."""
        return self.closed or self.has_next or self.is_empty

    @property
    def is_empty(self) -> bool:
        """Whether all frames are sent."""
        return self.exhausted and self._next is None

    def put(self, frame: Frame | ImageInput) -> bool:
        """Takes a frame of the source.

        Returns:
            Whether it took the place of another.
        """
        number = next(self._numbers)
        overtaken = self._next
        self._next = frame if isinstance(frame, Frame) else Frame(number, frame)
        if overtaken is not None:
            self._give_up(overtaken, FrameStatus.SUPERSEDED)
        return overtaken is not None

    def end(self, error: Exception | None = None) -> None:
        """The source has no more, or failed."""
        self.exhausted = True
        self.error = self.error or error

    def take(self) -> Frame:
        """The frame that goes now; `has_next` must hold."""
        frame, self._next = self._next, None
        assert frame is not None  # who takes has asked
        # Live frames are not sent a second time, they would be old: their pixels may go.
        self._sent[frame.frame_id] = replace(frame, image=b"") if self._drop_old else frame
        return frame

    def answered(self, answer: FrameAnswer) -> list[FrameAnswer]:
        """What is told once the server has said something: that, after what was given up here."""
        self._sent.pop(answer.frame_id, None)
        if answer.status in _OVERTAKING:
            for frame_id in [one for one in self._sent if one < answer.frame_id]:
                del self._sent[frame_id]
        self._model = answer.model
        self._pauses = _pauses()
        self._num_dropped_there = answer.dropped_frames
        changed = answer.changed
        if self._is_first:  # the new server knows nothing of what the old one said
            self._is_first = False
            changed = answer.smoothed_label != self._label
        self._label, self._alert = answer.smoothed_label, answer.alert
        dropped = self._num_dropped + self._num_dropped_there
        return [*self.told(), replace(answer, dropped_frames=dropped, changed=changed)]

    def told(self) -> list[FrameAnswer]:
        """What was given up here and not told yet."""
        found = list(self._told)
        self._told.clear()
        return found

    def pause_after(self, error: LimelensError) -> float | None:
        """How long to wait until the stream is opened again, its connection being lost.

        Args:
            error: How it ended.

        Returns:
            Seconds; None where another try would end alike.
        """
        # Of a stream, which has no deadline, the server says "expired" where no frame came long.
        if not isinstance(error, UnavailableError | OverloadedError | ExpiredError):
            return None
        self._num_dropped += self._num_dropped_there
        self._num_dropped_there = 0
        sent, self._sent = self._sent, {}
        for frame in sent.values():
            if self._drop_old:
                self._give_up(frame, FrameStatus.LOST)
            else:
                self._next = frame
        self._is_first = True
        pause_s = next(self._pauses)
        if isinstance(error, OverloadedError):
            return max(pause_s, min(error.retry_after_s, _LONGEST_PAUSE_S))
        return pause_s

    def _give_up(self, frame: Frame, status: FrameStatus) -> None:
        self._num_dropped += 1
        self._told.append(
            FrameAnswer(
                frame_id=frame.frame_id,
                status=status,
                prediction=None,
                smoothed_label=self._label,
                changed=False,
                alert=self._alert,
                dropped_frames=self._num_dropped + self._num_dropped_there,
                reason="",
                model=self._model,
                timings_ms=Timings(0.0, 0.0, 0.0, 0.0),
                capture_time=frame.capture_time,
            )
        )


def _pauses() -> itertools.chain[float]:
    """Seconds between tries: longer and longer, and not the same for all cameras of a house."""
    growing = (0.2 * 2**turn for turn in range(6))
    return itertools.chain(
        (random.uniform(0.5, 1.0) * most for most in growing),
        (random.uniform(0.5, 1.0) * _LONGEST_PAUSE_S for _ in itertools.count()),
    )
