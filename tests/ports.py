"""Ports for servers that are told which one to take."""

from __future__ import annotations

import contextlib
import random
import socket
from pathlib import Path

_RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")
_FIRST = 10_000


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on.

    The system gives it to no connection either, where Linux says which ports it gives: otherwise
    one of the many that other tests open may take it before its server does.
    """
    given = int(_RANGE.read_text().split()[0]) if _RANGE.exists() else 0
    ports = random.SystemRandom().sample(range(_FIRST, given), 100) if given > _FIRST + 100 else []
    for port in (*ports, 0):
        with contextlib.suppress(OSError), socket.socket() as one:
            one.bind(("127.0.0.1", port))
            free: int = one.getsockname()[1]
            return free
    raise AssertionError("no port is free")
