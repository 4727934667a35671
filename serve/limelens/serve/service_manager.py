"""Tells systemd how the process is, as `sd_notify` does: a datagram to the socket that it names.

Without such a socket in the environment nothing happens. It knows neither servers nor cameras.
"""

from __future__ import annotations

import os
import socket
import time
from contextlib import suppress
from typing import Final

_SOCKET: Final = "NOTIFY_SOCKET"
_PATIENCE_S: Final = 1.0
_LONGEST_STATUS: Final = 1000
"""Characters; a datagram that is too long for the socket would not be sent at all."""
_MOST_DIGITS: Final = 20
"""Of 64 bits."""


class ServiceManager:
    """The service manager that started this process, if one did. Safe to use from any thread.

    Args:
        environment: Of the process; what it says of the service manager is removed from it, so that
            no child speaks for this process.
    """

    def __init__(self, environment: dict[str, str] | os._Environ[str] = os.environ) -> None:
        self._address = environment.pop(_SOCKET, "")
        found_s = _watchdog_s(environment)
        self.watchdog_s = found_s if self._address else 0.0
        """After how many seconds of silence the watchdog bites; 0 if there is none."""
        self._fed_at = 0.0

    def ready(self, status: str) -> None:
        """Says that it is up, or done with reloading."""
        self._tell(f"READY=1\n{_status(status)}")

    def is_now(self, status: str) -> None:
        """Says what it does now, for people."""
        self._tell(_status(status))

    def reloading(self) -> None:
        """Says that it reads its configuration again; `ready` ends that."""
        self._tell(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def stopping(self, within_s: float = 0.0) -> None:
        """Says that it goes down.

        Args:
            within_s: How long that may take, in seconds, if it is longer than the service manager
                would wait.
        """
        extends = f"\nEXTEND_TIMEOUT_USEC={round(within_s * 1e6)}" if within_s else ""
        self._tell(f"STOPPING=1{extends}")

    def alive(self) -> None:
        """Feeds the watchdog, if there is one; it may be called more often than needed."""
        now = time.monotonic()
        if self.watchdog_s and now - self._fed_at >= self.watchdog_s / 4:
            self._fed_at = now
            self._tell("WATCHDOG=1")

    def _tell(self, message: str) -> None:
        if not self._address:
            return
        # An @ stands for the zero of an abstract address.
        address = f"\0{self._address[1:]}" if self._address[0] == "@" else self._address
        # Work goes on without a service manager that listens, and waits no longer for a busy one.
        with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as one:
            one.settimeout(_PATIENCE_S)
            one.connect(address)
            one.send(message.encode(errors="backslashreplace"))


def _status(text: str) -> str:
    """The assignment of a status: a line, for another one would be an assignment of its own."""
    return f"STATUS={' '.join(text.split())[:_LONGEST_STATUS]}"


def _watchdog_s(environment: dict[str, str] | os._Environ[str]) -> float:
    """Seconds until the watchdog bites; 0 if there is none for this process."""
    pid = environment.pop("WATCHDOG_PID", "")
    microseconds = environment.pop("WATCHDOG_USEC", "")
    is_number = microseconds.isdecimal() and len(microseconds) <= _MOST_DIGITS
    if not is_number or (pid and pid != str(os.getpid())):
        return 0.0
    return int(microseconds) / 1e6
