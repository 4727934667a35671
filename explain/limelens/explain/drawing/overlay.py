"""The explanation painted onto the image: colour by sign, tint by size, borders drawn.

Knows pixels, segments, weights and colours. Does not know labels or the model. Works at any
resolution: the segments may have been scaled up to the original photograph.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from limelens.explain.drawing.colours import Palette, signs
from limelens.explain.drawing.scale import draw_legend, scale_of
from limelens.explain.errors import InvalidArgumentError
from limelens.explain.explanation import Weights, ranked
from limelens.explain.image import as_rgb
from limelens.explain.segmentation.segments import UNSEEN, checked, distinct

_PALE = 190.0
_STRONGEST = 0.7  # opacity of a tint at full colour
_BORDER_FROM = 3.0  # borders are opaque from a third of full colour on
_BAND_PIXELS = 1 << 20  # rows are painted in bands of about this, to bound memory


def overlay(
    image: Any,
    segments: Any,
    weights: Weights,
    *,
    num_features: int | None = 5,
    palette: Palette = "green-red",
    borders: bool = True,
    legend: bool = True,
) -> NDArray[np.uint8]:
    """The heaviest segments, tinted by sign and size, on the faded image.

    A weight of 0.2 has full colour, or the largest where one is larger; smaller ones are fainter in
    proportion, so that weights that say nothing are hardly seen.

    Args:
        image: `(H, W, 3)` or `(H, W)` uint8.
        segments: `(H, W)` integer ids; pixels of 65535, outside the input region, are dimmed.
        weights: One label's explanation, or weights by segment id.
        num_features: How many of the heaviest segments to paint; None for all.
        palette: "green-red", or "blue-orange" for colour-blind readers; the first colour supports
            the label, the second opposes it.
        borders: Outline the painted segments.
        legend: Draw the scale into a corner, on images of 160 pixels or more.

    Returns:
        `(H, W, 3)` uint8 RGB.

    Raises:
        InvalidArgumentError: Segments of another size than the image, unknown palette.
    """
    if num_features is not None and num_features < 1:
        raise InvalidArgumentError(
            "num_features", f"num_features is {num_features}; expected at least 1, or None for all"
        )
    chosen = [pair for pair in ranked(weights) if pair[1] != 0.0][:num_features]
    return paint(
        image,
        segments,
        chosen,
        palette=palette,
        borders=borders,
        fade=0.55,
        strongest=_STRONGEST,
        legend=legend,
    )


def paint(
    image: Any,
    segments: Any,
    pairs: list[tuple[int, float]],
    *,
    palette: Palette,
    borders: bool,
    fade: float,
    strongest: float,
    lift: float = 0.0,
    legend: bool = False,
) -> NDArray[np.uint8]:
    """Paint segments by weight on the image faded towards grey.

    Args:
        image: `(H, W, 3)` or `(H, W)` uint8.
        segments: `(H, W)` integer ids.
        pairs: Segment ids and weights, all of them painted.
        palette: The colours.
        borders: Outline them.
        fade: How grey the image becomes, 0 to 1.
        strongest: Opacity of the tint at full colour, 0 to 1.
        lift: How pale the image becomes, 0 to 1, so that tints show on black.
        legend: Draw the scale into a corner.
    """
    pixels = as_rgb(image)
    height, width = pixels.shape[:2]
    labels = checked(segments, height, width)
    in_favour, against = signs(palette)
    place = _places(labels, [segment for segment, _ in pairs])
    full = scale_of(pairs)
    shares = [abs(weight) / full for _, weight in pairs]
    # One row per segment painted, then the rest, then pixels outside the input region.
    tints = np.array(
        [in_favour if weight > 0 else against for _, weight in pairs] + [(0, 0, 0)] * 2,
        dtype=np.float32,
    )
    opacity = np.array([strongest * share for share in shares] + [0.0, 0.7], dtype=np.float32)
    border = np.array(
        [min(1.0, _BORDER_FROM * share) for share in shares] + [0.0, 0.7], dtype=np.float32
    )
    greyness = np.array([fade] * len(pairs) + [fade, 1.0], dtype=np.float32)
    thickness = max(1, round(min(height, width) / 250))  # visible, and hides little
    edge = _edges(place, thickness) if borders else None
    painted = np.empty_like(pixels)
    band = max(1, _BAND_PIXELS // width)
    for start in range(0, height, band):
        rows = slice(start, start + band)
        here = place[rows]
        source = pixels[rows].astype(np.float32)
        grey = source @ np.array([0.299, 0.587, 0.114], dtype=np.float32)
        source += (grey[..., np.newaxis] - source) * greyness[here][..., np.newaxis]
        source += (_PALE - source) * lift
        cover = opacity[here]
        if edge is not None:
            is_edge = edge[rows]
            cover[is_edge] = border[here[is_edge]]
        source += (tints[here] - source) * cover[..., np.newaxis]
        painted[rows] = np.rint(source)
    if not legend:
        return painted
    tinted = np.array([*shares, 0.0, 0.0], dtype=np.float32)
    return draw_legend(painted, tinted[place], palette, full, strongest)


def _places(labels: NDArray[np.int64], chosen: list[int]) -> NDArray[np.intp]:
    """Each pixel's position among the M chosen ids; M for others, M + 1 outside the input."""
    ids, index = distinct(labels)
    place = np.full(ids.size, len(chosen), dtype=np.intp)
    place[ids == UNSEEN] = len(chosen) + 1
    for position, segment in enumerate(chosen):
        place[ids == segment] = position
    return place[index]


def _edges(place: NDArray[np.intp], reach: int) -> NDArray[np.bool_]:
    """Pixels with another place `reach` pixels away in any of eight directions."""
    edge = np.zeros(place.shape, dtype=np.bool_)
    for down, right in ((reach, 0), (0, reach), (reach, reach), (reach, -reach)):
        here = place[: place.shape[0] - down, max(0, -right) : place.shape[1] - max(0, right)]
        there = place[down:, max(0, right) : place.shape[1] + min(0, right)]
        if here.size == 0:
            continue
        differs = here != there
        edge[: place.shape[0] - down, max(0, -right) : place.shape[1] - max(0, right)] |= differs
        edge[down:, max(0, right) : place.shape[1] + min(0, right)] |= differs
    return edge
