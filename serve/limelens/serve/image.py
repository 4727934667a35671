"""From bytes to the pixels that a network sees: the one place where this is done.

Training, serving and the command line all call `read_image` and `fit`, or `read_fitted`, which
gives the same bytes sooner, so that they cannot disagree about orientation, colour or resizing.
It knows nothing of models or of requests.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, UnidentifiedImageError

from limelens.serve.errors import ImageTooLargeError, InvalidImageError, InvalidRequestError

FORMATS: Final = ("JPEG", "PNG", "WEBP", "BMP", "GIF")
SUFFIXES: Final = frozenset({".jpg", ".jpeg", ".jfif", ".png", ".webp", ".bmp", ".gif"})
"""Of files in these formats."""
MAX_PIXELS: Final = 50_000_000
UNSEEN: Final = 65535
"""The segment id of a pixel that the model never saw."""

_MODES_OF_16_BIT: Final = ("I;16", "I;16L", "I;16B", "I;16N", "I")
_8_OF_16_BITS: Final = ((np.arange(65536) + 128) // 257).astype(np.uint8)
_APP1: Final = 0xE1
_START_OF_SCAN: Final = 0xDA
_PAD_GREY: Final = 128
_STRIP_PIXELS: Final = 1_000_000
_TO_UPRIGHT: Final = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""By the EXIF orientation: what makes the picture stand upright."""


class ResizeMode(StrEnum):
    """How a picture is fitted to a network's input."""

    STRETCH = "stretch"
    CROP = "crop"
    PAD = "pad"


@dataclass(frozen=True)
class Region:
    """A rectangle in fractions of an upright picture.

    Args:
        left: 0 to 1 of the width, below `right`.
        top: 0 to 1 of the height, below `bottom`.
        right: 0 to 1 of the width.
        bottom: 0 to 1 of the height.

    Raises:
        InvalidRequestError: The rectangle is empty or not within 0 to 1.
    """

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

    def box(self, height: int, width: int) -> tuple[int, int, int, int]:
        """Left, top, right and bottom in whole pixels of a picture; at least one pixel."""
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
    """What a bundle does to make any picture fit its input.

    Args:
        height: Of the input, in pixels.
        width: Of the input, in pixels.
        mode: How the picture's shape is brought to the input's.
    """

    height: int
    width: int
    mode: ResizeMode = ResizeMode.STRETCH


@dataclass(frozen=True)
class Fitted:
    """A picture as the network sees it, and where each of its pixels came from.

    Args:
        pixels: `(H, W, 3)` uint8 RGB of the rule's size.
        source_size: Height and width of the upright picture.
        source_box: Left, top, right, bottom of the part that is seen, in pixels of the upright
            picture.
        target_box: Where that part lies in `pixels`: left, top, right, bottom.
    """

    pixels: NDArray[np.uint8]
    source_size: tuple[int, int]
    source_box: tuple[int, int, int, int]
    target_box: tuple[int, int, int, int]

    def to_source(self, segments: NDArray[np.integer]) -> NDArray[np.uint16]:
        """Segment ids laid over the upright picture.

        Args:
            segments: `(H, W)` ids of the fitted picture, 0 to 65534.

        Returns:
            `source_size` ids; `UNSEEN` where the network saw nothing.
        """
        left, top, right, bottom = self.source_box
        rows, columns = self._rows_and_columns()
        whole = np.full(self.source_size, UNSEEN, dtype=np.uint16)
        whole[top:bottom, left:right] = segments[np.ix_(rows, columns)]
        return whole

    def from_source(self, segments: NDArray[np.integer]) -> NDArray[np.uint16]:
        """Segment ids of the upright picture, brought to the fitted one.

        Args:
            segments: `source_size` ids, 0 to 65534.

        Returns:
            `(H, W)` ids, each the one at its pixel's centre; the padding, where there is any,
            belongs to the nearest pixel of the picture.
        """
        left, top, right, bottom = self.source_box
        seen = segments[top:bottom, left:right]
        t_left, t_top, t_right, t_bottom = self.target_box
        rows = _centres(t_bottom - t_top, seen.shape[0])
        columns = _centres(t_right - t_left, seen.shape[1])
        height, width = self.pixels.shape[:2]
        inner = seen[np.ix_(rows, columns)].astype(np.uint16)
        return np.pad(inner, ((t_top, height - t_bottom), (t_left, width - t_right)), mode="edge")

    def _rows_and_columns(self) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        left, top, right, bottom = self.source_box
        t_left, t_top, t_right, t_bottom = self.target_box
        return (
            t_top + _centres(bottom - top, t_bottom - t_top),
            t_left + _centres(right - left, t_right - t_left),
        )


