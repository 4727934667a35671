"""What decoding one image may cost: pixels, seconds of CPU, memory. It decodes nothing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from limelens.serve.errors import ImageTooLargeError, InvalidImageError

MAX_PIXELS: Final = 50_000_000
MAX_SIDE: Final = 65_535
"""Limit on height and on width: the most that a JPEG can hold."""
MAX_DECODE_S: Final = 0.4
MAX_MEMORY: Final = 256 * 1024 * 1024
"""Bytes that decoding one image may take."""

_PER_BYTE_S: Final = 30e-9
_PER_PLAIN_PIXEL_S: Final = 15e-9


@dataclass(frozen=True, slots=True)
class DecodeLimits:
    """What a caller allows for one image.

    Args:
        max_pixels: Limit on height times width, checked before pixels are decoded.
        max_decode_s: Seconds of CPU, in addition to what the image's bytes and, in a plain JPEG,
            its pixels take; see `allowed_s`.
    """

    max_pixels: int = MAX_PIXELS
    max_decode_s: float = MAX_DECODE_S


DEFAULT_LIMITS: Final = DecodeLimits()


@dataclass(frozen=True, slots=True, eq=False)
class Source:
    """An image that passed inspection and may be decoded.

    Args:
        data: The file without the parts that no pixel depends on.
        seconds: Estimated CPU time of decoding; too low rather than too high.
        memory: Estimated bytes that decoding takes.
        is_plain: Whether it is a JPEG of one scan, as cameras make them: its cost grows with its
            pixels and bytes alone.
        is_quick: Whether it may be decoded in a thread that others wait for.
    """

    format: str
    height: int
    width: int
    data: bytes
    orientation: int
    seconds: float
    memory: int
    is_plain: bool
    is_quick: bool


def allowed_s(source: Source, num_bytes: int, max_decode_s: float = MAX_DECODE_S) -> float:
    """Seconds of CPU that decoding a file of `num_bytes` may take."""
    pixels = source.height * source.width if source.is_plain else 0
    return max_decode_s + _PER_BYTE_S * num_bytes + _PER_PLAIN_PIXEL_S * pixels


def too_slow(max_decode_s: float) -> InvalidImageError:
    """The error for an image that takes too long."""
    return InvalidImageError(
        f"takes too long to decode: more than {max_decode_s:g} s and what its size explains; "
        "send it smaller, or as a baseline JPEG"
    )


def check_size(height: int, width: int, max_pixels: int) -> None:
    """Refuses an image of more than `max_pixels`, or with a side over `MAX_SIDE`."""
    if width * height > max_pixels:
        raise ImageTooLargeError(
            f"{height}x{width} is {height * width:,} pixels; the limit is {max_pixels:,}"
        )
    if max(height, width) > MAX_SIDE:
        raise ImageTooLargeError(f"{height}x{width}; the limit on each side is {MAX_SIDE:,}")
