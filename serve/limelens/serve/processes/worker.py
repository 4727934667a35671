"""A process that serves: `python -m limelens.serve.processes.worker`, started by a supervisor.

It is `limelens.serve.rpc.server.Server` with a share of the machine. The supervisor says what is
served and when it stops. The worker watches the channel to it: when that is gone, it finishes its
calls and ends, so that whoever looks after the supervisor can start everything anew.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import shutil
import signal
import socket
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Final

from limelens.serve.bundle import Metadata
from limelens.serve.observing.logs import set_up_logs
from limelens.serve.processes.admission import SharedLimiter
from limelens.serve.processes.channel import Channel, receive_first
from limelens.serve.processes.epoch import Epoch
from limelens.serve.processes.messages import Assignment, Loaded
from limelens.serve.processes.staged import StagedModels
from limelens.serve.repository.model_repository import load_and_warm
from limelens.serve.rpc.server import Server, Siblings, allow_many_connections, loop_factory
from limelens.serve.scheduling.statistics import Statistics, total

if TYPE_CHECKING:
    from limelens.serve.observing.metrics import Metrics

_NICENESS: Final = 10
_log = logging.getLogger(__name__)


class Worker:
    """One server, as the supervisor wants it.

    Args:
        assignment: What it is.
        epoch: Says which state of the models holds.
    """

    def __init__(self, assignment: Assignment, epoch: Epoch) -> None:
        self._config = assignment.config
        self._counted = assignment.metrics
        self._loop = asyncio.get_running_loop()
        self._told = asyncio.Event()
        self._models = StagedModels(epoch, self._note)
        self._metrics = _metrics(self._models, assignment)
        self._server: Server | None = None
        # One at a time; once calls are answered, behind those who answer them.
        self._loading = ThreadPoolExecutor(1, "limelens-loading")
        self._loading_quietly = ThreadPoolExecutor(1, "limelens-models", _step_back)

    async def run(self, end: socket.socket) -> None:
        """Does as it is told until it is told to stop, or nobody is left to tell it."""
        self._channel = await Channel.over(
            end,
            {
                "prepare": self._prepare,
                "choose_chunk": self._choose_chunk,
                "release": self._models.release,
                "stage": self._models.stage,
                "settle": self._models.settle,
                "follow": self._models.follow,
                "serve": self._serve,
                "sample": self._sample,
                "statistics": self._own_statistics,
                "ping": lambda: None,
                "stop": self._told.set,
            },
        )
        self._loop.add_signal_handler(signal.SIGTERM, self._told.set)
        hearing = asyncio.create_task(self._channel.run())
        stopping = asyncio.create_task(self._told.wait())
        await asyncio.wait((hearing, stopping), return_when=asyncio.FIRST_COMPLETED)
        if hearing.done():
            _log.error("the supervisor is gone; finishing what is under way")
        # The channel goes on: calls under way may ask it.
        if self._server is not None:
            await self._server.stop()
        if hearing.done() and self._counted is not None:
            shutil.rmtree(self._counted, ignore_errors=True)  # nobody else is left to do it
        for task in (hearing, stopping):
            task.cancel()

    async def _prepare(self, number: int, path: Path, data: bytes, props: dict[str, str]) -> Loaded:
        """Loads a bundle beside what is served."""

        def load() -> Loaded:
            bundle = load_and_warm(
                path,
                (data, Metadata.from_props(props)),
                self._config.device,
                num_threads=self._config.num_threads,
                max_batch_size=self._config.service.max_batch_size,
                tf32=self._config.tf32,
                is_starting=self._server is None,
                chunk=None,
            )
            self._models.add(number, bundle)
            return Loaded(bundle.provider, bundle.provider_reason, bundle.num_threads)

        executor = self._loading if self._server is None else self._loading_quietly
        return await self._loop.run_in_executor(executor, load)

    async def _choose_chunk(self, number: int, chunk: int) -> int:
        bundle = self._models.bundle(number)
        if bundle is None:
            return 0
        return await self._loop.run_in_executor(self._loading_quietly, bundle.prepare, chunk)

    async def _serve(self) -> None:
        siblings = Siblings(
            SharedLimiter(self._channel), self._refresh, self._statistics, self._metrics
        )
        self._server = Server(self._config, self._models, siblings=siblings)
        await self._server.start()

    async def _refresh(self) -> None:
        await self._channel.ask("refresh")

    async def _statistics(self, path: Path) -> Statistics:
        return total(await self._channel.ask("statistics", path))

    def _own_statistics(self, path: Path) -> Statistics:
        return Statistics() if self._server is None else self._server.counting.of(path)

    def _sample(self) -> None:
        if self._metrics is not None:
            self._metrics.sample()

    def _note(self, number: int, ok: bool) -> None:
        with contextlib.suppress(RuntimeError):  # the loop was closed: nobody counts any more
            self._loop.call_soon_threadsafe(self._channel.tell, "note", number, ok)


def _metrics(models: StagedModels, assignment: Assignment) -> Metrics | None:
    if assignment.metrics is None:
        return None
    from limelens.serve.processes.totals import count_into

    count_into(assignment.metrics, assignment.number)
    from limelens.serve.observing.metrics import Metrics

    return Metrics(models)


def _step_back() -> None:
    os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICENESS)


def main() -> None:
    """Serves until it is told to stop."""
    # Ctrl-C and SIGHUP are the supervisor's business, should they come here at all.
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGINT, signal.SIGHUP))  # of our children
    end = socket.socket(fileno=int(sys.argv[1]))
    epoch = Epoch(int(sys.argv[2]))
    assignment: Assignment = receive_first(end)
    config = assignment.config
    set_up_logs(config.log_level, config.log_format, worker=assignment.number)
    allow_many_connections()

    async def work() -> None:
        await Worker(assignment, epoch).run(end)

    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        runner.run(work())


if __name__ == "__main__":
    main()
