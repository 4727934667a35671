"""The images of one event: the frame, what was explained of it, and the overlay.

It knows the record and pixels, and nothing of pages.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from PIL import Image

from limelens.serve import LimelensError, ServedExplanation
from limelens.serve.image import read_image
from limelens.watch.console.cut import Cut, as_jpeg
from limelens.watch.record import Record, RecordedImage

_GREY: Final = 120


@dataclass(frozen=True)
class Layers:
    """An image and its overlay as a page shows them.

    Args:
        has_frame: Whether the image is there without the overlay too.
        is_grey: Whether there is no image at all, and the overlay lies on grey.
        size: Height and width.
        marks: Number, x and y of each of the strongest segments.
    """

    has_frame: bool
    is_grey: bool
    size: tuple[int, int]
    marks: tuple[tuple[int, int, int], ...]


def layers_of(
    record: Record, event_id: str, served: ServedExplanation, strongest: Sequence[int]
) -> Layers | None:
    """What there is to show of an explanation.

    Args:
        record: The record.
        event_id: The event.
        served: Its explanation.
        strongest: The segments that are numbered.

    Returns:
        None if it cannot be shown: it has no segments, or they do not fit the frame.

    Raises:
        LimelensError: The record or the frame cannot be read.
    """
    found = _explained(record, event_id, served)
    if found is None:
        return None
    cut, kind = found
    return Layers(kind == "frame", kind == "grey", cut.size, cut.marks(strongest))


def event_image(record: Record, event_id: str, which: str) -> RecordedImage | None:
    """An image by its name in the page's addresses; None if there is none.

    Args:
        record: The record.
        event_id: The event.
        which: `frame`, `thumbnail`, `recorded` (the overlay as it was kept), `shown` (what the
            model looked at) or `overlay` (the same with the strongest segments).

    Raises:
        LimelensError: The record or a frame cannot be read.
    """
    if which == "frame":
        return record.frame(event_id)
    if which == "thumbnail":
        return record.thumbnail(event_id)
    if which == "recorded":
        return record.overlay(event_id)
    recorded = record.explanation(event_id)
    served = None if recorded is None else recorded.explanation
    if which not in ("shown", "overlay") or served is None or not served.explanations:
        return None
    found = _explained(record, event_id, served)
    if found is None:
        return None
    cut, kind = found
    if which == "shown":
        return RecordedImage(as_jpeg(cut.pixels)) if kind == "frame" else None
    is_drawn = kind == "overlay"
    return RecordedImage(as_jpeg(cut.pixels if is_drawn else cut.overlay(served.explanations[0])))


def _explained(record: Record, event_id: str, served: ServedExplanation) -> tuple[Cut, str] | None:
    """What was explained: of the `frame`, of the kept `overlay`, or on `grey`, and which it is."""
    segments = served.segments()
    if segments is None:
        return None
    height, width = segments.shape
    frame = record.frame(event_id)
    if frame is not None:
        pixels = read_image(frame.data)
        return (Cut.of(pixels, segments), "frame") if pixels.shape[:2] == (height, width) else None
    kept = record.overlay(event_id)
    if kept is not None:
        try:
            pixels = read_image(kept.data)
        except LimelensError:  # the file was damaged since
            kept = None
    if kept is None:
        return Cut.of(np.full((height, width, 3), _GREY, np.uint8), segments), "grey"
    # Below the overlay a strip says what it shows, so that only widths can be compared.
    size = pixels.shape[1], round(height * pixels.shape[1] / width)
    nearest = Image.fromarray(segments).resize(size, Image.Resampling.NEAREST)
    return Cut.of(pixels[: size[1]], np.asarray(nearest)[: pixels.shape[0]]), "overlay"
