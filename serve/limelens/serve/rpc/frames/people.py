"""The people in a stream's frames: each face is classified, each person's decision smoothed.

A frame goes to the engines twice: the worker whose turn it is takes the newest frame, decodes it
and runs the detector; then its faces go before whatever has not begun. No thread waits in between.
A frame in which nothing moved ends once it is decoded, one in which nobody is followed before.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from limelens.serve.decisions.decision import Decision, FacePrediction, spoken_label
from limelens.serve.faces.judging import crop_of, judge, judge_one, of_faces
from limelens.serve.faces.motion import MotionGate
from limelens.serve.faces.options import FaceOptions
from limelens.serve.faces.people import People, Person, Presence
from limelens.serve.faces.quality import FoundFace
from limelens.serve.image import Region
from limelens.serve.repository.model_version import ModelVersion
from limelens.serve.rpc.faces.face_runner import FaceRunner
from limelens.serve.rpc.faces.frame import Frame
from limelens.serve.rpc.frames.frame_classifier import (
    UNKNOWN,
    ChangedDecision,
    FrameClassifier,
    FrameResult,
    Smoothed,
)
from limelens.serve.rpc.frames.turn import Arrival, Turn
from limelens.serve.rpc.requests.stream import StreamSettings
from limelens.serve.scheduling.inference import InferenceResult, NotNeededError, Priority


class _StillFrameError(NotNeededError):
    """Nothing moved since a frame whose faces are known."""


class _GatedImage:
    """The image of a turn, as long as it differs from the last one that was looked at."""

    def __init__(self, turn: Turn, gate: MotionGate | None) -> None:
        self._turn = turn
        self._gate = gate

    @property
    def is_quick(self) -> bool:
        return self._turn.is_quick

    @property
    def region(self) -> Region | None:
        return self._turn.arrival.image.region

    def read(self) -> NDArray[np.uint8]:
        pixels = self._turn.take().read()
        if self._gate is not None:
            seen = pixels
            if self.region is not None:
                left, top, right, bottom = self.region.box(*pixels.shape[:2])
                seen = pixels[top:bottom, left:right]
            if not self._gate.moved(seen, self._turn.arrival.taken_at, self.region):
                raise _StillFrameError
        return pixels


@dataclass(frozen=True, slots=True, eq=False)
class _JudgedFaces:
    """What was seen in a frame.

    Args:
        people: Whose faces these are.
        faces: One for each of the people.
        results: What the classifier gave for each face without an issue.
        runs: Of all networks, for their times.
    """

    people: Sequence[Person]
    faces: Sequence[FoundFace]
    results: Sequence[InferenceResult]
    runs: Sequence[InferenceResult]


class PeopleFrames(FrameClassifier):
    """Finds, follows and judges the people in the frames of one stream.

    Args:
        settings: Of the stream.
        options: Which faces to look for.
        runner: Runs the detector and the classifier.

    Raises:
        LimelensError: This server looks for no faces.
    """

    def __init__(self, settings: StreamSettings, options: FaceOptions, runner: FaceRunner) -> None:
        super().__init__(settings.max_decision_age_s)
        self._settings = settings.options
        self._options = options
        self._runner = runner
        runner.require()
        self._people = People(settings.new_smoothing, max_unseen_s=options.max_unseen_s)
        self._gate = MotionGate() if options.skip_still_frames else None
        self._size = (0, 0)  # of the last frame, in which the people's places are
        self._num_followed = 0  # frames since faces were looked for
        self._must_look = True
        self._last: list[tuple[Person, FacePrediction]] = []
        self._smoothed = UNKNOWN

    async def classify(self, turn: Turn, model: ModelVersion) -> FrameResult:
        """See `FrameClassifier`."""
        if self._is_too_old():
            self.forget()
        frame = Frame(_GatedImage(turn, self._gate))
        try:
            async with self._runner.holding(turn.decoded_bytes):
                if self._must_look or self._num_followed + 1 >= self._options.detect_every:
                    looked = await self._find(frame, turn, model)
                else:
                    looked = await self._follow(frame, turn, model)
        except _StillFrameError:
            return self._repeat(turn.arrival, model)
        except BaseException:
            # What moved since the last frame that was classified is not known.
            self._look_next()
            raise
        judged = judge(
            looked.faces,
            [one.probabilities for one in looked.results],
            model.bundle.metadata,
            self._size,
            top_k=self._settings.top_k,
            threshold=self._settings.threshold,
        )
        self._last = list(zip(looked.people, judged, strict=True))
        return self._result(turn.arrival, model, self._last, looked.runs)

    def forget(self) -> None:
        """See `FrameClassifier`; everybody is forgotten."""
        self._people.forget()
        self._last = []
        self._smoothed = UNKNOWN
        self._look_next()

    def use_model(self, *, has_same_labels: bool) -> None:
        """See `FrameClassifier`; people keep their numbers."""
        self._look_next()
        if not has_same_labels:
            self._people.forget_decisions()
            self._smoothed = UNKNOWN

    def _current(self) -> Smoothed:
        return self._smoothed

    def _look_next(self) -> None:
        """Looks for faces in the next frame, whatever it shows."""
        self._must_look = True
        if self._gate is not None:
            self._gate.forget()

    async def _find(self, frame: Frame, turn: Turn, model: ModelVersion) -> _JudgedFaces:
        """Looks for faces."""
        [found] = await self._runner.find([frame], self._options, priority=Priority.FRAME)
        results = await self._judged(frame, found.faces, model)
        if frame.size != self._size:
            self._people.forget()  # their places mean nothing here
            self._size = frame.size
        people = self._people.find([one.face for one in found.faces], turn.arrival.taken_at)
        self._must_look, self._num_followed = False, 0
        return _JudgedFaces(people, found.faces, results, [found.result, *results])

    async def _follow(self, frame: Frame, turn: Turn, model: ModelVersion) -> _JudgedFaces:
        """Expects people where they were going."""
        now = turn.expected_at
        expected = self._people.expect(now)
        if not expected:
            turn.take().check()
            self._num_followed += 1
            return _JudgedFaces([], [], [], [])
        # The first face's worker takes the frame and decodes it; none waits for that.
        first = [(frame, expected[0])]
        runs = await self._runner.judge(model.bundle, first, priority=Priority.FRAME)
        if frame.size != self._size:
            return await self._find(frame, turn, model)
        faces = await self._runner.check(frame, expected)
        others = await self._judged(frame, faces[1:], model)
        people = self._people.follow(now)
        self._num_followed += 1
        runs += others
        return _JudgedFaces(people, faces, runs if faces[0].issue is None else others, runs)

    async def _judged(
        self, frame: Frame, faces: Sequence[FoundFace], model: ModelVersion
    ) -> list[InferenceResult]:
        """The classifier's result for each face without an issue."""
        crops = [(frame, one.face) for one in faces if one.issue is None]
        return await self._runner.judge(model.bundle, crops, priority=Priority.FRAME)

    def _repeat(self, arrival: Arrival, model: ModelVersion) -> FrameResult:
        """A frame like the one before, with the same faces and the same said of them."""
        stayed = {*self._people.stay(arrival.taken_at)}
        self._last = [pair for pair in self._last if pair[0] in stayed]
        return self._result(arrival, model, self._last, ())

    def _result(
        self,
        arrival: Arrival,
        model: ModelVersion,
        judged: Sequence[tuple[Person, FacePrediction]],
        runs: Sequence[InferenceResult],
    ) -> FrameResult:
        """Counts what is said of the people of a frame."""
        metadata, threshold = model.bundle.metadata, self._settings.threshold
        alert_labels = metadata.alert_labels
        changed: list[Person] = []
        for person, face in judged:
            if face.issue is None:
                label = spoken_label(face.prediction, alert_labels)
                is_alert = label in alert_labels
                if self._people.decide(person, label, arrival.taken_at, is_alert=is_alert):
                    changed.append(person)
        if self._people.is_unsure:
            self._look_next()
        self._classified_at = time.monotonic()
        worst = self._people.worst(alert_labels)
        if worst.label is not None:
            self._smoothed = Smoothed(Decision.LABEL, worst.label)
        else:
            self._smoothed = UNKNOWN if worst.is_anybody else Smoothed(Decision.NO_FACE)

        seen = dict(judged)
        faces = {
            person: replace(
                seen.get(person)
                or judge_one(
                    FoundFace(person.face), None, metadata, self._size, threshold=threshold
                ),
                person=person.number,
                smoothed_label=person.label,
                alert=person.label in alert_labels,
                seen=person.presence is Presence.FOUND,
            )
            for person in sorted(self._people.present, key=lambda one: -one.face.size_px)
        }
        largest_first = sorted(judged, key=lambda pair: -pair[0].face.size_px)
        prediction = of_faces([face for _, face in largest_first], metadata, threshold)
        changes = [
            ChangedDecision(
                person.label,
                replace(arrival.image, region=crop_of(person.face, metadata, *self._size)),
                faces[person],
            )
            for person in changed
            if person.label is not None
        ]
        return FrameResult(
            arrival, replace(prediction, faces=tuple(faces.values())), list(runs), changes
        )
