"""What was drawn in an image, in words, so that a model can be measured by it.

`limelens evaluate --groups` reads them from the data's `groups.csv`. Knows what was drawn; measures
nothing in pixels.
"""

import colorsys
from typing import Final

import numpy as np

from limelens.train.synthetic.face import Face
from limelens.train.synthetic.face_masks import MaskStyle
from limelens.train.synthetic.painting import RGB
from limelens.train.synthetic.people import DrawnPerson

Groups = dict[str, str]
"""The group that an image belongs to, by the name of the grouping."""

_LUMA: Final = (0.299, 0.587, 0.114)
# Upper ends; the last group has none.
_SKINS: Final = ((120.0, "dark"), (175.0, "medium"), (np.inf, "light"))
_POSES: Final = ((0.15, "front"), (0.4, "turned a little"), (np.inf, "turned far"))
_TILTS: Final = ((0.1, "upright"), (np.inf, "tilted"))
_SIZES: Final = (
    (0.1, "0.0 to 0.1"), (0.2, "0.1 to 0.2"), (0.3, "0.2 to 0.3"), (np.inf, "0.3 or more"),
)  # fmt: skip
_LIGHTS: Final = ((0.2, "even"), (np.inf, "from one side"))
# Upper ends of hues in degrees.
_HUES: Final = (
    (20, "red"), (70, "yellow or brown"), (165, "green"), (260, "blue"), (345, "pink or purple"),
    (361, "red"),
)  # fmt: skip


def person_groups(person: DrawnPerson) -> Groups:
    """Skin, lighting, glasses and hat of a drawn person."""
    return {
        "skin": _below(_SKINS, _luma(person.looks.skin)),
        "lighting": _below(_LIGHTS, abs(person.lamp)),
        "glasses": "yes" if person.glasses else "no",
        "hat": "yes" if person.hat else "no",
    }


def face_groups(face: Face, height: int, width: int, *, posed: bool = True) -> Groups:
    """The size of a face in an image, in eye distances per shorter side, and how it is turned.

    A face of a photo is not `posed`: only its size is known.
    """
    size = {"face_size": _below(_SIZES, face.unit / min(height, width))}
    if not posed:
        return size
    return {
        "pose": _below(_POSES, abs(face.yaw)),
        "tilt": _below(_TILTS, abs(face.roll)),
        **size,
    }


def mask_groups(style: MaskStyle) -> Groups:
    """Cut, colour and pattern of a mask."""
    return {
        "mask": style.kind,
        "mask_colour": colour_name(style.colour),
        "mask_pattern": "camouflage" if style.pattern == "noise" else style.pattern,
    }


def colour_name(colour: RGB) -> str:
    """The name of a colour as people would say it: `black`, `white`, `grey` or that of its hue."""
    hue, lightness, _ = colorsys.rgb_to_hls(*(value / 255 for value in colour))
    chroma = (max(colour) - min(colour)) / 255
    if lightness < 0.24 and chroma < 0.2:
        return "black"
    if chroma < 0.12:
        return "white" if lightness > 0.8 else "grey"
    return _below(_HUES, 360 * hue)


def _luma(colour: RGB) -> float:
    return float(np.dot(colour, _LUMA))


def _below(bounds: tuple[tuple[float, str], ...], value: float) -> str:
    return next(name for bound, name in bounds if value < bound)
