"""Decodes videos and cameras by PyAV, frame by frame.

It knows timeouts and broken packets, and nothing of which frames are wanted.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final

from PIL.Image import Transpose

from limelens.serve.errors import MissingExtraError
from limelens.serve.tools.camera.places import Kind, SourceAddress, SourceError

if TYPE_CHECKING:
    from av import VideoFrame
    from av.container import InputContainer
    from av.video.stream import VideoStream
    from PIL.Image import Image

_USUAL_RATE: Final = 25.0
_TIMEOUT_S: Final = 10.0
"""Seconds of silence after which a camera counts as lost."""

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


class Video:
    """An open video or camera, to be read once.

    Args:
        place: Its place; not images.

    Raises:
        SourceError: It cannot be opened, or there is no video in it.
        MissingExtraError: `limelens[camera]` is not installed.
    """

    def __init__(self, place: SourceAddress) -> None:
        try:
            import av
        except ImportError as error:
            raise MissingExtraError(
                f"reading cameras and videos needs limelens[camera] ({error}); "
                "pip install 'limelens[camera]'"
            ) from error
        self._name = place.name
        self._advice = place.advice
        self._errors = (av.FFmpegError, OSError)
        self._broken = av.error.InvalidDataError
        file: Any = place.path
        if place.kind is Kind.STDIN:
            # Not sys.stdin: a thread that waits for a frame would hold its lock when the process
            # ends.
            file = open(0, "rb", buffering=0, closefd=False)  # noqa: SIM115
        is_remote = place.kind in (Kind.ADDRESS, Kind.DEVICE)
        try:
            self._container: InputContainer = av.open(
                file,
                format=place.format or None,
                options=dict(place.options),
                timeout=_TIMEOUT_S if is_remote else None,
            )
        except self._errors as error:
            raise self._lost(error) from error
        # The first stream may be a cover image.
        stream = self._container.streams.best("video")
        if stream is None:
            self._container.close()
            raise SourceError(f"{self._name}: no video in it; expected a video or a camera")
        self._stream: VideoStream = stream
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
        """Decoded frames; broken packets are left out.

        Raises:
            SourceError: It cannot be read any further.
        """
        try:
            for packet in self._container.demux(self._stream):
                try:
                    yield from packet.decode()
                except self._broken:
                    self.num_broken += 1
        except self._errors as error:
            raise self._lost(error) from error

    def close(self) -> None:
        """Closes it; no thread may be reading."""
        self._container.close()

    def _lost(self, error: Exception) -> SourceError:
        # The name in the error may hold a password.
        reason = getattr(error, "strerror", None) or type(error).__name__
        return SourceError(f"{self._name}: cannot be read: {reason}{self._advice}")


def to_jpeg(frame: VideoFrame, quality: int) -> bytes:
    """A decoded frame, upright, as a JPEG file of a quality of 1 to 95."""
    image: Image = frame.to_image()  # type: ignore[no-untyped-call]
    if (turn := _turn(frame)) is not None:
        image = image.transpose(turn)
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality)
    return file.getvalue()


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
