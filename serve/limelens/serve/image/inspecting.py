"""Estimates what decoding an image would cost, before it is decoded.

A decoder cannot be interrupted, and a few bytes can keep it busy for long. Inspection refuses what
costs far more than its bytes and pixels. It takes a few milliseconds at most, and decodes nothing.
"""

from __future__ import annotations

import struct

from limelens.serve.errors import ImageTooLargeError, InvalidImageError
from limelens.serve.image.formats import FORMATS, READERS
from limelens.serve.image.limits import (
    DEFAULT_LIMITS,
    MAX_MEMORY,
    DecodeLimits,
    Source,
    allowed_s,
    too_slow,
)


def inspect(data: bytes, limits: DecodeLimits = DEFAULT_LIMITS) -> Source:
    """Inspects an image's structure.

    Raises:
        ImageTooLargeError: More pixels than allowed, a side over `MAX_SIDE`, or more memory than
            `MAX_MEMORY`.
        InvalidImageError: Not an image of a known format, damaged, or too slow to decode.
    """
    if not data:
        raise InvalidImageError("no bytes; expected an encoded image")
    read = next((read for starts, read in READERS if starts(data)), None)
    if read is None:
        raise InvalidImageError(
            f"not an image that is read: {_describe(data)}; expected {', '.join(FORMATS)}"
        )
    try:
        source = read(data, limits.max_pixels)
    except (IndexError, struct.error):
        raise InvalidImageError("damaged: it ends within its header") from None
    if source.memory > MAX_MEMORY:
        raise ImageTooLargeError(
            f"{source.height}x{source.width} of this kind of {source.format} takes "
            f"{source.memory / 2**20:,.0f} MiB to decode; the limit is {MAX_MEMORY / 2**20:,.0f}: "
            "send it smaller, or as a baseline JPEG"
        )
    if source.seconds > allowed_s(source, len(data), limits.max_decode_s):
        raise too_slow(limits.max_decode_s)
    return source


def _describe(data: bytes) -> str:
    """A guess at what bytes are that are not an image."""
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
