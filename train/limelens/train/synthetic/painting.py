"""Paints shapes on a part of an image, as sharp and as lit as their surroundings.

Knows colours, shapes and light; does not know faces or what the shapes show.
"""

from collections.abc import Iterable
from colorsys import hsv_to_rgb
from dataclasses import dataclass
from math import ceil, floor
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

RGB = tuple[int, int, int]
"""Red, green and blue, 0 to 255 each."""
Pixels = NDArray[np.uint8]
"""`(H, W, 3)` RGB, 0 to 255."""
Floats = NDArray[np.float32]


class Sheet:
    """A supersampled transparent sheet over a part of an image.

    Shapes are given in the image's pixels.

    Args:
        box: Left, top, right and bottom of the part, in pixels; not empty.
        mode: `L` for a cover, `RGBA` for colours.
    """

    def __init__(self, box: tuple[int, int, int, int], mode: Literal["L", "RGBA"]) -> None:
        self._box = left, top, right, bottom = box
        self.index = slice(top, bottom), slice(left, right)
        self.size = width, height = right - left, bottom - top
        # Large shapes need less.
        self._factor = 3 if width * height < 40_000 else 2 if width * height < 1_000_000 else 1
        self._sheet = Image.new(mode, (width * self._factor, height * self._factor))
        self._draw = ImageDraw.Draw(self._sheet)

    @classmethod
    def around(
        cls, image: Pixels, points: Floats, margin: float, mode: Literal["L", "RGBA"]
    ) -> "Sheet | None":
        """A sheet around `(N, 2)` points and a margin in pixels; None outside the image."""
        height, width = image.shape[:2]
        (x0, y0), (x1, y1) = points.min(axis=0).tolist(), points.max(axis=0).tolist()
        left, top = max(0, floor(x0 - margin)), max(0, floor(y0 - margin))
        right, bottom = min(width, ceil(x1 + margin)), min(height, ceil(y1 + margin))
        return cls((left, top, right, bottom), mode) if left < right and top < bottom else None

    def blank(self) -> "Sheet":
        """A cover of the same part, with nothing on it."""
        return Sheet(self._box, "L")

    def centres(self) -> tuple[Floats, Floats]:
        """The x of the columns' middles, `(1, w)`, and the y of the rows', `(h, 1)`."""
        left, top, right, bottom = self._box
        x = np.arange(left, right, dtype=np.float32) + 0.5
        y = np.arange(top, bottom, dtype=np.float32) + 0.5
        return x[None, :], y[:, None]

    def cut(self, image: Pixels) -> Floats:
        """This part of an image, `(h, w, 3)`, 0 to 255, a copy."""
        return image[self.index].astype(np.float32)

    def pasted(self, image: Pixels, values: Floats) -> Pixels:
        """A copy of the image with `(h, w, 3)` values, about 0 to 255, in this part."""
        result = image.copy()
        result[self.index] = np.clip(values + 0.5, 0, 255).astype(np.uint8)
        return result

    def polygon(self, points: Floats, fill: RGB | int) -> None:
        """Fills the polygon through `(N, 2)` points."""
        self._draw.polygon(self._place(points), fill=fill)

    def line(self, points: Floats, fill: RGB | int, width: float, round_ends: bool = True) -> None:
        """Draws a line through `(N, 2)` points, `width` of the image's pixels thick."""
        placed = self._place(points)
        thick = max(1, round(width * self._factor))
        self._draw.line(placed, fill=fill, width=thick, joint="curve")
        if round_ends and thick > 2:
            for end in (placed[0], placed[-1]):
                self._draw.circle(end, thick / 2, fill=fill)

    def finished(self, softness: float = 0.0) -> Floats:
        """The sheet, blurred by `softness` pixels: `(h, w)` or `(h, w, 4)`, 0 to 1."""
        sheet = self._sheet
        if softness:
            sheet = sheet.filter(ImageFilter.GaussianBlur(softness * self._factor))
        return np.asarray(sheet.reduce(self._factor), dtype=np.float32) / 255.0

    def _place(self, points: Floats) -> list[tuple[float, float]]:
        corner = np.array(self._box[:2], dtype=np.float32)
        return [(x, y) for x, y in ((points - corner) * self._factor).tolist()]


