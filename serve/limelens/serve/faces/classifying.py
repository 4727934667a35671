"""Finds the faces of one image and classifies each, in the calling thread.

A server does the same in its engines; see `limelens.serve.rpc.faces`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np
from numpy.typing import NDArray

from limelens.serve.bundle import Metadata
from limelens.serve.decisions.decision import Prediction
from limelens.serve.faces.detector import FaceDetector
from limelens.serve.faces.judging import crop_of, judge, of_faces
from limelens.serve.faces.options import FaceOptions
from limelens.serve.faces.quality import FoundFace, QualityGate
from limelens.serve.image import Region, fit

_GATE: Final = QualityGate()


def find_faces(
    detector: FaceDetector,
    pixels: NDArray[np.uint8],
    options: FaceOptions,
    region: Region | None = None,
) -> list[FoundFace]:
    """The faces of one image, the largest first, and which of them can be judged.

    Args:
        detector: Finds them.
        pixels: The upright image, `(H, W, 3)` uint8 RGB.
        options: Which faces to look for.
        region: The part to look in; None is everything.
    """
    return _GATE.check(detector.detect(pixels, options, region), pixels)


def classify_faces(
    found: list[FoundFace],
    pixels: NDArray[np.uint8],
    metadata: Metadata,
    predict: Callable[[NDArray[np.uint8]], NDArray[np.float32]],
    *,
    top_k: int = 0,
    threshold: float | None = None,
) -> Prediction:
    """The prediction for an image by its faces, which it holds; see `of_faces`.

    Args:
        found: The faces.
        pixels: The upright image, `(H, W, 3)` uint8 RGB.
        metadata: The classifier's.
        predict: The classifier: `(N, height, width, 3)` uint8 to `(N, C)` probabilities.
        top_k: As for `decide`, and so is `threshold`.
        threshold: None is the classifier's own.
    """
    height, width = pixels.shape[:2]
    crops = [
        fit(pixels, metadata.resize, crop_of(one.face, metadata, height, width)).pixels
        for one in found
        if one.issue is None
    ]
    rows = predict(np.stack(crops)) if crops else ()
    faces = judge(found, rows, metadata, (height, width), top_k=top_k, threshold=threshold)
    return of_faces(faces, metadata, threshold)
