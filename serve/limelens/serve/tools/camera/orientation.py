"""The rotation or mirroring that makes a video's frames upright.

It reads the display matrix of a video (ISO 14496-12, 6.2.2).
"""

from __future__ import annotations

import struct
from typing import Final

from PIL.Image import Transpose

_TO_UPRIGHT: Final[dict[tuple[int, int, int, int], Transpose | None]] = {
    (1, 0, 0, 1): None,
    (-1, 0, 0, 1): Transpose.FLIP_LEFT_RIGHT,
    (1, 0, 0, -1): Transpose.FLIP_TOP_BOTTOM,
    (-1, 0, 0, -1): Transpose.ROTATE_180,
    (0, 1, 1, 0): Transpose.TRANSPOSE,
    (0, -1, -1, 0): Transpose.TRANSVERSE,
    (0, 1, -1, 0): Transpose.ROTATE_270,
    (0, -1, 1, 0): Transpose.ROTATE_90,
}
"""By the signs of a, b, c, d, which take (x, y) to (ax + cy, bx + dy); y goes down."""


def to_upright(matrix: bytes) -> Transpose | None:
    """The operation that makes a frame upright; None if it is.

    Args:
        matrix: Nine 32-bit integers in this machine's order: a, b, u, c, d, v, x, y, w. Rotations
            by less than 45 degrees are ignored.
    """
    if len(matrix) < 36:
        return None
    a, b, _, c, d, *_ = struct.unpack("=9i", matrix[:36])
    if abs(a * d) >= abs(b * c):
        b = c = 0
    else:
        a = d = 0
    signs = tuple((value > 0) - (value < 0) for value in (a, b, c, d))
    return _TO_UPRIGHT.get(signs)
