"""Cuts a server's connections, so that calls that still wait end with UNAVAILABLE.

A stopping gRPC server ends calls that have no handler yet with CANCELLED, and clients that retry
always have some. A lost connection ends all its calls with UNAVAILABLE, and the kernel still
delivers responses that it has. It knows sockets, not gRPC.
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
    """Stops listening on an address, and closes all connections to it; does nothing on Windows."""
    path = address.removeprefix("unix:") if is_unix(address) else None
    wanted = path or int(address.rpartition(":")[2])
    for number, found in _sockets():
        with found:
            if _place(found) != wanted:
                continue
            if found.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
                # Put a socket that never listened in its place: clients are refused, and gRPC sees
                # no error when it closes the file.
                with contextlib.suppress(OSError), socket.socket(found.family) as silent:
                    os.dup2(silent.fileno(), number, inheritable=False)
    # List again, with the connections accepted meanwhile.
    for _, found in _sockets():
        with found, contextlib.suppress(OSError):
            if _place(found) == wanted:
                found.shutdown(socket.SHUT_RDWR)


def _sockets() -> Iterator[tuple[int, socket.socket]]:
    """The sockets of this process: file numbers, and copies that the caller must close."""
    folder = next((one for one in _FILES if one.is_dir()), None)
    if folder is None:
        return
    for name in os.listdir(folder):  # noqa: PTH208  # numbers that may vanish at any moment
        with contextlib.suppress(OSError):
            copy = os.dup(int(name))
            try:
                found = socket.socket(fileno=copy)
            except OSError:
                os.close(copy)
            else:
                yield int(name), found


def _place(found: socket.socket) -> str | int | None:
    """The port or the path of a socket's own end; None if it has neither."""
    try:
        name = found.getsockname()
    except OSError:
        return None
    if found.type != socket.SOCK_STREAM:
        return None
    if found.family in (socket.AF_INET, socket.AF_INET6):
        return int(name[1])
    return name if isinstance(name, str) else None
