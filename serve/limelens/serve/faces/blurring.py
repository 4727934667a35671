"""Faces made unrecognisable in an image that is stored or shown.

It knows pixels and places. It does not know what found the faces, or what was decided about them.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from limelens.serve.image import Region

_MARGIN: Final = 0.25
"""Added on each side, as a fraction of the box: hair and ears are part of what one recognises."""
_NUM_CELLS: Final = 6
"""What is left of the longer side of a widened box: a face keeps about four points across."""


def blur_faces(
    pixels: NDArray[np.uint8], faces: Iterable[Region], keep: Region | None = None
) -> NDArray[np.uint8]:
    """Blurs faces, with some of what is around them, beyond recognition.

    Args:
        pixels: `(H, W, 3)` uint8 RGB.
        faces: Their boxes, in fractions of the image.
        keep: A face that stays as it is, except where another covers it.

    Returns:
        A copy, `(H, W, 3)` uint8.
    """
    height, width = pixels.shape[:2]
    whole = Image.fromarray(pixels)
    blurred = pixels.copy()
    is_face = np.zeros((height, width), np.bool_)
    for face in faces:
        left, top, right, bottom = face.box(height, width)
        is_face[top:bottom, left:right] = True
        left, top, right, bottom = _widened(face).box(height, width)
        blurred[top:bottom, left:right] = _blurred(whole.crop((left, top, right, bottom)))
    if keep is not None:
        left, top, right, bottom = keep.box(height, width)
        part = np.s_[top:bottom, left:right]
        blurred[part] = np.where(is_face[part][..., np.newaxis], blurred[part], pixels[part])
    return blurred


def _widened(face: Region) -> Region:
    x, y = _MARGIN * (face.right - face.left), _MARGIN * (face.bottom - face.top)
    return Region(
        max(0.0, face.left - x),
        max(0.0, face.top - y),
        min(1.0, face.right + x),
        min(1.0, face.bottom + y),
    )


def _blurred(part: Image.Image) -> NDArray[np.uint8]:
    """Means of a few large cells, run into each other."""
    cell = max(part.size) / _NUM_CELLS
    cells = max(1, round(part.width / cell)), max(1, round(part.height / cell))
    coarse = part.resize(cells, Image.Resampling.BOX).resize(part.size, Image.Resampling.NEAREST)
    return np.asarray(coarse.filter(ImageFilter.GaussianBlur(cell / 2)))
