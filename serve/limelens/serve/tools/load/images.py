"""Images to send: synthetic ones of any size, or the caller's own."""

from __future__ import annotations

import io
from collections.abc import Iterable
from pathlib import Path
from typing import Final

import numpy as np
from PIL import Image

from limelens.serve.errors import InvalidRequestError
from limelens.serve.folders import find_images
from limelens.serve.image import FORMATS

_QUALITY: Final = 90
# Smooth patches with some noise: at 224 px about 20 kB, as a photograph has.
_PATCH: Final = 8
_NOISE: Final = 9.0


def draw_image(height: int, width: int, seed: int = 0) -> bytes:
    """A JPEG that takes about as long to decode as a photograph of that size.

    Args:
        height: In pixels.
        width: In pixels.
        seed: Each gives another image.
    """
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (max(1, height // _PATCH), max(1, width // _PATCH), 3))
    smooth = Image.fromarray(coarse.astype(np.uint8)).resize(
        (width, height), Image.Resampling.BICUBIC
    )
    noisy = np.asarray(smooth) + rng.normal(0, _NOISE, (height, width, 3))
    file = io.BytesIO()
    Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(file, "JPEG", quality=_QUALITY)
    return file.getvalue()


def read_images(paths: Iterable[Path], *, most: int = 256) -> tuple[bytes, ...]:
    """The bytes of files, and of the image files in folders.

    Args:
        paths: Files and folders.
        most: How many to read.

    Raises:
        InvalidRequestError: There are none.
        OSError: One cannot be read.
    """
    files: list[Path] = []
    for path in paths:
        files += find_images(path)
    if not files:
        raise InvalidRequestError(
            "images", f"none found; expected files, or folders of {', '.join(FORMATS)}"
        )
    return tuple(file.read_bytes() for file in files[:most])
