"""A contact sheet: each query with its neighbours beside it.

It knows pixels, captions and their layout, and nothing of vectors or models.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from limelens.explain.drawing.fonts import font_for
from limelens.serve.errors import InvalidRequestError
from limelens.serve.image import read_image
from limelens.serve.image.writing import write_image

_CELL: Final = 168
_GAP: Final = 12
_CAPTION: Final = 38
_FONT: Final = 14
_MOST_IN_A_LINE: Final = 8
_INK: Final = (30, 30, 30)
_MISSING: Final = (200, 200, 200)
_FRAME: Final = (30, 110, 200)


@dataclass(frozen=True)
class Panel:
    """One image of a sheet, and up to two lines below it."""

    path: Path
    captions: Sequence[str]


def write_sheet(
    rows: Sequence[tuple[Panel, Sequence[Panel]]],
    path: str | os.PathLike[str],
    change: Callable[[NDArray[np.uint8]], NDArray[np.uint8]] = lambda pixels: pixels,
) -> tuple[Path, ...]:
    """Draws queries, framed in blue, each with its neighbours to its right, as a PNG.

    Args:
        rows: Each query with its neighbours.
        path: The file to write.
        change: Changes each image, `(H, W, 3)` uint8 RGB, before it is drawn, such as by blurring
            faces; the errors that it raises go to the caller.

    Returns:
        Files that could not be read; a grey square stands for each.

    Raises:
        OSError: The sheet cannot be written.
    """
    most = max(min(len(neighbours), _MOST_IN_A_LINE) for _, neighbours in rows)
    lines: list[tuple[Panel | None, Sequence[Panel]]] = []
    for query, similar in rows:
        for start in range(0, max(1, len(similar)), _MOST_IN_A_LINE):
            panels = similar[start : start + _MOST_IN_A_LINE]
            lines.append((query if start == 0 else None, panels))
    step_x, step_y = _CELL + _GAP, _CELL + _CAPTION + _GAP
    # The gap between a query and its neighbours is twice as wide.
    sheet = Image.new("RGB", ((most + 1) * step_x + 2 * _GAP, len(lines) * step_y + _GAP), "white")
    draw = ImageDraw.Draw(sheet)
    missing: list[Path] = []
    for line, (first, neighbours) in enumerate(lines):
        top = _GAP + line * step_y
        placed: list[tuple[Panel, int]] = [] if first is None else [(first, _GAP)]
        placed += [(one, 2 * _GAP + (i + 1) * step_x) for i, one in enumerate(neighbours)]
        for panel, left in placed:
            thumbnail = _thumbnail(panel.path, change)
            if thumbnail is None:
                missing.append(panel.path)
                draw.rectangle((left, top, left + _CELL - 1, top + _CELL - 1), fill=_MISSING)
                _write(draw, (left, top + _CELL // 2 - _FONT), "not readable")
            else:
                x = left + (_CELL - thumbnail.width) // 2
                y = top + (_CELL - thumbnail.height) // 2
                sheet.paste(thumbnail, (x, y))
            if panel is first:
                draw.rectangle(
                    (left - 4, top - 4, left + _CELL + 3, top + _CELL + 3), outline=_FRAME, width=3
                )
            for i, caption in enumerate(panel.captions[:2]):
                _write(draw, (left, top + _CELL + 3 + i * (_FONT + 3)), caption)
    write_image(Path(path), np.asarray(sheet))
    return tuple(missing)


def _thumbnail(
    path: Path, change: Callable[[NDArray[np.uint8]], NDArray[np.uint8]]
) -> Image.Image | None:
    try:
        pixels: NDArray[np.uint8] = read_image(path.read_bytes())
    except (OSError, InvalidRequestError):
        return None
    image = Image.fromarray(change(pixels))
    scale = _CELL / max(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    return image.resize(size, Image.Resampling.LANCZOS if scale < 1 else Image.Resampling.BICUBIC)


def _write(draw: ImageDraw.ImageDraw, place: tuple[int, int], text: str) -> None:
    """Writes text centred in a cell, shortened if it is too long."""
    font, text = font_for(text, _FONT)
    whole = text
    while draw.textlength(text, font=font) > _CELL and len(whole) > 1:
        whole = whole[:-1]
        text = whole + "..."
    left = place[0] + (_CELL - draw.textlength(text, font=font)) / 2
    draw.text((left, place[1]), text, font=font, fill=_INK)
