"""Renders portraits: a person before a background, as a camera sees them.

It knows how people are framed in the images that others collect. What they look like, what is
behind them and what the camera does are drawn by `people`, `backgrounds` and `camera`. Everything
random comes from the generator that is handed in.
"""

from dataclasses import dataclass
from math import cos, sin

import numpy as np
from PIL import Image

from limelens.train.synthetic.backgrounds import random_background
from limelens.train.synthetic.camera import photograph
from limelens.train.synthetic.canvas import FaceCanvas
from limelens.train.synthetic.distractors import draw_distractor
from limelens.train.synthetic.face import MAX_YAW_RADIANS, Face
from limelens.train.synthetic.painting import Pixels
from limelens.train.synthetic.people import draw_person

_SUPERSAMPLING = 2


@dataclass(frozen=True)
class Portrait:
    """A rendered person.

    Attributes:
        image: `(H, W, 3)` uint8 RGB, 0 to 255.
        face: Where the face is in it; the eyes are always inside of the image.
    """

    image: Pixels
    face: Face


def render_face(rng: np.random.Generator, size: int | tuple[int, int] = 160) -> Pixels:
    """An image of a person without a mask.

    Args:
        rng: Where everything about the image comes from.
        size: Pixels of a square's side, or (height, width); 16 or more.

    Returns:
        `(H, W, 3)` uint8 RGB, 0 to 255.

    Raises:
        ValueError: A side is under 16 pixels.
    """
    return render_portrait(rng, size).image


def render_portrait(
    rng: np.random.Generator,
    size: int | tuple[int, int] = 160,
    *,
    unit: tuple[float, float] | None = None,
) -> Portrait:
    """As `render_face`, together with where the face is.

    Args:
        rng: Where everything about the image comes from.
        size: Pixels of a square's side, or (height, width); 16 or more.
        unit: Least and largest distance between the eyes, as a share of the shorter side; None
            lets it vary from half-length to a crop inside of the head.

    Raises:
        ValueError: A side is under 16 pixels.
    """
    portrait = draw_portrait(rng, height_width(size), unit)
    return Portrait(photograph(portrait.image, rng), portrait.face)


def draw_portrait(
    rng: np.random.Generator, size: tuple[int, int], unit: tuple[float, float] | None = None
) -> Portrait:
    """As `render_portrait`, before a camera saw it: evenly exposed, sharp and without noise.

    Args:
        rng: Where everything about the image comes from.
        size: Height and width in pixels, 16 or more each.
        unit: As for `render_portrait`.
    """
    height, width = size
    face = _pose(rng, height, width, unit)
    background = Image.fromarray(random_background(rng, height, width))
    large = background.resize(
        (width * _SUPERSAMPLING, height * _SUPERSAMPLING), Image.Resampling.BILINEAR
    )
    draw_person(FaceCanvas(large, face.scaled(_SUPERSAMPLING)), rng)
    image = np.asarray(large.reduce(_SUPERSAMPLING))
    if rng.random() < 0.16:
        image = draw_distractor(image, face, rng, "beard")
    return Portrait(image, face)


def height_width(size: int | tuple[int, int]) -> tuple[int, int]:
    """Both sides of an image in pixels.

    Raises:
        ValueError: A side is under 16 pixels.
    """
    height, width = (size, size) if isinstance(size, int) else size
    if min(height, width) < 16:
        raise ValueError(f"Size is {height}x{width} pixels; each side needs 16 or more")
    return height, width


def _pose(
    rng: np.random.Generator, height: int, width: int, share: tuple[float, float] | None
) -> Face:
    """Framing from a crop inside of the head to half-length; the mouth is in the image."""
    side = min(height, width)
    # As in the images that people collect, most faces fill the frame.
    low, high = share or ((0.28, 0.50) if rng.random() < 0.6 else (0.10, 0.28))
    unit = side * float(rng.uniform(low, high))
    yaw = float(np.clip(rng.normal(0, 0.3), -0.8, 0.8))
    roll = float(np.clip(rng.normal(0, 0.12), -0.4, 0.4))
    between = unit * cos(MAX_YAW_RADIANS * yaw)
    # Where the eyes may go so that they and the mouth stay inside.
    x_low, x_high = min(1.1 * unit, 0.45 * width), max(width - 1.1 * unit, 0.55 * width)
    y_low, y_high = min(0.9 * unit, 0.3 * height), height - 1.7 * unit
    if y_high <= y_low:
        y_low = y_high = max(0.25 * unit, (y_low + y_high) / 2)
    x = width / 2 + (x_high - x_low) * 0.5 * float(np.clip(rng.normal(0, 0.3), -1, 1))
    y = y_low + (y_high - y_low) * float(rng.beta(2, 3))
    dx, dy = between / 2 * cos(roll), between / 2 * sin(roll)
    return Face((x - dx, y - dy), (x + dx, y + dy), yaw)
