"""Writes images in the format that the file's name says, whole or not at all.

It does not know what they show.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from limelens.serve.files import write_whole

WRITTEN_FORMATS: Final = {".jpeg": "JPEG", ".jpg": "JPEG", ".png": "PNG", ".webp": "WEBP"}
"""By suffix, in lower case."""
_QUALITY: Final = 95
"""Of JPEG and WebP: drawings have thin lines and small text."""


def write_image(path: Path, pixels: NDArray[np.uint8], *, mode: int | None = None) -> None:
    """Writes pixels; a name with another suffix, or none, is a PNG.

    Args:
        path: The file; its folder must exist.
        pixels: `(H, W, 3)` RGB, 0 to 255.
        mode: Rights of a new file; None means the umask's.

    Raises:
        OSError: The file cannot be written.
    """
    _write(path, Image.fromarray(pixels), WRITTEN_FORMATS.get(path.suffix.lower(), "PNG"), mode)


def write_encoded(path: Path, encoded: bytes, *, mode: int | None = None) -> None:
    """Writes an encoded image as it is, or anew if the name has the suffix of another format.

    The arguments and errors are as of `write_image`.
    """
    try:
        with Image.open(io.BytesIO(encoded)) as image:
            wanted = WRITTEN_FORMATS.get(path.suffix.lower(), image.format)
            if wanted != image.format:
                _write(path, image.convert("RGB"), str(wanted), mode)
                return
    except UnidentifiedImageError:  # what is damaged is for its owner to look at
        pass
    write_whole(path, encoded, mode=mode)


def _write(path: Path, image: Image.Image, kind: str, mode: int | None) -> None:
    file = io.BytesIO()
    options = {} if kind == "PNG" else {"quality": _QUALITY}
    try:
        image.save(file, kind, **options)
    except ValueError as error:  # a WebP has at most 16,383 pixels on a side
        raise OSError(f"{path}: cannot be written as {kind}: {error}") from error
    write_whole(path, file.getvalue(), mode=mode)
