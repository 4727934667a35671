"""Hides segments of training images as LIME hides them, so that a network learns what matters.

A network trained on whole images may take anything smooth for a mask, even a hidden segment: then
no segment matters, and explanations show nothing. Here segments are filled with their mean colour,
the blurred image, shuffled patches of it, another place or one colour. Knows pixels and regions;
does not know labels, files or networks.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from limelens.train.synthetic.backgrounds import random_background
from limelens.train.synthetic.painting import Pixels

Segments = NDArray[np.integer[Any]]

_NUM_SEGMENTS: Final = (20, 80)
_LEAST_SHARE: Final = 0.25
"""Share of a segment's pixels in a region that makes it belong there."""


def hide_around(
    pixels: Pixels, region: NDArray[np.bool_], rng: np.random.Generator, *, chance: float
) -> tuple[Pixels, float]:
    """A copy of an image with random segments filled, and how much of a region it still shows.

    Args:
        pixels: `(H, W, 3)` uint8.
        region: `(H, W)`, the part that decides the label.
        rng: Of the segments, of those that are hidden, and of the fill.
        chance: That a segment of the region is hidden, 0 to 1; 0 shows all of it, 1 nothing.

    Returns:
        The copy, and the share of the region's own pixels that it shows, 0 to 1.
    """
    from skimage.segmentation import slic

    num = int(rng.integers(*_NUM_SEGMENTS))
    segments = slic(pixels, n_segments=num, compactness=10, start_label=0, channel_axis=-1)
    num_segments = int(segments.max()) + 1
    sizes = np.bincount(segments.ravel(), minlength=num_segments)
    inside = np.bincount(segments[region], minlength=num_segments)
    decides = inside >= _LEAST_SHARE * np.maximum(sizes, 1)
    hidden = rng.random(num_segments) < rng.uniform(0.1, 0.8)
    hidden[decides] = rng.random(int(decides.sum())) < chance
    filled = _FILLS[int(rng.choice(len(_FILLS), p=_SHARES))](pixels, segments, rng)
    shown = 1 - inside[decides & hidden].sum() / max(1, inside[decides].sum())
    return np.where(hidden[segments][..., np.newaxis], filled, pixels), float(shown)


def _means(pixels: Pixels, segments: Segments, _rng: np.random.Generator) -> Pixels:
    sizes = np.maximum(np.bincount(segments.ravel()), 1)
    sums = [np.bincount(segments.ravel(), weights=pixels[..., c].ravel()) for c in range(3)]
    means = np.stack(sums, axis=1) / sizes[:, np.newaxis]
    return (means[segments] + 0.5).astype(np.uint8)


def _blurred(pixels: Pixels, segments: Segments, rng: np.random.Generator) -> Pixels:
    side = float(segments.size / (segments.max() + 1)) ** 0.5
    radius = float(rng.uniform(0.6, 1.3)) * side
    return np.asarray(Image.fromarray(pixels).filter(ImageFilter.GaussianBlur(radius)))


def _patches(pixels: Pixels, _segments: Segments, rng: np.random.Generator) -> Pixels:
    """A mosaic of the image's own colours, in another order."""
    height, width = pixels.shape[:2]
    cells = int(rng.integers(8, 20))
    coarse = np.asarray(Image.fromarray(pixels).resize((cells, cells), Image.Resampling.BOX))
    shuffled = rng.permutation(coarse.reshape(-1, 3)).reshape(coarse.shape)
    return np.asarray(Image.fromarray(shuffled).resize((width, height), Image.Resampling.NEAREST))


def _other(pixels: Pixels, _segments: Segments, rng: np.random.Generator) -> Pixels:
    """A place without anybody."""
    return random_background(rng, *pixels.shape[:2])


def _plain(pixels: Pixels, _segments: Segments, rng: np.random.Generator) -> Pixels:
    """One colour: grey, black, or any."""
    grey = np.full(3, int(rng.choice((0, 118, 128))))
    colour = grey if rng.random() < 0.6 else rng.integers(0, 256, 3)
    return np.broadcast_to(colour.astype(np.uint8), pixels.shape)


_FILLS: Final = (_means, _blurred, _patches, _other, _plain)
_SHARES: Final = (0.3, 0.35, 0.15, 0.1, 0.1)
