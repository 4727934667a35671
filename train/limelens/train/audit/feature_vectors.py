"""Computes plain feature vectors of images, for data without a trained network.

Knows pixels; does not know networks or labels.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from skimage.feature import hog

_SIDE: Final = 64
_GRID: Final = 4
_NUM_BINS: Final = 8


def plain_features(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Describes an image's colours and edges.

    Mean colours of 4x4 fields, a histogram of each channel, and histograms of oriented gradients
    (Dalal and Triggs 2005) of the image at 64x64.

    Args:
        pixels: `(H, W, 3)` uint8 RGB.

    Returns:
        `(648,)`.
    """
    small = Image.fromarray(pixels).resize((_SIDE, _SIDE), Image.Resampling.BOX)
    fields = np.asarray(small.resize((_GRID, _GRID), Image.Resampling.BOX), dtype=np.float32)
    values = np.asarray(small)
    histograms = [
        np.bincount((values[..., channel] // (256 // _NUM_BINS)).ravel(), minlength=_NUM_BINS)
        for channel in range(3)
    ]
    gradients = hog(
        np.asarray(small.convert("L")),
        orientations=9,
        pixels_per_cell=(8, 8),
        cells_per_block=(1, 1),
    )
    return np.concatenate(
        [fields.ravel() / 255, np.concatenate(histograms) / _SIDE**2, gradients]
    ).astype(np.float32)
