"""How strongly a weight is coloured, and the legend that tells.

Colours are absolute, in units of probability: a weight of `FULL` has full colour on every drawing,
and a small weight stays faint. Only drawings with larger weights have a scale of their own, up to
the largest. Knows weights, colours and text. Does not know images' contents or labels.
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from limelens.explain.drawing.colours import PALE_INK, PAPER, Palette, signs
from limelens.explain.drawing.text import write

FULL: Final = 0.2
"""The weight that has full colour, unless one is larger."""
_GREY: Final = 170.0
_NARROWEST: Final = 160  # pixels: on smaller images a legend would hide too much
_PAD: Final = 4


def scale_of(pairs: list[tuple[int, float]]) -> float:
    """The weight that has full colour on a drawing of these segment ids and weights."""
    return max([FULL, *(abs(weight) for _, weight in pairs)])


def scale_bar(width: int, height: int, palette: Palette, strongest: float) -> Image.Image:
    """The tints over mid-grey, from all against to all in favour.

    Args:
        width: In pixels.
        height: In pixels.
        palette: The colours.
        strongest: Opacity of full colour, 0 to 1.
    """
    in_favour, against = (np.array(colour, dtype=np.float64) for colour in signs(palette))
    at = np.linspace(-1.0, 1.0, width)[:, np.newaxis]
    tint = np.where(at > 0, in_favour, against)
    row = _GREY + (tint - _GREY) * np.abs(at) * strongest
    return Image.fromarray(np.repeat(np.rint(row).astype(np.uint8)[np.newaxis], height, axis=0))


def draw_legend(
    painted: NDArray[np.uint8],
    weight_of: NDArray[np.float32],
    palette: Palette,
    full: float,
    strongest: float,
) -> NDArray[np.uint8]:
    """The image with a small scale in the corner where it hides least.

    Args:
        painted: `(H, W, 3)` uint8; images smaller than 160 pixels get none.
        weight_of: `(H, W)` float32, how much each pixel is tinted.
        palette: The colours.
        full: The weight of full colour.
        strongest: Its opacity, 0 to 1.

    Returns:
        `(H, W, 3)` uint8.
    """
    height, width = painted.shape[:2]
    if min(height, width) < _NARROWEST:
        return painted
    size = max(11, round(min(height, width) / 34))
    bar = 9 * size, max(5, size // 2)
    texts = (f"-{full:.2g}", "0", f"+{full:.2g}")
    line = round(1.25 * size)
    box = Image.new("RGB", (bar[0] + 2 * _PAD, bar[1] + line + 2 * _PAD), PAPER)
    pen = ImageDraw.Draw(box)
    box.paste(scale_bar(*bar, palette, strongest), (_PAD, _PAD))
    pen.rectangle((_PAD, _PAD, _PAD + bar[0] - 1, _PAD + bar[1] - 1), outline=PALE_INK)
    for x, anchor, text in zip((0, bar[0] // 2, bar[0]), ("la", "ma", "ra"), texts, strict=True):
        write(pen, (_PAD + x, _PAD + bar[1] + 1), text, size, anchor=anchor)
    gap = size // 2
    rows = (height - box.height - gap, gap)
    columns = (gap, width - box.width - gap)
    corners = [(top, left) for top in rows for left in columns]
    top, left = min(
        corners,
        key=lambda at: float(
            weight_of[at[0] : at[0] + box.height, at[1] : at[1] + box.width].sum()
        ),
    )
    drawn = painted.copy()
    drawn[top : top + box.height, left : left + box.width] = np.asarray(box)
    return drawn
