"""The images of an event that the record keeps: a thumbnail, the frame, an overlay, or none.

It knows settings and pixels; what finds the faces to blur is handed in.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from datetime import datetime

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from limelens.serve.decisions.camera_state import CameraState
from limelens.serve.image import read_image
from limelens.watch.event import Event, EventExplanation, EventType
from limelens.watch.record.recorded import RecordedImage
from limelens.watch.record.settings import RecordSettings

Blur = Callable[[NDArray[np.uint8]], NDArray[np.uint8]]
"""From `(H, W, 3)` uint8 RGB to a copy in which no face can be recognised."""
_QUALITY = 85


def wants_images(settings: RecordSettings, event: Event) -> bool:
    """Whether anything of the event's frame is kept."""
    if event.evidence is None or not event.evidence.jpeg or event.type != EventType.STATE:
        return False
    return settings.thumbnails or _wants_frame(settings, event)


def images_of(
    settings: RecordSettings, event: Event, blur: Blur | None
) -> Iterator[tuple[str, RecordedImage]]:
    """The kind and the JPEG of each image that is kept of an event that `wants_images`.

    Raises:
        LimelensError: The frame cannot be read, or faces cannot be found.
    """
    assert event.evidence is not None  # it wants images
    jpeg = event.evidence.jpeg
    if blur is None and not settings.thumbnails:
        yield "frame", RecordedImage(jpeg)
        return
    pixels = read_image(jpeg)
    if blur is not None:
        pixels = blur(pixels)
        jpeg = _jpeg(Image.fromarray(pixels))
    if _wants_frame(settings, event):
        yield "frame", RecordedImage(jpeg, is_blurred=blur is not None)
    if settings.thumbnails:
        small = Image.fromarray(pixels)
        small.thumbnail((settings.thumbnail_px, settings.thumbnail_px))
        yield "thumbnail", RecordedImage(_jpeg(small), is_blurred=blur is not None)


def blurred_overlay(
    one: EventExplanation, blur: Blur, camera_id: str, at: datetime
) -> bytes | None:
    """The overlay of an explanation on its frame with faces blurred, as a PNG.

    Faces are blurred first: under the colours they would not be found.

    Args:
        one: The explanation.
        blur: Blurs faces.
        camera_id: The event's.
        at: Of the event.

    Returns:
        None if there is nothing to draw, or nothing to draw it on.

    Raises:
        LimelensError: The frame cannot be read, faces cannot be found, or segments do not fit.
    """
    found = one.explanation
    if found is None or not found.explanations or not found.segments_png or not one.jpeg:
        return None
    # Loaded only here: whoever reads a record draws nothing.
    from limelens.serve.tools.faces.redrawing import draw_overlay
    from limelens.watch.record.caption import captioned

    drawn = draw_overlay(blur(read_image(one.jpeg)), found, found.explanations[0])
    file = io.BytesIO()
    Image.fromarray(drawn).save(file, "PNG")
    return captioned(file.getvalue(), one.title, camera_id, at)


def _wants_frame(settings: RecordSettings, event: Event) -> bool:
    of = settings.frames_of
    return of == "changes" or (of == "alerts" and event.state == CameraState.ALERT)


def _jpeg(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=_QUALITY)
    return file.getvalue()
