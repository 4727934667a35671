"""Deletion and insertion curves as an image.

Knows numbers, lines and text. Does not know the model, nor how the curves were measured.
"""

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from limelens.explain.drawing.colours import PAPER, Palette, signs
from limelens.explain.drawing.text import write
from limelens.explain.faithfulness import Faithfulness

_PLOT = (360, 270)  # width, height of one pair of axes, in pixels
_LEFT, _TOP, _BOTTOM, _GAP = 48, 70, 56, 28
_FINE = 3  # lines are drawn this many times larger and scaled down, which smooths them
_PALE_INK, _GRID = (110, 110, 110), (225, 225, 225)


def draw_curves(
    faithfulness: Faithfulness, *, label_name: str | None = None, palette: Palette = "green-red"
) -> NDArray[np.uint8]:
    """Both curves beside those of random orders, with the areas under them.

    Args:
        faithfulness: What was measured.
        label_name: The label's name; unset: its number.
        palette: "green-red" or "blue-orange"; the first colour is the insertion's.

    Returns:
        `(H, W, 3)` uint8 RGB.

    Raises:
        InvalidArgumentError: Unknown palette.
    """
    found = faithfulness
    name = label_name or f"label {found.label}"
    inserted, deleted = signs(palette)
    ours = (found.deletion, found.deletion_area), (found.insertion, found.insertion_area)
    theirs = (
        (found.random_deletion, found.random_deletion_area, found.random_deletion_spread),
        (found.random_insertion, found.random_insertion_area, found.random_insertion_spread),
    )
    panels = (
        ("Deletion (lower is better)", "hidden", deleted, ours[0], theirs[0]),
        ("Insertion (higher is better)", "shown", inserted, ours[1], theirs[1]),
    )
    width, height = _PLOT
    step = _LEFT + width + _GAP
    canvas = Image.new("RGB", (2 * step, _TOP + height + _BOTTOM), PAPER)
    pen = ImageDraw.Draw(canvas)
    for place, (title, verb, colour, (curve, area), (random, mean, spread)) in enumerate(panels):
        left = place * step + _LEFT
        plot = _plot(found.changed_share, ((random, _PALE_INK), (curve, colour)))
        canvas.paste(plot, (left, _TOP))
        pen.rectangle((left, _TOP, left + width, _TOP + height), outline=_PALE_INK)
        write(pen, (left, 8), title, 18)
        write(pen, (left, 32), f"explanation: area {area:.3f}", 14, colour)
        write(pen, (left, 50), f"random order: {mean:.3f} ± {spread:.3f}", 14, _PALE_INK)
        for share in (0.0, 0.5, 1.0):
            y = _TOP + round((1 - share) * height)
            write(pen, (left - 6, y), f"{share:.1f}", 13, _PALE_INK, anchor="rm")
            x = left + round(share * width)
            write(pen, (x, _TOP + height + 6), f"{share:.0%}", 13, _PALE_INK, anchor="ma")
        below = (left + width // 2, _TOP + height + 28)
        write(pen, below, f"probability of {name} by share {verb}", 13, anchor="ma")
    return np.asarray(canvas)


def _plot(
    shares: tuple[float, ...], lines: tuple[tuple[tuple[float, ...], tuple[int, int, int]], ...]
) -> Image.Image:
    width, height = _PLOT[0] * _FINE, _PLOT[1] * _FINE
    plot = Image.new("RGB", (width, height), PAPER)
    pen = ImageDraw.Draw(plot)
    for share in (0.25, 0.5, 0.75):
        pen.line((0, share * height, width, share * height), fill=_GRID, width=_FINE)
        pen.line((share * width, 0, share * width, height), fill=_GRID, width=_FINE)
    for curve, colour in lines:
        points = [(x * width, (1 - y) * height) for x, y in zip(shares, curve, strict=True)]
        pen.line(points, fill=colour, width=2 * _FINE, joint="curve")
    return plot.resize(_PLOT, Image.Resampling.BOX)
