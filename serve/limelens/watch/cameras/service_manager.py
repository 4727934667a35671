"""Tells systemd how the process is, as `sd_notify` does: a datagram to the socket that it names.

Without such a socket in the environment nothing happens. It knows nothing of cameras.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import Final

_SOCKET: Final = "NOTIFY_SOCKET"


class ServiceManager:
    """The service manager that started this process, if one did.

    Args:
        environment: Of the process; the socket's name is removed from it, so that no child speaks
            for this process.
    """

    def __init__(self, environment: dict[str, str] | os._Environ[str] = os.environ) -> None:
        self._address = environment.pop(_SOCKET, "")
        self._watchdog_s = _watchdog_s(environment)
        self._fed_at = 0.0

    def ready(self, status: str) -> None:
        """Says that it is up, or done with reloading."""
        self._tell(f"READY=1\nSTATUS={status}")

    def reloading(self) -> None:
        """Says that it reads its configuration again; `ready` ends that."""
        self._tell(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def stopping(self) -> None:
        """Says that it goes down."""
        self._tell("STOPPING=1")

    def alive(self) -> None:
        """Feeds the watchdog, if there is one; it may be called more often than needed."""
        now = time.monotonic()
        if self._watchdog_s and now - self._fed_at >= self._watchdog_s / 4:
            self._fed_at = now
            self._tell("WATCHDOG=1")

    def _tell(self, message: str) -> None:
        if not self._address:
            return
        # An @ stands for the zero of an abstract address.
        address = f"\0{self._address[1:]}" if self._address[0] == "@" else self._address
        # Watching goes on without a service manager that listens.
        with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as one:
            one.connect(address)
            one.send(message.encode())


def _watchdog_s(environment: Mapping[str, str]) -> float:
    """After how many seconds of silence the watchdog bites; 0 if there is none for this process."""
    pid = environment.get("WATCHDOG_PID", "")
    microseconds = environment.get("WATCHDOG_USEC", "")
    if not microseconds.isdecimal() or (pid and pid != str(os.getpid())):
        return 0.0
    return int(microseconds) / 1e6
