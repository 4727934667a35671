"""A source of frames: every frame of a file, the newest of a camera, which is reopened when lost.

A thread reads and the iterator yields encoded frames. It knows order, pace and reopening, and
nothing of servers.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

from limelens.serve.client import Frame
from limelens.serve.tools.camera.places import Kind, SourceAddress, SourceError, images, place
from limelens.serve.tools.camera.timeline import Timeline
from limelens.serve.tools.camera.video import Video, to_jpeg

if TYPE_CHECKING:
    from av import VideoFrame

DEFAULT_QUALITY: Final = 90
_FIRST_WAIT_S: Final = 0.5
_LONGEST_WAIT_S: Final = 30.0
_ENOUGH_WITHOUT: Final = 2
"""Frames without a timestamp before a warning; a single one is normal."""
_TOLERANCE_S: Final = 1e-6
_IMAGE_INTERVAL_S: Final = 0.2
"""Images of a folder are taken to be so far apart, as if a camera had taken them."""
_log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class SourceFrame(Frame):
    """An encoded frame; `place` is the file in a folder or the time in a video, or empty."""

    image: bytes
    place: str = ""


@dataclass(frozen=True, eq=False)
class _Read:
    """A frame that is not encoded yet."""

    encode: Callable[[], bytes]
    captured_at: datetime | None
    place: str


class _Slot:
    """Passes frames one at a time from the reading thread to the iterating one."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._frame: _Read | None = None
        self._error: Exception | None = None
        self._over = False
        self.num_replaced = 0

    def put(self, frame: _Read, *, may_replace: bool) -> None:
        """Gives a frame in place of the last one, or waits until the last one was taken."""
        with self._changed:
            if not may_replace:
                self._changed.wait_for(lambda: self._frame is None or self._over)
            if not self._over:
                self.num_replaced += self._frame is not None
                self._frame = frame
                self._changed.notify_all()

    def take(self) -> _Read | None:
        """Waits for a frame; None if there are no more."""
        with self._changed:
            self._changed.wait_for(lambda: self._frame is not None or self._over)
            frame, self._frame = self._frame, None
            self._changed.notify_all()
            if frame is None and self._error is not None:
                raise self._error
            return frame

    def end(self, error: Exception | None = None, *, at_once: bool = False) -> None:
        """Ends the frames: after the waiting one, or at once with `at_once`."""
        with self._changed:
            if at_once:
                self._frame = None
            if not self._over:
                self._over, self._error = True, error
            self._changed.notify_all()


class Source:
    """Frames of one source, numbered from 0; see `open_source`.

    Iterating yields the frames and may continue after a break. As a context manager it closes
    itself. Its name holds no password; `is_live` is whether only the newest frame counts.
    """

    def __init__(
        self,
        where: SourceAddress,
        video: Video | None,
        *,
        files: tuple[Path, ...],
        is_live: bool,
        max_fps: float | None,
        quality: int,
        report: Callable[[str], object],
    ) -> None:
        self.name = where.name
        self.is_live = is_live
        self._where = where
        self._files = files
        self._interval_s = 1 / max_fps if max_fps else 0.0
        self._quality = quality
        self._report = report
        self._slot = _Slot()
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
        """Frames of a camera that a newer one replaced before they were taken."""
        return self._slot.num_replaced

    @property
    def is_stopped(self) -> bool:
        """Whether `stop` was called."""
        return self._stopped.is_set()

    def stop(self) -> None:
        """Ends the frames; from any thread, but not from a signal handler: it waits for locks."""
        self._stopped.set()
        self._slot.end(at_once=True)

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
        return SourceFrame(number, read.encode(), read.captured_at, read.place)

    def _read(self, video: Video | None) -> None:
        try:
            if video is None:
                self._read_images()
            else:
                self._read_video(video)
        except Exception as error:
            self._slot.end(error)
        else:
            self._slot.end()

    def _read_images(self) -> None:
        interval_s = self._interval_s or _IMAGE_INTERVAL_S
        for number, path in enumerate(self._files):
            if self.is_stopped:
                return
            captured_at = self._filed_at(number * interval_s)
            self._slot.put(_Read(path.read_bytes, captured_at, str(path)), may_replace=False)

    def _filed_at(self, at_s: float) -> datetime | None:
        """When a frame of a file was taken, as if the file had begun with the reading.

        A file is sent slower or faster than it was taken; by this the server knows its pace. None
        if it is read as a camera is.
        """
        return None if self.is_live else self._began + timedelta(seconds=at_s)

    def _read_video(self, video: Video) -> None:
        if not video.is_endless:
            self._read_once(video)
            return
        last: SourceError | None = None
        while not self.is_stopped:
            try:
                self._read_once(video)
            except SourceError as error:
                last = error
            if self.is_stopped:
                return
            self._report(f"{last or f'{self.name}: the camera ended'}; looking for it again")
            found = self._find_again()
            if found is None:
                return
            video = found
            self._report(f"{self.name}: found again")

    def _find_again(self) -> Video | None:
        """Reopens the camera as soon as possible; None if it was stopped."""
        from tenacity import RetryError, Retrying, retry_if_exception_type
        from tenacity.nap import sleep_using_event
        from tenacity.stop import stop_when_event_set
        from tenacity.wait import wait_exponential

        self._stopped.wait(_FIRST_WAIT_S)
        trying = Retrying(
            retry=retry_if_exception_type(SourceError),
            wait=wait_exponential(_FIRST_WAIT_S, max=_LONGEST_WAIT_S),
            stop=stop_when_event_set(self._stopped),
            sleep=sleep_using_event(self._stopped),
        )
        try:
            return trying(Video, self._where)
        except RetryError:
            return None

    def _read_once(self, video: Video) -> None:
        timeline = Timeline(video.rate)
        next_s: float | None = None
        is_reported = False
        goes_by_time = not self.is_live and self._interval_s > 0
        try:
            for frame in video.frames():
                if self.is_stopped:
                    return
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
                at = "" if video.is_endless else f"{at_s:.3f} s"
                captured_at = datetime.now(UTC) if video.is_endless else self._filed_at(at_s)

                def encode(frame: VideoFrame = frame) -> bytes:
                    return to_jpeg(frame, self._quality)

                self._slot.put(_Read(encode, captured_at, at), may_replace=self.is_live)
            if video.num_broken and not video.is_endless:
                self._report(f"{self.name}: {video.num_broken} packets could not be decoded")
        finally:
            video.close()


def open_source(
    source: str | int | Path,
    *,
    live: bool | None = None,
    max_fps: float | None = None,
    quality: int = DEFAULT_QUALITY,
    report: Callable[[str], object] = _log.warning,
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
        report: Called from another thread with a sentence when a camera is lost or found again.

    Raises:
        SourceError: It cannot be opened.
        MissingExtraError: It needs `limelens[camera]`, which is not installed.
    """
    where = place(str(source))
    video = None
    files: tuple[Path, ...] = ()
    if where.kind is Kind.IMAGES:
        found = images(Path(where.path))
        files = found.images or found.files
        for one in found.unreachable[:1]:
            report(f"{len(found.unreachable)} left out, such as {one.path}: {one.reason}")
    else:
        video = Video(where)
    if live is None:
        live = video is not None and video.is_endless
    return Source(
        where,
        video,
        files=files,
        is_live=live and video is not None,
        max_fps=max_fps,
        quality=quality,
        report=report,
    )
