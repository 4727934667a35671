"""The colours of drawings: two palettes for the sign of a weight, paper and ink.

Knows colours. Does not know images or segments.
"""

from typing import Literal

from limelens.explain.errors import InvalidArgumentError

Palette = Literal["green-red", "blue-orange"]
Colour = tuple[int, int, int]

PAPER, INK, PALE_INK = (255, 255, 255), (25, 25, 25), (95, 95, 95)

_PALETTES: dict[str, tuple[Colour, Colour]] = {
    "green-red": ((0, 158, 60), (214, 39, 40)),
    "blue-orange": ((0, 98, 178), (230, 120, 0)),  # distinguishable in all common colour blindness
}


def signs(palette: Palette) -> tuple[Colour, Colour]:
    """The colours for and against.

    Raises:
        InvalidArgumentError: There is no such palette.
    """
    if palette not in _PALETTES:
        raise InvalidArgumentError(
            "palette", f"palette is {palette!r}; expected one of {', '.join(_PALETTES)}"
        )
    return _PALETTES[palette]


def names(palette: Palette) -> tuple[str, str]:
    """Their names in a legend."""
    return ("green", "red") if palette == "green-red" else ("blue", "orange")
