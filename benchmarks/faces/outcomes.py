"""What a detector and a classifier make of frames whose faces are known.

Detectors run as on a server: the frame is fitted to their input, repeats are suppressed, faces that
cannot be judged are told by the quality gate, and the classifier sees each face with a margin.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray

from benchmarks.faces.frames import Frame, TrueFace
from limelens.serve import Bundle
from limelens.serve.decisions.decision import FaceIssue, decide
from limelens.serve.faces.boxes import Face, overlaps
from limelens.serve.faces.detector import FaceDetector
from limelens.serve.faces.options import FaceOptions
from limelens.serve.faces.quality import QualityGate
from limelens.serve.image import fit

_LEAST_OVERLAP: Final = 0.3
"""Intersection over union from which a box is that of a face: detectors differ in tightness."""
_LEAST_SCORE: Final = 0.05


@dataclass(frozen=True)
class Outcome:
    """A known face.

    Args:
        face: The face.
        score: The detector's; 0 if it did not find the face.
        issue: Why the quality gate refuses it; None if it does not.
        labels: By margin: the model's decision; None where it abstained. Empty if not found.
    """

    face: TrueFace
    score: float
    issue: FaceIssue | None = None
    labels: Mapping[float, str | None] = field(default_factory=dict)


@dataclass(frozen=True)
class FalseFace:
    """A box where there is no face, and the model's decision about it."""

    score: float
    label: str | None


@dataclass(eq=False)
class Outcomes:
    """Of many frames, for one detector.

    Args:
        threshold: The detector's; outcomes and false faces below it are kept too.
    """

    threshold: float
    num_frames: int = 0
    faces: list[Outcome] = field(default_factory=list)
    false_faces: list[FalseFace] = field(default_factory=list)

    def found(self, faces: Iterable[Outcome] | None = None) -> list[Outcome]:
        """Those that reach the threshold."""
        return [one for one in (self.faces if faces is None else faces) if self.is_found(one)]

    def is_found(self, outcome: Outcome | FalseFace) -> bool:
        """Whether it reaches the threshold."""
        return outcome.score >= self.threshold

    def false_per_frame(self, threshold: float | None = None) -> float:
        """Boxes without a face a frame."""
        least = self.threshold if threshold is None else threshold
        return sum(one.score >= least for one in self.false_faces) / max(1, self.num_frames)


def outcomes(
    frames: Iterable[Frame],
    detectors: Mapping[str, FaceDetector],
    classifier: Bundle,
    *,
    min_size_px: int,
    margins: Sequence[float],
    margin: float,
    gate: QualityGate,
) -> dict[str, Outcomes]:
    """Runs each detector on each frame.

    Args:
        frames: In any order.
        detectors: By name.
        classifier: Judges the faces.
        min_size_px: Smaller boxes are left out.
        margins: To judge the found faces with.
        margin: To judge false faces with.
        gate: Says which faces cannot be judged.
    """
    found = {
        name: Outcomes(detector.bundle.metadata.threshold) for name, detector in detectors.items()
    }
    options = FaceOptions(min_size_px=min_size_px, threshold=_LEAST_SCORE)
    for frame in frames:
        for name, detector in detectors.items():
            boxes = detector.detect(frame.pixels, options)
            partners = matches(frame.faces, boxes)
            _add(found[name], frame, boxes, partners, classifier, margins, margin, gate)
    return found


def matches(true: Sequence[TrueFace], found: Sequence[Face]) -> list[int | None]:
    """For each known face the index of its box; each box belongs to one face at most.

    Of the pairs that overlap enough, those that overlap most go first.
    """
    partners: list[int | None] = [None] * len(true)
    if not true or not found:
        return partners
    shared = overlaps(
        np.array([one.box for one in true]),
        np.array([(one.left, one.top, one.right, one.bottom) for one in found]),
    )
    while shared.max() >= _LEAST_OVERLAP:
        row, column = divmod(int(shared.argmax()), len(found))
        partners[row] = column
        shared[row, :] = shared[:, column] = 0
    return partners


def labels_of(
    pixels: NDArray[np.uint8], faces: Sequence[Face], margin: float, classifier: Bundle
) -> list[str | None]:
    """The model's decision about each face; None where it abstains."""
    if not faces:
        return []
    height, width = pixels.shape[:2]
    rule = classifier.metadata.resize
    crops = [fit(pixels, rule, face.region(margin, height, width)).pixels for face in faces]
    probabilities = classifier.predict(np.stack(crops))
    return [decide(row, classifier.metadata).label for row in probabilities]


def _add(
    to: Outcomes,
    frame: Frame,
    boxes: Sequence[Face],
    partners: Sequence[int | None],
    classifier: Bundle,
    margins: Sequence[float],
    margin: float,
    gate: QualityGate,
) -> None:
    to.num_frames += 1
    true = [index for index in partners if index is not None]
    faces = [boxes[index] for index in true]
    by_margin = {one: labels_of(frame.pixels, faces, one, classifier) for one in margins}
    judged = iter(range(len(faces)))
    for face, partner in zip(frame.faces, partners, strict=True):
        if partner is None:
            to.faces.append(Outcome(face, 0.0))
            continue
        place = next(judged)
        labels = {one: by_margin[one][place] for one in margins}
        box = boxes[partner]
        to.faces.append(Outcome(face, box.score, gate.issue(box, frame.pixels), labels))
    others = [box for index, box in enumerate(boxes) if index not in true]
    decisions = labels_of(frame.pixels, others, margin, classifier)
    to.false_faces += [
        FalseFace(box.score, label) for box, label in zip(others, decisions, strict=True)
    ]


def is_right(outcome: Outcome, margin: float) -> bool:
    """Whether a found face got its label."""
    return outcome.labels.get(margin) == outcome.face.label
