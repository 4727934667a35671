"""What a detector learns from: images, and where the faces in them are.

Knows boxes and how they move when an image is cut, scaled or mirrored; does not know where the
images come from.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]
Boxes = NDArray[np.float32]
"""`(N, 4)`: left, top, right and bottom in pixels."""
Find = Callable[[Pixels], tuple[Boxes, NDArray[np.float32]]]
"""From an image to boxes of faces and their scores, 0 to 1, each face once."""


def no_boxes() -> Boxes:
    """`(0, 4)`."""
    return np.zeros((0, 4), dtype=np.float32)


@dataclass(frozen=True, eq=False)
class Photograph:
    """An image, and the faces in it.

    Args:
        pixels: `(H, W, 3)` RGB, 0 to 255.
        faces: Tight boxes, from the forehead to the chin.
        unsure: Boxes of what may be a face or not; nothing is learned there.
        masked: Whether the people wear masks.
    """

    pixels: Pixels
    faces: Boxes = field(default_factory=no_boxes)
    unsure: Boxes = field(default_factory=no_boxes)
    masked: bool = False


@dataclass(frozen=True, eq=False)
class Frame:
    """A composed image; its boxes end where the image ends.

    Args:
        image: `(H, W, 3)` RGB, 0 to 255.
        faces: Tight boxes of all faces that a detector must find.
        unsure: Boxes of what it may find or not.
        masked: `(N,)` bool: which of the faces wear masks.
    """

    image: Pixels
    faces: Boxes
    unsure: Boxes
    masked: NDArray[np.bool_]


@dataclass(frozen=True)
class Sources:
    """What frames are composed of.

    Args:
        masked: Photographs of people with masks.
        bare: Photographs of people without.
        drawn: Drawn people, with and without.
        backgrounds: Images without people.
    """

    masked: Sequence[Photograph]
    bare: Sequence[Photograph]
    drawn: Sequence[Photograph]
    backgrounds: Sequence[Photograph]


def moved(boxes: Boxes, scale: tuple[float, float], shift: tuple[float, float]) -> Boxes:
    """Boxes after x and y were multiplied by `scale`, and `shift` was added."""
    factors, offsets = (np.array([*pair, *pair], dtype=np.float32) for pair in (scale, shift))
    return boxes * factors + offsets


def mirrored(boxes: Boxes, width: float) -> Boxes:
    """Boxes of an image, `width` pixels wide, after it was mirrored."""
    result = boxes.copy()
    result[:, 0], result[:, 2] = width - boxes[:, 2], width - boxes[:, 0]
    return result


def clipped(boxes: Boxes, width: float, height: float) -> tuple[Boxes, NDArray[np.float32]]:
    """The parts of boxes that are inside an image, and which share of each that is."""
    inside: Boxes = np.clip(boxes, 0, np.array([width, height, width, height], dtype=np.float32))
    shares = areas(inside) / np.maximum(areas(boxes), 1e-6)
    return inside, shares.astype(np.float32)


def areas(boxes: Boxes) -> NDArray[np.float32]:
    """`(N,)` square pixels; 0 for an empty box."""
    sides = np.maximum(boxes[:, 2:] - boxes[:, :2], 0)
    result: NDArray[np.float32] = sides[:, 0] * sides[:, 1]
    return result
