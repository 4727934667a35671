"""One camera: frames in, answers out, always the newest frame first.

A worker takes the newest frame at the moment its turn comes; frames that were overtaken are
answered as such at once. Memory holds one frame, one explanation and a bounded number of small
answers, however slowly the camera's other end reads. It knows messages and one stream's state, and
leaves queueing to the engine and explaining to `limelens.serve.rpc.on_change`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import grpc.aio
import numpy as np
from numpy.typing import NDArray

from limelens.serve.bundle import Bundle
from limelens.serve.decisions.decision import decide, spoken_label
from limelens.serve.decisions.smoothing import Smoothing
from limelens.serve.errors import (
    ExpiredError,
    InvalidRequestError,
    LimelensError,
    ModelOutputError,
    OverloadedError,
    UnavailableError,
)
from limelens.serve.image.encoded import EncodedImage
from limelens.serve.observing.observer import FrameClassified, Observer
from limelens.serve.repository.model_version import ModelVersion
from limelens.serve.rpc.latest_value import LatestValue
from limelens.serve.rpc.on_change import Change, Changes, Tell
from limelens.serve.rpc.requests.classify import Limits, read_image
from limelens.serve.rpc.requests.stream import StreamSettings, read_change
from limelens.serve.rpc.responses import model_ref, prediction_message, timings_message
from limelens.serve.rpc.slow_images import SlowImages
from limelens.serve.scheduling.engine import Engine
from limelens.serve.scheduling.inference import InferenceResult, Priority
from limelens.v1 import classifier_service_pb2 as service_pb2

END: Final = grpc.aio.EOF
"""What reading gives once the other end has said all."""
MAX_UNREAD: Final = 256
"""Answers kept for a slow reader; the oldest go first."""
MAX_LOST: Final = 2048
"""Answers lost to a slow reader until the stream is ended."""
EXPLAIN_AFTER_END_S: Final = 10.0
"""How long explanations are waited for once the camera has said all."""
_FATES: Final = {
    number: name.removeprefix("FRAME_STATUS_").lower()
    for name, number in service_pb2.FrameStatus.items()
}
_NEWS: Final = (
    service_pb2.FRAME_STATUS_EXPLANATION,
    service_pb2.FRAME_STATUS_DECISION_EXPIRED,
)
"""They answer no frame."""
_log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class _Arrival:
    message: service_pb2.Frame  # without its image, of which `image` is a copy
    image: EncodedImage
    arrived_at: float


class _StaleFrameError(ExpiredError):
    """The newest frame was too old when its turn came."""


class Camera:
    """One stream from its configuration to its end.

    Args:
        settings: What the configuration said.
        served: The model that answers.
        engine: What runs a bundle.
        limits: Of the server.
        idle_s: A stream that sends nothing for so long is ended.
        newest: Which model answers from now on: it is asked before every frame, so that a stream
            follows to a new version. Where it raises, the one before answers on.
        changes: Explains changes of the decision, given what is to be told of them; None explains
            none.
        observer: Is told of every frame.
        slow: Where frames are decoded that take long; None is in the workers.
    """

    def __init__(
        self,
        settings: StreamSettings,
        served: ModelVersion,
        engine: Callable[[Bundle], Engine],
        limits: Limits,
        *,
        idle_s: float,
        newest: Callable[[], ModelVersion],
        changes: Callable[[Tell], Changes] | None = None,
        observer: Observer | None = None,
        slow: SlowImages | None = None,
    ) -> None:
        self._observer = observer or Observer()
        self._slow = slow
        self._settings = settings
        self._served = served
        self._engine = engine
        self._limits = limits
        self._idle_s = idle_s
        self._newest_model = newest
        self._changes = None if changes is None else changes(self._tell_explained)
        self._smoothing = Smoothing(
            settings.window, settings.required, required_to_alert=settings.required_to_alert
        )
        self._newest: LatestValue[_Arrival] = LatestValue()
        self._classified_at = 0.0
        self._classified_id = -1
        self._ended_at = 0.0
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
            if self._changes is not None:
                await self._changes.close()
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
                self._ended_at = time.monotonic()
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
            image = read_image(frame.image, "image", self._limits, self._settings.region)
        except InvalidRequestError as error:
            self._tell_invalid(frame, str(error))
            return
        overtaken = self._newest.put(_Arrival(_without_image(frame), image, time.monotonic()))
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
                if answer.changed and answer.alert:
                    self._observer.camera_alerted(self._served)
                await self._write(context, answer)
                self._has_left(answer)
            if self._stopping:
                raise UnavailableError("the server is going down; expected the camera to reconnect")
            if not self._newest.is_empty:
                await self._classify_newest()
                continue
            remaining_s = self._until_time_is_up()
            if remaining_s is not None and remaining_s <= 0:
                await self._time_is_up()
            elif self._answers:
                continue
            elif self._ended and (self._changes is None or self._changes.is_idle):
                return
            else:
                self._something.clear()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(remaining_s):
                        await self._something.wait()

    def _until_time_is_up(self) -> float | None:
        """Seconds until something happens by itself; None where nothing will."""
        if self._ended:
            # Nobody looks at a decision any more; only explanations are waited for.
            if self._changes is None or self._changes.is_idle:
                return None
            return self._ended_at + EXPLAIN_AFTER_END_S - time.monotonic()
        if self._settings.max_decision_age_s is None or self._smoothing.label is None:
            return None
        return self._classified_at + self._settings.max_decision_age_s - time.monotonic()

    async def _time_is_up(self) -> None:
        if self._ended and self._changes is not None:
            await self._changes.give_up()
            return
        self._smoothing.forget()
        self._tell(
            service_pb2.Frame(frame_id=self._classified_id),
            service_pb2.FRAME_STATUS_DECISION_EXPIRED,
        )

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
        self._follow()
        taken: list[_Arrival] = []
        served = self._served
        bundle = served.bundle

        def take() -> EncodedImage:
            frame = self._newest.take()
            assert frame is not None  # only this stream's one item takes frames
            taken.append(frame)
            age_s = time.monotonic() - frame.arrived_at
            if self._settings.max_age_s is not None and age_s > self._settings.max_age_s:
                raise _StaleFrameError
            return frame.image

        decoded: list[NDArray[np.uint8]] = []

        def prepare() -> NDArray[np.uint8]:
            return decoded[0] if decoded else take().fitted(bundle.metadata.resize)

        try:
            newest = self._newest.look()
            if self._slow is not None and newest is not None and not newest.image.is_quick:
                # No worker waits for another process.
                try:
                    decoded.append(await self._slow.fitted(take(), bundle.metadata.resize))
                except OverloadedError:
                    self._num_dropped += 1
                    self._tell(taken[0].message, service_pb2.FRAME_STATUS_SUPERSEDED)
                    return
            outcomes = await self._engine(bundle).classify(
                bundle, [prepare], priority=Priority.FRAME
            )
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
            self._tell_classified(taken[0], outcomes[0], served)

    def _follow(self) -> None:
        """To the version that answers now; what was seen counts on where labels are the same."""
        try:
            served = self._newest_model()
        except LimelensError:
            return
        if served is self._served:
            return
        if served.bundle.labels != self._served.bundle.labels:
            self._smoothing.forget()
        _log.info("camera %s follows to version %d", self._settings.camera_id, served.version)
        self._served = served

    def _tell_classified(
        self, frame: _Arrival, outcome: InferenceResult, served: ModelVersion
    ) -> None:
        answering = self._settings.answering
        metadata = served.bundle.metadata
        prediction = decide(
            outcome.probabilities, metadata, top_k=answering.top_k, threshold=answering.threshold
        )
        if self._is_too_old():
            self._smoothing.forget()
        before = self._smoothing.label
        said = spoken_label(prediction, metadata.alert_labels)
        label = self._smoothing.add(said, is_alert=said in metadata.alert_labels)
        self._classified_at = time.monotonic()
        self._classified_id = frame.message.frame_id
        self._observer.frame_classified(
            FrameClassified(served, outcome, prediction, frame.arrived_at)
        )
        answer = self._message(frame.message, service_pb2.FRAME_STATUS_CLASSIFIED)
        answer.prediction.CopyFrom(prediction_message(prediction))
        answer.timings.CopyFrom(timings_message([outcome], frame.arrived_at, time.monotonic()))
        self._put(answer)
        if label is not None and label != before:
            self._explain(frame, label, served)

    def _explain(self, frame: _Arrival, label: str, served: ModelVersion) -> None:
        explaining = self._settings.explaining
        if self._changes is None or explaining is None:
            return
        metadata = served.bundle.metadata
        if explaining.alerts_only and label not in metadata.alert_labels:
            return
        try:
            question = read_change(explaining, metadata, self._limits, frame.image, label)
        except InvalidRequestError as error:
            # It was good for the version that the stream began with, and is not for this one.
            failed = self._changes.failed(label, str(error))
            self._tell_of_change(frame.message, served, failed)
            return
        self._changes.add(Change(frame.message, label, question, served))

    def _tell_explained(self, change: Change, explanation: service_pb2.ChangeExplanation) -> None:
        self._tell_of_change(change.frame, change.served, explanation)

    def _tell_of_change(
        self,
        frame: service_pb2.Frame,
        served: ModelVersion,
        explanation: service_pb2.ChangeExplanation,
    ) -> None:
        answer = self._message(frame, service_pb2.FRAME_STATUS_EXPLANATION)
        answer.model.CopyFrom(model_ref(served))
        answer.explanation.CopyFrom(explanation)
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
        label = "" if self._is_too_old() else self._smoothing.label or ""
        answer = service_pb2.ClassifyStreamResponse(
            frame_id=frame.frame_id,
            status=status,
            smoothed_label=label,
            alert=label in self._served.bundle.metadata.alert_labels,
            dropped_frames=self._num_dropped,
            model=model_ref(self._served),
        )
        if frame.HasField("capture_time"):
            answer.capture_time.CopyFrom(frame.capture_time)
        return answer

    def _put(self, answer: service_pb2.ClassifyStreamResponse) -> None:
        if len(self._answers) >= MAX_UNREAD:
            lost = self._answers.popleft()
            self._num_lost += 1
            self._has_left(lost)
            self._observer.answers_lost(self._served, 1)
            if lost.status == service_pb2.FRAME_STATUS_CLASSIFIED:
                self._num_dropped += 1
        if answer.status not in _NEWS:
            self._observer.frame_ended(self._served, _FATES[answer.status])
        self._answers.append(answer)
        self._something.set()

    def _has_left(self, answer: service_pb2.ClassifyStreamResponse) -> None:
        if self._changes is not None and answer.explanation.HasField("explanation"):
            self._changes.was_read()

    def _is_too_old(self) -> bool:
        """Whether it is too long ago that a frame was classified."""
        most = self._settings.max_decision_age_s
        return most is not None and time.monotonic() - self._classified_at >= most


def _without_image(frame: service_pb2.Frame) -> service_pb2.Frame:
    light = service_pb2.Frame(frame_id=frame.frame_id)
    if frame.HasField("capture_time"):
        light.capture_time.CopyFrom(frame.capture_time)
    return light
