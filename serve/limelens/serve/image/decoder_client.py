"""Decoding in a process that can be ended, for images that are not plainly quick.

One helper process, begun when it is first needed, forks for every image; the child has its seconds
of CPU (a timer of the operating system ends it within the decoder) and its bytes of memory, and
whatever it leaves is gone with it. Callers block until it is done: call from a thread that may.
Where processes cannot be forked (Windows) the image is decoded in the calling thread, after the
same look at its structure. It knows nothing of requests.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import mmap
import os
import socket
import struct
import subprocess
import sys
import threading
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from limelens.serve.errors import ImageTooLargeError, InvalidImageError, UnavailableError
from limelens.serve.image.decoding import decoded, source_fitted
from limelens.serve.image.fitting import Pixels, Region, ResizeRule
from limelens.serve.image.inspecting import (
    MAX_DECODE_S,
    MAX_PIXELS,
    Source,
    inspect,
    too_slow,
)

MAX_QUICK_BYTES: Final = 2 * 1024 * 1024
"""Files over this are never looked at in the calling thread, let alone decoded."""
LENGTHS: Final = struct.Struct("<II")
"""Of the question and of the file; in an answer, of its words and of the pixels behind them."""
_MAX_WAIT_S: Final = 60.0
"""Without a word of the child's: it has a few seconds of CPU, but others may have the machine."""
_BEGIN: Final = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[2]); "
    "from limelens.serve.image.child import main; main(int(sys.argv[1]))"
)


class DecoderLostError(UnavailableError):
    """The process that decodes cannot be begun, or was ended by somebody else."""


def quick_source(
    data: bytes, *, max_pixels: int = MAX_PIXELS, max_decode_s: float = MAX_DECODE_S
) -> Source | None:
    """An image that was looked at and may be decoded in the calling thread, else None.

    Args:
        data: As for `read_image`.
        max_pixels: As for `read_image`.
        max_decode_s: As for `allowed_s`.

    Raises:
        InvalidImageError: It is refused at once.
    """
    if len(data) > MAX_QUICK_BYTES:
        return None
    source = inspect(data, max_pixels=max_pixels, max_decode_s=max_decode_s)
    return source if source.is_quick else None


def is_quick(
    data: bytes, *, max_pixels: int = MAX_PIXELS, max_decode_s: float = MAX_DECODE_S
) -> bool:
    """Whether an image is decoded, or refused, in a few hundredths of a second.

    Args:
        data: As for `read_image`.
        max_pixels: As for `read_image`.
        max_decode_s: As for `allowed_s`.
    """
    try:
        return quick_source(data, max_pixels=max_pixels, max_decode_s=max_decode_s) is not None
    except InvalidImageError:
        return True


def read_image_apart(
    data: bytes, *, max_pixels: int = MAX_PIXELS, max_decode_s: float = MAX_DECODE_S
) -> NDArray[np.uint8]:
    """What `read_image` gives, decoded by a process that can be ended.

    Args:
        data: As for `read_image`.
        max_pixels: As for `read_image`.
        max_decode_s: As for `allowed_s`.

    Returns:
        `(H, W, 3)` uint8; perhaps a view of pixels that lie in another order.

    Raises:
        InvalidImageError: As `read_image`, or it took too long.
        DecoderLostError: It was not decoded, and that is not the image's fault.
    """
    question = {"max_pixels": max_pixels, "max_decode_s": max_decode_s}
    answer = _HELPER.ask(question, data)
    if answer is None:
        source = inspect(data, max_pixels=max_pixels, max_decode_s=max_decode_s)
        return decoded(source, max_pixels, Pixels.array)
    words, _, file = answer
    assert file is not None
    with os.fdopen(file, "r+b", buffering=0) as shared:
        shape = words["shape"]
        whole = np.frombuffer(mmap.mmap(shared.fileno(), 0), np.uint8, int(np.prod(shape)))
    return upright(whole.reshape(shape), words["orientation"])


def read_fitted_apart(
    data: bytes,
    rule: ResizeRule,
    region: Region | None = None,
    *,
    max_pixels: int = MAX_PIXELS,
    max_decode_s: float = MAX_DECODE_S,
) -> NDArray[np.uint8]:
    """What `read_fitted` gives, decoded by a process that can be ended.

    Args:
        data: As for `read_image`.
        rule: The bundle's.
        region: What to look at; None is everything.
        max_pixels: As for `read_image`.
        max_decode_s: As for `allowed_s`.

    Raises:
        LimelensError: As `read_image_apart`.
    """
    question = {
        "max_pixels": max_pixels,
        "max_decode_s": max_decode_s,
        "rule": [rule.height, rule.width, rule.mode.value],
        "region": None
        if region is None
        else [region.left, region.top, region.right, region.bottom],
    }
    answer = _HELPER.ask(question, data)
    if answer is None:
        source = inspect(data, max_pixels=max_pixels, max_decode_s=max_decode_s)
        return source_fitted(source, rule, region, max_pixels)
    return np.frombuffer(answer[1], np.uint8).reshape(rule.height, rule.width, 3)


