"""Pictures that are nearly the same, found by a perceptual hash.

It knows pixels and hashes, and nothing of labels or splits.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

MAX_DISTANCE: Final = 4
"""Bits of 64 in which the hashes of near-duplicates may differ."""
_ROWS_AT_ONCE: Final = 512


def difference_hash(pixels: NDArray[np.uint8]) -> int:
    """The 64-bit difference hash of a picture.

    Args:
        pixels: `(H, W, 3)` uint8.
    """
    # Imported here: an evaluation needs no hashes.
    import imagehash

    return int(str(imagehash.dhash(Image.fromarray(pixels))), 16)


def near_duplicate_groups(
    hashes: Sequence[int], max_distance: int = MAX_DISTANCE
) -> NDArray[np.int32]:
    """Numbers pictures so that near-duplicates share a number.

    Args:
        hashes: As from `difference_hash`.
        max_distance: Bits that may differ.

    Returns:
        `(N,)` group of each, 0 and up.
    """
    values = np.array(hashes, dtype=np.uint64)
    rows: list[NDArray[np.intp]] = []
    columns: list[NDArray[np.intp]] = []
    for start in range(0, len(values), _ROWS_AT_ONCE):
        distance = np.bitwise_count(values[start : start + _ROWS_AT_ONCE, np.newaxis] ^ values)
        row, column = np.nonzero(distance <= max_distance)
        rows.append(row + start)
        columns.append(column)
    if not rows:
        return np.empty(0, dtype=np.int32)
    edges = (np.concatenate(rows), np.concatenate(columns))
    graph = coo_array((np.ones(len(edges[0]), dtype=bool), edges), shape=(len(values),) * 2)
    groups: NDArray[np.int32] = connected_components(graph, directed=False)[1]
    return groups
