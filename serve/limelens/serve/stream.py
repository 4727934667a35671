"""One camera: frames in, answers out, always the newest frame first.

A worker takes the newest frame at the moment its turn comes; frames that were overtaken are
answered as such at once. Memory holds one frame and a bounded number of small answers, however
slowly the camera's other end reads. It knows messages and one stream's state, and leaves queueing
to the scheduler.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import deque
from dataclasses import dataclass
from typing import Any, Final

import grpc.aio
import numpy as np
from numpy.typing import NDArray

from limelens.serve.decision import decide, spoken_label
from limelens.serve.errors import (
    ExpiredError,
    InvalidRequestError,
    ModelOutputError,
    OverloadedError,
    UnavailableError,
)
from limelens.serve.replies import model_ref, prediction_message, timings_message
from limelens.serve.repository import Served
from limelens.serve.requests import Limits, Picture, StreamSettings, read_picture
from limelens.serve.scheduler import Outcome, Priority, Scheduler
from limelens.serve.smoothing import Smoothing
from limelens.v1 import classifier_service_pb2 as service_pb2

END: Final = grpc.aio.EOF
"""What reading gives once the other end has said all."""
MAX_UNREAD: Final = 256
"""Answers kept for a slow reader; the oldest go first."""
MAX_LOST: Final = 2048
"""Answers lost to a slow reader until the stream is ended."""
_log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class _Arrival:
    message: service_pb2.Frame  # without its image, of which `picture` is a copy
    picture: Picture
    arrived_at: float


class _StaleFrameError(ExpiredError):
    """The newest frame was too old when its turn came."""


class _Newest:
    """Holds one frame: the newest. The event loop puts, a worker takes."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._frame: _Arrival | None = None

    def put(self, frame: _Arrival) -> _Arrival | None:
        """The frame that it took the place of."""
        with self._lock:
            overtaken, self._frame = self._frame, frame
            return overtaken

    def take(self) -> _Arrival | None:
        with self._lock:
            frame, self._frame = self._frame, None
            return frame

    @property
    def is_empty(self) -> bool:
        return self._frame is None


