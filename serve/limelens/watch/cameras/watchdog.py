"""The watchdog of a child that serves: hears its signs of life as systemd would, and ends it.

The child speaks as every server of limelens does under systemd, and only while its models really
run. It leads a group of processes, which ends with it. The watchdog does not know what it serves.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final, Self

_LISTEN_S: Final = 1.0
_LONGEST: Final = 4096
_START_S: Final = 180.0
"""As long as loading a large model may take."""


class Watchdog:
    """Watches over one process; a context manager that ends its watch.

    Args:
        path: Where to listen; what is there is replaced.
        hangs_after_s: The longest silence of a child that serves.

    Raises:
        OSError: Nothing can listen there.
    """

    def __init__(self, path: Path, hangs_after_s: float) -> None:
        self._path = os.fspath(path)
        self._hangs_after_s = hangs_after_s
        self._is_over = False
        self.problem = ""
        """Why it ended the process; empty if it did not."""
        path.unlink(missing_ok=True)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.settimeout(_LISTEN_S)
        self._socket.bind(self._path)
        self.environment: Final = {
            **os.environ,
            "NOTIFY_SOCKET": self._path,
            "WATCHDOG_USEC": str(round(hangs_after_s * 1e6)),
        }
        """Of the child."""
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over = True
        with suppress(OSError):  # it ends its wait, if the path is still there
            self._socket.sendto(b"", self._path)
        if self._thread is not None:
            self._thread.join()
        self._socket.close()

    def watch(self, process: subprocess.Popen[str], is_ready: Callable[[], bool]) -> None:
        """Begins in a thread of its own.

        Args:
            process: The child, which was given the environment.
            is_ready: Whether it has said that it serves; before, loading may take its time.
        """
        self._thread = threading.Thread(
            target=self._watch, args=(process, is_ready), name="limelens-watchdog", daemon=True
        )
        self._thread.start()

    def _watch(self, process: subprocess.Popen[str], is_ready: Callable[[], bool]) -> None:
        silent_s, limit_s = 0.0, _START_S
        while not self._is_over and not _has_ended(process):
            if limit_s == _START_S and is_ready():
                # What it did not say while it loaded counts no more.
                silent_s, limit_s = 0.0, self._hangs_after_s
            if silent_s > limit_s:
                self.problem = f"its server hangs: no sign of life for {limit_s:g} s"
                break
            try:
                self._socket.recv(_LONGEST)
                silent_s = 0.0
            except TimeoutError:
                # Counted, not taken from a clock: while this process was stopped, or the machine
                # slept, the child could say nothing either.
                silent_s += _LISTEN_S
        # What it started may hang as well, and would hold its pipes for as long.
        end_group(process)


def end_group(process: subprocess.Popen[str]) -> None:
    """Kills a process that leads a group, and whatever it has started in it."""
    if process.returncode is None:  # then its number is not another's yet
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


def _has_ended(process: subprocess.Popen[str]) -> bool:
    """Whether a child has ended; it keeps its number until somebody waits for it."""
    if process.returncode is not None:
        return True
    try:
        return bool(os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT))
    except ChildProcessError:  # another thread was faster
        return True
