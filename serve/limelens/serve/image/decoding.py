"""From an inspected image to upright RGB pixels, in the calling thread."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from limelens.serve.errors import ImageTooLargeError, InvalidImageError
from limelens.serve.image.fitting import Pixels, Region, ResizeRule, fitted
from limelens.serve.image.formats import inspect
from limelens.serve.image.limits import DEFAULT_LIMITS, DecodeLimits, Source

_T = TypeVar("_T")


def read_image(data: bytes, limits: DecodeLimits = DEFAULT_LIMITS) -> NDArray[np.uint8]:
    """Decodes an image to upright RGB, `(H, W, 3)` uint8.

    EXIF orientation is applied, transparency put over white, 16 bits scaled to 8; only an
    animation's first frame is used. The content decides the format, not a name. Damage that the
    decoder does not notice (flipped bits in a JPEG) shows in the pixels.

    Raises:
        ImageTooLargeError: Too many pixels, a side too long, or too much memory needed.
        InvalidImageError: Not an image of a known format, damaged, or too slow to decode.
    """
    return decode(inspect(data, limits))


def read_fitted(
    data: bytes,
    rule: ResizeRule,
    region: Region | None = None,
    limits: DecodeLimits = DEFAULT_LIMITS,
) -> NDArray[np.uint8]:
    """The same bytes as `fit(read_image(data, limits), rule, region).pixels`, sooner."""
    return decode(inspect(data, limits), rule, region)


def decode(
    source: Source, rule: ResizeRule | None = None, region: Region | None = None
) -> NDArray[np.uint8]:
    """Decodes an inspected image as `read_image` does; a rule fits its region to a network's input.

    Raises:
        InvalidImageError: As `read_image`.
    """
    is_size = rule is None or (source.height, source.width) == (rule.height, rule.width)
    if (rule is None or region is None) and is_size and source.orientation == 1:
        pixels = plain_jpeg(source)
        if pixels is not None:
            return pixels
    if rule is None:
        return decode_with(source, Pixels.array)
    return decode_with(source, lambda pixels: fitted(pixels, rule, region).pixels)


def plain_jpeg(source: Source, out: NDArray[np.uint8] | None = None) -> NDArray[np.uint8] | None:
    """Decodes a plain JPEG as Pillow would, in less time and memory, into `out` if given.

    Returns:
        `(H, W, 3)` uint8, as stored. None leaves it to Pillow: another format, colours other than
        YCbCr and grey, damage, or simplejpeg is not installed.
    """
    if not source.is_plain:
        return None
    try:
        import simplejpeg  # servers have it, clients need not
    except ImportError:
        return None
    try:
        height, width, colours, _ = simplejpeg.decode_jpeg_header(source.data)
        if (height, width) != (source.height, source.width) or colours not in ("YCbCr", "Gray"):
            return None
        # Both decode with libjpeg-turbo; these options are Pillow's.
        pixels: NDArray[np.uint8] = simplejpeg.decode_jpeg(
            source.data, fastdct=False, fastupsample=False, buffer=out
        )
    # A decoder may raise almost anything on broken bytes.
    except Exception:
        return None
    return pixels


@contextmanager
def open_checked(data: bytes, kind: str, max_pixels: int) -> Iterator[Image.Image]:
    """Inspects a file of one of `FORMATS` and opens it with Pillow, not decoded yet."""
    source = inspect(data, DecodeLimits(max_pixels))
    if source.format != kind:
        raise InvalidImageError(f"a {source.format}; expected {kind}")
    with Image.open(io.BytesIO(source.data), formats=(kind,)) as image:
        yield image


def decode_with(source: Source, read: Callable[[Pixels], _T]) -> _T:
    """Decodes with Pillow and reads the pixels; turns every fault of the bytes into our error."""
    try:
        with Image.open(io.BytesIO(source.data), formats=(source.format,)) as image:
            width, height = image.size
            if (height, width) != (source.height, source.width):
                raise InvalidImageError("damaged: its parts disagree about its size")
            image.load()
            return read(Pixels(image, source.orientation))
    except InvalidImageError:
        raise
    # Pillow's own limits; the warning is an error if the caller made warnings errors.
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise ImageTooLargeError("has more pixels than Pillow ever decodes") from None
    except MemoryError:
        raise ImageTooLargeError("takes more memory to decode than is allowed") from None
    except UnidentifiedImageError:  # its text has an address in memory
        raise InvalidImageError("damaged: its header cannot be read") from None
    # A decoder may raise almost anything on broken bytes (struct.error, zlib.error, SyntaxError…).
    except Exception as error:
        raise InvalidImageError(f"damaged: {error}") from error