class Camera:
    """One stream from its configuration to its end.

    Args:
        settings: What the configuration said.
        served: The model that answers.
        scheduler: The queue in front of it.
        limits: Of the server.
        idle_s: A stream that sends nothing for so long is ended.
    """

    def __init__(
        self,
        settings: StreamSettings,
        served: Served,
        scheduler: Scheduler,
        limits: Limits,
        *,
        idle_s: float,
    ) -> None:
        self._settings = settings
        self._served = served
        self._scheduler = scheduler
        self._limits = limits
        self._idle_s = idle_s
        self._model = model_ref(served)
        self._alert_labels = frozenset(served.bundle.metadata.alert_labels)
        self._smoothing = Smoothing(settings.window, settings.required)
        self._newest = _Newest()
        self._answers: deque[service_pb2.ClassifyStreamResponse] = deque()
        self._something = asyncio.Event()
        self._last_id = -1
        self._num_dropped = 0
        self._num_lost = 0
        self._last_told = ""
        self._ended = False
        self._stopping = False

    def stop(self) -> None:
        """Ends the stream after the frame under way: the server is going down."""
        self._stopping = True
        self._something.set()

    async def run(self, context: Any) -> None:
        """Reads frames and writes answers until the camera ends the stream.

        Raises:
            InvalidRequestError: A message that is neither a frame nor allowed here.
            ExpiredError: Nothing came for too long.
            OverloadedError: The answers were not read.
            UnavailableError: The server is going down.
        """
        # With the first answer, gRPC would send it a second time where that is cut short by an
        # error, fail, and leave the other end without an end.
        await context.send_initial_metadata(())
        tasks = [
            asyncio.create_task(self._read(context)),
            asyncio.create_task(self._answer(context)),
        ]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
            for task in tasks:
                if task.done():
                    task.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            if self._num_lost:
                _log.warning(
                    "camera %s: %d answers were never read",
                    self._settings.camera_id,
                    self._num_lost,
                )

    async def _read(self, context: Any) -> None:
        while True:
            try:
                async with asyncio.timeout(self._idle_s):
                    message = await context.read()
            except TimeoutError:
                raise ExpiredError(
                    f"no frame for {self._idle_s:g} seconds; expected one at least that often"
                ) from None
            if message is END:
                self._ended = True
                self._something.set()
                return
            if message.WhichOneof("message") != "frame":
                raise InvalidRequestError(
                    "message", "not a frame; expected the configuration once and then frames"
                )
            self._arrive(message.frame)
            del message  # not held until the next one comes
            if self._num_lost > MAX_LOST:
                raise OverloadedError(
                    f"{self._num_lost} answers were not read in time; expected a reader that "
                    "keeps up with its camera",
                    1.0,
                )

    def _arrive(self, frame: service_pb2.Frame) -> None:
        if frame.frame_id < 0:
            self._tell_invalid(frame, f"frame_id: {frame.frame_id}; expected at least 0")
            return
        if frame.frame_id <= self._last_id:
            self._num_dropped += 1
            self._tell(frame, service_pb2.FRAME_STATUS_OUT_OF_ORDER)
            return
        self._last_id = frame.frame_id
        try:
            picture = read_picture(frame.image, "image", self._limits, self._settings.region)
        except InvalidRequestError as error:
            self._tell_invalid(frame, str(error))
            return
        overtaken = self._newest.put(_Arrival(_without_image(frame), picture, time.monotonic()))
        if overtaken is not None:
            self._num_dropped += 1
            self._tell(overtaken.message, service_pb2.FRAME_STATUS_SUPERSEDED)
        self._something.set()

    async def _answer(self, context: Any) -> None:
        while True:
            while self._answers:
                answer = self._answers.popleft()
                answer.changed = answer.smoothed_label != self._last_told
                self._last_told = answer.smoothed_label
                await self._write(context, answer)
            if self._stopping:
                raise UnavailableError("the server is going down; expected the camera to reconnect")
            if not self._newest.is_empty:
                await self._classify_newest()
            elif self._answers:
                continue
            elif self._ended:
                return
            else:
                self._something.clear()
                await self._something.wait()

    async def _write(self, context: Any, answer: service_pb2.ClassifyStreamResponse) -> None:
        try:
            async with asyncio.timeout(self._idle_s):
                await context.write(answer)
        except TimeoutError:
            raise OverloadedError(
                f"no answer was read for {self._idle_s:g} seconds; expected a reader that keeps up "
                "with its camera",
                1.0,
            ) from None

    async def _classify_newest(self) -> None:
        taken: list[_Arrival] = []
        bundle = self._served.bundle

        def prepare() -> NDArray[np.uint8]:
            frame = self._newest.take()
            assert frame is not None  # only this stream's one item takes frames
            taken.append(frame)
            age_s = time.monotonic() - frame.arrived_at
            if self._settings.max_age_s is not None and age_s > self._settings.max_age_s:
                raise _StaleFrameError
            return frame.picture.fitted(bundle.metadata.resize)

        try:
            outcomes = await self._scheduler.classify(bundle, [prepare], priority=Priority.FRAME)
        except _StaleFrameError:
            self._num_dropped += 1
            self._tell(taken[0].message, service_pb2.FRAME_STATUS_STALE)
        except InvalidRequestError as error:
            self._tell_invalid(taken[0].message, str(error))
        except ModelOutputError as error:
            _log.error("camera %s: %s", self._settings.camera_id, error)
            self._smoothing.forget()
            self._tell(taken[0].message, service_pb2.FRAME_STATUS_FAILED, reason=str(error))
        else:
            self._tell_classified(taken[0], outcomes[0])

    def _tell_classified(self, frame: _Arrival, outcome: Outcome) -> None:
        answering = self._settings.answering
        metadata = self._served.bundle.metadata
        prediction = decide(
            outcome.probabilities, metadata, top_k=answering.top_k, threshold=answering.threshold
        )
        self._smoothing.add(spoken_label(prediction, metadata.alert_labels))
        answer = self._message(frame.message, service_pb2.FRAME_STATUS_CLASSIFIED)
        answer.prediction.CopyFrom(prediction_message(prediction))
        answer.timings.CopyFrom(timings_message([outcome], frame.arrived_at, time.monotonic()))
        self._put(answer)

    def _tell_invalid(self, frame: service_pb2.Frame, reason: str) -> None:
        self._tell(frame, service_pb2.FRAME_STATUS_INVALID, reason=reason)

    def _tell(
        self, frame: service_pb2.Frame, status: service_pb2.FrameStatus, *, reason: str = ""
    ) -> None:
        answer = self._message(frame, status)
        answer.reason = reason
        self._put(answer)

    def _message(
        self, frame: service_pb2.Frame, status: service_pb2.FrameStatus
    ) -> service_pb2.ClassifyStreamResponse:
        label = self._smoothing.label or ""
        answer = service_pb2.ClassifyStreamResponse(
            frame_id=frame.frame_id,
            status=status,
            smoothed_label=label,
            alert=label in self._alert_labels,
            dropped_frames=self._num_dropped,
            model=self._model,
        )
        if frame.HasField("capture_time"):
            answer.capture_time.CopyFrom(frame.capture_time)
        return answer

    def _put(self, answer: service_pb2.ClassifyStreamResponse) -> None:
        if len(self._answers) >= MAX_UNREAD:
            lost = self._answers.popleft()
            self._num_lost += 1
            if lost.status == service_pb2.FRAME_STATUS_CLASSIFIED:
                self._num_dropped += 1
        self._answers.append(answer)
        self._something.set()


def _without_image(frame: service_pb2.Frame) -> service_pb2.Frame:
    light = service_pb2.Frame(frame_id=frame.frame_id)
    if frame.HasField("capture_time"):
        light.capture_time.CopyFrom(frame.capture_time)
    return light
