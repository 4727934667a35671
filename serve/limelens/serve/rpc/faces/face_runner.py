"""Finds the faces in images, and has the classifier judge them: one way for all RPCs.

Both networks run in the engines, so deadlines, priorities, cancelling and the limits of the queue
hold as for whole images. It does not know messages; what numbers mean is up to
`limelens.serve.faces`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, replace
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from limelens.serve.access.shares import holder
from limelens.serve.bundle import Bundle, Metadata
from limelens.serve.decisions.decision import FacePrediction, Prediction
from limelens.serve.errors import LimelensError, NotOfferedError
from limelens.serve.faces.boxes import Face
from limelens.serve.faces.judging import crop_of, judge, of_faces
from limelens.serve.faces.options import FaceOptions
from limelens.serve.faces.quality import FoundFace, QualityGate
from limelens.serve.image import ResizeRule, fit
from limelens.serve.image.encoded import EncodedImage
from limelens.serve.rpc.faces.frame import Frame
from limelens.serve.rpc.slow_images import inspect
from limelens.serve.scheduling.inference import InferenceResult, PendingImage, Priority
from limelens.serve.scheduling.turns import Turns

if TYPE_CHECKING:
    from limelens.serve.explaining.spec import ExplainSpec
    from limelens.serve.faces.detector import FaceDetector
    from limelens.serve.rpc.model_runner import ModelRunner
    from limelens.serve.rpc.requests.faces import WantedFace


@dataclass(frozen=True, slots=True, eq=False)
class FoundFaces:
    """The faces of one frame, the largest first; `result` is the detector's, for its times."""

    frame: Frame
    faces: tuple[FoundFace, ...]
    result: InferenceResult


@dataclass(frozen=True, slots=True, eq=False)
class ClassifiedFaces:
    """The faces of one image, the largest first, and what the classifier gave for them.

    Args:
        size: Height and width of the upright image.
        found: The faces.
        results: One for each face without an issue.
        detection: The detector's result, for its times.
    """

    size: tuple[int, int]
    found: tuple[FoundFace, ...]
    results: tuple[InferenceResult, ...]
    detection: InferenceResult

    @property
    def runs(self) -> list[InferenceResult]:
        """The results of both networks, for their times."""
        return [self.detection, *self.results]

    def prediction(
        self, metadata: Metadata, *, top_k: int = 0, threshold: float | None = None
    ) -> Prediction:
        """Decides about each face and the image; arguments as for `decide`."""
        rows = [one.probabilities for one in self.results]
        faces = judge(self.found, rows, metadata, self.size, top_k=top_k, threshold=threshold)
        return of_faces(faces, metadata, threshold)


@dataclass(frozen=True, slots=True, eq=False)
class _Crop:
    """A `PendingImage`: a face and what is around it, as the classifier is shown it."""

    frame: Frame
    face: Face
    bundle: Bundle

    @property
    def is_quick(self) -> bool:
        return self.frame.is_quick

    def fitted(self, rule: ResizeRule) -> NDArray[np.uint8]:
        pixels = self.frame.read()
        height, width = pixels.shape[:2]
        region = crop_of(self.face, self.bundle.metadata, height, width)
        return fit(pixels, rule, region).pixels


