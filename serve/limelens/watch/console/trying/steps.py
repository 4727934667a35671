"""The steps of an explanation as images: how it was cut, and what covering its best parts does.

It knows pixels, segments and weights, and nothing of the model.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from limelens.serve import LabelExplanation, Region
from limelens.serve.image import UNSEEN, shrink

LONGEST: Final = 1024
"""Longer side of what is shown, in pixels; a server's renderings have the same."""

_NUM_COVERED: Final = 5  # as many as the overlay shows
_LINE: Final = (255, 214, 0)
_QUALITY: Final = 88


@dataclass(frozen=True, eq=False)
class Cut:
    """An image and its segments, in the size in which they are shown.

    Args:
        pixels: `(H, W, 3)` uint8, the upright image.
        segments: `(H, W)` ids; `UNSEEN` where the model did not look.
    """

    pixels: NDArray[np.uint8]
    segments: NDArray[np.uint16]

    @classmethod
    def of(cls, pixels: NDArray[np.uint8], segments: NDArray[np.uint16]) -> Cut:
        """Makes a large image and its segments smaller."""
        height, width = pixels.shape[:2]
        scale = min(1.0, LONGEST / max(height, width))
        size = max(1, round(scale * height)), max(1, round(scale * width))
        nearest = Image.fromarray(segments).resize((size[1], size[0]), Image.Resampling.NEAREST)
        small = pixels if size == (height, width) else shrink(pixels, *size)
        return cls(small, np.asarray(nearest))

    @property
    def seen(self) -> Region:
        """The part of the image that the model looked at."""
        rows, columns = np.nonzero(self.segments != UNSEEN)
        height, width = self.segments.shape
        return Region(
            columns.min() / width,
            rows.min() / height,
            (columns.max() + 1) / width,
            (rows.max() + 1) / height,
        )

    def outlined(self) -> NDArray[np.uint8]:
        """`(H, W, 3)` uint8, the image with the borders of its segments."""
        ids = self.segments
        edge = np.zeros(ids.shape, dtype=np.bool_)
        edge[1:] |= ids[1:] != ids[:-1]
        edge[:, 1:] |= ids[:, 1:] != ids[:, :-1]
        if min(ids.shape) > LONGEST // 2:  # a line of one pixel would be lost where it is shown
            edge[:-1] |= edge[1:]
        drawn = self.pixels.copy()
        drawn[edge] = _LINE
        return drawn

    def covered(self, one: LabelExplanation, *, only: bool = False) -> NDArray[np.uint8]:
        """`(H, W, 3)` uint8, the image without the segments that speak most for a label.

        Args:
            one: The label's explanation.
            only: Whether to cover all others in their place.
        """
        strongest = [each.segment for each in one.weights if each.weight > 0][:_NUM_COVERED]
        chosen = np.isin(self.segments, strongest)
        seen = self.segments != UNSEEN
        hidden = (seen & ~chosen) if only else chosen
        drawn = self.pixels.copy()
        drawn[hidden] = np.rint(self.pixels[seen].mean(axis=0)).astype(np.uint8)
        return drawn


def as_jpeg(pixels: NDArray[np.uint8]) -> bytes:
    """The file of an image that is shown."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=_QUALITY)
    return file.getvalue()
