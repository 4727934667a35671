"""Paints shapes on a part of an image, as sharp and as lit as their surroundings.

Knows colours, shapes and light; does not know faces or what the shapes show.
"""

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


@dataclass(frozen=True)
class Window:
    """The part of an image that is painted on, in pixels; never empty."""

    left: int
    top: int
    right: int
    bottom: int

    @classmethod
    def around(cls, image: Pixels, points: Floats, margin: float) -> "Window | None":
        """The part around `(N, 2)` points and a margin in pixels; None if it is outside."""
        height, width = image.shape[:2]
        left = max(0, floor(float(points[:, 0].min()) - margin))
        top = max(0, floor(float(points[:, 1].min()) - margin))
        right = min(width, ceil(float(points[:, 0].max()) + margin))
        bottom = min(height, ceil(float(points[:, 1].max()) + margin))
        return cls(left, top, right, bottom) if left < right and top < bottom else None

    @property
    def size(self) -> tuple[int, int]:
        """Width and height."""
        return self.right - self.left, self.bottom - self.top

    @property
    def supersampling(self) -> int:
        """How many times finer than the image shapes are drawn; large ones less."""
        width, height = self.size
        return 3 if width * height < 40_000 else 2 if width * height < 1_000_000 else 1

    @property
    def centres(self) -> tuple[Floats, Floats]:
        """The x of the columns' middles, `(1, w)`, and the y of the rows', `(h, 1)`."""
        x = np.arange(self.left, self.right, dtype=np.float32) + 0.5
        y = np.arange(self.top, self.bottom, dtype=np.float32) + 0.5
        return x[None, :], y[:, None]

    @property
    def index(self) -> tuple[slice, slice]:
        """This part of any `(H, W, ...)` array of the image's size."""
        return slice(self.top, self.bottom), slice(self.left, self.right)

    def cut(self, image: Pixels) -> Floats:
        """This part of an image, `(h, w, 3)`, 0 to 255, a copy."""
        return image[self.index].astype(np.float32)

    def pasted(self, image: Pixels, values: Floats) -> Pixels:
        """A copy of the image with `(h, w, 3)` values, about 0 to 255, in this part."""
        result = image.copy()
        result[self.index] = np.clip(values + 0.5, 0, 255).astype(np.uint8)
        return result


class Sheet:
    """A supersampled transparent sheet over a window; shapes are given in the image's pixels."""

    def __init__(self, window: Window, mode: Literal["L", "RGBA"]) -> None:
        self.window = window
        self._factor = window.supersampling
        size = (window.size[0] * self._factor, window.size[1] * self._factor)
        self._sheet = Image.new(mode, size, 0 if mode == "L" else (0, 0, 0, 0))
        self._draw = ImageDraw.Draw(self._sheet)

    @classmethod
    def around(
        cls, image: Pixels, points: Floats, margin: float, mode: Literal["L", "RGBA"]
    ) -> "Sheet | None":
        """A sheet over `Window.around`; None if that is outside the image."""
        window = Window.around(image, points, margin)
        return None if window is None else cls(window, mode)

    def polygon(self, points: Floats, fill: RGB | int) -> None:
        """Fills the polygon through `(N, 2)` points."""
        self._draw.polygon(self._place(points), fill=fill)

    def line(self, points: Floats, fill: RGB | int, width: float, round_ends: bool = True) -> None:
        """Draws a line through `(N, 2)` points, `width` of the image's pixels thick."""
        placed = self._place(points)
        thick = max(1, round(width * self._factor))
        self._draw.line(placed, fill=fill, width=thick, joint="curve")
        if round_ends and thick > 2:
            r = thick / 2
            for x, y in (placed[0], placed[-1]):
                self._draw.ellipse((x - r, y - r, x + r, y + r), fill=fill)

    def finished(self, softness: float = 0.0) -> Floats:
        """The sheet, blurred by `softness` pixels: `(h, w)` or `(h, w, 4)`, 0 to 1."""
        sheet = self._sheet
        if softness:
            sheet = sheet.filter(ImageFilter.GaussianBlur(softness * self._factor))
        small = sheet.reduce(self._factor) if self._factor > 1 else sheet
        return np.asarray(small, dtype=np.float32) / 255.0

    def _place(self, points: Floats) -> list[tuple[float, float]]:
        corner = np.array([self.window.left, self.window.top], dtype=np.float32)
        return [(x, y) for x, y in ((points - corner) * self._factor).tolist()]


@dataclass(frozen=True)
class Light:
    """How a part of an image is lit.

    Args:
        exposure: About 1 in a well-lit image, less in a dark one.
        run: `(h, w)` light and shade, about 1.
        tint: `(3,)` colour of the light, about 1.
        colourful: Whether the image has colours at all.
    """

    exposure: float
    run: Floats
    tint: Floats
    colourful: bool

    @classmethod
    def falling_on(cls, photo: Floats, cover: Floats, radius: float) -> "Light":
        """The light on what will be painted.

        Args:
            photo: `(h, w, 3)` pixels, 0 to 255.
            cover: `(h, w)`, 0 to 1, how much of them will be painted over.
            radius: Pixels; finer shades belong to the objects in the photo, not to the light.
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
    """A photo with the shadow of a cover.

    Args:
        photo: `(h, w, 3)`, 0 to 255.
        cover: `(h, w)`, 0 to 1.
        softness: Of the shadow's rim, in pixels.
        drop: How many rows below the cover the shadow falls.
    """
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
    """A colour of cloth or plastic: greys and muted ones oftener than bright ones."""
    hue = float(rng.uniform(0, 6))
    strength = float(rng.beta(1.2, 1.4))
    value = float(rng.uniform(0.12, 0.98))
    r, g, b = (
        int(255 * value * (1 - strength * min(max(min(k, 4 - k), 0.0), 1.0)))
        for k in ((5 + hue) % 6, (3 + hue) % 6, (1 + hue) % 6)
    )
    return (r, g, b)


def any_colour(rng: np.random.Generator) -> RGB:
    """A grey with some of any colour in it, seldom a pure one."""
    grey = float(rng.uniform(20, 245))
    strength = float(rng.beta(1.0, 1.5))
    r, g, b = (int(v) for v in grey * (1 - strength) + rng.uniform(0, 255, 3) * strength)
    return (r, g, b)


def varied(rng: np.random.Generator, colour: RGB, amount: int) -> RGB:
    """The colour, each channel up to `amount` brighter or darker."""
    shifts = rng.integers(-amount, amount + 1, 3)
    r, g, b = (max(0, min(255, v + int(d))) for v, d in zip(colour, shifts, strict=True))
    return (r, g, b)


def dimmed(colour: RGB, factor: float) -> RGB:
    """The colour times a factor: darker below 1, lighter above."""
    r, g, b = (max(0, min(255, round(v * factor))) for v in colour)
    return (r, g, b)


def mixed(first: RGB, second: RGB, share: float) -> RGB:
    """The first colour with a share, 0 to 1, of the second."""
    r, g, b = (round(a + (b - a) * share) for a, b in zip(first, second, strict=True))
    return (r, g, b)


def muted(colour: RGB) -> RGB:
    """The colour, halfway to grey."""
    grey = sum(colour) // 3
    return mixed(colour, (grey, grey, grey), 0.5)