def read_image(data: bytes, *, max_pixels: int = MAX_PIXELS) -> NDArray[np.uint8]:
    """Decodes a picture to upright RGB.

    EXIF orientation is applied, transparency put over white, 16 bits scaled to 8, of an
    animation the first frame is taken. The content decides the format, not a name. Bytes that
    are damaged in a way that the decoder does not notice (flipped bits in a JPEG) come out as
    what could be decoded.

    Args:
        data: A file of one of `FORMATS`.
        max_pixels: Limit on height times width, checked before pixels are decoded.

    Returns:
        `(H, W, 3)` uint8.

    Raises:
        ImageTooLargeError: More pixels than `max_pixels`.
        InvalidImageError: Not a picture of a known format, or a damaged one.
    """
    return _decoded(data, max_pixels, _upright_rgb)


def read_fitted(
    data: bytes, rule: ResizeRule, region: Region | None = None, *, max_pixels: int = MAX_PIXELS
) -> NDArray[np.uint8]:
    """Decodes a picture and fits it, without needless copies of its pixels.

    Args:
        data: As for `read_image`.
        rule: The bundle's.
        region: What to look at; None is everything.
        max_pixels: As for `read_image`.

    Returns:
        To the byte what `fit(read_image(data), rule, region).pixels` is.

    Raises:
        InvalidImageError: As `read_image`.
    """
    if region is None and (pixels := _jpeg_that_fits(data, rule, max_pixels)) is not None:
        return pixels

    def fitted(image: Image.Image) -> NDArray[np.uint8]:
        if image.mode != "RGB" or image.has_transparency_data:
            return fit(_upright_rgb(image), rule, region).pixels
        upright = _upright(image)
        width, height = upright.size
        box, target = _boxes(height, width, rule, region)
        cut = upright if box == (0, 0, width, height) else upright.crop(box)
        return _placed(cut, rule, target)

    return _decoded(data, max_pixels, fitted)


def _decoded(
    data: bytes, max_pixels: int, then: Callable[[Image.Image], NDArray[np.uint8]]
) -> NDArray[np.uint8]:
    """What `then` makes of the decoded picture, with every fault of the bytes as our own error."""
    if not data:
        raise InvalidImageError("no bytes; expected an encoded picture")
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            _check_pixels(image.size, max_pixels)
            image.load()
            return then(image)
    except InvalidImageError:
        raise
    except UnidentifiedImageError:
        raise InvalidImageError(
            f"not a picture that is read: {_looks_like(data)}; expected {', '.join(FORMATS)}"
        ) from None
    # Pillow's own limits; the warning is an error where the caller made warnings errors.
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise ImageTooLargeError(
            f"claims more pixels than are ever decoded; the limit is {max_pixels:,}"
        ) from None
    # A decoder may raise almost anything on broken bytes (struct.error, zlib.error, SyntaxError…).
    except Exception as error:
        raise InvalidImageError(f"damaged: {error}") from error


def _jpeg_that_fits(data: bytes, rule: ResizeRule, max_pixels: int) -> NDArray[np.uint8] | None:
    """A JPEG that is of the network's size already, as Pillow would decode it, in half the time.

    Returns:
        `(H, W, 3)` uint8; None for Pillow to judge: another size or format, colours other than
        YCbCr and grey, perhaps not upright, or damaged. Without simplejpeg, always.
    """
    if not _is_plain_jpeg(data):
        return None
    try:
        import simplejpeg  # what serves has it, what only asks needs it not
    except ImportError:
        return None
    try:
        height, width, colours, _ = simplejpeg.decode_jpeg_header(data)
        if (height, width) != (rule.height, rule.width) or height * width > max_pixels:
            return None
        if colours not in ("YCbCr", "Gray"):
            return None
        # Both decode by libjpeg-turbo; Pillow takes its exact ways.
        pixels: NDArray[np.uint8] = simplejpeg.decode_jpeg(data, fastdct=False, fastupsample=False)
    # A decoder may raise almost anything on broken bytes.
    except Exception:
        return None
    return pixels


def _is_plain_jpeg(data: bytes) -> bool:
    """Whether a JPEG's head says nothing in APP1, where EXIF and XMP tell the orientation."""
    if data[:2] != b"\xff\xd8":
        return False
    at = 2
    while at + 4 <= len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        if marker == _START_OF_SCAN:
            return True
        if marker in (_APP1, 0xFF):  # 0xFF may be repeated before a marker
            return False
        at += 2 + (data[at + 2] << 8) + data[at + 3]
    return False


def raw_image(data: bytes, height: int, width: int, *, max_pixels: int) -> NDArray[np.uint8]:
    """Views bytes as upright RGB pixels.

    Args:
        data: `height * width * 3` bytes, rows from the top, R, G, B of each pixel.
        height: In pixels, at least 1.
        width: In pixels, at least 1.
        max_pixels: Limit on height times width.

    Returns:
        `(height, width, 3)` uint8, read-only.

    Raises:
        InvalidImageError: The length does not fit the size.
        ImageTooLargeError: More pixels than `max_pixels`.
    """
    if height < 1 or width < 1:
        raise InvalidImageError(f"size {height}x{width}; expected at least 1x1")
    _check_pixels((width, height), max_pixels)
    if len(data) != height * width * 3:
        raise InvalidImageError(
            f"{len(data):,} bytes; expected {height}x{width}x3 = {height * width * 3:,}"
        )
    return np.frombuffer(data, dtype=np.uint8).reshape(height, width, 3)


