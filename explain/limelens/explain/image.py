"""The image to be explained: checked, and brought to `(H, W, 3)` uint8 RGB.

Knows array shapes and dtypes. Does not know files, decoding or resizing: the caller hands over
exactly the pixels that the model sees.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from limelens.explain.errors import InvalidArgumentError

_EXPECTED = "uint8 pixels, 0 to 255, of shape (H, W, 3) or (H, W)"


def as_rgb(
    image: Any, argument: str = "image", size: tuple[int, int] | None = None
) -> NDArray[np.uint8]:
    """The image as RGB.

    Args:
        image: `(H, W, 3)` RGB or `(H, W)` grey, uint8, 0 to 255, or a Pillow image of mode RGB
            or L.
        argument: Its name in an error.
        size: H and W of the explained image, if it must match.

    Returns:
        `(H, W, 3)` uint8, C-contiguous; grey is repeated over the three channels.

    Raises:
        InvalidArgumentError: Another dtype, shape or size, or no pixels.
    """
    pixels = np.asarray(image)

    def refused(message: str) -> InvalidArgumentError:
        return InvalidArgumentError(argument, f"{argument} {message}")

    if pixels.dtype != np.uint8:
        raise refused(
            f"is {pixels.dtype}; expected {_EXPECTED}: scale it to 0..255 and convert with "
            ".astype(np.uint8)"
        )
    if pixels.size == 0:
        raise refused(f"has shape {pixels.shape}, which holds no pixels")
    if size is not None and pixels.shape[:2] != size:
        raise refused(
            f"is {pixels.shape[0]}x{pixels.shape[1]}; the explanation is of {size[0]}x{size[1]} "
            "pixels: give the image that was explained"
        )
    if pixels.ndim == 2:
        pixels = np.repeat(pixels[..., np.newaxis], 3, axis=2)
    if pixels.ndim != 3 or pixels.shape[2] != 3:
        advice = {
            (3, 4): ": drop or blend the alpha channel first",
            (3, 1): ": pass image[..., 0]",
            (4, 3): ": explain one image at a time",
        }.get((pixels.ndim, pixels.shape[-1]), "")
        raise refused(f"has shape {pixels.shape}; expected {_EXPECTED}{advice}")
    return np.ascontiguousarray(pixels)
