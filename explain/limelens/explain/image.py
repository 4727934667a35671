"""The image to be explained: checked, and brought to `(H, W, 3)` uint8 RGB.

Knows array shapes and dtypes. Does not know files, decoding or resizing: the caller hands over
exactly the pixels that the model sees.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from limelens.explain.errors import InvalidArgumentError

_EXPECTED = "uint8 pixels, 0 to 255, of shape (H, W, 3) or (H, W)"


def as_rgb(image: Any, argument: str = "image") -> NDArray[np.uint8]:
    """The image as RGB.

    Args:
        image: `(H, W, 3)` RGB or `(H, W)` grey, uint8, 0 to 255, or a Pillow image of mode RGB
            or L.
        argument: what to call it in an error.

    Returns:
        `(H, W, 3)` uint8, C-contiguous; grey is repeated over the three channels.

    Raises:
        InvalidArgumentError: another dtype or shape, or no pixels.
    """
    pixels = np.asarray(image)
    if pixels.dtype != np.uint8:
        raise InvalidArgumentError(
            argument,
            f"{argument} is {pixels.dtype}; expected {_EXPECTED}: scale it to 0..255 and convert "
            f"with .astype(np.uint8)",
        )
    if pixels.size == 0:
        raise InvalidArgumentError(
            argument, f"{argument} has shape {pixels.shape}, which holds no pixels"
        )
    if pixels.ndim == 2:
        return np.ascontiguousarray(np.repeat(pixels[..., np.newaxis], 3, axis=2))
    if pixels.ndim != 3 or pixels.shape[2] != 3:
        advice = ""
        if pixels.ndim == 3 and pixels.shape[2] == 4:
            advice = ": drop or blend the alpha channel first"
        elif pixels.ndim == 3 and pixels.shape[2] == 1:
            advice = ": pass image[..., 0]"
        elif pixels.ndim == 4:
            advice = ": explain one image at a time"
        raise InvalidArgumentError(
            argument, f"{argument} has shape {pixels.shape}; expected {_EXPECTED}{advice}"
        )
    return np.ascontiguousarray(pixels)
