"""Decodes videos and cameras by PyAV, frame by frame.

It knows timeouts and broken packets, and nothing of which frames are wanted.
"""

from __future__ import annotations

import io
import struct
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from PIL.Image import Transpose

from limelens.serve.errors import MissingExtraError
from limelens.serve.image import MAX_PIXELS
from limelens.serve.tools.camera.faults import LossReason, SourceError, reason_of, words_of
from limelens.serve.tools.camera.places import Kind, SourceAddress

if TYPE_CHECKING:
    from av import VideoFrame
    from av.container import InputContainer
    from av.video.stream import VideoStream
    from numpy.typing import NDArray
    from PIL.Image import Image

_USUAL_RATE: Final = 25.0
_TIMEOUT_S: Final = 10.0
"""Seconds of silence after which a camera counts as lost."""
_LIMITS: Final = {"max_pixels": str(MAX_PIXELS)}
"""A server refuses larger images, and a frame that only claims to be large takes the memory."""

_TO_UPRIGHT: Final[dict[tuple[int, int, int, int], Transpose | None]] = {
    (1, 0, 0, 1): None,
    (-1, 0, 0, 1): Transpose.FLIP_LEFT_RIGHT,
    (1, 0, 0, -1): Transpose.FLIP_TOP_BOTTOM,
    (-1, 0, 0, -1): Transpose.ROTATE_180,
    (0, 1, 1, 0): Transpose.TRANSPOSE,
    (0, -1, -1, 0): Transpose.TRANSVERSE,
    (0, 1, -1, 0): Transpose.ROTATE_270,
    (0, -1, 1, 0): Transpose.ROTATE_90,
}
"""By the signs of a, b, c, d, which take (x, y) to (ax + cy, bx + dy); y goes down."""


def check_installed() -> None:
    """Loads PyAV.

    Raises:
        MissingExtraError: `limelens[camera]` is not installed.
    """
    try:
        import av  # noqa: F401
    except ImportError as error:
        raise MissingExtraError(
            f"reading cameras and videos needs limelens[camera] ({error}); "
            "pip install 'limelens[camera]'"
        ) from error


class Video:
    """An open video or camera, to be read once.

    Args:
        place: Its place; not images.

    Raises:
        SourceError: It cannot be opened, or there is no video in it.
        MissingExtraError: `limelens[camera]` is not installed.
    """

    def __init__(self, place: SourceAddress) -> None:
        check_installed()
        import av

        self._place = place
        self._is_open = False
        self._name = place.name
        self._errors = (av.FFmpegError, OSError)
        # The latter is how FFmpeg refuses a frame of too many pixels.
        self._broken = (av.error.InvalidDataError, av.error.ArgumentError)
        file: Any = place.path
        if place.kind is Kind.STDIN:
            # Not sys.stdin: a thread that waits for a frame would hold its lock when the process
            # ends.
            file = open(0, "rb", buffering=0, closefd=False)  # noqa: SIM115
        is_remote = place.kind in (Kind.ADDRESS, Kind.DEVICE)
        began = time.monotonic()
        failed: SourceError | None = None
        try:
            self._container: InputContainer = av.open(
                file,
                format=place.format or None,
                options={**dict(place.options), **_LIMITS},
                timeout=_TIMEOUT_S if is_remote else None,
            )
        except self._errors as error:
            failed = self._lost(error, time.monotonic() - began)
        if failed is not None:
            # Not from within `except`: that error names the address with its password.
            raise failed
        self._is_open = True
        # The first stream may be a cover image.
        stream = self._container.streams.best("video")
        if not isinstance(stream, av.VideoStream):
            self._container.close()
            raise SourceError(
                f"{self._name}: no video in it; expected a video or a camera", LossReason.NO_VIDEO
            )
        self._stream: VideoStream = stream
        self._stream.codec_context.options = dict(_LIMITS)
        self.num_broken = 0
        """Packets that could not be decoded so far."""
        self.is_endless = (
            place.kind is Kind.ADDRESS and self._container.duration is None
        ) or place.kind is Kind.DEVICE
        """Whether it is a camera; a file on a web server has a duration."""
        # Threads by frame are faster, but delay by as many frames as there are threads.
        self._stream.thread_type = "SLICE" if self.is_endless else "AUTO"

    @property
    def rate(self) -> float:
        """Frames a second, or the usual rate if unknown."""
        stream = self._stream
        found = stream.guessed_rate or stream.average_rate or stream.base_rate
        return float(found) if found else _USUAL_RATE

    def frames(self) -> Iterator[VideoFrame]:
        """Decoded frames; broken packets and frames are left out.

        Raises:
            SourceError: It cannot be read any further.
        """
        failed: SourceError | None = None
        last_at = waited_since = time.monotonic()
        try:
            for packet in self._container.demux(self._stream):
                if self._was_silent(waited_since):
                    # FFmpeg gives what it has of a frame before it says that nothing more came.
                    failed = self._because(LossReason.TIMEOUT, TimeoutError())
                    break
                try:
                    for frame in packet.decode():
                        if self.is_endless and frame.is_corrupt:
                            self.num_broken += 1
                            continue
                        yield frame
                        last_at = time.monotonic()
                except self._broken:
                    self.num_broken += 1
                waited_since = time.monotonic()
                if self.is_endless and waited_since - last_at > _TIMEOUT_S:
                    failed = SourceError(
                        f"{self._name}: cannot be read: no frame in what came for {_TIMEOUT_S:g} s",
                        LossReason.NO_VIDEO,
                    )
                    break
        except self._errors as error:
            failed = self._lost(error, time.monotonic() - waited_since)
        if failed is not None:
            raise failed

    def close(self) -> None:
        """Closes it; no thread may be reading."""
        self._container.close()

    def _lost(self, error: Exception, took_s: float) -> SourceError:
        place = self._place
        is_remote = place.kind is Kind.ADDRESS
        reason = reason_of(
            error,
            opening=place.path if is_remote and not self._is_open else "",
            took_s=took_s,
            limit_s=self._limit_s,
        )
        if is_remote and self._is_open and reason is LossReason.FAILED:
            # FFmpeg calls it an error of input if the connection ends within a frame.
            reason = LossReason.ENDED
        return self._because(reason, error)

    def _because(self, reason: LossReason, error: Exception) -> SourceError:
        place = self._place
        words = words_of(
            reason,
            error,
            is_remote=place.kind is Kind.ADDRESS,
            has_user=place.has_user,
            limit_s=self._limit_s,
        )
        return SourceError(f"{self._name}: cannot be read: {words}{place.advice}", reason)

    def _was_silent(self, since: float) -> bool:
        limit_s = self._place.silence_s
        return limit_s > 0 and time.monotonic() - since > 0.9 * limit_s

    @property
    def _limit_s(self) -> float:
        """Seconds of silence after which FFmpeg gives up; 0 is never."""
        is_remote = self._place.kind is Kind.ADDRESS
        return self._place.silence_s or (_TIMEOUT_S if is_remote else 0.0)


