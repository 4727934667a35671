"""Images that need no text around them: a heat map with scale and legend, images side by side.

Knows layout and text. Does not know the model; the caller names the labels.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from limelens.explain.drawing.colours import PALE_INK, PAPER, Palette, names
from limelens.explain.drawing.overlay import paint
from limelens.explain.drawing.scale import scale_bar, scale_of
from limelens.explain.drawing.text import Paragraph, baseline_of, title_of, write
from limelens.explain.errors import InvalidArgumentError
from limelens.explain.explanation import LabelExplanation, Weights, ranked
from limelens.explain.image import as_rgb
from limelens.explain.segmentation.segments import checked, stretched

_SHORTEST, _LONGEST, _NARROWEST = 480, 1600, 48  # sides of an image, in pixels
_STRONGEST = 0.85  # opacity of full colour
_SIZE = 18  # pixels per em, and the margin


def heat_map(
    image: Any,
    segments: Any,
    weights: Weights,
    *,
    label_name: str | None = None,
    against_name: str | None = None,
    palette: Palette = "green-red",
) -> NDArray[np.uint8]:
    """All segments coloured by weight, with a title, a scale bar and a legend.

    A weight of 0.2 has full colour, or the largest where one is larger; the scale says which.

    Args:
        image: `(H, W, 3)` or `(H, W)` uint8.
        segments: `(H, W)` integer ids; pixels of 65535, outside the input region, are dimmed.
        weights: One label's explanation (its probability and scores are then written beside it),
            or weights by segment id.
        label_name: The label's name, in any script that a font on the system has; unset: its
            number.
        against_name: The same for the label that a contrast subtracts.
        palette: "green-red", or "blue-orange" for colour-blind readers.

    Returns:
        `(H', W', 3)` uint8 RGB; the image in it is scaled to 480 to 1600 pixels on its longer
        side.

    Raises:
        InvalidArgumentError: Segments of another size than the image, unknown palette.
    """
    pixels = as_rgb(image)
    labels = checked(segments, *pixels.shape[:2])
    width, height = _report_size(pixels.shape[1], pixels.shape[0])
    large = np.asarray(Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC))
    pairs = ranked(weights)
    painted = paint(
        large,
        stretched(labels, height, width),
        pairs,
        palette=palette,
        borders=False,
        fade=1.0,
        lift=0.4,
        strongest=_STRONGEST,
    )
    full = scale_of(pairs)
    title, facts = label_name or "Weights by segment", ""
    if isinstance(weights, LabelExplanation):
        title = title_of(weights, label_name, against_name)
        figures = f"fit (R2) {weights.score:.2f}", f"stability {weights.stability:.2f}"
        facts = "     ".join(filter(None, (baseline_of(weights), *figures)))
    in_favour, against = names(palette)
    room = max(width, 480)
    heading = Paragraph(title, _SIZE + 4, room)
    details = Paragraph(facts, _SIZE - 3, room)
    legend = f"{in_favour}: speaks for it     {against}: speaks against it"
    key = Paragraph(legend, _SIZE - 3, room)
    texts_height = heading.height + (details.height + 4 if facts else 0) + key.height
    canvas_height = texts_height + height + 5 * _SIZE + 2 * (_SIZE // 2) + 4
    canvas = Image.new("RGB", (room + 2 * _SIZE, canvas_height), PAPER)
    pen = ImageDraw.Draw(canvas)
    y = heading.draw(pen, _SIZE, _SIZE)
    if facts:
        y = details.draw(pen, _SIZE, y + 4, PALE_INK)
    y += _SIZE // 2
    canvas.paste(Image.fromarray(painted), (_SIZE + (room - width) // 2, y))
    y += height + _SIZE
    canvas.paste(scale_bar(room, _SIZE, palette, _STRONGEST), (_SIZE, y))
    pen.rectangle((_SIZE, y, _SIZE + room - 1, y + _SIZE - 1), outline=PALE_INK)
    y += _SIZE + 4
    for x, anchor, text in (
        (_SIZE, "la", f"-{full:.2g}"),
        (_SIZE + room // 2, "ma", "0"),
        (_SIZE + room, "ra", f"+{full:.2g}"),
    ):
        write(pen, (x, y), text, _SIZE - 3, anchor=anchor)
    key.draw(pen, _SIZE, y + _SIZE + _SIZE // 2)
    return np.asarray(canvas)


def side_by_side(images: Sequence[tuple[str, Any]]) -> NDArray[np.uint8]:
    """Images in a row, all of one height, each under its caption.

    Args:
        images: Captions, in any script that a font on the system has, and images, `(H, W, 3)`
            or `(H, W)` uint8.

    Returns:
        `(H', W', 3)` uint8 RGB.

    Raises:
        InvalidArgumentError: No images, or one that is not uint8 RGB or grey.
    """
    if not images:
        raise InvalidArgumentError("images", "images is empty; expected at least one")
    loaded = [(caption, Image.fromarray(as_rgb(one, "images"))) for caption, one in images]
    tallest = max(image.height for _, image in loaded)
    height = min(_LONGEST, max(_SHORTEST // 2, tallest))
    scaled = []
    for caption, image in loaded:
        width = min(4 * _LONGEST, max(_NARROWEST, round(image.width * height / image.height)))
        enlarged = image.resize((width, height), Image.Resampling.BICUBIC)
        scaled.append((Paragraph(caption, max(15, height // 28), max(width, 120)), enlarged))
    gap = max(8, height // 30)
    top = max(text.height for text, _ in scaled)
    widths = [max(image.width, 120) for _, image in scaled]
    canvas = Image.new(
        "RGB", (sum(widths) + gap * (len(scaled) + 1), top + height + 5 * gap // 2), PAPER
    )
    pen = ImageDraw.Draw(canvas)
    x = gap
    for (text, image), width in zip(scaled, widths, strict=True):
        text.draw(pen, x, gap + top - text.height)
        canvas.paste(image, (x, gap + top + gap // 2))
        x += width + gap
    return np.asarray(canvas)


def _report_size(width: int, height: int) -> tuple[int, int]:
    longest = max(width, height)
    scale = min(_LONGEST, max(_SHORTEST, longest)) / longest
    return max(_NARROWEST, round(width * scale)), max(_NARROWEST, round(height * scale))
