"""Writes below an overlay what it shows: label, camera and time. It knows pixels and texts."""

from __future__ import annotations

import io
import warnings
from datetime import datetime
from typing import Final

from PIL import Image, ImageDraw

from limelens.explain.drawing.fonts import MissingFontWarning, font_for

_SHORTEST: Final = 320
"""Smaller images are enlarged to this width, so that the text fits."""
_PAPER: Final = (255, 255, 255)
_INK: Final = (20, 20, 20)


def captioned(png: bytes, label: str, camera_id: str, at: datetime) -> bytes:
    """An overlay with a strip below it that says what it shows, as a PNG.

    Args:
        png: The overlay.
        label: What was decided, and how sure the model was.
        camera_id: The camera.
        at: When; the strip says it in UTC.
    """
    with Image.open(io.BytesIO(png)) as opened:
        image = opened.convert("RGB")
    if image.width < _SHORTEST:
        height = max(1, round(image.height * _SHORTEST / image.width))
        image = image.resize((_SHORTEST, height), Image.Resampling.BICUBIC)
    size = max(13, image.width // 40)
    pad = size // 2
    lines = (label, f"{camera_id}   {at:%Y-%m-%d %H:%M:%S} UTC")
    page = Image.new("RGB", (image.width, image.height + 2 * (size + pad) + pad), _PAPER)
    page.paste(image, (0, 0))
    pen = ImageDraw.Draw(page)
    for number, line in enumerate(lines):
        with warnings.catch_warnings():
            # A name in a script without a font here is drawn as well as it can be.
            warnings.simplefilter("ignore", MissingFontWarning)
            font, text = font_for(line, size)
        while text and font.getlength(text) > image.width - 2 * pad:
            text = text[:-2] + "…" if len(text) > 1 else ""
        pen.text((pad, image.height + pad + number * (size + pad)), text, fill=_INK, font=font)
    file = io.BytesIO()
    page.save(file, "PNG")
    return file.getvalue()
