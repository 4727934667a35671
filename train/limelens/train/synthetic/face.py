"""Where the parts of a face lie, from its two eyes and the turn of its head.

Knows the shape of a head and its projection; does not find faces and draws nothing.

Lengths in "face units" are multiples of the distance between the eyes of a face seen from the
front: x to the right, y down, z towards the viewer, the origin midway between the eyes.
"""

from dataclasses import dataclass
from math import cos, dist, isfinite, sin
from typing import Final

import numpy as np
from numpy.typing import NDArray

from limelens.train.synthetic.painting import Floats

MAX_YAW_RADIANS: Final = 0.85
"""The turn of a head whose yaw is 1."""
FRONT: Final = 0.30
"""z in face units of the face's surface on the line through nose and chin."""

# The surface bulges towards the viewer as z = FRONT - _CURVE * x**2.
_CURVE: Final = 0.75
# Points around the face in face units, and their depth.
_RIM: Final = np.array(
    [
        (-1, 0.3),
        (1, 0.3),
        (0, -0.9),
        (0, 1.75),
        (-0.75, 1.2),
        (0.75, 1.2),
        (-0.8, -0.5),
        (0.8, -0.5),
    ]
)
_RIM_DEPTH: Final = -0.25


@dataclass(frozen=True)
class Face:
    """Where an upright face is: two eyes, from which nose, mouth and chin follow.

    Args:
        left_eye: x, y in pixels of the eye at the image's left (the person's right eye).
        right_eye: x, y in pixels of the other eye.
        yaw: Turn of the head, -1 to 1; positive if the nose points to the image's right;
            1 is about 49 degrees.

    Raises:
        ValueError: A number is not finite, the eyes are swapped, or the yaw is out of range.
    """

    left_eye: tuple[float, float]
    right_eye: tuple[float, float]
    yaw: float = 0.0

    def __post_init__(self) -> None:
        if not all(isfinite(v) for v in (*self.left_eye, *self.right_eye, self.yaw)):
            raise ValueError(f"Face needs finite numbers; got {self!r}")
        if self.left_eye[0] >= self.right_eye[0]:
            raise ValueError(
                f"left_eye is {self.left_eye!r} and right_eye {self.right_eye!r}; left_eye is the"
                " one at the image's left: swap them"
            )
        if not -1.0 <= self.yaw <= 1.0:
            raise ValueError(f"yaw is {self.yaw!r}; it goes from -1 to 1")

    @classmethod
    def from_box(cls, x: float, y: float, width: float, height: float) -> "Face":
        """A level face inside a frontal-face detector's box, given in pixels.

        Raises:
            ValueError: The box is empty.
        """
        if width <= 0 or height <= 0:
            raise ValueError(f"Box is {width!r}x{height!r} pixels; both must be over 0")
        eyes_y = y + 0.385 * height
        return cls((x + 0.295 * width, eyes_y), (x + 0.715 * width, eyes_y))

    @classmethod
    def posed(
        cls, centre: tuple[float, float], unit: float, roll: float, yaw: float = 0.0
    ) -> "Face":
        """The face whose properties of these names have these values."""
        half = unit * cos(MAX_YAW_RADIANS * yaw) / 2
        (x, y), dx, dy = centre, half * cos(roll), half * sin(roll)
        return cls((x - dx, y - dy), (x + dx, y + dy), yaw)

    @property
    def centre(self) -> tuple[float, float]:
        """x, y in pixels of the point midway between the eyes."""
        (left_x, left_y), (right_x, right_y) = self.left_eye, self.right_eye
        return (left_x + right_x) / 2, (left_y + right_y) / 2

    @property
    def roll(self) -> float:
        """Angle of the line through the eyes in radians; positive when the right one is lower."""
        return float(np.arctan2(*np.subtract(self.right_eye, self.left_eye)[::-1]))

    @property
    def unit(self) -> float:
        """Pixels per face unit: the distance of the eyes if the head looked straight ahead."""
        return dist(self.left_eye, self.right_eye) / cos(self.yaw * MAX_YAW_RADIANS)

    @property
    def mouth(self) -> tuple[float, float]:
        """x, y in pixels of the middle of the mouth."""
        x, y = self.to_pixels(np.array([[0.0, 1.02]]), FRONT)[0].tolist()
        return x, y

    @property
    def box(self) -> tuple[float, float, float, float]:
        """Left, top, right and bottom in pixels of the face, from the hairline to the chin."""
        points = self.to_pixels(_RIM, _RIM_DEPTH)
        (left, top), (right, bottom) = points.min(axis=0).tolist(), points.max(axis=0).tolist()
        return left, top, right, bottom

    def scaled(self, factor: float) -> "Face":
        """The same face in an image resized by a factor."""
        (lx, ly), (rx, ry) = self.left_eye, self.right_eye
        return Face((lx * factor, ly * factor), (rx * factor, ry * factor), self.yaw)

    def mirrored(self, width: int) -> "Face":
        """The same face in the image, `width` pixels wide, after mirroring."""
        (lx, ly), (rx, ry) = self.left_eye, self.right_eye
        return Face((width - rx, ry), (width - lx, ly), -self.yaw)

    def to_pixels(self, points: NDArray[np.floating], depth: float | None = None) -> Floats:
        """Where `(N, 2)` points in face units lie in the image, `(N, 2)` x and y in pixels.

        Args:
            points: x and y in face units.
            depth: z in face units of all of them; None puts them on the face's surface.
        """
        turn = self.yaw * MAX_YAW_RADIANS
        x = np.asarray(points[:, 0], dtype=np.float32)
        y = np.asarray(points[:, 1], dtype=np.float32)
        if depth is None:
            if abs(turn) > 1e-3:
                # Beyond the silhouette the surface would fold back over itself.
                rim = cos(turn) / (2 * _CURVE * abs(sin(turn)))
                x = np.minimum(x, rim) if turn > 0 else np.maximum(x, -rim)
            z = FRONT - _CURVE * x * x
        else:
            z = np.full_like(x, depth)
        across = x * cos(turn) + z * sin(turn)
        c, s = cos(self.roll), sin(self.roll)
        centre_x, centre_y = self.centre
        column = centre_x + self.unit * (across * c - y * s)
        row = centre_y + self.unit * (across * s + y * c)
        return np.stack([column, row], axis=1).astype(np.float32)

    def from_pixels(self, x: Floats, y: Floats) -> tuple[Floats, Floats]:
        """The inverse of `to_pixels` on the face's surface; x and y are broadcast."""
        c, s = cos(self.roll), sin(self.roll)
        dx = (x - self.centre[0]) / self.unit
        dy = (y - self.centre[1]) / self.unit
        across = dx * c + dy * s
        down = dy * c - dx * s
        turn = self.yaw * MAX_YAW_RADIANS
        # across = x cos(turn) + (FRONT - _CURVE x^2) sin(turn), solved for the visible root.
        rest = FRONT * sin(turn) - across
        root = np.sqrt(np.maximum(cos(turn) ** 2 + 4 * _CURVE * sin(turn) * rest, 0.0))
        return (-2 * rest / (cos(turn) + root)).astype(np.float32), down.astype(np.float32)
