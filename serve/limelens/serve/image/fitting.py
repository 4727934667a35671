"""Cuts a region out of an image, makes it upright RGB, and resizes it to a network's input.

It also maps segments between the input and the image. It knows pixels of Pillow and NumPy, and
nothing of how files are decoded.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from limelens.serve.errors import InvalidImageError, InvalidRequestError
from limelens.serve.image.limits import check_size

_Box = tuple[int, int, int, int]
UNSEEN: Final = 65535
"""The segment id of a pixel outside the input region."""

_MODES_OF_16_BIT: Final = ("I;16", "I;16L", "I;16B", "I;16N", "I")
_8_OF_16_BITS: Final = ((np.arange(65536) + 128) // 257).astype(np.uint8)
_PAD_GREY: Final = 128
_STRIP_PIXELS: Final = 250_000
_REDUCING_GAP: Final = 3.0
_Transpose = Image.Transpose
_TO_UPRIGHT: Final = {
    2: _Transpose.FLIP_LEFT_RIGHT,
    3: _Transpose.ROTATE_180,
    4: _Transpose.FLIP_TOP_BOTTOM,
    5: _Transpose.TRANSPOSE,
    6: _Transpose.ROTATE_270,
    7: _Transpose.TRANSVERSE,
    8: _Transpose.ROTATE_90,
}
"""By EXIF orientation: the transposition that makes the image upright."""


class ResizeMode(StrEnum):
    """How an image is fitted to a network's input."""

    STRETCH = "stretch"
    CROP = "crop"
    PAD = "pad"


@dataclass(frozen=True)
class Region:
    """A non-empty rectangle in fractions, 0 to 1, of an upright image's width and height."""

    left: float
    top: float
    right: float
    bottom: float

    def __post_init__(self) -> None:
        # Written so that NaN fails too.
        if not (0 <= self.left < self.right <= 1 and 0 <= self.top < self.bottom <= 1):
            raise InvalidRequestError(
                "region_of_interest",
                f"left {self.left:g}, top {self.top:g}, right {self.right:g}, "
                f"bottom {self.bottom:g}; expected 0 <= left < right <= 1 and "
                "0 <= top < bottom <= 1",
            )

    def box(self, height: int, width: int) -> _Box:
        """Left, top, right and bottom in whole pixels of an image; at least one pixel."""
        left = min(round(self.left * width), width - 1)
        top = min(round(self.top * height), height - 1)
        return (
            left,
            top,
            max(left + 1, round(self.right * width)),
            max(top + 1, round(self.bottom * height)),
        )


@dataclass(frozen=True)
class ResizeRule:
    """How a bundle fits any image to its input, of `height` x `width` pixels."""

    height: int
    width: int
    mode: ResizeMode = ResizeMode.STRETCH


@dataclass(frozen=True)
class Fitted:
    """An image as the network sees it, and where each of its pixels came from.

    Args:
        pixels: `(H, W, 3)` uint8 RGB of the rule's size.
        source_size: Height and width of the upright image.
        source_box: Left, top, right, bottom of the input region in the upright image.
        target_box: Left, top, right, bottom of that region in `pixels`.
    """

    pixels: NDArray[np.uint8]
    source_size: tuple[int, int]
    source_box: _Box
    target_box: _Box

    def to_source(self, segments: NDArray[np.integer]) -> NDArray[np.uint16]:
        """Maps `(H, W)` segment ids to the upright image; `UNSEEN` outside the input region."""
        left, top, right, bottom = self.source_box
        t_left, t_top, t_right, t_bottom = self.target_box
        rows = t_top + _centres(bottom - top, t_bottom - t_top)
        columns = t_left + _centres(right - left, t_right - t_left)
        whole = np.full(self.source_size, UNSEEN, dtype=np.uint16)
        whole[top:bottom, left:right] = segments[np.ix_(rows, columns)]
        return whole

    def from_source(self, segments: NDArray[np.integer]) -> NDArray[np.uint16]:
        """Maps segment ids of `source_size`, 0 to 65534, to the fitted image.

        Returns:
            `(H, W)` ids, each from its pixel's centre; padding gets the id of the nearest pixel.
        """
        left, top, right, bottom = self.source_box
        region = segments[top:bottom, left:right]
        t_left, t_top, t_right, t_bottom = self.target_box
        rows = _centres(t_bottom - t_top, region.shape[0])
        columns = _centres(t_right - t_left, region.shape[1])
        height, width = self.pixels.shape[:2]
        inner = region[np.ix_(rows, columns)].astype(np.uint16)
        return np.pad(inner, ((t_top, height - t_bottom), (t_left, width - t_right)), mode="edge")


