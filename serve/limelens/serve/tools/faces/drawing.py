"""The faces of a prediction drawn on their frame: a box each, and what was decided.

It knows predictions and pixels, and nothing of how they came about.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from limelens.explain.drawing.colours import Colour, signs
from limelens.explain.drawing.fonts import font_for
from limelens.serve.decisions.decision import FacePrediction, Prediction

_SHORTEST: Final = 640
"""Smaller frames are enlarged to this longer side, in pixels, so that the text can be read."""
_ALERT: Final = signs("green-red")[1]
_FINE: Final = (0, 118, 46)
_UNKNOWN: Final = (92, 92, 92)
_HALO: Final = (255, 255, 255)

_Box = tuple[float, float, float, float]


def draw_faces(pixels: NDArray[np.uint8], prediction: Prediction) -> NDArray[np.uint8]:
    """Draws a box and the decision for each face: red for an alert, grey if unknown, else green.

    Args:
        pixels: The upright image, `(H, W, 3)` uint8 RGB.
        prediction: Its own, with faces.

    Returns:
        `(H', W', 3)` uint8 RGB; a small image is enlarged.
    """
    height, width = pixels.shape[:2]
    scale = max(1.0, _SHORTEST / max(height, width))
    image = Image.fromarray(pixels)
    if scale > 1:
        size = max(1, round(scale * width)), max(1, round(scale * height))
        image = image.resize(size, Image.Resampling.BICUBIC)
    pen = ImageDraw.Draw(image)
    text_size = max(14, round(max(image.size) / 48))
    line = max(2, round(max(image.size) / 320))
    taken: list[_Box] = []
    # The largest last, so that nothing hides its box.
    for face in reversed(prediction.faces):
        left, top, right, bottom = face.box.box(image.height, image.width)
        box = (left, top, right - 1, bottom - 1)
        pen.rectangle(_grown(box, 1), outline=_HALO, width=line + 2)
        pen.rectangle(box, outline=_colour(face), width=line)
    for face in prediction.faces:
        _write(pen, face, image.size, text_size, taken)
    return np.asarray(image)


def describe(face: FacePrediction) -> str:
    """What was decided about a face, or the person whose it is, in a few words."""
    name = "" if face.person is None else f"{face.person}: "
    label = decided(face)
    if label is None:
        issue = "" if face.issue is None else f", {face.issue.in_words}"
        return f"{name}unknown{issue}"
    found = face.prediction
    if face.person is None and found.label is not None:
        probabilities = {score.label: score.probability for score in found.scores}
        if label in probabilities:
            return f"{label} {probabilities[label]:.2f}"
    return name + label


def decided(face: FacePrediction) -> str | None:
    """The label, or labels, of the person in a stream, or of the face; None if unknown."""
    if face.person is not None:
        return face.smoothed_label
    return face.prediction.label or ", ".join(face.prediction.labels) or None


def _colour(face: FacePrediction) -> Colour:
    if face.alert:
        return _ALERT
    return _UNKNOWN if decided(face) is None else _FINE


def _write(
    pen: ImageDraw.ImageDraw,
    face: FacePrediction,
    size: tuple[int, int],
    text_size: int,
    taken: list[_Box],
) -> None:
    """Writes on a plate above the box, or where there is room for it."""
    width, height = size
    left, top, _, bottom = face.box.box(height, width)
    font, text = font_for(describe(face), text_size)
    pad = text_size // 3
    wide, high = round(font.getlength(text)) + 2 * pad, text_size + 2 * pad
    x = min(max(0, left), max(0, width - wide))
    places = [(x, top - high - 2), (x, bottom + 2), (x, top), (x, bottom - high)]
    places += [(x, y) for y in range(0, height - high + 1, high)]
    inside = [(x, y) for x, y in places if 0 <= y <= height - high] or [(x, 0)]
    free = [place for place in inside if not _covers(place, wide, high, taken)]
    x, y = (free or inside)[0]
    plate = (x, y, x + wide - 1, y + high - 1)
    taken.append(plate)
    pen.rectangle(_grown(plate, 1), fill=_HALO)
    pen.rectangle(plate, fill=_colour(face))
    pen.text((x + pad, y + high / 2), text, fill=_HALO, font=font, anchor="lm")


def _covers(place: tuple[float, float], wide: int, high: int, taken: list[_Box]) -> bool:
    x, y = place
    return any(
        x < right and left < x + wide and y < bottom and top < y + high
        for left, top, right, bottom in taken
    )


def _grown(box: _Box, by: int) -> _Box:
    left, top, right, bottom = box
    return left - by, top - by, right + by, bottom + by
