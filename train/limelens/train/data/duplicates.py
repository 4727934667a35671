"""Images that are nearly the same, found by a perceptual hash and a thumbnail.

Of bottles on white, the hash alone calls 45,000 pairs among 736 images near; the thumbnails leave
77. It knows pixels, and nothing of labels or splits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

MAX_DISTANCE: Final = 4
"""Bits of 64 in which the hashes of near-duplicates may differ."""
MAX_DIFFERENCE: Final = 8.0
"""Of thumbnails, each less its mean colour, on average over pixels and channels, of 255."""
_SIDE: Final = 16
_ROWS_AT_ONCE: Final = 512


@dataclass(frozen=True, eq=False)
class PerceptualHash:
    """What of an image is compared with others.

    Args:
        gradients: Its 64-bit difference hash.
        thumbnail: `(256, 3)` uint8.
    """

    gradients: int
    thumbnail: NDArray[np.uint8]


def look_of(pixels: NDArray[np.uint8]) -> PerceptualHash:
    """The look of an image, `(H, W, 3)` uint8."""
    small = Image.fromarray(pixels).resize((_SIDE, _SIDE), Image.Resampling.BOX)
    return PerceptualHash(difference_hash(pixels), np.asarray(small).reshape(-1, 3))


def difference_hash(pixels: NDArray[np.uint8]) -> int:
    """The 64-bit difference hash of an image.

    Args:
        pixels: `(H, W, 3)` uint8.
    """
    # Imported here: an evaluation needs no hashes.
    import imagehash

    return int(str(imagehash.dhash(Image.fromarray(pixels))), 16)


def near_duplicate_groups(looks: Sequence[PerceptualHash]) -> NDArray[np.int32]:
    """Numbers images so that near-duplicates share a number.

    Args:
        looks: As from `look_of`.

    Returns:
        `(N,)` group of each, 0 and up.
    """
    if not looks:
        return np.empty(0, dtype=np.int32)
    values = np.array([look.gradients for look in looks], dtype=np.uint64)
    thumbnails = np.stack([look.thumbnail for look in looks])
    rows: list[NDArray[np.intp]] = []
    columns: list[NDArray[np.intp]] = []
    for start in range(0, len(values), _ROWS_AT_ONCE):
        distance = np.bitwise_count(values[start : start + _ROWS_AT_ONCE, np.newaxis] ^ values)
        row, column = np.nonzero(distance <= MAX_DISTANCE)
        row += start
        once = row < column
        row, column = row[once], column[once]
        like = differences(thumbnails, row, column) <= MAX_DIFFERENCE
        rows.append(row[like])
        columns.append(column[like])
    edges = (np.concatenate(rows), np.concatenate(columns))
    graph = coo_array((np.ones(len(edges[0]), dtype=bool), edges), shape=(len(values),) * 2)
    groups: NDArray[np.int32] = connected_components(graph, directed=False)[1]
    return groups


def differences(
    thumbnails: NDArray[np.uint8], first: NDArray[np.intp], second: NDArray[np.intp]
) -> NDArray[np.float32]:
    """How far thumbnails are apart, each less its mean colour.

    Args:
        thumbnails: `(N, P, 3)`, those of looks.
        first: `(M,)` indices.
        second: `(M,)` indices.

    Returns:
        `(M,)` means over pixels and channels, 0 to 255.
    """
    found = np.empty(len(first), dtype=np.float32)
    # In parts, as there may be many pairs.
    for start in range(0, len(first), _ROWS_AT_ONCE):
        part = slice(start, start + _ROWS_AT_ONCE)
        difference = thumbnails[first[part]].astype(np.float32) - thumbnails[second[part]]
        difference -= difference.mean(axis=1, keepdims=True)
        found[part] = np.abs(difference).mean(axis=(1, 2))
    return found
