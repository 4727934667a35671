"""The explanation as a mask, as lime's `get_image_and_mask` gives it.

Knows segments and weights. Does not know labels or how to make an image presentable.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from limelens.explain.errors import InvalidArgumentError
from limelens.explain.explanation import Weights, ranked
from limelens.explain.image import as_rgb
from limelens.explain.segmentation.segments import checked


def image_and_mask(
    image: Any,
    segments: Any,
    weights: Weights,
    *,
    positive_only: bool = True,
    negative_only: bool = False,
    hide_rest: bool = False,
    num_features: int = 5,
    min_weight: float = 0.0,
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """The heaviest segments as an image and a mask, fit for `skimage`'s `mark_boundaries`.

    With one of the flags, the segments of that sign beyond `min_weight` are filtered first and
    the `num_features` heaviest of them kept. With neither, the `num_features` heaviest of both
    signs are kept first, then those below `min_weight` skipped, and the image's channel is set
    to its maximum: green for, red against.

    Args:
        image: `(H, W, 3)` or `(H, W)` uint8.
        segments: `(H, W)` integer ids.
        weights: One label's explanation, or weights by segment id.
        positive_only: Only segments that speak for the label.
        negative_only: Only segments that speak against it.
        hide_rest: Black out all other segments.
        num_features: How many segments at most.
        min_weight: How large a weight must be.

    Returns:
        `(H, W, 3)` uint8, and `(H, W)` int64: 1 for, -1 against (1 with `negative_only`), else 0.

    Raises:
        InvalidArgumentError: Both flags, or segments of another size than the shown.
    """
    if positive_only and negative_only:
        raise InvalidArgumentError(
            "negative_only", "positive_only and negative_only are both set: set at most one"
        )
    pixels = as_rgb(image)
    labels = checked(segments, *pixels.shape[:2])
    mask = np.zeros(labels.shape, dtype=np.int64)
    shown = np.zeros_like(pixels) if hide_rest else pixels.copy()
    pairs = ranked(weights)
    signed = positive_only or negative_only
    if signed:
        sign = 1 if positive_only else -1
        pairs = [pair for pair in pairs if sign * pair[1] > max(0.0, min_weight)]
    for segment, weight in pairs[:num_features]:
        if not signed and abs(weight) < min_weight:
            continue
        inside = labels == segment
        mask[inside] = -1 if weight < 0 and not signed else 1
        shown[inside] = pixels[inside]
        if not signed:
            shown[inside, 0 if weight < 0 else 1] = pixels.max()
    return shown, mask
