"""Opens a camera, a video or a folder of images by its name.

It knows the kinds of sources and what may be chosen, and nothing of how frames are read.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Final

from limelens.serve.tools.camera.faults import SourceError
from limelens.serve.tools.camera.places import Kind, Transport, images, place
from limelens.serve.tools.camera.source import (
    DEFAULT_QUALITY,
    Source,
    SourceOptions,
    open_video,
)
from limelens.serve.tools.camera.video import check_installed

_log: Final = logging.getLogger(__name__)


def open_source(
    source: str | int | Path,
    *,
    live: bool | None = None,
    max_fps: float | None = None,
    quality: int = DEFAULT_QUALITY,
    report: Callable[[str], object] = _log.warning,
    transport: Transport = "tcp",
    credentials: str | Callable[[], str] = "",
    wait: bool = False,
    frozen_after_s: float = 0.0,
    on_lost: Callable[[SourceError], object] = lambda _error: None,
    on_back: Callable[[], object] = lambda: None,
) -> Source:
    """Opens a camera, a video or a folder of images.

    A camera yields its newest frame and counts those that were not taken in time; if it is lost, it
    is reopened, at growing intervals of up to half a minute. A file yields every frame.

    Args:
        source: A device's number, `/dev/videoN`, `rtsp://…`, `http(s)://…`, a video, a folder of
            images or one image, or `-` for a video on standard input.
        live: Whether only the newest frame counts; None means for cameras only.
        max_fps: Limit on frames a second, for a file by its timestamps; None is no limit. Images
            are not limited.
        quality: JPEG quality of decoded frames, 1 to 95. Images are sent as they are.
        report: Called from another thread with a sentence when a camera is lost, cannot be found
            for another reason, or is found again.
        transport: How frames of an `rtsp://` camera travel.
        credentials: `USER:PASSWORD` of a camera whose address names no user, as they are, or a
            function that reads them, which is called each time the camera is opened.
        wait: Whether a camera that is not there yet is waited for, as a lost one is.
        frozen_after_s: Seconds of the same frame again and again after which a camera is frozen
            and yields no frame until there is another; 0 is never. Files never freeze.
        on_lost: Called from another thread with the reason when a camera is lost or frozen, or
            cannot be found for another reason than before.
        on_back: Called from another thread when its frames come again, or come first after it
            was waited for.

    Raises:
        SourceError: It cannot be opened.
        MissingExtraError: It needs `limelens[camera]`, which is not installed.
    """
    options = SourceOptions(max_fps, quality, credentials, frozen_after_s, report, on_lost, on_back)
    where = place(str(source), transport)
    if where.kind is Kind.IMAGES:
        found = images(Path(where.path))
        for one in found.unreachable[:1]:
            report(f"{len(found.unreachable)} left out, such as {one.path}: {one.reason}")
        files = found.images or found.files
        return Source(where, None, files=files, live=False, options=options)
    if wait and where.kind in (Kind.ADDRESS, Kind.DEVICE):
        check_installed()
        return Source(where, None, files=None, live=live, options=options)
    video = open_video(where, credentials)
    return Source(where, video, files=None, live=live, options=options)