def warm() -> None:
    """Begins the helper process, so that the first image need not wait for it."""
    with contextlib.suppress(DecoderLostError):
        _HELPER.begin()


def upright(stored: NDArray[np.uint8], orientation: int) -> NDArray[np.uint8]:
    """A view of stored pixels that stands upright.

    Args:
        stored: `(H, W, 3)`.
        orientation: As EXIF counts it, 1 to 8.
    """
    if orientation >= 5:
        stored = stored.transpose(1, 0, 2)
    # After the transposition: 5 is done, 6 is mirrored, 7 is turned by half, 8 is flipped.
    if orientation in (2, 3, 6, 7):
        stored = stored[:, ::-1]
    if orientation in (3, 4, 7, 8):
        stored = stored[::-1]
    return stored


class _Helper:
    """The process that forks, and the way to it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._control: socket.socket | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._owner = 0
        self._is_possible = hasattr(os, "fork") and hasattr(socket, "send_fds")

    def begin(self) -> None:
        """Begins the process where it is not there."""
        if self._is_possible:
            with self._lock:
                self._ready()

    def ask(self, question: dict[str, Any], data: bytes) -> tuple[Any, bytes, int | None] | None:
        """What a child answers to a question: words, bytes, and perhaps an open file.

        Returns:
            None where there can be no child.

        Raises:
            InvalidImageError: What the child found, or it was ended because it took too long.
            DecoderLostError: There is no child, or it ended otherwise.
        """
        if not self._is_possible:
            return None
        connection = self._connect()
        try:
            connection.settimeout(_MAX_WAIT_S)
            asked = json.dumps(question).encode()
            try:
                connection.sendall(LENGTHS.pack(len(asked), len(data)) + asked)
                connection.sendall(data)
                return self._answer(connection)
            except (TimeoutError, ConnectionError):
                raise too_slow(question["max_decode_s"]) from None
        finally:
            connection.close()

    def _answer(self, connection: socket.socket) -> tuple[Any, bytes, int | None]:
        start, files, _, _ = socket.recv_fds(connection, LENGTHS.size, 1)
        file = files[0] if files else None
        try:
            while 0 < len(start) < LENGTHS.size:
                more = connection.recv(LENGTHS.size - len(start))
                if not more:
                    break
                start += more
            if len(start) < LENGTHS.size:
                # Nothing was said: the operating system ended it, as it was told to.
                raise ConnectionResetError
            num_words, num_bytes = LENGTHS.unpack(start)
            words = json.loads(_received(connection, num_words))
            if "error" in words:
                kind = ImageTooLargeError if words["too_large"] else InvalidImageError
                raise kind(words["error"])
            if "failed" in words:
                raise DecoderLostError(words["failed"])
            found = words, _received(connection, num_bytes), file
            file = None
            return found
        finally:
            if file is not None:
                os.close(file)

    def _connect(self) -> socket.socket:
        """A way to a new child."""
        ours, theirs = socket.socketpair()
        try:
            with self._lock:
                for is_last in (False, True):
                    control = self._ready()
                    try:
                        socket.send_fds(control, [b"1"], [theirs.fileno()])
                        return ours
                    except OSError as error:  # it was ended; another is begun, once
                        self._forget()
                        if is_last:
                            raise DecoderLostError(
                                f"the process that decodes cannot be reached: {error}"
                            ) from error
                raise AssertionError
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()

    def _ready(self) -> socket.socket:
        """The way to the process, which is begun where it is not there; the lock is held."""
        if self._control is not None and self._owner == os.getpid():
            return self._control
        self._control = self._process = None  # of another process, which forked this one
        ours, theirs = socket.socketpair()
        # Threads of libraries that only forks without them can do without.
        one = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
        arguments = [str(theirs.fileno()), json.dumps(sys.path)]
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-c", _BEGIN, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                env={**os.environ, **one},
            )
        except OSError as error:
            ours.close()
            raise DecoderLostError(f"no process can be begun that decodes: {error}") from error
        finally:
            theirs.close()
        self._control, self._owner = ours, os.getpid()
        return ours

    def _forget(self) -> None:
        """Ends the process, which goes when nobody is left to ask; the lock is held."""
        control, process = self._control, self._process
        self._control = self._process = None
        if control is not None:
            control.close()
        if process is not None and self._owner == os.getpid():
            try:
                process.wait(2)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def close(self) -> None:
        """Ends the process."""
        with self._lock:
            self._forget()


def _received(connection: socket.socket, count: int) -> bytes:
    parts = bytearray(count)
    view = memoryview(parts)
    at = 0
    while at < count:
        num_read = connection.recv_into(view[at:])
        if not num_read:
            raise ConnectionResetError
        at += num_read
    return bytes(parts)


_HELPER: Final = _Helper()
atexit.register(_HELPER.close)