def fit(pixels: NDArray[np.uint8], rule: ResizeRule, region: Region | None = None) -> Fitted:
    """Cuts the region of interest out and brings it to the network's input size.

    Args:
        pixels: `(H, W, 3)` uint8 RGB, upright.
        rule: The bundle's.
        region: What to look at; None is everything.

    Returns:
        The picture for the network; its pixels are of the rule's size.
    """
    height, width = pixels.shape[:2]
    box, target = _boxes(height, width, rule, region)
    # Cut first: with `box` Pillow's filter would also take in pixels just outside of it.
    cut = Image.fromarray(pixels[box[1] : box[3], box[0] : box[2]])
    return Fitted(_placed(cut, rule, target), (height, width), box, target)


_Box = tuple[int, int, int, int]


def _boxes(height: int, width: int, rule: ResizeRule, region: Region | None) -> tuple[_Box, _Box]:
    """What is seen of an upright picture, and where it goes in the network's input."""
    box = region.box(height, width) if region else (0, 0, width, height)
    target = (0, 0, rule.width, rule.height)
    if rule.mode is ResizeMode.CROP:
        box = _centred(box, rule)
    elif rule.mode is ResizeMode.PAD:
        target = _padded(box, rule)
    return box, target


def _placed(cut: Image.Image, rule: ResizeRule, target: _Box) -> NDArray[np.uint8]:
    """A cut resized to its place in the network's input."""
    left, top, right, bottom = target
    seen = cut.resize((right - left, bottom - top), Image.Resampling.BILINEAR, reducing_gap=3.0)
    if target == (0, 0, rule.width, rule.height):
        return np.asarray(seen)
    fitted = np.full((rule.height, rule.width, 3), _PAD_GREY, dtype=np.uint8)
    fitted[top:bottom, left:right] = np.asarray(seen)
    return fitted


def _check_pixels(size: tuple[int, int], max_pixels: int) -> None:
    width, height = size
    if width * height > max_pixels:
        raise ImageTooLargeError(
            f"{height}x{width} is {height * width:,} pixels; the limit is {max_pixels:,}"
        )


def _upright_rgb(image: Image.Image) -> NDArray[np.uint8]:
    """Strip by strip: of a large picture there is never more than its pixels and the result."""
    image = _upright(image)
    width, height = image.size
    num_rows = max(1, _STRIP_PIXELS // width)
    if num_rows >= height:
        return np.asarray(_rgb(image))
    pixels = np.empty((height, width, 3), dtype=np.uint8)
    for top in range(0, height, num_rows):
        bottom = min(top + num_rows, height)
        pixels[top:bottom] = np.asarray(_rgb(image.crop((0, top, width, bottom))))
    return pixels


def _upright(image: Image.Image) -> Image.Image:
    try:
        method = _TO_UPRIGHT.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    # A broken EXIF block says nothing about the pixels.
    except Exception:
        return image
    return image if method is None else image.transpose(method)


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


def _looks_like(data: bytes) -> str:
    start = data[:512].lstrip()
    lower = start.lower()
    if lower.startswith((b"<!doctype html", b"<html")):
        return "an HTML page"
    if lower.startswith(b"<svg") or b"<svg" in lower:
        return "an SVG drawing"
    if start.startswith(b"%PDF"):
        return "a PDF document"
    if start.startswith((b"II*\0", b"MM\0*")):
        return "a TIFF file"
    if start.startswith(b"\x1f\x8b"):
        return "a gzip file"
    if start.isascii() and bytes(start).decode("ascii").isprintable():
        return "text"
    return f"{len(data):,} bytes that begin with {data[:8].hex(' ')}"


def _centred(box: tuple[int, int, int, int], rule: ResizeRule) -> tuple[int, int, int, int]:
    left, top, right, bottom = box
    width, height = right - left, bottom - top
    kept_width = min(width, max(1, round(height * rule.width / rule.height)))
    kept_height = min(height, max(1, round(width * rule.height / rule.width)))
    left += (width - kept_width) // 2
    top += (height - kept_height) // 2
    return left, top, left + kept_width, top + kept_height


def _padded(box: tuple[int, int, int, int], rule: ResizeRule) -> tuple[int, int, int, int]:
    width, height = box[2] - box[0], box[3] - box[1]
    scale = min(rule.width / width, rule.height / height)
    kept_width = min(rule.width, max(1, round(width * scale)))
    kept_height = min(rule.height, max(1, round(height * scale)))
    left = (rule.width - kept_width) // 2
    top = (rule.height - kept_height) // 2
    return left, top, left + kept_width, top + kept_height


def _centres(num_targets: int, num_sources: int) -> NDArray[np.intp]:
    """For each of `num_targets` pixels in a row, the one of `num_sources` at its centre."""
    scale = num_sources / num_targets
    positions = (np.arange(num_targets) + 0.5) * scale
    return np.minimum(positions.astype(np.intp), math.ceil(num_sources) - 1)
