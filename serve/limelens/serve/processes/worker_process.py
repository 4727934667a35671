"""One worker as the supervisor sees it: a process, and the channel to it.

It knows how to start a worker, send it messages and end it.
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
from typing import Any, Final, NoReturn

from limelens.serve.bundle import Bundle
from limelens.serve.errors import UnavailableError
from limelens.serve.processes.channel import Channel, Handler, send_first
from limelens.serve.processes.messages import Assignment, Loaded

_MODULE: Final = "limelens.serve.processes.worker"
LOAD_S: Final = 180.0  # a worker that takes longer to load one bundle, or to start serving, hangs
_HANGS_S: Final = 60.0  # a worker whose models have not run for longer hangs
ACT_S: Final = 15.0  # the same for requests that take a moment


class WorkerProcess:
    """A worker that was started."""

    def __init__(
        self, assignment: Assignment, process: asyncio.subprocess.Process, channel: Channel
    ) -> None:
        self.number = assignment.number
        self.pid = process.pid
        self.proved_at = time.monotonic()
        """When it last proved that it answers."""
        self._process = process
        self._channel = channel
        self.send = channel.send
        self._bundles: set[int] = set()
        self._receiving = asyncio.create_task(channel.run())

    @classmethod
    async def start(
        cls, assignment: Assignment, epoch_file: int, handlers: Mapping[str, Handler]
    ) -> WorkerProcess:
        """Starts a worker; it waits for requests."""
        ours, theirs = socket.socketpair()
        send_first(ours, assignment)  # first, or a worker that dies at once would break the pipe
        # Blocks signals that are meant for the supervisor until the worker ignores them.
        with theirs, _blocked(signal.SIGINT, signal.SIGHUP):
            process = await asyncio.create_subprocess_exec(
                # -P: does not import modules from the working folder.
                *(sys.executable, "-P", "-m", _MODULE, str(theirs.fileno()), str(epoch_file)),
                pass_fds=(theirs.fileno(), epoch_file),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=2,  # stdout is for the ready line
                process_group=0,  # Ctrl-C reaches only the supervisor, which passes it on
            )
        return cls(assignment, process, await Channel.over(ours, handlers))

    async def ping(self) -> None:
        """Asks whether it answers, and its models too; ends it if they hang.

        Raises:
            UnavailableError: It was ended.
        """
        unproved_s: float = await self.request("ping")
        self.proved_at = time.monotonic() - unproved_s
        if unproved_s > _HANGS_S:
            await self._end_hanging(f"has run no model for {unproved_s:.0f} seconds")

    async def _end_hanging(self, why: str) -> NoReturn:
        self.kill()
        await self._process.wait()  # it serves no more calls
        raise UnavailableError(f"worker {self.number} {why} and was ended")

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
        """As `Channel.request`; ends the worker if the reply is late."""
        try:
            async with asyncio.timeout(timeout_s):
                return await self._channel.request(word, *content)
        except TimeoutError:
            await self._end_hanging(f"did not {word} within {timeout_s:g} seconds")

    async def prepare(self, number: int, bundle: Bundle) -> Loaded | None:
        """Has the worker load a bundle, unless it already has; raises what it raised."""
        if number in self._bundles:
            return None
        props = bundle.metadata.to_props()
        loaded: Loaded = await self.request(
            "prepare", number, bundle.path, bundle.file, props, timeout_s=LOAD_S
        )
        self._bundles.add(number)
        return loaded

    async def choose_chunk(self, number: int, chunk: int = 0) -> int:
        """Has the worker take a chunk for explanations of a bundle; see `Bundle.prepare`."""
        chosen: int = await self.request("choose_chunk", number, chunk, timeout_s=LOAD_S)
        return chosen

    def release(self, number: int) -> None:
        """Has the worker forget a bundle."""
        if number in self._bundles:
            self._bundles.discard(number)
            self.send("release", number)


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
