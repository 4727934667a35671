"""A camera's frames: which is sent next, which are dropped, and the answer to each.

It is plain state that waits for nothing and locks nothing. At most one frame waits to be sent.
"""

from __future__ import annotations

import datetime
import itertools
import random
from collections import deque
from dataclasses import replace
from typing import Final

from limelens.serve.client.requests import Frame, ImageInput
from limelens.serve.client.results import FrameAnswer, FrameStatus, ModelRef, Timings
from limelens.serve.decisions.camera_state import CameraState
from limelens.serve.decisions.decision import Decision
from limelens.serve.errors import ExpiredError, LimelensError, OverloadedError, UnavailableError

MAX_UNANSWERED: Final = 64
"""Frames of a live source that may be sent before the oldest is answered."""
PAUSE_S: Final = 0.001
"""Pause after a frame that replaced another: a source without a pace must not keep a core busy."""
_MAX_GIVEN_UP: Final = 256
_LONGEST_PAUSE_S: Final = 10.0
_IN_ORDER: Final = (FrameStatus.CLASSIFIED, FrameStatus.STALE)
"""A frame with one of these ends the wait for all frames before it."""


class Feed:
    """The frames of one stream, over one connection or several.

    Args:
        drop_old: Whether a newer frame replaces one that was not sent yet. Otherwise each frame
            waits for the answer to the one before, so that the server drops none either.
        tells_loss: Whether an answer of its own says that the server is lost.
    """

    def __init__(self, drop_old: bool, *, tells_loss: bool = False) -> None:
        self._drop_old = drop_old
        self._tells_loss = tells_loss
        self._window = MAX_UNANSWERED if drop_old else 1
        self._numbers = itertools.count()
        self._next: Frame | None = None
        self._sent: dict[int, Frame] = {}
        self._given_up: deque[FrameAnswer] = deque(maxlen=_MAX_GIVEN_UP)
        self._num_dropped = 0  # here, and by servers of earlier connections
        self._num_server_dropped = 0
        self._label: str | None = None
        self._decision = Decision.ABSTAINED
        self._alert = False
        self._state = CameraState.UNKNOWN
        self._last_id = -1  # of the last answer
        self._is_new_server = False
        self._pauses = _pauses()
        self._model = ModelRef("", 0, "")
        self.error: Exception | None = None
        """What the source of the frames raised."""
        self.closed = False
        """Whether the reader of the answers is gone."""
        self.exhausted = False
        """Whether the source has no more frames."""

    @property
    def wants(self) -> bool:
        """Whether to take the next frame from the source."""
        return self._drop_old or (self._next is None and len(self._sent) < self._window)

    @property
    def has_next(self) -> bool:
        """Whether a frame may be sent now."""
        return self._next is not None and len(self._sent) < self._window

    @property
    def is_empty(self) -> bool:
        """Whether all frames are sent."""
        return self.exhausted and self._next is None

    def put(self, frame: Frame | ImageInput) -> bool:
        """Takes a frame of the source; returns whether it replaced another."""
        number = next(self._numbers)
        overtaken = self._next
        self._next = frame if isinstance(frame, Frame) else Frame(number, frame)
        if overtaken is not None:
            self._give_up(overtaken, FrameStatus.SUPERSEDED)
        return overtaken is not None

    def end(self, error: Exception | None = None) -> None:
        """Notes that the source has no more frames, or failed."""
        self.exhausted = True
        self.error = self.error or error

    def take(self) -> Frame:
        """The frame to send now; `has_next` must hold."""
        frame, self._next = self._next, None
        assert frame is not None  # the caller has checked
        # Live frames are never sent again, because they would be old: their pixels are freed.
        self._sent[frame.frame_id] = replace(frame, image=b"") if self._drop_old else frame
        return frame

    def received(self, answer: FrameAnswer) -> list[FrameAnswer]:
        """The answers to yield for one of the server's: frames given up here come first."""
        self._sent.pop(answer.frame_id, None)
        if answer.status in _IN_ORDER:
            for frame_id in [one for one in self._sent if one < answer.frame_id]:
                del self._sent[frame_id]
        self._model = answer.model
        self._pauses = _pauses()
        self._num_server_dropped = answer.dropped_frames
        given_up = self.take_given_up()  # before this decision, so with the one before
        changed = answer.changed
        if self._is_new_server:  # it knows no earlier decision
            self._is_new_server = False
            now = answer.smoothed_label, answer.smoothed_decision
            changed = now != (self._label, self._decision)
        self._label, self._alert = answer.smoothed_label, answer.alert
        self._decision, self._state = answer.smoothed_decision, answer.state
        self._last_id = max(self._last_id, answer.frame_id)
        dropped = self._num_dropped + self._num_server_dropped
        return [*given_up, replace(answer, dropped_frames=dropped, changed=changed)]

    def take_given_up(self) -> list[FrameAnswer]:
        """The answers to frames that were given up here and what else is new here, each once."""
        # They may have waited for long: what is told is the decision that was told last.
        answers = [
            replace(
                one,
                smoothed_label=self._label,
                smoothed_decision=self._decision,
                alert=self._alert,
                state=self._state,
            )
            for one in self._given_up
        ]
        self._given_up.clear()
        return answers

    def pause_after(self, error: LimelensError) -> float | None:
        """How long to wait before the stream is opened again.

        Args:
            error: How it ended.

        Returns:
            Seconds; None if another try would fail too.
        """
        # A stream has no deadline: "expired" means that no frame came for long.
        if not isinstance(error, UnavailableError | OverloadedError | ExpiredError):
            return None
        self._num_dropped += self._num_server_dropped
        self._num_server_dropped = 0
        # Whatever was decided before, nobody watches now.
        self._state = CameraState.UNKNOWN
        sent, self._sent = self._sent, {}
        for frame in sent.values():
            if self._drop_old:
                self._give_up(frame, FrameStatus.LOST)
            else:
                self._next = frame
        if self._tells_loss and not self._is_new_server:
            self._report(self._last_id, FrameStatus.SERVER_LOST, reason=str(error))
        self._is_new_server = True
        pause_s = next(self._pauses)
        if isinstance(error, OverloadedError):
            return max(pause_s, min(error.retry_after_s, _LONGEST_PAUSE_S))
        return pause_s

    def _give_up(self, frame: Frame, status: FrameStatus) -> None:
        self._num_dropped += 1
        self._report(frame.frame_id, status, capture_time=frame.capture_time)

    def _report(
        self,
        frame_id: int,
        status: FrameStatus,
        *,
        reason: str = "",
        capture_time: datetime.datetime | None = None,
    ) -> None:
        self._given_up.append(
            FrameAnswer(
                frame_id=frame_id,
                status=status,
                prediction=None,
                smoothed_label=None,  # what was decided is filled in when it is told
                changed=False,
                alert=False,
                dropped_frames=self._num_dropped + self._num_server_dropped,
                reason=reason,
                model=self._model,
                timings_ms=Timings(0.0, 0.0, 0.0, 0.0),
                capture_time=capture_time,
            )
        )


def _pauses() -> itertools.chain[float]:
    """Seconds between tries: growing, and random so that not all cameras come back at once."""
    growing = (0.2 * 2**turn for turn in range(6))
    return itertools.chain(
        (random.uniform(0.5, 1.0) * most for most in growing),
        (random.uniform(0.5, 1.0) * _LONGEST_PAUSE_S for _ in itertools.count()),
    )
