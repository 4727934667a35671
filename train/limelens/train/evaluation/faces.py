"""A bundle on the faces of whole photographs, as it is used at a door.

It knows bundles, detectors and images. It does not know metrics.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from limelens.serve.bundle import Bundle
from limelens.serve.faces.classifying import classify_faces, find_faces
from limelens.serve.faces.detector import load_detector
from limelens.serve.faces.judging import index_of_worst
from limelens.serve.faces.options import DEFAULT_DETECTOR, FaceOptions
from limelens.serve.faces.quality import FoundFace
from limelens.serve.image import read_image
from limelens.train.data.examples import Example

WhichFace = Literal["largest", "worst"]


@dataclass(frozen=True)
class FaceChoice:
    """Which face of a photograph has its label.

    Args:
        which: The largest, or the worst: an alert before one without a decision before others.
        detector: As for `load_detector`.
        options: Which faces to look for.
    """

    which: WhichFace = "largest"
    detector: str | Path = DEFAULT_DETECTOR
    options: FaceOptions = field(default_factory=FaceOptions)


@dataclass(frozen=True, eq=False)
class FaceRows:
    """What a bundle says of the chosen faces.

    Args:
        examples: Those with a face that can be judged.
        probabilities: `(N, C)` float32, of one face each.
        not_found: Those in which no face was found.
        not_judged: Those whose faces are all too small, cut off or blurred.
    """

    examples: tuple[Example, ...]
    probabilities: NDArray[np.float32]
    not_found: tuple[Example, ...]
    not_judged: tuple[Example, ...]


def classify_chosen_faces(
    bundle: Bundle, examples: Sequence[Example], choice: FaceChoice
) -> FaceRows:
    """Classifies one face of each photograph.

    Raises:
        BundleError: There is no such detector.
        MissingExtraError: The package of the detector is not installed.
    """
    detector = load_detector(choice.detector)
    kept: list[Example] = []
    rows: list[list[float]] = []
    not_found: list[Example] = []
    not_judged: list[Example] = []
    for example in examples:
        pixels = read_image(example.path.read_bytes())
        found = find_faces(detector, pixels, choice.options)
        judged = [one for one in found if one.issue is None]
        if not found:
            not_found.append(example)
        elif not judged:
            not_judged.append(example)
        else:
            kept.append(example)
            rows.append(_row(bundle, pixels, judged, choice.which))
    probabilities = np.array(rows, np.float32).reshape(-1, len(bundle.labels))
    return FaceRows(tuple(kept), probabilities, tuple(not_found), tuple(not_judged))


def _row(
    bundle: Bundle, pixels: NDArray[np.uint8], judged: list[FoundFace], which: WhichFace
) -> list[float]:
    """The probabilities of one of the faces, the largest of which comes first."""
    chosen = judged[:1] if which == "largest" else judged
    labels = bundle.labels
    found = classify_faces(chosen, pixels, bundle.metadata, bundle.predict, top_k=len(labels))
    face = found.faces[index_of_worst(found.faces)]
    by_label = {score.label: score.probability for score in face.prediction.scores}
    return [by_label[label] for label in labels]
