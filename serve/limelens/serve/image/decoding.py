"""Bytes to upright RGB pixels, in this thread. What a decoder is handed was looked at before."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from limelens.serve.errors import ImageTooLargeError, InvalidImageError
from limelens.serve.image.fitting import Pixels, Region, ResizeRule, fitted
from limelens.serve.image.inspecting import MAX_DECODE_S, MAX_PIXELS, Source, check_size, inspect

_T = TypeVar("_T")


def read_image(
    data: bytes, *, max_pixels: int = MAX_PIXELS, max_decode_s: float = MAX_DECODE_S
) -> NDArray[np.uint8]:
    """Decodes an image to upright RGB.

    EXIF orientation is applied, transparency put over white, 16 bits scaled to 8, of an
    animation the first frame is taken. The content decides the format, not a name. Bytes that
    are damaged in a way that the decoder does not notice (flipped bits in a JPEG) come out as
    what could be decoded.

    Args:
        data: A file of one of `FORMATS`.
        max_pixels: Limit on height times width, checked before pixels are decoded.
        max_decode_s: Seconds of CPU that it may take beside what its bytes and pixels take; what
            takes longer for sure is refused.

    Returns:
        `(H, W, 3)` uint8.

    Raises:
        ImageTooLargeError: More pixels than `max_pixels`, a side that is too long, or one that
            takes too much memory.
        InvalidImageError: Not an image of a known format, a damaged one, or one that takes too
            long to decode.
    """
    source = inspect(data, max_pixels=max_pixels, max_decode_s=max_decode_s)
    return decoded(source, max_pixels, Pixels.array)


def read_fitted(
    data: bytes,
    rule: ResizeRule,
    region: Region | None = None,
    *,
    max_pixels: int = MAX_PIXELS,
    max_decode_s: float = MAX_DECODE_S,
) -> NDArray[np.uint8]:
    """Decodes an image and fits it, without needless copies of its pixels.

    Args:
        data: As for `read_image`.
        rule: The bundle's.
        region: What to look at; None is everything.
        max_pixels: As for `read_image`.
        max_decode_s: As for `read_image`.

    Returns:
        To the byte what `fit(read_image(data), rule, region).pixels` is.

    Raises:
        InvalidImageError: As `read_image`.
    """
    source = inspect(data, max_pixels=max_pixels, max_decode_s=max_decode_s)
    return source_fitted(source, rule, region, max_pixels)


def source_fitted(
    source: Source, rule: ResizeRule, region: Region | None, max_pixels: int
) -> NDArray[np.uint8]:
    """The same for an image that was looked at."""
    is_size = (source.height, source.width) == (rule.height, rule.width)
    if region is None and is_size and source.orientation == 1:
        pixels = plain_jpeg(source)
        if pixels is not None:
            return pixels
    return decoded(source, max_pixels, lambda pixels: fitted(pixels, rule, region))


def plain_jpeg(source: Source, out: NDArray[np.uint8] | None = None) -> NDArray[np.uint8] | None:
    """A plain JPEG as Pillow would decode it, in less time and with 3 bytes a pixel.

    Args:
        source: The image.
        out: `(H, W, 3)` uint8 to decode into; None is a new array.

    Returns:
        `(H, W, 3)` uint8, as it is stored; None for Pillow to judge: another format, colours
        other than YCbCr and grey, or damaged. Without simplejpeg, always.
    """
    if not source.is_plain:
        return None
    try:
        import simplejpeg  # what serves has it, what only asks needs it not
    except ImportError:
        return None
    try:
        height, width, colours, _ = simplejpeg.decode_jpeg_header(source.data)
        if (height, width) != (source.height, source.width) or colours not in ("YCbCr", "Gray"):
            return None
        # Both decode by libjpeg-turbo; Pillow takes its exact ways.
        pixels: NDArray[np.uint8] = simplejpeg.decode_jpeg(
            source.data, fastdct=False, fastupsample=False, buffer=out
        )
    # A decoder may raise almost anything on broken bytes.
    except Exception:
        return None
    return pixels


@contextmanager
def open_checked(data: bytes, kind: str, max_pixels: int) -> Iterator[Image.Image]:
    """Pillow's image, not decoded yet, of a file of one kind that was looked at.

    Args:
        data: The file.
        kind: One of `FORMATS`.
        max_pixels: As for `read_image`.

    Raises:
        InvalidImageError: As `read_image`, or it is of another kind.
    """
    source = inspect(data, max_pixels=max_pixels)
    if source.format != kind:
        raise InvalidImageError(f"a {source.format}; expected {kind}")
    with Image.open(io.BytesIO(source.data), formats=(kind,)) as image:
        yield image


def decoded(source: Source, max_pixels: int, then: Callable[[Pixels], _T]) -> _T:
    """What `then` makes of the pixels, with every fault of the bytes as our own error."""
    try:
        with Image.open(io.BytesIO(source.data), formats=(source.format,)) as image:
            width, height = image.size
            if (height, width) != (source.height, source.width):
                raise InvalidImageError("damaged: its size is not said in one way")
            check_size(height, width, max_pixels)
            image.load()
            return then(Pixels(image, source.orientation))
    except InvalidImageError:
        raise
    # Pillow's own limits; the warning is an error where the caller made warnings errors.
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise ImageTooLargeError(
            f"claims more pixels than are ever decoded; the limit is {max_pixels:,}"
        ) from None
    except MemoryError:
        raise ImageTooLargeError("takes more memory to decode than is allowed") from None
    # A decoder may raise almost anything on broken bytes (struct.error, zlib.error, SyntaxError…).
    except Exception as error:
        raise InvalidImageError(f"damaged: {error}") from error
