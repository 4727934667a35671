"""The protocol's byte layout of tensors; it knows nothing of images, models or messages."""

from __future__ import annotations

import struct
from collections.abc import Iterable
from typing import Final

import numpy as np
from numpy.typing import NDArray

_LENGTH: Final = struct.Struct("<I")


class LayoutError(ValueError):
    """The bytes are not a BYTES tensor; the message says what was found."""


def pack_floats(values: NDArray[np.float32]) -> bytes:
    """Numbers as FP32: little-endian, the last dimension fastest."""
    return values.astype("<f4", copy=False).tobytes()


def pack_elements(elements: Iterable[bytes]) -> bytes:
    """Elements as BYTES: each one after its length."""
    return b"".join(_LENGTH.pack(len(element)) + element for element in elements)


def unpack_elements(data: bytes, count: int) -> list[bytes]:
    """The elements of a BYTES tensor, each after its length in 4 bytes, little-endian."""
    elements: list[bytes] = []
    start = 0
    while start < len(data) and len(elements) < count:
        begin = start + _LENGTH.size
        if begin > len(data):
            raise LayoutError(
                f"{len(data) - start} bytes after element {len(elements) - 1}; expected the length "
                "of the next in 4"
            )
        (length,) = _LENGTH.unpack_from(data, start)
        start = begin + length
        if start > len(data):
            raise LayoutError(
                f"element {len(elements)} is said to have {length:,} bytes and "
                f"{len(data) - begin:,} follow; expected its length in 4 bytes, little-endian, "
                "before each element"
            )
        elements.append(data[begin:start])
    if len(elements) != count:
        raise LayoutError(f"{len(elements)} elements; expected {count}, as the shape says")
    if start != len(data):
        raise LayoutError(
            f"{len(data) - start:,} bytes after the {count} elements that the shape says; expected "
            "none"
        )
    return elements
