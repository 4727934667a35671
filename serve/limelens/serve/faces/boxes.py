"""Boxes of faces: overlap, suppression of repeats, and the part of the image around them.

It knows rectangles in pixels, and nothing of pixels themselves or of what found the boxes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from limelens.serve.image import Region

DEFAULT_MARGIN: Final = 0.35
"""What a classifier is shown around a face if its metadata name no `crop`."""


@dataclass(frozen=True, slots=True)
class Face:
    """A face in an upright image.

    Args:
        left: In pixels from the image's left edge; it may lie outside of the image.
        top: In pixels from the image's upper edge, likewise.
        right: In pixels, above `left`.
        bottom: In pixels, above `top`.
        score: How sure the detector is, 0 to 1.
    """

    left: float
    top: float
    right: float
    bottom: float
    score: float

    @property
    def size_px(self) -> float:
        """The longer side, in pixels."""
        return max(self.right - self.left, self.bottom - self.top)

    def region(self, margin: float, height: int, width: int) -> Region:
        """The part of the image that a classifier is shown.

        Args:
            margin: Added on each side, as a fraction of the box's width and height; 0 or more.
            height: Of the image, in pixels.
            width: Of the image, in pixels.

        Returns:
            The widened box, cut at the image's edges; at least one pixel.
        """
        x, y = margin * (self.right - self.left), margin * (self.bottom - self.top)
        left = min(max(0.0, self.left - x), width - 1)
        top = min(max(0.0, self.top - y), height - 1)
        right = max(min(width, self.right + x), left + 1)
        bottom = max(min(height, self.bottom + y), top + 1)
        return Region(left / width, top / height, right / width, bottom / height)

    def visible_share(self, height: int, width: int) -> float:
        """How much of the box lies within the image, 0 to 1."""
        x = min(self.right, width) - max(self.left, 0)
        y = min(self.bottom, height) - max(self.top, 0)
        area = (self.right - self.left) * (self.bottom - self.top)
        return float(max(x, 0) * max(y, 0) / area)


def overlaps(first: NDArray[np.floating], second: NDArray[np.floating]) -> NDArray[np.float64]:
    """Intersection over union of every box with every other.

    Args:
        first: `(N, 4)` left, top, right, bottom.
        second: `(M, 4)` likewise.

    Returns:
        `(N, M)`, 0 to 1.
    """
    a, b = np.asarray(first, np.float64)[:, np.newaxis], np.asarray(second, np.float64)[np.newaxis]
    sides = np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2])
    shared = np.prod(np.maximum(sides, 0), axis=-1)
    areas = np.prod(a[..., 2:] - a[..., :2], axis=-1) + np.prod(b[..., 2:] - b[..., :2], axis=-1)
    return np.asarray(shared / np.maximum(areas - shared, 1e-9))


def suppress_repeats(
    boxes: NDArray[np.floating], scores: NDArray[np.floating], max_overlap: float = 0.4
) -> NDArray[np.intp]:
    """Non-maximum suppression: of boxes that overlap, the one with the best score stays.

    Args:
        boxes: `(N, 4)` left, top, right, bottom.
        scores: `(N,)`.
        max_overlap: Intersection over union above which two boxes are the same face.

    Returns:
        Indices of the boxes that stay, best score first.
    """
    order = np.argsort(-scores, kind="stable")
    overlap = overlaps(boxes, boxes)
    kept: list[int] = []
    while len(order):
        best, order = order[0], order[1:]
        kept.append(int(best))
        order = order[overlap[best, order] <= max_overlap]
    return np.array(kept, dtype=np.intp)
