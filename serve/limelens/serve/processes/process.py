"""One worker as the supervisor sees it: a process, and the channel to it.

It knows how a worker is started, spoken to and ended, and nothing of what it is started for.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import sys
from collections.abc import Iterator, Mapping
from typing import Any, Final

from limelens.serve.bundle import Bundle
from limelens.serve.errors import UnavailableError
from limelens.serve.processes.channel import Channel, Handler, send_first
from limelens.serve.processes.messages import Assignment, Loaded, Stage

_MODULE: Final = "limelens.serve.processes.worker"
LOAD_S: Final = 180.0
"""A worker that takes longer to load one bundle, or to begin to serve, hangs."""
ACT_S: Final = 15.0
"""The same for what takes a moment."""


class WorkerProcess:
    """A worker that was started.

    Args:
        assignment: What it was told to be.
        process: It.
        channel: To it.
    """

    def __init__(
        self, assignment: Assignment, process: asyncio.subprocess.Process, channel: Channel
    ) -> None:
        self.number = assignment.number
        self.pid = process.pid
        self._process = process
        self._channel = channel
        self._bundles: set[int] = set()
        self._hearing = asyncio.create_task(channel.run())

    @classmethod
    async def start(
        cls, assignment: Assignment, epoch_file: int, handlers: Mapping[str, Handler]
    ) -> WorkerProcess:
        """Starts one; it says nothing until it is asked."""
        ours, theirs = socket.socketpair()
        # Signals that are the supervisor's are kept from it until it says that it ignores them.
        with theirs, _blocked(signal.SIGINT, signal.SIGHUP):
            process = await asyncio.create_subprocess_exec(
                # -P: modules that happen to lie in the working folder are not run.
                *(sys.executable, "-P", "-m", _MODULE, str(theirs.fileno()), str(epoch_file)),
                pass_fds=(theirs.fileno(), epoch_file),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=2,  # stdout is the ready line's
                process_group=0,  # Ctrl-C reaches the supervisor alone, which passes it on
            )
        send_first(ours, assignment)
        return cls(assignment, process, await Channel.over(ours, handlers))

    async def ended(self) -> int:
        """Waits until it is gone: its exit code, or the signal that ended it, negative."""
        code = await self._process.wait()
        await self._hearing
        return code

    def kill(self) -> None:
        """Ends it at once."""
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()

    def tell(self, word: str, *content: object) -> None:
        """Says something that needs no answer."""
        self._channel.tell(word, *content)

    async def ask(self, word: str, *content: object, timeout_s: float = ACT_S) -> Any:
        """Says something and waits for the answer; who does not give it in time is ended.

        Raises:
            UnavailableError: It is gone, or was ended.
            LimelensError: What it raised.
        """
        try:
            async with asyncio.timeout(timeout_s):
                return await self._channel.ask(word, *content)
        except TimeoutError:
            self.kill()
            await self._process.wait()  # from here on it answers nobody
            raise UnavailableError(
                f"worker {self.number} did not {word} within {timeout_s:g} seconds and was ended"
            ) from None

    async def prepare(self, number: int, bundle: Bundle) -> Loaded | None:
        """Has it load a bundle, unless it has.

        Raises:
            BundleError: It refuses it.
            ProviderError: Its device cannot be used.
            UnavailableError: It is gone.
        """
        if number in self._bundles:
            return None
        props = bundle.metadata.to_props()
        loaded: Loaded = await self.ask(
            "prepare", number, bundle.path, bundle.file, props, timeout_s=LOAD_S
        )
        self._bundles.add(number)
        return loaded

    async def choose_chunk(self, number: int, chunk: int = 0) -> int:
        """Has it take a chunk for explanations of a bundle; see `Bundle.prepare`.

        Raises:
            UnavailableError: It is gone.
        """
        chosen: int = await self.ask("choose_chunk", number, chunk, timeout_s=LOAD_S)
        return chosen

    def release(self, number: int) -> None:
        """Has it forget a bundle."""
        if number in self._bundles:
            self._bundles.discard(number)
            self.tell("release", number)

    async def stage(self, stage: Stage) -> None:
        """Has it lay a state ready, of bundles that it has.

        Raises:
            UnavailableError: It is gone.
        """
        await self.ask("stage", stage)


@contextlib.contextmanager
def _blocked(*numbers: signal.Signals) -> Iterator[None]:
    """Has this thread, and a process that it starts at once, receive no such signals."""
    signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
    try:
        yield
    finally:
        # Not what it was before: several may be started by turns, each on its own from here on.
        signal.pthread_sigmask(signal.SIG_UNBLOCK, numbers)


def describe_end(code: int) -> str:
    """How a process ended, for people."""
    if code >= 0:
        return f"exit code {code}"
    with contextlib.suppress(ValueError):
        return f"signal {signal.Signals(-code).name}"
    return f"signal {-code}"
