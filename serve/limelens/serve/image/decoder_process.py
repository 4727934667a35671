"""The decoder process: it forks for each image, and the child decodes one.

The parent never reads a byte of an image. `decoder_client` documents their messages.
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
from limelens.serve.image.decoder_client import LENGTHS, upright
from limelens.serve.image.decoding import decode, decode_with, plain_jpeg
from limelens.serve.image.fitting import Pixels, Region, ResizeMode, ResizeRule, fitted
from limelens.serve.image.formats import inspect
from limelens.serve.image.limits import DecodeLimits, allowed_s
from limelens.serve.priority import lower_process_priority

with contextlib.suppress(ImportError):
    import simplejpeg  # noqa: F401

_MEMORY: Final = 300 * 1024 * 1024
"""Bytes that a child may take in addition to what it starts with."""


def main(control_fd: int) -> None:
    """Forks for each request, until the other end is closed."""
    # The server ends this process; signals to its whole group are not meant for it.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # children leave nothing behind
    control = socket.socket(fileno=control_fd)
    while True:
        try:
            received, files, _, _ = socket.recv_fds(control, 1, 1)
        except OSError:
            break
        if not received:
            break
        with socket.socket(fileno=files[0]) as connection:
            try:
                child = os.fork()
            except OSError as error:
                _send(connection, {"failed": f"the decoder process cannot fork: {error}"})
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
    """Decodes one image and sends it back."""
    lower_process_priority()
    limit_memory()
    with connection.makefile("rb") as reading:
        num_words, num_bytes = LENGTHS.unpack(reading.read(LENGTHS.size))
        request = json.loads(reading.read(num_words))
        data = reading.read(num_bytes)
    if len(data) < num_bytes:
        return  # the caller is gone
    try:
        _decode(connection, request, data)
    except InvalidImageError as error:
        is_too_large = isinstance(error, ImageTooLargeError)
        _send(connection, {"error": error.description, "too_large": is_too_large})
    except MemoryError:
        reason = "takes more memory to decode than is allowed"
        _send(connection, {"error": reason, "too_large": True})


def _decode(connection: socket.socket, request: dict[str, Any], data: bytes) -> None:
    limits = DecodeLimits(**request["limits"])
    limit_time(limits.max_decode_s)
    source = inspect(data, limits)
    num_bytes = len(data)
    del data
    limit_time(allowed_s(source, num_bytes, limits.max_decode_s))
    if request["rule"]:
        rule = ResizeRule(**{**request["rule"], "mode": ResizeMode(request["rule"]["mode"])})
        region = Region(**request["region"]) if request["region"] else None
        stored = plain_jpeg(source)
        if stored is None:
            pixels = decode(source, rule, region)
        else:
            pixels = fitted(Pixels(stored, source.orientation), rule, region).pixels
        _send(connection, {}, pixels.tobytes())
        return
    # Pixels lie in memory that both processes map: they are never sent.
    shape, orientation = (source.height, source.width, 3), source.orientation
    with _shared(source.height * source.width * 3) as file:
        out = np.frombuffer(mmap.mmap(file, 0), np.uint8).reshape(shape)
        if plain_jpeg(source, out) is None:
            # Decoded upright into a view of pixels in their stored order.
            whole = upright(out, orientation)
            decode_with(source, lambda pixels: pixels.array(whole))
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
    with contextlib.suppress(ConnectionError):  # the caller is gone
        if file is None:
            connection.sendall(head)
        else:
            socket.send_fds(connection, [head], [file])
        connection.sendall(encoded + data)


def limit_time(seconds: float) -> None:
    """Has the operating system end this process once it has used this much CPU time."""
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    spent = sum(os.times()[:2])
    signal.setitimer(signal.ITIMER_PROF, max(0.01, seconds - spent))


def limit_memory() -> None:
    """Limits the memory that this process takes in addition to what it has."""
    import resource

    if sys.platform != "linux":
        return  # other systems do not enforce limits on memory
    taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    most = taken + _MEMORY
    if hard == resource.RLIM_INFINITY or most < hard:
        resource.setrlimit(resource.RLIMIT_AS, (most, most))
