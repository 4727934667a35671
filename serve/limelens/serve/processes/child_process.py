"""A process that a supervisor started, and the channel to it.

It knows how to start a process, send it messages and end it, and nothing of what it does.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import sys
import time
from collections.abc import Iterator, Mapping
from typing import Any, Final, NoReturn, Self

from limelens.serve.errors import UnavailableError
from limelens.serve.processes.channel import Channel, Handler, send_first

ACT_S: Final = 15.0  # a process that takes longer to do what takes a moment hangs
HANGS_S: Final = 60.0  # a process that has run no model for longer hangs


class ChildProcess:
    """A process that was started.

    Args:
        name: What messages call it.
    """

    def __init__(self, name: str, process: asyncio.subprocess.Process, channel: Channel) -> None:
        self.name = name
        self.pid = process.pid
        self.hangs_s = HANGS_S
        """For how long it may run no model, in seconds."""
        self.proved_at = time.monotonic()
        """When it last proved that it answers."""
        self._process = process
        self._channel = channel
        self.send = channel.send
        self._receiving = asyncio.create_task(channel.run())

    @classmethod
    async def started(
        cls,
        name: str,
        module: str,
        files: tuple[int, ...],
        first: object,
        handlers: Mapping[str, Handler],
    ) -> Self:
        """Starts a module, which gets descriptors as arguments and a first message."""
        ours, theirs = socket.socketpair()
        send_first(ours, first)  # first, or a process that dies at once would break the pipe
        files = theirs.fileno(), *files
        # Blocks signals that are meant for the supervisor until the process ignores them.
        with theirs, _blocked(signal.SIGINT, signal.SIGHUP):
            process = await asyncio.create_subprocess_exec(
                # -P: does not import modules from the working folder.
                *(sys.executable, "-P", "-m", module, *map(str, files)),
                pass_fds=files,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=2,  # stdout is for the ready line
                process_group=0,  # Ctrl-C reaches only the supervisor, which passes it on
            )
        return cls(name, process, await Channel.over(ours, handlers))

    async def ping(self) -> None:
        """Asks whether it answers, and its models too; ends it if they hang.

        Raises:
            UnavailableError: It was ended.
        """
        unproved_s: float = await self.request("ping")
        self.proved_at = time.monotonic() - unproved_s
        if unproved_s > self.hangs_s:
            await self._end_hanging(f"has run no model for {unproved_s:.0f} seconds")

    async def watch(self, ended: asyncio.Task[int], every_s: float) -> None:
        """Pings it until it ends.

        Args:
            ended: Waits for its end.
            every_s: Seconds between two pings.

        Raises:
            UnavailableError: It hung and was ended.
        """
        while not ended.done():
            await asyncio.wait((ended,), timeout=every_s)
            if not ended.done():
                await self.ping()

    async def _end_hanging(self, why: str) -> NoReturn:
        self.kill()
        await self._process.wait()  # it serves no more calls
        raise UnavailableError(f"{self.name} {why} and was ended")

    async def ended(self) -> int:
        """Waits for its end; returns the exit code, or minus the signal that ended it."""
        code = await self._process.wait()
        await self._receiving
        return code

    def kill(self) -> None:
        """Ends it at once."""
        # `Process.kill` may collect a process that has just ended, before asyncio does.
        if self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)

    async def request(self, word: str, *content: object, timeout_s: float = ACT_S) -> Any:
        """As `Channel.request`; ends the process if the reply is late."""
        try:
            async with asyncio.timeout(timeout_s):
                return await self._channel.request(word, *content)
        except TimeoutError:
            await self._end_hanging(f"did not {word} within {timeout_s:g} seconds")


@contextlib.contextmanager
def _blocked(*numbers: signal.Signals) -> Iterator[None]:
    """Blocks signals for this thread, and for a process that it starts now."""
    signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
    try:
        yield
    finally:
        # Unblocks rather than restores: several starts may overlap.
        signal.pthread_sigmask(signal.SIG_UNBLOCK, numbers)


def describe_end(code: int) -> str:
    """How a process ended, for messages."""
    if code >= 0:
        return f"exit code {code}"
    with contextlib.suppress(ValueError):
        return f"signal {signal.Signals(-code).name}"
    return f"signal {-code}"
