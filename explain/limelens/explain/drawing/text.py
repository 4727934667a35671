"""Lines of text on drawings, cut off or broken to fit.

Knows fonts and widths. Does not know the content.
"""

from PIL import ImageDraw

from limelens.explain.drawing.colours import INK, Colour
from limelens.explain.drawing.fonts import font_for
from limelens.explain.explanation import LabelExplanation

_IDEOGRAPHIC = 0x2E80  # from here on scripts write no spaces


def title_of(one: LabelExplanation, label_name: str | None, against_name: str | None) -> str:
    """A label or a contrast with its probability; unnamed labels appear by their number."""
    name = label_name or f"label {one.label}"
    if one.against is None:
        return f"{name}: {one.probability:.1%}"
    return f"{name} rather than {against_name or f'label {one.against}'}: {one.probability:+.1%}"


def baseline_of(one: LabelExplanation) -> str:
    """What is left of the probability with everything hidden; empty if nobody predicted it."""
    sign = "" if one.against is None else "+"
    return "" if one.baseline is None else f"{one.baseline:{sign}.1%} with everything hidden"


def write(
    pen: ImageDraw.ImageDraw,
    place: tuple[float, float],
    text: str,
    size: int,
    colour: Colour = INK,
    *,
    anchor: str = "la",
    room: float | None = None,
) -> None:
    """Write one line.

    Args:
        pen: Draws on the image.
        place: X and y of the anchor, in pixels.
        text: One line, any script.
        size: Pixels per em.
        colour: Of the text.
        anchor: Pillow's name for the point of the text that lies at `place`.
        room: Width in pixels at which a longer text is cut off; None for no limit.
    """
    font, text = font_for(text, size)
    if room is not None and font.getlength(text) > room:
        while len(text) > 1 and font.getlength(text + "...") > room:
            text = text[:-1]
        text += "..."
    pen.text(place, text, fill=colour, font=font, anchor=anchor)


class Paragraph:
    """Words broken into lines that fit a width.

    Args:
        text: Any script.
        size: Pixels per em.
        width: In pixels.
    """

    def __init__(self, text: str, size: int, width: int) -> None:
        self._font, drawable = font_for(text, size)
        self._line_height = round(1.3 * size)
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
        """Of all lines, in pixels."""
        return len(self._lines) * self._line_height

    def draw(self, pen: ImageDraw.ImageDraw, x: int, y: int, colour: Colour = INK) -> int:
        """Draw the lines from the top left corner, and return where they end."""
        for line in self._lines:
            pen.text((x, y), line, fill=colour, font=self._font, anchor="la")
            y += self._line_height
        return y


def _pieces(text: str) -> list[str]:
    """Where a line may break: after spaces, and around every character of scripts without them."""
    pieces = [""]
    for character in text:
        last = pieces[-1]
        if character == " " or not last:
            pieces[-1] += character
        elif max(ord(character), ord(last[-1])) >= _IDEOGRAPHIC or last.endswith(" "):
            pieces.append(character)
        else:
            pieces[-1] += character
    return pieces
