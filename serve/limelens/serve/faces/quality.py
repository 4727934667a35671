"""Whether a face can be judged at all: too small, cut off by the image's edge, or blurred.

It knows a box and the pixels in it, and nothing of models. If there is an issue, the decision about
the face is to abstain.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from limelens.serve.decisions.decision import FaceIssue
from limelens.serve.faces.boxes import Face

_SIDE: Final = 48
"""Sharpness is measured at one size, in pixels, so that it means the same for all faces."""
_LEAST_CONTRAST: Final = 1.0
"""Standard deviation in grey levels below which there is nothing but a camera's noise."""


@dataclass(frozen=True, slots=True)
class FoundFace:
    """A face that was found, and why it cannot be judged; None if it can."""

    face: Face
    issue: FaceIssue | None = None


@dataclass(frozen=True, slots=True)
class QualityGate:
    """What a face must be to be judged.

    By default the shipped face-mask model judges nine of ten faces right, or more, at each bound,
    as `python -m benchmarks.faces --only finding quality` measures on validation images.

    Args:
        min_size_px: Longer side of its box, in pixels of the image.
        min_visible: Share of its box that lies within the image, 0 to 1.
        min_sharpness: See `sharpness`; 0 accepts all.
    """

    min_size_px: float = 32.0
    min_visible: float = 0.7
    min_sharpness: float = 0.035

    def check(self, faces: Iterable[Face], pixels: NDArray[np.uint8]) -> list[FoundFace]:
        """What is wrong with each face; arguments as for `issue`."""
        return [FoundFace(face, self.issue(face, pixels)) for face in faces]

    def issue(self, face: Face, pixels: NDArray[np.uint8]) -> FaceIssue | None:
        """What is wrong with a face; None if it can be judged.

        Args:
            face: In pixels of the image.
            pixels: The image, `(H, W, 3)` uint8 RGB.
        """
        height, width = pixels.shape[:2]
        if face.size_px < self.min_size_px:
            return FaceIssue.TOO_SMALL
        if face.visible_share(height, width) < self.min_visible:
            return FaceIssue.CUT_OFF
        if self.min_sharpness > 0 and sharpness(face, pixels) < self.min_sharpness:
            return FaceIssue.BLURRED
        return None


def sharpness(face: Face, pixels: NDArray[np.uint8]) -> float:
    """The share of a face's contrast that lies in its finest details, 0 to about 1.

    The face is scaled to 48 pixels; then the standard deviation of its Laplacian (Pech-Pacheco et
    al., 2000, use its variance) is divided by that of its grey values, so that dim light and low
    contrast do not pass for blur.

    Args:
        face: In pixels of the image.
        pixels: The image, `(H, W, 3)` uint8 RGB.

    Returns:
        The share; 1 if there is no contrast that could be blurred.
    """
    height, width = pixels.shape[:2]
    left, top, right, bottom = face.region(0.0, height, width).box(height, width)
    crop = Image.fromarray(np.ascontiguousarray(pixels[top:bottom, left:right]))
    small = crop.resize((_SIDE, _SIDE), Image.Resampling.BILINEAR).convert("L")
    grey = np.asarray(small, np.float32)
    inner = grey[1:-1, 1:-1]
    contrast = float(inner.std())
    if contrast < _LEAST_CONTRAST:
        return 1.0
    around = grey[:-2, 1:-1] + grey[2:, 1:-1] + grey[1:-1, :-2] + grey[1:-1, 2:]
    return float((around / 4 - inner).std() / contrast)
