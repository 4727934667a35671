"""Explanations drawn anew on an image in which faces were blurred.

A server draws on the image that it was sent; here its segments and weights are drawn on another. It
knows results and pixels.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from limelens.explain.drawing.colours import Palette
from limelens.explain.drawing.heat_map import heat_map
from limelens.explain.drawing.overlay import overlay
from limelens.explain.explanation import LabelExplanation as Explained
from limelens.explain.explanation import SegmentWeight
from limelens.serve.client.results import LabelExplanation, ServedExplanation
from limelens.serve.explaining.rendering import MAX_DRAWN
from limelens.serve.image import shrink


def draw_overlay(
    pixels: NDArray[np.uint8],
    found: ServedExplanation,
    one: LabelExplanation,
    palette: Palette = "green-red",
) -> NDArray[np.uint8]:
    """The overlay of one label, as a server draws it.

    Args:
        pixels: The upright image, or the same with changes, `(H, W, 3)` uint8 RGB.
        found: The explanation, with segments.
        one: One of its labels.
        palette: As for `overlay`.

    Returns:
        `(H', W', 3)` uint8 RGB; a large image is made smaller.
    """
    small, segments = _small(pixels, found)
    return overlay(small, segments, _weights(one), palette=palette)


def draw_heat_map(
    pixels: NDArray[np.uint8],
    found: ServedExplanation,
    one: LabelExplanation,
    palette: Palette = "green-red",
) -> NDArray[np.uint8]:
    """The heat map of one label; takes and returns what `draw_overlay` does."""
    small, segments = _small(pixels, found)
    explained = Explained(
        label=0,
        against=None if one.against is None else 1,
        probability=one.probability,
        intercept=one.intercept,
        local_prediction=one.local_prediction,
        score=one.score,
        stability=one.stability,
        top_k=0,
        ties=(),
        weights=_weights(one),
        baseline=one.baseline,
    )
    return heat_map(
        small,
        segments,
        explained,
        label_name=one.label,
        against_name=one.against,
        palette=palette,
    )


def _weights(one: LabelExplanation) -> tuple[SegmentWeight, ...]:
    return tuple(SegmentWeight(w.segment, w.weight, w.std_error) for w in one.weights)


def _small(
    pixels: NDArray[np.uint8], found: ServedExplanation
) -> tuple[NDArray[np.uint8], NDArray[np.uint16]]:
    """Image and segments with a longer side of `MAX_DRAWN` at most."""
    segments = found.segments()
    assert segments is not None  # they were requested
    height, width = segments.shape
    scale = MAX_DRAWN / max(height, width)
    if scale >= 1:
        return pixels, segments
    size = max(1, round(scale * height)), max(1, round(scale * width))
    nearest = Image.fromarray(segments).resize((size[1], size[0]), Image.Resampling.NEAREST)
    return shrink(pixels, *size), np.asarray(nearest)
