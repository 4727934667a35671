"""An explained image as the page shows it: what the model looked at, in segments, in several ways.

It knows pixels, segments and weights, and nothing of the model.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from limelens.explain.drawing.overlay import overlay
from limelens.serve import LabelExplanation, Region
from limelens.serve.image import UNSEEN, shrink

LONGEST: Final = 1024
"""Longer side of what is shown, in pixels."""

_SHORTEST: Final = 480  # a small face is enlarged to this longer side, so that borders are fine
_MARGIN: Final = 0.25  # of what the model looked at, shown around it
_NUM_COVERED: Final = 5  # as many as the overlay shows
_LINE: Final = (255, 214, 0)
_QUALITY: Final = 88


@dataclass(frozen=True, eq=False)
class Cut:
    """What is shown of an image, and its segments.

    Args:
        pixels: `(H, W, 3)` uint8.
        segments: `(H, W)` ids; `UNSEEN` where the model did not look.
    """

    pixels: NDArray[np.uint8]
    segments: NDArray[np.uint16]

    @classmethod
    def of(cls, pixels: NDArray[np.uint8], segments: NDArray[np.uint16]) -> Cut:
        """What the model looked at and a little around it, as large as it is shown.

        Args:
            pixels: `(H, W, 3)` uint8, the upright image.
            segments: `(H, W)` ids.
        """
        rows, columns = _shown(segments)
        pixels, segments = pixels[rows, columns], segments[rows, columns]
        height, width = segments.shape
        longer = max(height, width)
        scale = min(1.0, LONGEST / longer) if longer >= _SHORTEST else _SHORTEST / longer
        if scale == 1.0:
            return cls(pixels, segments)
        size = max(1, round(scale * height)), max(1, round(scale * width))
        if scale < 1:
            pixels = shrink(pixels, *size)
        else:
            larger = Image.fromarray(pixels).resize(size[::-1], Image.Resampling.BICUBIC)
            pixels = np.asarray(larger)
        nearest = Image.fromarray(segments).resize(size[::-1], Image.Resampling.NEAREST)
        return cls(pixels, np.asarray(nearest))

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        height, width = self.segments.shape
        return height, width

    @property
    def seen(self) -> Region:
        """The part of it that the model looked at."""
        top, bottom, left, right = _seen(self.segments)
        height, width = self.size
        return Region(left / width, top / height, right / width, bottom / height)

    def marks(self, strongest: Sequence[int]) -> tuple[tuple[int, int, int], ...]:
        """Number, x and y, in pixels, of each of the strongest segments that has pixels."""
        places = [_centre(self.segments, segment) for segment in strongest]
        return tuple((n, *place) for n, place in enumerate(places, 1) if place is not None)

    def overlay(self, one: LabelExplanation) -> NDArray[np.uint8]:
        """`(H, W, 3)` uint8, the image with a label's strongest segments."""
        weights = {each.segment: each.weight for each in one.weights}
        return overlay(self.pixels, self.segments, weights, legend=False)

    def outlined(self) -> NDArray[np.uint8]:
        """`(H, W, 3)` uint8, the image with the borders of its segments."""
        ids = self.segments
        edge = np.zeros(ids.shape, dtype=np.bool_)
        edge[1:] |= ids[1:] != ids[:-1]
        edge[:, 1:] |= ids[:, 1:] != ids[:, :-1]
        if max(ids.shape) > LONGEST // 2:  # a line of one pixel would be lost where it is shown
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


def _centre(segments: NDArray[np.uint16], segment: int) -> tuple[int, int] | None:
    """The segment's pixel nearest to its middle, which may be outside of a bent segment."""
    y, x = np.nonzero(segments == segment)
    if y.size == 0:
        return None
    nearest = int(np.argmin((y - y.mean()) ** 2 + (x - x.mean()) ** 2))
    return int(x[nearest]), int(y[nearest])


def _seen(segments: NDArray[np.uint16]) -> tuple[int, int, int, int]:
    """First row, last row + 1, first column, last column + 1 of what the model looked at."""
    is_seen = segments != UNSEEN
    rows, columns = np.flatnonzero(is_seen.any(axis=1)), np.flatnonzero(is_seen.any(axis=0))
    if not rows.size:
        return 0, segments.shape[0], 0, segments.shape[1]
    return int(rows[0]), int(rows[-1]) + 1, int(columns[0]), int(columns[-1]) + 1


def _shown(segments: NDArray[np.uint16]) -> tuple[slice, slice]:
    """The rows and the columns that are shown."""
    height, width = segments.shape
    top, bottom, left, right = _seen(segments)
    down, across = round(_MARGIN * (bottom - top)), round(_MARGIN * (right - left))
    return (
        slice(max(0, top - down), min(height, bottom + down)),
        slice(max(0, left - across), min(width, right + across)),
    )
