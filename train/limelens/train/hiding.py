"""Pictures with parts taken away, as LIME takes them away, so that a network learns what counts.

A network that was only shown whole pictures may say "mask" of anything smooth, a hidden segment
included: then no segment matters and no explanation can point anywhere. Here segments are filled
with their mean colour. As long as the part that decides (a mask, or a bare mouth and nose) can be
seen, the label stays; where it is hidden, nothing decides, and each label is given as often as the
other. It knows pixels and regions, and neither files nor networks.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from limelens.train.painting import Pixels

_NUM_SEGMENTS: Final = (20, 80)
_LEAST_SHARE: Final = 0.25
"""A segment is part of a region from this share of its pixels on."""


def hide_around(
    pixels: Pixels, region: NDArray[np.bool_], rng: np.random.Generator, *, hide_region: bool
) -> Pixels:
    """Fills random segments with their mean colour.

    Args:
        pixels: `(H, W, 3)` uint8.
        region: `(H, W)`, the part that decides.
        rng: Chooses the number of segments, and which are hidden.
        hide_region: Whether all of the region is hidden, or all of it shown.

    Returns:
        `(H, W, 3)` uint8; a new array.
    """
    segments = _cut(pixels, int(rng.integers(*_NUM_SEGMENTS)))
    num_segments = int(segments.max()) + 1
    sizes = np.bincount(segments.ravel(), minlength=num_segments)
    inside = np.bincount(segments[region], minlength=num_segments)
    decides = inside >= _LEAST_SHARE * np.maximum(sizes, 1)
    hidden = rng.random(num_segments) < rng.uniform(0.1, 0.8)
    hidden[decides] = hide_region
    means = np.stack(
        [
            np.bincount(segments.ravel(), weights=pixels[..., channel].ravel())
            / np.maximum(sizes, 1)
            for channel in range(3)
        ],
        axis=1,
    )
    filled = (means[segments] + 0.5).astype(np.uint8)
    return np.where(hidden[segments][..., np.newaxis], filled, pixels)


def _cut(pixels: Pixels, num_segments: int) -> NDArray[np.integer[Any]]:
    from skimage.segmentation import slic

    segments: NDArray[np.integer[Any]] = slic(
        pixels, n_segments=num_segments, compactness=10, start_label=0, channel_axis=-1
    )
    return segments
