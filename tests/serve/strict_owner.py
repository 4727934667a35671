"""A process that owns a device, on a session that stands in for a GPU's.

The process is the real one; only the sessions are those of `tests.serve.stand_in`, which fail on
every run that a GPU would be slow or wrong at.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.serve.stand_in import on_gpu

from limelens.serve.bundle import loading
from limelens.serve.bundle.execution.device_thread import device_thread
from limelens.serve.processes import device_owner
from limelens.serve.processes.channel import Channel, send_first
from limelens.serve.processes.device_process import owned_device
from limelens.serve.processes.joined_batches import JoinedBatches
from limelens.serve.processes.messages import DeviceAssignment

_ROOT = Path(__file__).parents[2]


class StrictOwner:
    """The process, and the socket on which it and its replacements are reached.

    Args:
        dies: Whether it is gone as soon as it opens a model.
        dies_once: Whether the first one is gone as soon as it runs a batch of a worker.
        hangs: Whether it hangs as soon as it opens a model, which may take half a second.
    """

    def __init__(self, *, dies: bool = False, dies_once: bool = False, hangs: bool = False) -> None:
        self._dies, self._dies_once, self._hangs = dies, dies_once, hangs
        self._assignment = DeviceAssignment("cuda", False, logging.WARNING, "text")
        self._listening = owned_device("cuda")

    def __enter__(self) -> Self:
        self._owned = self._listening.__enter__()
        self.device = self._owned.name
        """As `load_bundle` takes it."""
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._listening.__exit__(kind, error, trace)  # first, so that no client waits for another
        self.end()

    def start(self) -> None:
        """Starts the process, which answers soon."""
        ours, theirs = socket.socketpair()
        send_first(ours, self._assignment)
        send_first(ours, (None, "own", ()))  # as a `Channel` sends it
        files = theirs.fileno(), self._owned.listener.fileno()
        when = ["opening"] if self._dies else ["running"] if self._dies_once else []
        self._dies_once = False
        when += ["hanging"] if self._hangs else []
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.serve.strict_owner", *map(str, files), *when],
                pass_fds=files,
                cwd=_ROOT,
            )
        self._supervising = ours

    def end(self) -> None:
        """Kills it, as the kernel does for want of memory."""
        self._process.kill()
        self._process.wait()
        self._supervising.close()

    @property
    def pid(self) -> int:
        """Of the process that there is now."""
        return self._process.pid

    def at_work_s(self) -> float:
        """As it answers its supervisor."""

        async def ask() -> float:
            channel = await Channel.over(self._supervising.dup(), {})
            receiving = asyncio.create_task(channel.run())
            found: float = await channel.request("ping")
            receiving.cancel()
            return found

        return asyncio.run(ask())

    @property
    def is_running(self) -> bool:
        """Whether it has not ended."""
        return self._process.poll() is None

    def restart_if_ended(self) -> None:
        """Waits for a moment, and replaces it if it has ended."""
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(0.01)
            self.end()
            self.start()

    def abandon(self) -> None:
        """Leaves it as a supervisor does that is killed."""
        self._supervising.close()

    def interrupt(self) -> None:
        """Asks it to end, as a service manager asks all processes of a service."""
        self._process.terminate()


def _on_stand_in(_ort: Any, data: bytes, size: tuple[int, int], _index: int, *, tf32: bool) -> Any:
    assert not tf32
    if "opening" in sys.argv:
        _die()
    if "hanging" in sys.argv:
        threading.Event().wait()
    return on_gpu(data, size, thread=device_thread("cuda:0"))


def _die(*_: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    if "running" in sys.argv:
        setattr(JoinedBatches, "run", _die)  # noqa: B010 - its type differs
    if "hanging" in sys.argv:
        for name in ("LOAD_S", "HANGS_S"):
            setattr(device_owner, name, 0.5)
    setattr(loading, "_on_gpu", _on_stand_in)  # noqa: B010 - its type differs
    device_owner.main()