class FaceRunner:
    """Runs the detector and, on what it finds, classifiers.

    Args:
        runner: Has the engines and what limits them.
        detector: The detector, or the error that callers get because there is none.
        gate: Which faces can be judged.
    """

    def __init__(
        self,
        runner: ModelRunner,
        detector: FaceDetector | LimelensError | None,
        gate: QualityGate = QualityGate(),  # noqa: B008 - it is immutable
    ) -> None:
        self._runner = runner
        self._detector = detector
        self._gate = gate
        most = runner.settings.max_waiting_bytes
        # Bytes of decoded images. Two, so that no camera waits for the large images of requests.
        self._pixels = Turns(most, most_each=most - most // 4)
        self._frame_pixels = Turns(most, most_each=most - most // 4)

    def require(self) -> FaceDetector:
        """The detector.

        Raises:
            LimelensError: This server has none; the message says why.
        """
        match self._detector:
            case None:
                raise NotOfferedError("this server looks for no faces (--face-detector none)")
            case LimelensError() as error:
                raise type(error)(str(error))
            case detector:
                return detector

    async def classify(
        self,
        bundle: Bundle,
        images: Sequence[EncodedImage],
        options: FaceOptions,
        *,
        deadline: float | None = None,
    ) -> list[ClassifiedFaces]:
        """Waits for the faces in the images of one request, and for the numbers of each.

        Pixels are held only for as many images at a time as the server's memory allows.

        Raises:
            InvalidImageError: An image cannot be decoded.
            OverloadedError: The queue is full, or the client holds more than its share.
            ExpiredError: The deadline passed first.
            LimelensError: There is no detector.
        """
        self.require()
        done: list[ClassifiedFaces] = []
        with self._runner.shares.holding(len(images)):
            await inspect(images)
            while len(done) < len(images):
                group, num_bytes = self._group(images[len(done) :])
                async with self._pixels.holding(holder(), num_bytes):
                    done += await self._classify(bundle, group, options, deadline)
        return done

    def _group(self, images: Sequence[EncodedImage]) -> tuple[list[Frame], int]:
        """The first images whose pixels may be held together, and how many bytes these are."""
        group: list[Frame] = []
        num_bytes = 0
        for image in images:
            if not self._pixels.fits(num_bytes, image.decoded_bytes):
                break
            num_bytes += image.decoded_bytes
            group.append(Frame(image))
        return group, num_bytes

    async def _classify(
        self, bundle: Bundle, frames: list[Frame], options: FaceOptions, deadline: float | None
    ) -> list[ClassifiedFaces]:
        found = await self.find(frames, options, deadline=deadline)
        judged = [
            (one.frame, face.face) for one in found for face in one.faces if face.issue is None
        ]
        results = iter(await self.judge(bundle, judged, deadline=deadline))
        return [
            ClassifiedFaces(
                one.frame.size,
                one.faces,
                tuple(islice(results, sum(face.issue is None for face in one.faces))),
                one.result,
            )
            for one in found
        ]

    async def choose(
        self, bundle: Bundle, spec: ExplainSpec, wanted: WantedFace, *, deadline: float | None
    ) -> tuple[ExplainSpec, FacePrediction]:
        """Waits for the face that is to be explained.

        Returns:
            How to explain it: its crop is the image's region. And the decision about it.

        Raises:
            InvalidRequestError: There is no such face.
            LimelensError: As `classify`.
        """
        (found,) = await self.classify(bundle, [spec.image], wanted.options, deadline=deadline)
        faces = found.prediction(bundle.metadata).faces
        index = wanted.choose(faces)
        region = crop_of(found.found[index].face, bundle.metadata, *found.size)
        return replace(spec, image=replace(spec.image, region=region)), faces[index]

    async def find(
        self,
        frames: Sequence[Frame],
        options: FaceOptions,
        *,
        priority: Priority = Priority.REQUEST,
        deadline: float | None = None,
    ) -> list[FoundFaces]:
        """Waits for the faces in some images, in their order; each then has its pixels.

        Args:
            frames: Slow ones are decoded in another process.
            options: Which faces to look for.
            priority: As for `Engine.classify`, and so is `deadline`.
            deadline: By `time.monotonic`; None means never.

        Raises:
            LimelensError: As `Engine.classify`; or there is no detector.
        """
        detector = self.require()
        bundle = detector.bundle
        images = await self._runner.slow_images.decoded(frames, bundle.metadata.resize)
        results = await self._runner.engine(bundle).classify(
            bundle, images, priority=priority, deadline=deadline, embed=True
        )

        def faces_of(frame: Frame, result: InferenceResult) -> tuple[FoundFace, ...]:
            pixels, places = frame.read(), result.embedding
            assert places is not None  # it was requested
            height, width = pixels.shape[:2]
            faces = detector.faces(
                result.probabilities, places, (height, width), options, frame.region
            )
            return tuple(self._gate.check(faces, pixels))

        def found() -> list[FoundFaces]:
            pairs = zip(frames, results, strict=True)
            return [FoundFaces(frame, faces_of(frame, one), one) for frame, one in pairs]

        # A few milliseconds for large faces, which the event loop cannot spare.
        done = await asyncio.to_thread(found)
        if issues := [face.issue for one in done for face in one.faces]:
            self._runner.observer.faces_found(issues)
        return done

    def holding(self, num_bytes: int) -> AbstractAsyncContextManager[None]:
        """Waits until so many bytes of pixels may be held, for a stream's frame."""
        return self._frame_pixels.holding(holder(), num_bytes)

    async def check(self, frame: Frame, faces: Sequence[Face]) -> list[FoundFace]:
        """Which of the faces, found by anything else, can be judged; the frame has its pixels."""
        return await asyncio.to_thread(self._gate.check, faces, frame.read())

    async def judge(
        self,
        bundle: Bundle,
        faces: Sequence[tuple[Frame, Face]],
        *,
        priority: Priority = Priority.REQUEST,
        deadline: float | None = None,
    ) -> list[InferenceResult]:
        """Waits for a classifier's numbers for some faces, in their order.

        The faces may come from `find`, or from anything else that knows where they are; frames
        without pixels are decoded. Takes and raises what `find` does, but is never refused: the
        images that hold the faces were accepted before.
        """
        if not faces:
            return []
        crops: Sequence[PendingImage] = [_Crop(frame, face, bundle) for frame, face in faces]
        crops = await self._runner.slow_images.decoded(crops, bundle.metadata.resize)
        return await self._runner.engine(bundle).classify(
            bundle, crops, priority=priority, deadline=deadline, continues=True
        )
