"""Cuts a server's connections, so that whoever still waits for an answer gets UNAVAILABLE.

A gRPC server that stops ends calls with CANCELLED that have come and have no handler yet, and
under callers who retry there are always some. A connection that is gone is UNAVAILABLE to all calls
on it, and an answer that was handed to the kernel is still delivered. It knows sockets, not gRPC.
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from limelens.serve.addresses import is_unix

_FILES: Final = (Path("/proc/self/fd"), Path("/dev/fd"))


def cut(address: str) -> None:
    """Ends listening on an address, and then all connections to it; does nothing on Windows.

    Args:
        address: `HOST:PORT` or `unix:PATH`, as this process listens on it.
    """
    path = address.removeprefix("unix:") if is_unix(address) else None
    wanted = path or int(address.rpartition(":")[2])
    for number, found in _sockets():
        with found:
            if _place(found) != wanted:
                continue
            if found.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
                # A socket that never listened takes its place: gRPC, which may still close the
                # number, sees no error, and callers are refused.
                with contextlib.suppress(OSError), socket.socket(found.family) as silent:
                    os.dup2(silent.fileno(), number, inheritable=False)
    # Listed anew, with those that were accepted until now.
    for _, found in _sockets():
        with found, contextlib.suppress(OSError):
            if _place(found) == wanted:
                found.shutdown(socket.SHUT_RDWR)


def _sockets() -> Iterator[tuple[int, socket.socket]]:
    """The sockets of this process, each by its number and as a copy that is to be closed."""
    folder = next((one for one in _FILES if one.is_dir()), None)
    if folder is None:
        return
    for name in os.listdir(folder):  # noqa: PTH208  # numbers, that may be gone at any moment
        with contextlib.suppress(OSError):
            copy = os.dup(int(name))
            try:
                found = socket.socket(fileno=copy)
            except OSError:
                os.close(copy)
            else:
                yield int(name), found


def _place(found: socket.socket) -> str | int | None:
    """The port or the path of a socket's own end; None where it has neither."""
    try:
        name = found.getsockname()
    except OSError:
        return None
    if found.type != socket.SOCK_STREAM:
        return None
    if found.family in (socket.AF_INET, socket.AF_INET6):
        return int(name[1])
    return name if isinstance(name, str) else None
