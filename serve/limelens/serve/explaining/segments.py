"""The caller's own segments, read from a PNG.

Knows bytes and limits. Does not know how images are explained.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import UnidentifiedImageError

from limelens.serve.errors import InvalidImageError, InvalidRequestError
from limelens.serve.explaining.spec import MAX_SEGMENTS
from limelens.serve.image import UNSEEN
from limelens.serve.image.decoding import open_checked

_FIELD = "segmentation.segments_png"


def read_segments(data: bytes, size: tuple[int, int], max_pixels: int) -> NDArray[np.uint16]:
    """The caller's own segments.

    Args:
        data: A greyscale PNG of 16 bits.
        size: Height and width of the upright image.
        max_pixels: Limit on height times width.

    Returns:
        `size` ids.

    Raises:
        InvalidRequestError: Not such an image, one of another size, or of too many segments.
    """
    expected = "expected a 16-bit greyscale PNG"
    try:
        with open_checked(data, "PNG", max_pixels) as image:
            if (image.height, image.width) != size:
                found = f"{image.height}x{image.width}"
                raise InvalidRequestError(
                    _FIELD, f"{found}; the upright image is {size[0]}x{size[1]}"
                )
            if image.mode != "I;16":
                raise InvalidRequestError(_FIELD, f"mode {image.mode}; {expected}")
            ids = np.asarray(image).astype(np.uint16)
    except InvalidImageError as error:
        raise InvalidRequestError(
            _FIELD, f"not a readable PNG: {error.description}; {expected}"
        ) from error
    except InvalidRequestError:
        raise
    except UnidentifiedImageError as error:
        raise InvalidRequestError(_FIELD, f"not a readable PNG; {expected}") from error
    # A decoder may raise almost anything on broken bytes.
    except Exception as error:
        raise InvalidRequestError(_FIELD, f"not a readable PNG: {error}; {expected}") from error
    count = np.count_nonzero(np.bincount(ids.ravel(), minlength=UNSEEN)[:UNSEEN])
    if count > MAX_SEGMENTS:
        raise InvalidRequestError(_FIELD, f"{count} different ids; expected at most {MAX_SEGMENTS}")
    return ids
