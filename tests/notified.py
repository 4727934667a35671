"""A socket such as systemd has, for what a service says of itself."""

from __future__ import annotations

import socket
import struct
import time
from typing import Final, Self

_CREDENTIALS: Final = struct.Struct("3i")


class Manager:
    """What systemd would listen to; a context manager.

    Args:
        address: As in NOTIFY_SOCKET: a path, or an abstract name after an @.
    """

    def __init__(self, address: str) -> None:
        self.address = address
        self.pids: set[int] = set()
        """The processes that said something."""
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        self._socket.bind(f"\0{address[1:]}" if address.startswith("@") else address)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def hear(self, timeout_s: float) -> list[str]:
        """The lines that were said next; raises `TimeoutError` if nothing was."""
        self._socket.settimeout(timeout_s)
        text, ancillary, _, _ = self._socket.recvmsg(4096, socket.CMSG_SPACE(_CREDENTIALS.size))
        [(_, _, credentials)] = ancillary
        self.pids.add(_CREDENTIALS.unpack(credentials)[0])
        return text.decode().splitlines()

    def until(self, line: str) -> list[str]:
        """Waits for a line; returns those that came before it, and what was said with it."""
        heard: list[str] = []
        while line not in heard:
            heard += self.hear(60)
        return heard

    def until_silent(self, seconds: float, within_s: float = 60) -> None:
        """Waits until nothing is said for some seconds."""
        began = time.monotonic()
        while time.monotonic() - began < within_s:
            try:
                self.hear(seconds)
            except TimeoutError:
                return
        raise AssertionError(f"it still speaks after {within_s:g} s")