def brightness(frame: VideoFrame) -> NDArray[np.uint8]:
    """A frame's first plane, `(H, W)`, 0 to 255: its brightness in the formats of cameras.

    It is not copied. Of a format that mixes bytes of brightness and colour, it is all of them.
    """
    plane = frame.planes[0]
    rows: NDArray[np.uint8] = np.frombuffer(plane, np.uint8)  # type: ignore[call-overload]
    rows = rows.reshape(plane.height, plane.line_size)
    bits = frame.format.components[0].bits if frame.format.is_planar else 0
    pixel = (bits + 7) // 8 or (frame.format.padded_bits_per_pixel + 7) // 8
    # What is behind a row has any value.
    return rows[:, : min(plane.line_size, plane.width * pixel)]


def to_jpeg(frame: VideoFrame, quality: int) -> bytes:
    """A decoded frame, upright, as a JPEG file of a quality of 1 to 95."""
    turn = _turn(frame)
    if turn is None and (encoded := _plain_jpeg(frame, quality)):
        return encoded
    image: Image = frame.to_image()  # type: ignore[no-untyped-call]
    if turn is not None:
        image = image.transpose(turn)
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality)
    return file.getvalue()


def _plain_jpeg(frame: VideoFrame, quality: int) -> bytes:
    """The same, as close to the pixels and in half the time; empty without simplejpeg."""
    try:
        import simplejpeg  # servers have it, cameras need not
    except ImportError:
        return b""
    pixels = np.ascontiguousarray(frame.to_ndarray(format="rgb24"))
    encoded: bytes = simplejpeg.encode_jpeg(pixels, quality=quality, colorsubsampling="420")
    return encoded


def _turn(frame: VideoFrame) -> Transpose | None:
    try:
        # The stubs lack this kind of side data.
        matrix: Any = frame.side_data["DISPLAYMATRIX"]  # type: ignore[typeddict-item]
    except KeyError:
        return None
    return to_upright(bytes(matrix))


def to_upright(matrix: bytes) -> Transpose | None:
    """The operation that makes a frame upright; None if it is.

    Args:
        matrix: The display matrix (ISO 14496-12, 6.2.2): nine 32-bit integers in this machine's
            order: a, b, u, c, d, v, x, y, w. Turns by less than 45 degrees are ignored.
    """
    if len(matrix) < 36:
        return None
    a, b, _, c, d, *_ = struct.unpack("=9i", matrix[:36])
    if abs(a * d) >= abs(b * c):
        b = c = 0
    else:
        a = d = 0
    signs = tuple((value > 0) - (value < 0) for value in (a, b, c, d))
    return _TO_UPRIGHT.get(signs)
