"""A source of frames: every frame of a file, the newest of a camera, which is reopened when lost.

A thread reads and the iterator yields encoded frames. It knows order, pace and reopening, and
nothing of servers.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

from limelens.serve.client import Frame
from limelens.serve.errors import LimelensError
from limelens.serve.tools.camera.faults import LossReason, SourceError
from limelens.serve.tools.camera.health import Health
from limelens.serve.tools.camera.places import SourceAddress, with_credentials
from limelens.serve.tools.camera.slot import ReadFrame, Slot
from limelens.serve.tools.camera.standstill import Standstill
from limelens.serve.tools.camera.timeline import Timeline
from limelens.serve.tools.camera.video import Video, to_jpeg

if TYPE_CHECKING:
    from av import VideoFrame

_log = logging.getLogger(__name__)
DEFAULT_QUALITY: Final = 90
_ENOUGH_WITHOUT: Final = 2
"""Frames without a timestamp before a warning; a single one is normal."""
_TOLERANCE_S: Final = 1e-6
_IMAGE_INTERVAL_S: Final = 0.2
"""Images of a folder are taken to be so far apart, as if a camera had taken them."""


@dataclass(frozen=True, eq=False)
class SourceFrame(Frame):
    """An encoded frame.

    Args:
        place: The file in a folder or the time in a video, or empty.
        position_s: Seconds from the beginning of a video or folder; None for a camera. With a
            position, the capture time is as if the file had begun with the reading.
        read_at: When it came from a camera, by `time.monotonic`; it may have waited since. Of a
            file, which does not grow old, when it was given out.
    """

    image: bytes
    place: str = ""
    position_s: float | None = None
    read_at: float = field(default_factory=time.monotonic)


@dataclass(frozen=True)
class SourceOptions:
    """How a source is read; see `open_source`."""

    max_fps: float | None = None
    quality: int = DEFAULT_QUALITY
    credentials: str | Callable[[], str] = field(default="", repr=False)
    frozen_after_s: float = 0.0
    report: Callable[[str], object] = _log.warning
    on_lost: Callable[[SourceError], object] = lambda _error: None
    on_back: Callable[[], object] = lambda: None


class Source:
    """Frames of one source, numbered from 0; see `open_source`.

    Iterating yields the frames and may continue after a break. As a context manager it closes
    itself. Its name holds no password; `is_live` is whether only the newest frame counts, which of
    a source that is waited for is known once it is there.

    Args:
        where: Its place.
        video: It, open; None for images, and for a camera that its own thread opens.
        files: The images of a folder; None for a video or a camera.
        live: Whether only the newest frame counts; None means for cameras only.
        options: The rest.
    """

    def __init__(
        self,
        where: SourceAddress,
        video: Video | None,
        *,
        files: tuple[Path, ...] | None,
        live: bool | None,
        options: SourceOptions,
    ) -> None:
        self.name = where.name
        self._live = live
        self.is_live = self._is_live(video) if files is None else False
        self._where = where
        self._files = files
        self._options = options
        self._report = options.report
        self._interval_s = 1 / options.max_fps if options.max_fps else 0.0
        self._health = Health(
            where.name,
            options.frozen_after_s,
            options.report,
            self._lost,
            options.on_back,
        )
        self._slot = Slot()
        self._standstill: Standstill | None = None
        self._stood_still_s = 0.0
        self._stopped = threading.Event()
        self._next_id = 0
        self._next_at = 0.0
        self._began = datetime.now(UTC)
        self._thread = threading.Thread(
            target=self._read, args=(video,), name="limelens-camera", daemon=True
        )
        self._thread.start()

    @property
    def num_skipped(self) -> int:
        """Frames of a camera that were given up, mostly for a newer one, before they were taken."""
        return self._slot.num_replaced

    @property
    def loss(self) -> SourceError | None:
        """Why a camera is lost or frozen now; None if it is not."""
        return self._health.loss

    @property
    def is_stopped(self) -> bool:
        """Whether `stop` was called."""
        return self._stopped.is_set()

    def stop(self) -> None:
        """Ends the frames; from any thread, but not from a signal handler: it waits for locks."""
        self._stopped.set()
        self._slot.end(at_once=True)

    def tick(self) -> None:
        """Is called about once a second, from any thread, so that a standstill is noticed.

        If this process was stopped or the machine slept, frames of a camera waited: it is lost
        then, and opened anew.
        """
        if self._standstill is None:
            self._standstill = Standstill()
        self._stood_still_s = self._standstill.look() or self._stood_still_s

    def wait_stopped(self, seconds: float) -> bool:
        """Waits some seconds for `stop`; returns whether it was called."""
        return self._stopped.wait(seconds)

    def close(self) -> None:
        """Stops and closes what is open."""
        self.stop()
        # Standard input or a silent camera may block the thread for a while: it is a daemon.
        self._thread.join(1.0)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __iter__(self) -> Iterator[SourceFrame]:
        """Yields the remaining frames.

        Raises:
            SourceError: It cannot be read any further; a camera is reopened instead.
        """
        while (frame := self.take()) is not None:
            yield frame

    def take(self) -> SourceFrame | None:
        """The next frame, or None if there are no more; raises as iterating."""
        if self.is_live and self._interval_s:
            self._stopped.wait(max(0.0, self._next_at - time.monotonic()))
            self._next_at = max(self._next_at, time.monotonic()) + self._interval_s
        read = self._slot.take()
        if read is None:
            return None
        number, self._next_id = self._next_id, self._next_id + 1
        is_file = read.position_s is not None and not self.is_live
        read_at = time.monotonic() if is_file else read.read_at
        return SourceFrame(
            number, read.encode(), read.captured_at, read.place, read.position_s, read_at
        )

    def _read(self, video: Video | None) -> None:
        try:
            if self._files is not None:
                self._read_images(self._files)
            else:
                self._read_video(video)
        except Exception as error:
            self._slot.end(error)
        else:
            self._slot.end()

    def _read_images(self, files: tuple[Path, ...]) -> None:
        interval_s = self._interval_s or _IMAGE_INTERVAL_S
        for number, path in enumerate(files):
            if self.is_stopped:
                return
            at_s = number * interval_s
            captured_at, now = self._filed_at(at_s), time.monotonic()
            read = ReadFrame(path.read_bytes, captured_at, str(path), at_s, now)
            self._slot.put(read, may_replace=False)

    def _filed_at(self, at_s: float) -> datetime | None:
        """When a frame of a file was taken, as if the file had begun with the reading.

        A file is sent slower or faster than it was taken; by this the server knows its pace. None
        if it is read as a camera is.
        """
        return None if self.is_live else self._began + timedelta(seconds=at_s)

    def _read_video(self, video: Video | None) -> None:
        while not self.is_stopped:
            self._stood_still()  # when nothing was open yet: no frame waited
            try:
                video = video or open_video(self._where, self._options.credentials)
                self.is_live = self._is_live(video)
                self._read_once(video)
                lost = SourceError(f"{self.name}: the camera ended", LossReason.ENDED)
            except SourceError as error:
                lost = error
                if video is not None and not video.is_endless:
                    raise
            if self.is_stopped or (video is not None and not video.is_endless):
                return
            video = None
            self._stopped.wait(self._health.lose(lost))

    def _is_live(self, video: Video | None) -> bool:
        """Whether only the newest frame counts; what is not open yet is taken for a camera."""
        if self._live is not None:
            return self._live
        return video is None or video.is_endless

    def _lost(self, error: SourceError) -> None:
        if self.is_live:
            # A frame from before would be decided on as if it were new.
            self._slot.clear()
        self._options.on_lost(error)

    def _read_once(self, video: Video) -> None:
        timeline = Timeline(video.rate)
        next_s: float | None = None
        is_reported = False
        goes_by_time = not self.is_live and self._interval_s > 0
        try:
            for frame in video.frames():
                if self.is_stopped:
                    return
                if not video.is_endless:
                    self._health.well()
                elif gap_s := self._stood_still():
                    raise SourceError(
                        f"{self.name}: watching stood still for {gap_s:.0f} s", LossReason.FAILED
                    )
                elif self._health.is_frozen(frame):
                    continue
                at_s = timeline.time_of(frame.time)
                if goes_by_time:
                    if timeline.num_without >= _ENOUGH_WITHOUT and not is_reported:
                        is_reported = True
                        self._report(
                            f"{self.name}: frames without timestamps; they are taken to come at "
                            f"{video.rate:.3g} a second"
                        )
                    if next_s is not None and at_s < next_s - _TOLERANCE_S:
                        continue
                    earliest_s = (at_s if next_s is None else next_s) + self._interval_s
                    next_s = max(earliest_s, at_s)
                self._slot.put(self._read_frame(frame, video, at_s), may_replace=self.is_live)
            if video.num_broken and not video.is_endless:
                self._report(f"{self.name}: {video.num_broken} packets could not be decoded")
        finally:
            video.close()

    def _stood_still(self) -> float:
        """For how long this process did, in seconds, if that was not noticed before."""
        if self._standstill is not None:
            self.tick()  # who is told by `tick` may wake up later than this thread
        gap_s, self._stood_still_s = self._stood_still_s, 0.0
        return gap_s

    def _read_frame(self, frame: VideoFrame, video: Video, at_s: float) -> ReadFrame:
        def encode() -> bytes:
            return to_jpeg(frame, self._options.quality)

        now = time.monotonic()
        if video.is_endless:
            return ReadFrame(encode, datetime.now(UTC), "", None, now)
        return ReadFrame(encode, self._filed_at(at_s), f"{at_s:.3f} s", at_s, now)


def open_video(where: SourceAddress, credentials: str | Callable[[], str]) -> Video:
    """Opens a video or a camera, with the credentials as they are now.

    Raises:
        SourceError: It cannot be opened, or its credentials cannot be read.
        MissingExtraError: `limelens[camera]` is not installed.
    """
    failed = ""
    try:
        given = credentials if isinstance(credentials, str) else credentials()
    except UnicodeDecodeError:
        failed = "it is no text in UTF-8"
    except OSError as error:
        failed = error.strerror or type(error).__name__
    except LimelensError as error:
        failed = str(error)
    if failed:
        # Not from within `except`: what could not be decoded is in that error.
        raise SourceError(
            f"{where.name}: its password cannot be read: {failed}", LossReason.UNAUTHORIZED
        )
    return Video(with_credentials(where, given))
