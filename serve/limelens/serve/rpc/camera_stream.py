"""One camera stream: frames in, responses out, always the newest frame first.

A worker takes the newest frame when its turn comes; frames that were superseded get their response
at once. Memory holds one frame, one explanation and a bounded number of small responses, however
slowly the client reads. It knows messages and their order; what a frame does to the decision is up
to `limelens.serve.rpc.frames`, queueing to the engine, and explaining to
`limelens.serve.rpc.on_change`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import deque
from collections.abc import Callable
from typing import Any, Final

import grpc.aio

from limelens.serve.decisions.camera_state import state_of
from limelens.serve.decisions.frame_status import ChangeStatus, FrameStatus
from limelens.serve.errors import (
    InvalidRequestError,
    LimelensError,
    ModelOutputError,
    OverloadedError,
    UnavailableError,
)
from limelens.serve.observing.observer import FrameClassified
from limelens.serve.repository.model_version import ModelVersion
from limelens.serve.rpc.faces.face_runner import FaceRunner
from limelens.serve.rpc.frames.clock import FrameClock
from limelens.serve.rpc.frames.frame_classifier import ChangedDecision, FrameClassifier, FrameResult
from limelens.serve.rpc.frames.people import PeopleFrames
from limelens.serve.rpc.frames.turn import Arrival, NewestFrame, StaleFrameError, Turn
from limelens.serve.rpc.frames.whole import WholeFrames
from limelens.serve.rpc.model_runner import ModelRunner
from limelens.serve.rpc.on_change import Change, Changes, Report
from limelens.serve.rpc.requests.classify import read_image
from limelens.serve.rpc.requests.stream import StreamSettings, read_change
from limelens.serve.rpc.responses import model_ref, prediction_message, timings_message
from limelens.serve.rpc.transport.message_io import read_within, write_within
from limelens.v1 import classifier_service_pb2 as service_pb2
from limelens.v1 import prediction_pb2

END: Final[Any] = grpc.aio.EOF  # what `read` returns after the client's last message
MAX_UNREAD: Final = 256
"""How many responses are kept for a slow reader; the oldest are dropped first."""
MAX_LOST: Final = 2048  # how many responses a slow reader may lose before the stream is ended
EXPLAIN_AFTER_END_S: Final = 10.0  # how long explanations may take after the camera's last message
_Context = grpc.aio.ServicerContext[
    service_pb2.ClassifyStreamRequest, service_pb2.ClassifyStreamResponse
]
_log = logging.getLogger(__name__)


class Camera:
    """One stream from its configuration to its end.

    Args:
        newest: Returns the model to use from now on. It is called before every frame, so that the
            stream moves to new versions; if it raises, the current model stays in use.
    """

    def __init__(
        self,
        settings: StreamSettings,
        model: ModelVersion,
        runner: ModelRunner,
        face_runner: FaceRunner,
        *,
        newest: Callable[[], ModelVersion],
        changes: Callable[[Report], Changes] | None = None,
    ) -> None:
        self._settings = settings
        self._model = model
        self._runner = runner
        self._observer = runner.observer
        self._idle_s = runner.settings.stream_idle_s
        self._find_newest_model = newest
        self._changes = None if changes is None else changes(self._put_explanation)
        faces = settings.options.faces
        self._frames: FrameClassifier = (
            WholeFrames(settings, runner)
            if faces is None
            else PeopleFrames(settings, faces, face_runner)
        )
        self._newest = NewestFrame()
        self._clock = FrameClock()
        self._classified_id = -1
        self._ended_at = 0.0
        self._responses: deque[service_pb2.ClassifyStreamResponse] = deque()
        self._wake_up = asyncio.Event()
        self._last_id = -1
        self._num_dropped = 0
        self._num_lost = 0
        self._last_sent = prediction_pb2.DECISION_ABSTAINED, ""  # the smoothed decision
        self._last_sent_of: dict[int, str] = {}  # by a person's number
        self._ended = False
        self._stopping = False

    @property
    def model(self) -> ModelVersion:
        """The model in use."""
        return self._model

    @property
    def waiting(self) -> service_pb2.Frame | None:
        """The newest frame, without its image, until a worker takes it."""
        newest = self._newest.waiting
        return None if newest is None else newest.message

    @property
    def unread(self) -> tuple[service_pb2.ClassifyStreamResponse, ...]:
        """The responses that the client has not read yet."""
        return tuple(self._responses)

    def stop(self) -> None:
        """Ends the stream after the current frame: the server is going down."""
        self._stopping = True
        self._wake_up.set()

    async def run(self, context: _Context) -> None:
        """Reads frames and writes responses until the client ends the stream.

        Raises:
            InvalidRequestError: A message is not a frame.
            ExpiredError: No frame came for too long.
            OverloadedError: The client did not read the responses.
            UnavailableError: The server is going down.
        """
        # Sent together with the first response, an error that cuts that response short would make
        # gRPC send the metadata twice, fail, and leave the client without a status.
        await context.send_initial_metadata(())
        tasks = [
            asyncio.create_task(self._read(context)),
            asyncio.create_task(self._respond(context)),
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
                    "camera %s: %d responses were never read",
                    self._settings.camera_id,
                    self._num_lost,
                )

    async def _read(self, context: _Context) -> None:
        while True:
            message = await read_within(context, self._idle_s, "frame")
            if message is END:
                self._ended = True
                self._ended_at = time.monotonic()
                self._wake_up.set()
                return
            if message.WhichOneof("message") != "frame":
                raise InvalidRequestError(
                    "message", "not a frame; expected the configuration once and then frames"
                )
            self._accept(message.frame)
            del message  # or it would be held until the next one comes
            if self._num_lost > MAX_LOST:
                raise OverloadedError(
                    f"{self._num_lost} responses were not read in time; expected a reader that "
                    "keeps up with its camera",
                    1.0,
                )

    def _accept(self, frame: service_pb2.Frame) -> None:
        if frame.frame_id < 0:
            self._put_invalid(frame, f"frame_id: {frame.frame_id}; expected at least 0")
            return
        if frame.frame_id <= self._last_id:
            self._put_dropped(frame, FrameStatus.OUT_OF_ORDER)
            return
        self._last_id = frame.frame_id
        try:
            image = read_image(frame.image, "image", self._runner.limits, self._settings.region)
        except InvalidRequestError as error:
            self._put_invalid(frame, str(error))
            return
        now = time.monotonic()
        arrival = Arrival(_without_image(frame), image, now, self._clock.taken_at(frame, now))
        superseded = self._newest.put(arrival)
        if superseded is not None:
            self._put_dropped(superseded.message, FrameStatus.SUPERSEDED)
        self._wake_up.set()

    async def _respond(self, context: _Context) -> None:
        while True:
            await self._write_responses(context)
            if self._stopping:
                raise UnavailableError("the server is going down; expected the camera to reconnect")
            if self._newest.waiting is not None:
                await self._classify_within_age(context)
                continue
            remaining_s = self._time_left_s()
            if remaining_s is not None and remaining_s <= 0:
                await self._time_out()
            elif self._responses:
                continue
            elif self._ended and (self._changes is None or self._changes.is_idle):
                return
            else:
                self._wake_up.clear()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(remaining_s):
                        await self._wake_up.wait()

    async def _write_responses(self, context: _Context) -> None:
        while self._responses:
            response = self._responses.popleft()
            self._mark_changes(response)
            await write_within(context, response, self._idle_s)
            self._left(response)

    async def _classify_within_age(self, context: _Context) -> None:
        """Classifies the newest frame, and reports a decision that becomes too old meanwhile."""
        remaining_s = self._frames.expires_in_s
        if remaining_s is None:
            await self._classify_newest()
            return
        classifying = asyncio.create_task(self._classify_newest())
        try:
            await asyncio.wait([classifying], timeout=max(0.0, remaining_s))
            if not classifying.done():
                self._put_expired()
                await self._write_responses(context)
            await classifying
        finally:
            if not classifying.done():
                classifying.cancel()
                await asyncio.gather(classifying, return_exceptions=True)

    def _mark_changes(self, response: service_pb2.ClassifyStreamResponse) -> None:
        """Marks what differs from the response before, as the client has read it."""
        smoothed = response.smoothed_decision, response.smoothed_label
        response.changed = smoothed != self._last_sent
        self._last_sent = smoothed
        if self._settings.options.faces is None:
            if response.changed and response.alert:
                self._observer.camera_alerted(self._model)
        elif response.status == service_pb2.FRAME_STATUS_CLASSIFIED:
            faces = response.prediction.faces
            for face in faces:
                face.changed = face.smoothed_label != self._last_sent_of.get(face.person, "")
                if face.changed and face.alert:
                    self._observer.camera_alerted(self._model)
            self._last_sent_of = {face.person: face.smoothed_label for face in faces}

    def _time_left_s(self) -> float | None:
        """Seconds until `_time_out` is due; None means never."""
        if self._ended:
            # The decision no longer matters; only explanations are waited for.
            if self._changes is None or self._changes.is_idle:
                return None
            return self._ended_at + EXPLAIN_AFTER_END_S - time.monotonic()
        return self._frames.expires_in_s

    async def _time_out(self) -> None:
        """Gives up explanations after the end, or a decision that is too old."""
        if self._ended and self._changes is not None:
            await self._changes.give_up()
            return
        self._frames.forget()
        self._put_expired()

    async def _classify_newest(self) -> None:
        self._move_to_newest_model()
        model, turn = self._model, Turn(self._newest, self._settings.max_age_s)
        try:
            result = await self._frames.classify(turn, model)
        except StaleFrameError:
            self._put_dropped(turn.arrival.message, FrameStatus.STALE)
        except InvalidRequestError as error:
            self._put_invalid(turn.arrival.message, str(error))
        except ModelOutputError as error:
            _log.error("camera %s: %s", self._settings.camera_id, error)
            self._frames.forget()
            self._put(turn.arrival.message, FrameStatus.FAILED, reason=str(error))
        except OverloadedError:
            if turn.is_quick:
                raise
            # No process can decode it.
            self._put_dropped(turn.arrival.message, FrameStatus.SUPERSEDED)
        else:
            self._put_classified(result, model)

    def _move_to_newest_model(self) -> None:
        """Switches to a new version; smoothing goes on if its labels are the same."""
        try:
            model = self._find_newest_model()
        except LimelensError:
            return
        if model is self._model:
            return
        self._frames.use_model(has_same_labels=model.bundle.labels == self._model.bundle.labels)
        _log.info("camera %s moves to version %d", self._settings.camera_id, model.version)
        self._model = model

    def _put_classified(self, result: FrameResult, model: ModelVersion) -> None:
        arrival, prediction = result.arrival, result.prediction
        self._classified_id = arrival.message.frame_id
        if result.runs:
            last = max(result.runs, key=lambda run: run.run_at + run.run_s)
            self._observer.frame_classified(
                FrameClassified(model, last, prediction, arrival.arrived_at)
            )
        response = self._response(arrival.message, FrameStatus.CLASSIFIED)
        response.prediction.CopyFrom(prediction_message(prediction))
        response.timings.CopyFrom(
            timings_message(result.runs, arrival.arrived_at, time.monotonic())
        )
        self._enqueue(response, FrameStatus.CLASSIFIED)
        for change in result.changes:
            self._explain(arrival, change, model)

    def _explain(self, arrival: Arrival, change: ChangedDecision, model: ModelVersion) -> None:
        explaining = self._settings.explaining
        if self._changes is None or explaining is None:
            return
        metadata = model.bundle.metadata
        if explaining.alerts_only and change.label not in metadata.alert_labels:
            return
        limits = self._runner.limits
        try:
            spec = read_change(explaining, metadata, limits, change.image, change.label)
        except InvalidRequestError as error:
            # The options suited the version that the stream began with, but not this one.
            failed = self._changes.result(change, ChangeStatus.FAILED, str(error))
            self._put_explanation(arrival.message, model, failed)
            return
        self._changes.add(Change(arrival.message, change, spec, model))

    def _put_explanation(
        self,
        frame: service_pb2.Frame,
        model: ModelVersion,
        explanation: service_pb2.ChangeExplanation,
    ) -> None:
        response = self._response(frame, FrameStatus.EXPLANATION)
        response.model.CopyFrom(model_ref(model))
        response.explanation.CopyFrom(explanation)
        self._enqueue(response, FrameStatus.EXPLANATION)

    def _put_expired(self) -> None:
        self._put(service_pb2.Frame(frame_id=self._classified_id), FrameStatus.DECISION_EXPIRED)

    def _put_invalid(self, frame: service_pb2.Frame, reason: str) -> None:
        self._put(frame, FrameStatus.INVALID, reason=reason)

    def _put_dropped(self, frame: service_pb2.Frame, status: FrameStatus) -> None:
        self._num_dropped += 1
        self._put(frame, status)

    def _put(self, frame: service_pb2.Frame, status: FrameStatus, *, reason: str = "") -> None:
        response = self._response(frame, status)
        response.reason = reason
        self._enqueue(response, status)

    def _response(
        self, frame: service_pb2.Frame, status: FrameStatus
    ) -> service_pb2.ClassifyStreamResponse:
        smoothed = self._frames.smoothed
        label = smoothed.label or ""
        alert = label in self._model.bundle.metadata.alert_labels
        response = service_pb2.ClassifyStreamResponse(
            frame_id=frame.frame_id,
            status=f"FRAME_STATUS_{status.name}",
            smoothed_decision=f"DECISION_{smoothed.decision.name}",
            smoothed_label=label,
            alert=alert,
            dropped_frames=self._num_dropped,
            model=model_ref(self._model),
            state=f"CAMERA_STATE_{state_of(smoothed.decision, alert=alert).name}",
        )
        if frame.HasField("capture_time"):
            response.capture_time.CopyFrom(frame.capture_time)
        return response

    def _enqueue(self, response: service_pb2.ClassifyStreamResponse, status: FrameStatus) -> None:
        if len(self._responses) >= MAX_UNREAD:
            lost = self._responses.popleft()
            self._num_lost += 1
            self._left(lost)
            self._observer.responses_lost(self._model, 1)
            if lost.status == service_pb2.FRAME_STATUS_CLASSIFIED:
                self._num_dropped += 1
        # The others do not respond to a frame.
        if status not in (FrameStatus.EXPLANATION, FrameStatus.DECISION_EXPIRED):
            self._observer.frame_ended(self._model, status)
        self._responses.append(response)
        self._wake_up.set()

    def _left(self, response: service_pb2.ClassifyStreamResponse) -> None:
        """Notes that a response was sent or dropped."""
        if self._changes is not None and response.explanation.HasField("explanation"):
            self._changes.was_read()


def _without_image(frame: service_pb2.Frame) -> service_pb2.Frame:
    light = service_pb2.Frame(frame_id=frame.frame_id)
    if frame.HasField("capture_time"):
        light.capture_time.CopyFrom(frame.capture_time)
    return light