def raw_image(data: bytes, height: int, width: int, *, max_pixels: int) -> NDArray[np.uint8]:
    """Views bytes, R, G and B of each pixel, as read-only `(height, width, 3)` uint8.

    Raises:
        InvalidImageError: The length does not fit the size.
        ImageTooLargeError: More pixels than `max_pixels`.
    """
    if height < 1 or width < 1:
        raise InvalidImageError(f"size {height}x{width}; expected at least 1x1")
    check_size(height, width, max_pixels)
    if len(data) != height * width * 3:
        raise InvalidImageError(
            f"{len(data):,} bytes; expected {height}x{width}x3 = {height * width * 3:,}"
        )
    return np.frombuffer(data, dtype=np.uint8).reshape(height, width, 3)


def fit(pixels: NDArray[np.uint8], rule: ResizeRule, region: Region | None = None) -> Fitted:
    """Fits a region of upright `(H, W, 3)` uint8 RGB pixels, or all, to a network's input."""
    return fitted(Pixels(pixels), rule, region)


class Pixels:
    """Decoded pixels in a stored EXIF orientation, made upright RGB part by part to save memory."""

    def __init__(self, stored: Image.Image | NDArray[np.uint8], orientation: int = 1) -> None:
        self._stored = stored
        self._orientation = orientation
        if isinstance(stored, Image.Image):
            self._width, self._height = stored.size
        else:
            self._height, self._width = stored.shape[:2]

    @property
    def size(self) -> tuple[int, int]:
        """Height and width, upright."""
        if self._orientation >= 5:
            return self._width, self._height
        return self._height, self._width

    def part(self, box: _Box) -> Image.Image:
        """A part of the upright image, RGB."""
        box = self._stored_box(box)
        stored = self._stored
        if not isinstance(stored, Image.Image):
            part = Image.fromarray(np.ascontiguousarray(stored[box[1] : box[3], box[0] : box[2]]))
        elif box == (0, 0, self._width, self._height):
            part = _rgb(stored)
        else:
            part = _rgb(stored.crop(box))
        method = _TO_UPRIGHT.get(self._orientation)
        return part if method is None else part.transpose(method)

    def strips(self, box: _Box, multiple: int = 1) -> Iterator[tuple[int, Image.Image]]:
        """Strips of a part of the upright image: the first row of each, and its RGB pixels.

        All but the last have a multiple of `multiple` rows.
        """
        left, top, right, bottom = box
        num_rows = max(1, _STRIP_PIXELS // (right - left) // multiple) * multiple
        for start in range(top, bottom, num_rows):
            yield start - top, self.part((left, start, right, min(start + num_rows, bottom)))

    def array(self, out: NDArray[np.uint8] | None = None) -> NDArray[np.uint8]:
        """The whole upright image, `(H, W, 3)` uint8; in `out` if given."""
        height, width = self.size
        if out is None and height * width <= _STRIP_PIXELS:
            return np.asarray(self.part((0, 0, width, height)))
        whole = np.empty((height, width, 3), np.uint8) if out is None else out
        for start, strip in self.strips((0, 0, width, height)):
            whole[start : start + strip.height] = np.asarray(strip)
        return whole

    def _stored_box(self, box: _Box) -> _Box:
        """The place of a part of the upright image in the stored one."""
        left, top, right, bottom = box
        height, width = self._height, self._width
        if self._orientation in (2, 3):
            left, right = width - right, width - left
        if self._orientation in (3, 4):
            top, bottom = height - bottom, height - top
        if self._orientation >= 5:
            left, top, right, bottom = top, left, bottom, right
            if self._orientation in (7, 8):
                left, right = width - right, width - left
            if self._orientation in (6, 7):
                top, bottom = height - bottom, height - top
        return left, top, right, bottom


def resized(pixels: Pixels, box: _Box, size: tuple[int, int]) -> Image.Image:
    """Resizes a part of an image to a width and height.

    Gives the same bytes as Pillow's `resize(size, BILINEAR, reducing_gap=3)` of the part. Where
    Pillow first reduces by whole numbers, this does so strip by strip.
    """
    width, height = box[2] - box[0], box[3] - box[1]
    across = int(width / size[0] / _REDUCING_GAP) or 1
    down = int(height / size[1] / _REDUCING_GAP) or 1
    bilinear = Image.Resampling.BILINEAR
    if across == 1 and down == 1:
        return pixels.part(box).resize(size, bilinear)
    small = Image.new("RGB", (-(-width // across), -(-height // down)))
    for start, strip in pixels.strips(box, down):
        small.paste(strip.reduce((across, down)), (0, start // down))
    return small.resize(size, bilinear, box=(0, 0, width / across, height / down))


def fitted(pixels: Pixels, rule: ResizeRule, region: Region | None) -> Fitted:
    """As `fit`, of pixels that may be stored in another orientation."""
    height, width = pixels.size
    box, target = placed((height, width), rule, region)
    left, top, right, bottom = target
    part = np.asarray(resized(pixels, box, (right - left, bottom - top)))
    if part.shape[:2] != (rule.height, rule.width):
        padded = np.full((rule.height, rule.width, 3), _PAD_GREY, dtype=np.uint8)
        padded[top:bottom, left:right] = part
        part = padded
    return Fitted(part, (height, width), box, target)


def placed(size: tuple[int, int], rule: ResizeRule, region: Region | None) -> tuple[_Box, _Box]:
    """Where an image's input region lies, and where `fit` puts it.

    Args:
        size: Height and width of the upright image.
        rule: As for `fit`.
        region: As for `fit`.

    Returns:
        `Fitted.source_box` and `Fitted.target_box`.
    """
    height, width = size
    box = region.box(height, width) if region else (0, 0, width, height)
    target = (0, 0, rule.width, rule.height)
    if rule.mode is ResizeMode.CROP:
        box = _centred(box, rule)
    elif rule.mode is ResizeMode.PAD:
        target = _padded(box, rule)
    return box, target


def shrink(pixels: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    """Resizes `(H, W, 3)` uint8 pixels without copying all of them."""
    box = (0, 0, pixels.shape[1], pixels.shape[0])
    return np.asarray(resized(Pixels(pixels), box, (width, height)))


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode in _MODES_OF_16_BIT:
        values = np.asarray(image).clip(0, 65535).astype(np.uint16)
        grey = _8_OF_16_BITS[values]
        transparent = image.info.get("transparency")
        if isinstance(transparent, int):
            grey[values == transparent] = 255
        return Image.fromarray(grey).convert("RGB")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, image).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")


def _centred(box: _Box, rule: ResizeRule) -> _Box:
    left, top, right, bottom = box
    width, height = right - left, bottom - top
    kept_width = min(width, max(1, round(height * rule.width / rule.height)))
    kept_height = min(height, max(1, round(width * rule.height / rule.width)))
    left += (width - kept_width) // 2
    top += (height - kept_height) // 2
    return left, top, left + kept_width, top + kept_height


def _padded(box: _Box, rule: ResizeRule) -> _Box:
    width, height = box[2] - box[0], box[3] - box[1]
    scale = min(rule.width / width, rule.height / height)
    kept_width = min(rule.width, max(1, round(width * scale)))
    kept_height = min(rule.height, max(1, round(height * scale)))
    left = (rule.width - kept_width) // 2
    top = (rule.height - kept_height) // 2
    return left, top, left + kept_width, top + kept_height


def _centres(num_targets: int, num_sources: int) -> NDArray[np.intp]:
    """For each of `num_targets` pixels in a row, the index of the source pixel at its centre."""
    scale = num_sources / num_targets
    positions = (np.arange(num_targets) + 0.5) * scale
    return np.minimum(positions.astype(np.intp), math.ceil(num_sources) - 1)