@dataclass(frozen=True)
class Light:
    """How a part of an image is lit; all about 1 in even white light.

    Args:
        run: `(h, w)` light and shade.
        tint: `(3,)` colour of the light.
    """

    exposure: float
    run: Floats
    tint: Floats
    colourful: bool

    @classmethod
    def falling_on(cls, photo: Floats, cover: Floats, radius: float) -> "Light":
        """The light of a `(h, w, 3)` photo on what will be painted over its `(h, w)` cover.

        Shades finer than `radius` pixels belong to the objects in the photo, not to the light.
        """
        grey = photo.mean(axis=2)
        bright = float(np.percentile(grey[::2, ::2], 85))
        exposure = float(np.clip((bright / 200.0) ** 0.75, 0.35, 1.03))
        smooth = blur(grey / 255.0, radius)
        under = cover > 0.5
        mean = float(smooth[under].mean()) if under.any() else float(smooth.mean())
        run = np.clip(smooth / max(mean, 0.02), 0.55, 1.5) ** 0.6
        lit = photo[grey >= bright]
        colour = lit.mean(axis=0) if len(lit) else np.full(3, 128, dtype=np.float32)
        tint = np.clip(colour / max(float(colour.mean()), 1.0), 0.75, 1.25) ** 0.3
        colourful = float((photo.max(axis=2) - photo.min(axis=2)).mean()) > 7.0
        return cls(exposure, run.astype(np.float32), tint.astype(np.float32), colourful)

    def greyed(self, colours: Floats) -> Floats:
        """`(..., 3)` colours, or their greys if the image has no colours."""
        if self.colourful:
            return colours
        return np.repeat(colours.mean(axis=-1, keepdims=True), 3, axis=-1)


def shadowed(photo: Floats, cover: Floats, softness: float, drop: int) -> Floats:
    """`(h, w, 3)` photo with the soft shadow of a `(h, w)` cover, `drop` rows below it."""
    shadow = blur(cover, softness)
    if drop > 0:
        # The uncovered rows repeat the first.
        shadow = np.pad(shadow, ((drop, 0), (0, 0)), mode="edge")[: len(shadow)]
    return photo * (1 - 0.35 * shadow[..., None])


def over(photo: Floats, colours: Floats, cover: Floats) -> Floats:
    """`(h, w, 3)` colours over a photo, by their `(h, w)` cover from 0 to 1."""
    alpha = cover[..., None]
    return photo * (1 - alpha) + colours * alpha


def unsharpness(photo: Floats) -> float:
    """0 for a sharp image, up to 1 for one that was enlarged or out of focus."""
    grey = photo.mean(axis=2)
    if min(grey.shape) < 3:
        return 0.0
    inner = 4 * grey[1:-1, 1:-1] - grey[:-2, 1:-1] - grey[2:, 1:-1]
    detail = float(np.abs(inner - grey[1:-1, :-2] - grey[1:-1, 2:]).mean())
    return float(np.clip(1 - detail / 9.0, 0, 1))


def blur(values: Floats, radius: float) -> Floats:
    """A cheap blur of `(h, w)` values from 0 to 1."""
    image = Image.fromarray((values * 255).astype(np.uint8))
    return np.asarray(image.filter(ImageFilter.BoxBlur(radius)), dtype=np.float32) / 255.0


def cloud(rng: np.random.Generator, size: tuple[int, int], cells: tuple[int, int]) -> Floats:
    """`(height, width)` smooth noise, mean 0, deviation near 1; size is width, height."""
    grid = rng.normal(0.0, 1.0, (cells[1], cells[0])).astype(np.float32)
    image = Image.fromarray(grid).resize(size, Image.Resampling.BICUBIC)
    return np.asarray(image, dtype=np.float32)


def step(values: Floats, threshold: float, softness: float) -> Floats:
    """0 below the threshold, 1 above it, linear over `softness` between."""
    return np.asarray(np.clip((values - threshold) / max(softness, 1e-6) + 0.5, 0, 1))


def check_image(image: Pixels) -> None:
    """Raises ValueError if an array is no image."""
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise ValueError(
            f"Image is {image.dtype} {image.shape!r}; expected uint8 (H, W, 3) RGB pixels"
        )


def cloth_colour(rng: np.random.Generator) -> RGB:
    """A colour of cloth or plastic, more often grey or muted than bright."""
    hue, strength = float(rng.uniform(0, 6)), float(rng.beta(1.2, 1.4))
    return _rgb(255 * v for v in hsv_to_rgb(hue / 6, strength, float(rng.uniform(0.12, 0.98))))


def any_colour(rng: np.random.Generator) -> RGB:
    """A grey with some of any colour in it, seldom a pure one."""
    grey = float(rng.uniform(20, 245))
    strength = float(rng.beta(1.0, 1.5))
    return _rgb(grey * (1 - strength) + rng.uniform(0, 255, 3) * strength)


def varied(rng: np.random.Generator, colour: RGB, amount: int) -> RGB:
    """The colour, each channel up to `amount` brighter or darker."""
    return _rgb(colour + rng.integers(-amount, amount + 1, 3))


def dimmed(colour: RGB, factor: float) -> RGB:
    """The colour times a factor: darker below 1, lighter above."""
    return _rgb(round(v * factor) for v in colour)


def mixed(first: RGB, second: RGB, share: float) -> RGB:
    """The first colour with a share, 0 to 1, of the second."""
    return _rgb(round(a + (b - a) * share) for a, b in zip(first, second, strict=True))


def muted(colour: RGB) -> RGB:
    """The colour, halfway to grey."""
    grey = sum(colour) // 3
    return mixed(colour, (grey, grey, grey), 0.5)


def _rgb(values: Iterable[float]) -> RGB:
    """Three numbers as a colour, cut to whole ones from 0 to 255."""
    r, g, b = (max(0, min(255, int(v))) for v in values)
    return (r, g, b)
