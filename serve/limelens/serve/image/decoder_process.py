"""What runs in the process that decodes: it forks for each image, and the child decodes one.

The parent of all of them never reads a byte of an image. See `apart` for what is said between.
"""

from __future__ import annotations

import contextlib
import json
import mmap
import os
import signal
import socket
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np
from PIL import (  # noqa: F401  # loaded once, for all children
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    JpegImagePlugin,
    PngImagePlugin,
    WebPImagePlugin,
)

from limelens.serve.errors import ImageTooLargeError, InvalidImageError
from limelens.serve.image.apart import LENGTHS, upright
from limelens.serve.image.decoding import decoded, plain_jpeg, source_fitted
from limelens.serve.image.fitting import Pixels, Region, ResizeMode, ResizeRule, fitted
from limelens.serve.image.inspecting import allowed_s, inspect

with contextlib.suppress(ImportError):
    import simplejpeg  # noqa: F401

_MEMORY: Final = 300 * 1024 * 1024
"""Bytes that a child may take beside what it begins with."""
_NICENESS: Final = 10
"""Those who wait for images that are quick go first."""


def main(control_fd: int) -> None:
    """Forks for whoever asks, until the other end is closed."""
    # Whoever began this process ends it; what is sent to the whole group is not meant.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # children leave nothing behind
    control = socket.socket(fileno=control_fd)
    while True:
        try:
            asked, files, _, _ = socket.recv_fds(control, 1, 1)
        except OSError:
            break
        if not asked:
            break
        with socket.socket(fileno=files[0]) as connection:
            try:
                child = os.fork()
            except OSError as error:
                _send(connection, {"failed": f"no process can be begun that decodes: {error}"})
                continue
            if child == 0:
                code = 1
                try:
                    control.close()
                    _work(connection)
                    code = 0
                finally:
                    os._exit(code)


def _work(connection: socket.socket) -> None:
    """Decodes the one image that is asked for."""
    _step_back()
    limit_memory()
    with connection.makefile("rb") as reading:
        num_words, num_bytes = LENGTHS.unpack(reading.read(LENGTHS.size))
        question = json.loads(reading.read(num_words))
        data = reading.read(num_bytes)
    if len(data) < num_bytes:
        return  # nobody waits any more
    try:
        _decode(connection, question, data)
    except InvalidImageError as error:
        is_too_large = isinstance(error, ImageTooLargeError)
        _send(connection, {"error": error.description, "too_large": is_too_large})
    except MemoryError:
        reason = "takes more memory to decode than is allowed"
        _send(connection, {"error": reason, "too_large": True})


def _decode(connection: socket.socket, question: dict[str, Any], data: bytes) -> None:
    max_pixels, max_decode_s = question["max_pixels"], question["max_decode_s"]
    limit_time(max_decode_s)
    source = inspect(data, max_pixels=max_pixels, max_decode_s=max_decode_s)
    num_bytes = len(data)
    del data
    limit_time(allowed_s(source, num_bytes, max_decode_s))
    if question.get("rule"):
        height, width, mode = question["rule"]
        rule = ResizeRule(height, width, ResizeMode(mode))
        region = Region(*question["region"]) if question["region"] else None
        stored = plain_jpeg(source)
        if stored is None:
            pixels = source_fitted(source, rule, region, max_pixels)
        else:
            pixels = fitted(Pixels(stored, source.orientation), rule, region)
        _send(connection, {}, pixels.tobytes())
        return
    # Pixels lie in memory that both processes see: they are never sent.
    shape, orientation = (source.height, source.width, 3), source.orientation
    with _shared(source.height * source.width * 3) as file:
        out = np.frombuffer(mmap.mmap(file, 0), np.uint8).reshape(shape)
        if plain_jpeg(source, out) is None:
            # Decoded upright into a view of pixels that lie as they were stored.
            whole = upright(out, orientation)
            decoded(source, max_pixels, lambda pixels: pixels.array(whole))
        _send(connection, {"shape": shape, "orientation": orientation}, b"", file)


@contextlib.contextmanager
def _shared(count: int) -> Iterator[int]:
    """A file in memory."""
    if hasattr(os, "memfd_create"):
        file = os.memfd_create("limelens")
        try:
            os.truncate(file, count)
            yield file
        finally:
            os.close(file)
        return
    with tempfile.TemporaryFile() as other:
        other.truncate(count)
        yield other.fileno()


def _send(
    connection: socket.socket, words: dict[str, Any], data: bytes = b"", file: int | None = None
) -> None:
    encoded = json.dumps(words).encode()
    head = LENGTHS.pack(len(encoded), len(data))
    with contextlib.suppress(ConnectionError):  # nobody waits any more
        if file is None:
            connection.sendall(head)
        else:
            socket.send_fds(connection, [head], [file])
        connection.sendall(encoded + data)


def limit_time(seconds: float) -> None:
    """The operating system ends this process once it has taken so many seconds of CPU in all."""
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    spent = sum(os.times()[:2])
    signal.setitimer(signal.ITIMER_PROF, max(0.01, seconds - spent))


def limit_memory() -> None:
    """This process may take so much memory beside what it has, and no more."""
    import resource

    if sys.platform != "linux":
        return  # others do not keep to limits on memory
    taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    most = taken + _MEMORY
    if hard == resource.RLIM_INFINITY or most < hard:
        resource.setrlimit(resource.RLIMIT_AS, (most, most))


def _step_back() -> None:
    """Others go first, and if memory runs out, this process goes."""
    os.nice(_NICENESS)
    with contextlib.suppress(OSError):  # not everywhere
        Path("/proc/self/oom_score_adj").write_text("1000")
