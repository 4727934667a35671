"""Segments: which id each pixel has, and which column of the design hides it.

Knows ids and columns. Does not know how an image is cut or how segments are hidden.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from limelens.explain.errors import InvalidArgumentError
from limelens.explain.warning import ExplanationWarning

UNSEEN = 65535
"""The id of pixels outside the input region: never hidden, without a weight, drawn dimmed."""


@dataclass(frozen=True, eq=False)
class Segmentation:
    """An image's segments.

    Attributes:
        labels: `(H, W)` int32, each pixel's segment id as the caller knows it.
        ids: `(K,)` int32, the id that column j of the design matrix stands for.
        columns: `(H, W)` intp, each pixel's column, 0 to K; K stands for pixels that no column
            hides.
        warnings: What the reader should know about how the image was cut.
    """

    labels: NDArray[np.int32]
    ids: NDArray[np.int32]
    columns: NDArray[np.intp]
    warnings: tuple[ExplanationWarning, ...] = ()

    @property
    def num_segments(self) -> int:
        """K, the number of segments that can be hidden."""
        return self.ids.size


def numbered(labels: NDArray[np.int64], *warnings: ExplanationWarning) -> Segmentation:
    """Segments under the ids given, with columns counted in ascending order of id.

    Args:
        labels: `(H, W)` any ids; `UNSEEN` marks pixels that are never hidden.
        *warnings: What the reader should know about how the image was cut.

    Raises:
        InvalidArgumentError: There is no segment.
    """
    ids, columns = distinct(labels)
    if UNSEEN in ids:
        place = int(np.searchsorted(ids, UNSEEN))
        last = ids.size - 1
        columns = np.where(columns == place, last, columns - (columns > place))
        ids = np.delete(ids, place)
    if ids.size == 0:
        raise InvalidArgumentError(
            "segments", f"segments holds only {UNSEEN} (never seen); expected at least one segment"
        )
    return Segmentation(
        labels.astype(np.int32), ids.astype(np.int32), columns.astype(np.intp), warnings
    )


def as_lime_reads(labels: NDArray[np.int64]) -> Segmentation:
    """Segments under lime's assumption that ids run from 0 to K-1.

    lime counts K distinct ids and then hides ids 0 to K-1 literally: an id beyond (slic's last,
    with `start_label=1`) is never hidden, and a column whose id does not occur hides nothing.
    """
    num_segments = np.unique(labels).size
    columns = np.where((labels >= 0) & (labels < num_segments), labels, num_segments)
    ids = np.arange(num_segments, dtype=np.int32)
    return Segmentation(labels.astype(np.int32), ids, columns.astype(np.intp))


def known(labels: NDArray[np.int32], ids: NDArray[np.int32]) -> Segmentation:
    """The segments of an existing explanation.

    Args:
        labels: `(H, W)` segment ids.
        ids: `(K,)` ascending, the id of each column; pixels of other ids are never hidden.
    """
    place = np.minimum(np.searchsorted(ids, labels), ids.size - 1)
    columns = np.where(ids[place] == labels, place, ids.size)
    return Segmentation(labels, ids, columns.astype(np.intp))


def distinct(labels: NDArray[Any]) -> tuple[NDArray[Any], NDArray[np.intp]]:
    """The distinct ids, ascending, and for each pixel the place of its id among them.

    As `np.unique(labels, return_inverse=True)`, without sorting where ids are small.

    Args:
        labels: `(H, W)` integers.

    Returns:
        `(K,)` ids and `(H, W)` places, 0 to K-1.
    """
    if labels.size == 0 or labels.min() < 0 or labels.max() > UNSEEN:
        ids, places = np.unique(labels, return_inverse=True)
        return ids, places.reshape(labels.shape)
    is_used = np.bincount(labels.ravel()) > 0
    ids = np.flatnonzero(is_used).astype(labels.dtype)
    places = np.cumsum(is_used) - 1
    return ids, places[labels].astype(np.intp)


def checked(segments: Any, height: int, width: int) -> NDArray[np.int64]:
    """A caller's `(H, W)` segment ids as int64.

    Raises:
        InvalidArgumentError: Another shape, no integers, or ids beyond 32 bits.
    """
    labels = np.asarray(segments)
    limits = np.iinfo(np.int32)
    if labels.shape != (height, width):
        problem = f"has shape {labels.shape}; the image is ({height}, {width}): one id per pixel"
    elif labels.dtype.kind not in "iu":
        problem = f"is {labels.dtype}; expected integers: use .astype(np.int32)"
    elif int(labels.min()) < limits.min or int(labels.max()) > limits.max:
        problem = "holds ids that do not fit 32 bits: renumber them"
    else:
        return labels.astype(np.int64)
    raise InvalidArgumentError("segments", f"segments {problem}")


def stretched(labels: NDArray[Any], height: int, width: int) -> NDArray[Any]:
    """Segment ids at another size, each pixel taking the nearest id."""
    rows = np.arange(height) * labels.shape[0] // height
    cols = np.arange(width) * labels.shape[1] // width
    return np.asarray(labels[rows[:, np.newaxis], cols])
