"""Where a segment is, in words: 'lower middle of the face: +0.25 for without_mask'.

It knows segments, weights, the box of a face, and English. Left and right are those of the image.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

import numpy as np
from numpy.typing import NDArray

from limelens.serve.client.results import LabelExplanation, ServedExplanation
from limelens.serve.image import UNSEEN, Region

POOR_FIT: Final = 0.3
"""Below this R² single weights mean little; an explanation also warns below it."""
LOW_STABILITY: Final = 0.7
"""Below this share of the strongest segments would stay with another seed."""
_CLEAR: Final = 2.0
"""Standard errors from zero."""
_VISIBLE: Final = 0.0005
"""Smaller weights are 0.000 in print, and their sign is chance."""
_MOST: Final = 0.6
_RING: Final = 0.1
"""A segment that has less of itself than this in the middle, and reaches far, lies around it."""
_WIDE: Final = 0.6


class Whole(StrEnum):
    """What a place is a part of."""

    FACE = "face"
    IMAGE = "image"
    REGION = "region"  # the part of the image that the camera looks at


class Place(StrEnum):
    """Where in the whole."""

    UPPER_LEFT = "upper_left"
    UPPER_MIDDLE = "upper_middle"
    UPPER_RIGHT = "upper_right"
    MIDDLE_LEFT = "middle_left"
    MIDDLE = "middle"
    MIDDLE_RIGHT = "middle_right"
    LOWER_LEFT = "lower_left"
    LOWER_MIDDLE = "lower_middle"
    LOWER_RIGHT = "lower_right"
    MOST = "most"  # it covers most of the whole
    EDGES = "edges"  # it lies around the middle, as a background does
    ABOVE = "above"  # outside the face, like those that follow
    BELOW = "below"
    LEFT_OF = "left_of"
    RIGHT_OF = "right_of"


_ROWS: Final = (
    (Place.UPPER_LEFT, Place.UPPER_MIDDLE, Place.UPPER_RIGHT),
    (Place.MIDDLE_LEFT, Place.MIDDLE, Place.MIDDLE_RIGHT),
    (Place.LOWER_LEFT, Place.LOWER_MIDDLE, Place.LOWER_RIGHT),
)
_WORDS: Final = {
    Place.MOST: "most of",
    Place.EDGES: "edges of",
    Place.ABOVE: "above",
    Place.BELOW: "below",
    Place.LEFT_OF: "left of",
    Place.RIGHT_OF: "right of",
}


@dataclass(frozen=True, slots=True)
class RegionInWords:
    """One segment for people.

    Args:
        segment: Its id.
        place: Where it is.
        whole: What it is a part of.
        weight: How the probability changes once it is visible.
        std_error: Of the weight.
        label: The label that a positive weight speaks for.
        against: For a contrast the label that a negative weight speaks for; otherwise None.
    """

    segment: int
    place: Place
    whole: Whole
    weight: float
    std_error: float
    label: str
    against: str | None = None

    @property
    def where(self) -> str:
        """`lower middle of the face`."""
        words = _WORDS.get(self.place) or f"{self.place.replace('_', ' ')} of"
        return f"{words} the {self.whole}"

    @property
    def is_clear(self) -> bool:
        """Whether the weight differs from zero by more than its error explains."""
        return abs(self.weight) > _CLEAR * self.std_error

    @property
    def sentence(self) -> str:
        """`lower middle of the face: +0.25 for without_mask`."""
        if self.weight >= 0:
            side = f"for {self.label}"
        else:
            side = f"against {self.label}" if self.against is None else f"for {self.against}"
        return f"{self.where}: {self.weight:+.2f} {side}"


def strongest_regions(
    found: ServedExplanation, one: LabelExplanation, limit: int = 5
) -> tuple[RegionInWords, ...]:
    """The strongest segments of one label in words, strongest first.

    Args:
        found: The explanation, with segments; with the face if it is about one.
        one: One of its labels.
        limit: How many at most.

    Returns:
        Empty if the explanation has no segments, or no weight that shows in three digits.
    """
    segments = found.segments()
    if segments is None:
        return ()
    place_of = _Places(segments, None if found.face is None else found.face.box)
    regions: list[RegionInWords] = []
    for weight in one.weights:
        if len(regions) == limit or abs(weight.weight) < _VISIBLE:
            break
        where = place_of(weight.segment)
        if where is not None:
            regions.append(
                RegionInWords(
                    weight.segment, *where, weight.weight, weight.std_error, one.label, one.against
                )
            )
    return tuple(regions)


def doubts(found: ServedExplanation, one: LabelExplanation) -> tuple[str, ...]:
    """Why an explanation is not reliable, a sentence each; empty if nothing speaks against it."""
    return tuple(_doubts(found.warnings, one))


def _doubts(warnings: Sequence[str], one: LabelExplanation) -> Iterator[str]:
    # Those about other labels say nothing of this one.
    own = [
        text
        for text in warnings
        if not text.startswith("Label ") or text.startswith(f"Label {one.label!r}:")
    ]
    if not one.score >= POOR_FIT and not any("R²" in text for text in own):  # NaN too
        yield f"The fit (R²) is {one.score:.2f}, below {POOR_FIT:g}: single weights mean little."
    if not one.stability >= LOW_STABILITY and not any("stability" in text for text in own):
        yield (
            f"The stability is {one.stability:.2f}, below {LOW_STABILITY:g}: another seed would "
            "name other regions."
        )
    if one.weights and not any(abs(w.weight) > _CLEAR * w.std_error for w in one.weights):
        yield "No region's weight differs from zero by more than its error."
    yield from own


class _Places:
    """Names the places of segments, which lie in the face or else in what the model saw.

    Args:
        segments: `(H, W)` ids; `UNSEEN` where the model saw nothing.
        face: The face that is explained; None if it is about no face.
    """

    def __init__(self, segments: NDArray[np.uint16], face: Region | None) -> None:
        self._segments = segments
        height, width = segments.shape
        if face is not None:
            self._whole, self._box = Whole.FACE, face.box(height, width)
            return
        rows, columns = np.nonzero(segments != UNSEEN)
        if not len(rows):
            self._whole, self._box = Whole.IMAGE, (0, 0, width, height)
            return
        self._box = (
            int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1,
        )  # fmt: skip
        is_all = (self._box[2] - self._box[0]) * (self._box[3] - self._box[1]) >= height * width
        self._whole = Whole.IMAGE if is_all else Whole.REGION

    def __call__(self, segment: int) -> tuple[Place, Whole] | None:
        """Where a segment is; None if no pixel has it."""
        rows, columns = np.nonzero(self._segments == segment)
        if not len(rows):
            return None
        left, top, right, bottom = self._box
        # Of pixels' centres, in fractions of the box.
        x = (columns + 0.5 - left) / (right - left)
        y = (rows + 0.5 - top) / (bottom - top)
        return _place(x, y, (right - left) * (bottom - top)), self._whole


def _place(x: NDArray[np.float64], y: NDArray[np.float64], area: int) -> Place:
    """The place of a segment's pixels, in fractions of a whole of `area` pixels."""
    across, down = float(x.mean()), float(y.mean())
    beyond = {
        Place.ABOVE: -down,
        Place.BELOW: down - 1,
        Place.LEFT_OF: -across,
        Place.RIGHT_OF: across - 1,
    }
    farthest = max(beyond, key=beyond.__getitem__)
    if beyond[farthest] > 0:
        return farthest
    in_middle = (abs(x - 0.5) < 1 / 6) & (abs(y - 0.5) < 1 / 6)
    if min(np.ptp(x), np.ptp(y)) > _WIDE and in_middle.mean() < _RING:
        return Place.EDGES
    inside = (x >= 0) & (x <= 1) & (y >= 0) & (y <= 1)
    if inside.sum() >= _MOST * area:
        return Place.MOST
    return _ROWS[min(2, int(3 * down))][min(2, int(3 * across))]
