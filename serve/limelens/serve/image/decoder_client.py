"""Decodes in a process that can be ended, for images that may be slow.

One decoder process, started when it is first needed, forks for every image. The child has limited
seconds of CPU (a timer of the operating system ends it within the decoder) and bytes of memory, and
its memory is freed when it exits. Callers block until it is done. Where processes cannot fork
(Windows) the image is decoded in the calling thread, after the same inspection.
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
from dataclasses import asdict
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from limelens.serve.errors import ImageTooLargeError, InvalidImageError, UnavailableError
from limelens.serve.image.decoding import decode
from limelens.serve.image.fitting import Region, ResizeRule
from limelens.serve.image.formats import inspect
from limelens.serve.image.limits import DEFAULT_LIMITS, DecodeLimits, too_slow

LENGTHS: Final = struct.Struct("<II")
"""Sizes of the request's JSON and of the file; of a reply's JSON and of the pixels behind it."""
_MAX_WAIT_S: Final = 60.0
"""How long a child may be silent: it has a few seconds of CPU, but the machine may be busy."""
_START: Final = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[2]); "
    "from limelens.serve.image.decoder_process import main; main(int(sys.argv[1]))"
)


class DecoderLostError(UnavailableError):
    """The decoder process cannot be started, or something else ended it."""


def decode_apart(
    data: bytes,
    limits: DecodeLimits = DEFAULT_LIMITS,
    rule: ResizeRule | None = None,
    region: Region | None = None,
) -> NDArray[np.uint8]:
    """Inspects and decodes a file in a process of its own; takes what `decode` does.

    Raises:
        InvalidImageError: As `decode`, or it took too long.
        DecoderLostError: It was not decoded, and the image is not the reason.
    """
    request = {
        "limits": asdict(limits),
        "rule": rule and asdict(rule),
        "region": region and asdict(region),
    }
    reply = _DECODER.ask(request, data, limits)
    if reply is None:
        return decode(inspect(data, limits), rule, region)
    words, pixels, file = reply
    if rule is not None:
        return np.frombuffer(pixels, np.uint8).reshape(rule.height, rule.width, 3)
    assert file is not None
    with os.fdopen(file, "r+b", buffering=0) as shared:
        shape = words["shape"]
        whole = np.frombuffer(mmap.mmap(shared.fileno(), 0), np.uint8, int(np.prod(shape)))
    return upright(whole.reshape(shape), words["orientation"])


def start_decoder() -> int | None:
    """Starts the decoder process early; returns its id, or None where processes cannot fork."""
    with contextlib.suppress(DecoderLostError):
        return _DECODER.start()
    return None


def upright(stored: NDArray[np.uint8], orientation: int) -> NDArray[np.uint8]:
    """An upright view of `(H, W, 3)` pixels that are stored in an EXIF orientation, 1 to 8."""
    if orientation >= 5:
        stored = stored.transpose(1, 0, 2)
    # After the transposition: 5 is done, 6 is mirrored, 7 is rotated by 180°, 8 is flipped.
    if orientation in (2, 3, 6, 7):
        stored = stored[:, ::-1]
    if orientation in (3, 4, 7, 8):
        stored = stored[::-1]
    return stored


class _Decoder:
    """The decoder process, and the socket to it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._control: socket.socket | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._owner = 0
        self._is_possible = hasattr(os, "fork") and hasattr(socket, "send_fds")

    def start(self) -> int | None:
        """Starts the process unless it runs; returns its id, or None if processes cannot fork."""
        if not self._is_possible:
            return None
        with self._lock:
            self._ready()
            return None if self._process is None else self._process.pid

    def ask(
        self, request: dict[str, Any], data: bytes, limits: DecodeLimits
    ) -> tuple[Any, bytes, int | None] | None:
        """Has a new child decode a file; None if processes cannot fork.

        Returns the reply's JSON, its pixels, and perhaps an open file.
        """
        if not self._is_possible:
            return None
        connection = self._connect()
        try:
            connection.settimeout(_MAX_WAIT_S)
            encoded = json.dumps(request).encode()
            try:
                connection.sendall(LENGTHS.pack(len(encoded), len(data)) + encoded)
                connection.sendall(data)
                return self._reply(connection)
            except (TimeoutError, ConnectionError):
                raise too_slow(limits.max_decode_s) from None
        finally:
            connection.close()

    def _reply(self, connection: socket.socket) -> tuple[Any, bytes, int | None]:
        start, files, _, _ = socket.recv_fds(connection, LENGTHS.size, 1)
        file = files[0] if files else None
        try:
            # Nothing comes if the operating system ended the child because its time was up.
            start += _received(connection, LENGTHS.size - len(start))
            num_words, num_bytes = LENGTHS.unpack(start)
            words = json.loads(_received(connection, num_words))
            if "error" in words:
                kind = ImageTooLargeError if words["too_large"] else InvalidImageError
                raise kind(words["error"])
            if "failed" in words:
                raise DecoderLostError(words["failed"])
            reply = words, _received(connection, num_bytes), file
            file = None
            return reply
        finally:
            if file is not None:
                os.close(file)

    def _connect(self) -> socket.socket:
        """A socket to a new child."""
        ours, theirs = socket.socketpair()
        try:
            with self._lock:
                try:
                    socket.send_fds(self._ready(), [b"1"], [theirs.fileno()])
                except OSError:  # it ended; another is started, once
                    self._forget()
                    socket.send_fds(self._ready(), [b"1"], [theirs.fileno()])
        except BaseException as error:
            ours.close()
            if isinstance(error, OSError):
                raise DecoderLostError(f"the decoder process cannot be reached: {error}") from error
            raise
        finally:
            theirs.close()
        return ours

    def _ready(self) -> socket.socket:
        """The socket to the process, which is started unless it runs; the lock is held."""
        if self._control is not None and self._owner == os.getpid():
            return self._control
        self._control = self._process = None  # inherited by a fork: they are the parent's
        ours, theirs = socket.socketpair()
        # A fork copies no threads, so libraries must start none.
        one = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
        arguments = [str(theirs.fileno()), json.dumps(sys.path)]
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-c", _START, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                env={**os.environ, **one},
            )
        except OSError as error:
            ours.close()
            raise DecoderLostError(f"the decoder process cannot be started: {error}") from error
        finally:
            theirs.close()
        self._control, self._owner = ours, os.getpid()
        return ours

    def _forget(self) -> None:
        """Ends the process, which exits when its socket closes; the lock is held."""
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


_DECODER: Final = _Decoder()
atexit.register(_DECODER.close)
