"""Images that explain themselves: a heat map with scale and legend, images side by side.

Knows layout and text. Does not know the model; the caller names the labels.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from limelens.explain.drawing.colours import Palette, names, signs
from limelens.explain.drawing.fonts import font_for
from limelens.explain.drawing.overlay import paint
from limelens.explain.errors import InvalidArgumentError
from limelens.explain.explanation import LabelExplanation, Weights, ranked
from limelens.explain.image import as_rgb
from limelens.explain.segmentation.segments import checked

_SHORTEST, _LONGEST, _NARROWEST = 480, 1600, 48  # sides of an image, in pixels
_PAPER, _INK, _PALE_INK = (255, 255, 255), (25, 25, 25), (95, 95, 95)
_STRENGTH = (0.0, 0.85)
_IDEOGRAPHIC = 0x2E80  # from here on scripts write no spaces


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

    Args:
        image: `(H, W, 3)` or `(H, W)` uint8.
        segments: `(H, W)` integer ids; pixels of 65535, which the model never saw, are dimmed.
        weights: one label's explanation (its probability and scores are then written beside it),
            or weights by segment id.
        label_name: what to call the label, in any script that a font on the system has; unset:
            its number.
        against_name: the same for the label that a contrast subtracts.
        palette: "green-red", or "blue-orange" for colour-blind readers.

    Returns:
        `(H', W', 3)` uint8 RGB; the image in it is scaled to 480 to 1600 pixels on its longer
        side.

    Raises:
        InvalidArgumentError: segments of another size than the image, unknown palette.
    """
    pixels = as_rgb(image)
    labels = checked(segments, *pixels.shape[:2])
    width, height = _report_size(pixels.shape[1], pixels.shape[0])
    large = np.asarray(Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC))
    rows = np.arange(height) * labels.shape[0] // height
    cols = np.arange(width) * labels.shape[1] // width
    pairs = ranked(weights)
    painted = paint(
        large,
        labels[rows[:, np.newaxis], cols],
        pairs,
        palette=palette,
        borders=False,
        fade=1.0,
        lift=0.4,
        strength=_STRENGTH,
    )
    largest = max((abs(weight) for _, weight in pairs), default=0.0)
    title, facts = _words(weights, label_name, against_name)
    in_favour, against = names(palette)
    legend = f"{in_favour}: speaks for it     {against}: speaks against it"
    size = 18
    margin = size
    canvas_width = max(width, 480) + 2 * margin
    room = canvas_width - 2 * margin
    heading = _Text(title, size + 4, room)
    details = _Text(facts, size - 3, room)
    key = _Text(legend, size - 3, room)
    bar_height = size
    canvas_height = (
        margin
        + heading.height
        + (details.height + 4 if facts else 0)
        + margin // 2
        + height
        + margin
        + bar_height
        + 4
        + size
        + margin // 2
        + key.height
        + margin
    )
    canvas = Image.new("RGB", (canvas_width, canvas_height), _PAPER)
    pen = ImageDraw.Draw(canvas)
    y = margin
    y = heading.draw(pen, margin, y, _INK)
    if facts:
        y = details.draw(pen, margin, y + 4, _PALE_INK)
    y += margin // 2
    canvas.paste(Image.fromarray(painted), ((canvas_width - width) // 2, y))
    y += height + margin
    canvas.paste(_scale_bar(room, bar_height, palette), (margin, y))
    pen.rectangle((margin, y, margin + room - 1, y + bar_height - 1), outline=_PALE_INK)
    y += bar_height + 4
    for position, anchor, text in (
        (margin, "la", f"-{largest:.3g}" if largest else ""),
        (margin + room // 2, "ma", "0"),
        (margin + room, "ra", f"+{largest:.3g}" if largest else ""),
    ):
        font, text = font_for(text, size - 3)
        pen.text((position, y), text, fill=_INK, font=font, anchor=anchor)
    y += size + margin // 2
    key.draw(pen, margin, y, _INK)
    return np.asarray(canvas)


def side_by_side(images: Sequence[tuple[str, Any]]) -> NDArray[np.uint8]:
    """Images in a row, all of one height, each under its caption.

    Args:
        images: captions, in any script that a font on the system has, and images, `(H, W, 3)`
            or `(H, W)` uint8.

    Returns:
        `(H', W', 3)` uint8 RGB.

    Raises:
        InvalidArgumentError: no images, or one that is not uint8 RGB or grey.
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
        scaled.append((_Text(caption, max(15, height // 28), max(width, 120)), enlarged))
    gap = max(8, height // 30)
    top = max(text.height for text, _ in scaled)
    widths = [max(image.width, 120) for _, image in scaled]
    canvas = Image.new(
        "RGB", (sum(widths) + gap * (len(scaled) + 1), top + height + 5 * gap // 2), _PAPER
    )
    pen = ImageDraw.Draw(canvas)
    x = gap
    for (text, image), width in zip(scaled, widths, strict=True):
        text.draw(pen, x, gap + top - text.height, _INK)
        canvas.paste(image, (x, gap + top + gap // 2))
        x += width + gap
    return np.asarray(canvas)


class _Text:
    """Words broken into lines that fit a width."""

    def __init__(self, text: str, size: int, width: int) -> None:
        self._font, drawable = font_for(text, size)
        self._size = size
        self._lines: list[str] = []
        line = ""
        for piece in _pieces(drawable):
            if line and self._font.getlength(line + piece.rstrip()) > width:
                self._lines.append(line.rstrip())
                line = piece.lstrip()
            else:
                line += piece
        if line.strip():
            self._lines.append(line.rstrip())

    @property
    def height(self) -> int:
        return len(self._lines) * round(1.3 * self._size)

    def draw(self, pen: ImageDraw.ImageDraw, x: int, y: int, colour: tuple[int, int, int]) -> int:
        for line in self._lines:
            pen.text((x, y), line, fill=colour, font=self._font, anchor="la")
            y += round(1.3 * self._size)
        return y


def _pieces(text: str) -> list[str]:
    """Where a line may break: after spaces, and around every character of scripts without them."""
    pieces: list[str] = []
    for character in text:
        ideographic = ord(character) >= _IDEOGRAPHIC
        if not pieces:
            pieces.append(character)
        elif character == " ":
            pieces[-1] += character
        elif ideographic or pieces[-1].endswith(" ") or ord(pieces[-1][-1]) >= _IDEOGRAPHIC:
            pieces.append(character)
        else:
            pieces[-1] += character
    return pieces


def _report_size(width: int, height: int) -> tuple[int, int]:
    longest = max(width, height)
    scale = min(_LONGEST, max(_SHORTEST, longest)) / longest
    return max(_NARROWEST, round(width * scale)), max(_NARROWEST, round(height * scale))


def _words(weights: Weights, label_name: str | None, against_name: str | None) -> tuple[str, str]:
    if not isinstance(weights, LabelExplanation):
        return label_name or "Weights by segment", ""
    name = label_name or f"label {weights.label}"
    facts = f"fit (R2) {weights.score:.2f}     stability {weights.stability:.2f}"
    if weights.against is None:
        return f"{name}: {weights.probability:.1%}", facts
    rival = against_name or f"label {weights.against}"
    return f"{name} rather than {rival}: {weights.probability:+.1%}", facts


def _scale_bar(width: int, height: int, palette: Palette) -> Image.Image:
    """The tints over mid-grey, from all against to all in favour."""
    in_favour, against = (np.array(colour, dtype=np.float64) for colour in signs(palette))
    at = np.linspace(-1.0, 1.0, width)[:, np.newaxis]
    grey = np.full((1, 3), 170.0)
    tint = np.where(at > 0, in_favour, against)
    row = grey + (tint - grey) * np.abs(at) * _STRENGTH[1]
    return Image.fromarray(np.repeat(np.rint(row).astype(np.uint8)[np.newaxis], height, axis=0))
