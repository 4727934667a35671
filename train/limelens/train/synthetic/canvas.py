"""Draws shapes on an image in face units (see `synthetic.face`), and light and shade over them.

Knows where points of a face lie in the image; does not know what a person looks like.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageChops, ImageDraw, ImageFilter

from limelens.train.synthetic.face import Face
from limelens.train.synthetic.painting import RGB

Points = NDArray[np.floating] | Sequence[tuple[float, float]]
"""`(N, 2)` x and y in face units."""
Lines = Sequence[tuple[Points, RGB]]

_NEUTRAL = 128
# Shade is soft: a quarter of the resolution is plenty.
_SHADE_SCALE = 4


class FaceCanvas:
    """Flat shapes on an RGB image, and one soft map of light and shade to lay over them.

    A `depth` is z in face units; None puts points on the face's surface.
    """

    def __init__(self, image: Image.Image, face: Face) -> None:
        self.face = face
        self._image = image
        self._draw = ImageDraw.Draw(image)
        small = max(1, image.width // _SHADE_SCALE), max(1, image.height // _SHADE_SCALE)
        self._shade = Image.new("L", small, _NEUTRAL)
        self._shade_draw = ImageDraw.Draw(self._shade)

    def polygon(self, points: Points, fill: RGB, depth: float | None = None) -> None:
        """Fills a polygon."""
        self._draw.polygon(self._placed(points, depth), fill=fill)

    def line(self, points: Points, fill: RGB, width: float, depth: float | None = None) -> None:
        """Draws a line, `width` face units thick."""
        thick = max(1, round(width * self.face.unit))
        self._draw.line(self._placed(points, depth), fill=fill, width=thick, joint="curve")

    def strands(self, points: Points, fill: RGB, lines: Lines, width: float, depth: float) -> None:
        """Fills a polygon, and draws lines of other colours that end at its outline."""
        outline = Image.new("1", self._image.size, 0)
        ImageDraw.Draw(outline).polygon(self._placed(points, depth), fill=1)
        mass = Image.new("RGB", self._image.size, fill)
        draw = ImageDraw.Draw(mass)
        thick = max(1, round(width * self.face.unit))
        for line, colour in lines:
            draw.line(self._placed(line, depth), fill=colour, width=thick)
        self._image.paste(mass, (0, 0), outline)

    def tone(self, points: Points, value: int, depth: float | None = None) -> None:
        """Darkens (under 128) or lightens a polygon, softly, once `lit` is called."""
        placed = [(x / _SHADE_SCALE, y / _SHADE_SCALE) for x, y in self._placed(points, depth)]
        self._shade_draw.polygon(placed, fill=value)

    def lit(
        self, lamp: float, from_above: float, hardness: float, rng: np.random.Generator
    ) -> None:
        """Lays the tones, a lamp and some grain over the drawing so far.

        Brightness grows by the share `lamp` with each face unit to the right, and by `from_above`
        with each unit up; `hardness` is the contrast of the tones.
        """
        radius = 0.075 * self.face.unit / _SHADE_SCALE
        soft = self._shade.filter(ImageFilter.GaussianBlur(radius))
        width, height = soft.size
        centre_x, centre_y = self.face.centre
        x = (np.arange(width, dtype=np.float32) * _SHADE_SCALE - centre_x) / self.face.unit
        y = (np.arange(height, dtype=np.float32) * _SHADE_SCALE - centre_y) / self.face.unit - 0.5
        light = 1 + lamp * x.clip(-2, 2)[None, :] - from_above * y.clip(-2, 2)[:, None]
        values = (np.asarray(soft, dtype=np.float32) - _NEUTRAL) * hardness + _NEUTRAL
        values = values * light.clip(0.4, 1.5) + rng.normal(0, 3.0, (height, width)).astype(
            np.float32
        )
        shade = Image.fromarray(values.clip(0, 255).astype(np.uint8))
        large = shade.resize(self._image.size, Image.Resampling.BILINEAR)
        # Half of it, twice: the neutral tone leaves a pixel unchanged.
        dark = ImageChops.multiply(self._image, large.convert("RGB"))
        self._image.paste(ImageChops.add(dark, dark))

    def _placed(self, points: Points, depth: float | None) -> list[tuple[float, float]]:
        placed = self.face.to_pixels(np.asarray(points, dtype=np.float32), depth)
        return [(x, y) for x, y in placed.tolist()]


def ellipse(
    x: float, y: float, half_x: float, half_y: float, power: float = 2.0
) -> NDArray[np.float64]:
    """`(24, 2)` points around x, y; a power over 2 makes the ellipse squarer."""
    t = np.linspace(0, 2 * np.pi, 24, endpoint=False)
    c, s = np.cos(t), np.sin(t)
    across, down = (np.sign(v) * np.abs(v) ** (2 / power) for v in (c, s))
    return np.stack([x + half_x * across, y + half_y * down], axis=1)


def dome(wide: float, base: float, high: float) -> NDArray[np.float64]:
    """`(25, 2)` points of the upper half of a broad ellipse, from left to right."""
    t = np.linspace(np.pi, 2 * np.pi, 25)
    c, s = np.cos(t), np.sin(t)
    return np.stack([wide * np.sign(c) * np.abs(c) ** 0.78, base - high * np.abs(s) ** 0.85], 1)
