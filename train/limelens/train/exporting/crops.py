"""How much a classifier of faces should see around a face: measured on validation images.

A detector finds the faces, and the classifier judges them with several margins. It knows nothing of
how either was trained.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import sqrt
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from limelens.serve.bundle import Bundle, Task
from limelens.serve.faces.boxes import Face
from limelens.serve.faces.detector import FaceDetector
from limelens.serve.image import fit, read_image
from limelens.train.data.examples import Example, targets_of
from limelens.train.exporting.graph import ExportError

AUTO: Final = "auto"
MARGINS: Final = (0.0, 0.1, 0.2, 0.35, 0.5, 0.8)
"""On each side of a face's box, as fractions of its width and height."""
MIN_FACES: Final = 20
"""Fewer faces say nothing about margins."""


@dataclass(frozen=True)
class CropChoice:
    """A margin, and what led to it.

    Args:
        margin: The smallest of `MARGINS` among the best.
        accuracy: By margin, 0 to 1.
        num_faces: How many validation images a face was found in.
    """

    margin: float
    accuracy: Mapping[float, float]
    num_faces: int

    def to_json(self) -> dict[str, Any]:
        """For a model's card."""
        by_margin = {f"{margin:g}": accuracy for margin, accuracy in self.accuracy.items()}
        return {"num_faces": self.num_faces, "accuracy": by_margin}


def choose_crop(bundle: Bundle, examples: Sequence[Example], detector: FaceDetector) -> CropChoice:
    """Chooses the margin around faces for a multiclass bundle.

    The best margins are those whose accuracy is at most one standard error of a proportion below
    the highest one; of these the smallest leaves out most of what is not the face.

    Args:
        bundle: Judges the largest face of each image.
        examples: Readable, and not those that it was trained on.
        detector: Finds the faces.

    Raises:
        ExportError: The bundle is multilabel, or fewer than `MIN_FACES` images have a face.
    """
    if bundle.task is not Task.MULTICLASS:
        raise ExportError(
            f"crop margin {AUTO!r} compares accuracies, and {bundle.name} is {bundle.task}; "
            "expected a number"
        )
    probabilities: dict[float, list[NDArray[np.float32]]] = {margin: [] for margin in MARGINS}
    faces = []
    for example in examples:
        pixels = read_image(example.path.read_bytes())
        found = detector.detect(pixels)
        if not found:
            continue
        faces.append(example)
        for margin, crop in zip(MARGINS, _crops(bundle, pixels, found[0]), strict=True):
            probabilities[margin].append(bundle.predict(crop[np.newaxis])[0])
    if len(faces) < MIN_FACES:
        raise ExportError(
            f"the detector finds a face in {len(faces)} of {len(examples)} validation images; "
            f"expected at least {MIN_FACES} to choose a crop margin: name one, such as 0.35"
        )
    targets = targets_of(faces, len(bundle.labels))
    accuracy = {
        margin: float((np.argmax(rows, axis=1) == targets).mean())
        for margin, rows in probabilities.items()
    }
    best = max(accuracy.values())
    least = best - sqrt(best * (1 - best) / len(faces))
    margin = next(margin for margin in MARGINS if accuracy[margin] >= least)
    return CropChoice(margin, accuracy, len(faces))


def _crops(bundle: Bundle, pixels: NDArray[np.uint8], face: Face) -> list[NDArray[np.uint8]]:
    """A face as the classifier sees it, for each of `MARGINS`."""
    height, width = pixels.shape[:2]
    rule = bundle.metadata.resize
    return [fit(pixels, rule, face.region(margin, height, width)).pixels for margin in MARGINS]
