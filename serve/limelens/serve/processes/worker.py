"""A process that serves: `python -m limelens.serve.processes.worker`, started by a supervisor.

It is `limelens.serve.rpc.server.Server` with a share of the machine. The supervisor decides what is
served and when it stops. If the channel to the supervisor closes, the worker finishes its calls and
ends, so that an init system that restarts the supervisor finds the port free.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import shutil
import signal
import socket
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from limelens.serve.bundle import Metadata
from limelens.serve.bundle.devices import DEVICE_PROCESS
from limelens.serve.bundle.loading import load_and_warm
from limelens.serve.bundle.remote.device_client import DeviceClient, device_client
from limelens.serve.lifecycle import loop_factory
from limelens.serve.observing.logs import set_up_logs
from limelens.serve.priority import lower_thread_priority
from limelens.serve.processes.admission import SharedLimiter
from limelens.serve.processes.channel import Channel, receive_first
from limelens.serve.processes.messages import Assignment, Epoch, Loaded
from limelens.serve.processes.staged_registry import StagedRegistry
from limelens.serve.rpc.proofs import Proofs
from limelens.serve.rpc.server import Server, Siblings
from limelens.serve.rpc.transport.listening import allow_many_connections
from limelens.serve.rpc.transport.memory import give_large_blocks_back
from limelens.serve.scheduling.statistics import Statistics, total

if TYPE_CHECKING:
    from limelens.serve.observing.metrics import Metrics

_log = logging.getLogger(__name__)


class Worker:
    """One server that follows its supervisor."""

    def __init__(self, assignment: Assignment, epoch: Epoch) -> None:
        self._config = assignment.config
        self._proof_pause_s = assignment.proof_pause_s
        self._counted = assignment.metrics
        self._loop = asyncio.get_running_loop()
        self._stopping = asyncio.Event()
        self._models = StagedRegistry(epoch, self._report)
        self._metrics: Metrics | None = None
        if self._counted is not None:
            from limelens.serve.processes.metrics_page import count_into

            count_into(self._counted, assignment.number)
            from limelens.serve.observing.metrics import Metrics

            self._metrics = Metrics(self._models)
        self._server: Server | None = None
        self._proofs: Proofs | None = None
        self._device: DeviceClient | None = None
        self._proving: asyncio.Task[None] | None = None
        # One bundle at a time; with lower priority once calls are served.
        self._loading = ThreadPoolExecutor(1, "limelens-loading")
        self._loading_behind = ThreadPoolExecutor(1, "limelens-models", lower_thread_priority)

    async def run(self, end: socket.socket) -> None:
        """Serves until the supervisor stops it or is gone."""
        self._channel = await Channel.over(
            end,
            {
                "prepare": self._prepare,
                "choose_chunk": self._choose_chunk,
                "release": lambda number: self._models.bundles.pop(number, None),
                "stage": self._models.stage,
                "settle": self._models.settle,
                "follow": self._models.follow,
                "serve": self._serve,
                "sample": self._sample,
                "statistics": self._own_statistics,
                "ping": lambda: 0.0 if self._proofs is None else self._proofs.age_s,
                "stop": self._stopping.set,
            },
        )
        self._loop.add_signal_handler(signal.SIGTERM, self._stopping.set)
        receiving = asyncio.create_task(self._channel.run())
        stop = asyncio.create_task(self._stopping.wait())
        await asyncio.wait((receiving, stop), return_when=asyncio.FIRST_COMPLETED)
        if receiving.done():
            _log.error("the supervisor is gone; finishing the calls in flight")
        # The channel stays open: calls in flight may need it.
        if self._server is not None:
            await self._server.stop()
        if receiving.done() and self._counted is not None:
            shutil.rmtree(self._counted, ignore_errors=True)  # no other process is left to do it
        for task in (receiving, stop, self._proving):
            if task is not None:
                task.cancel()

    async def _prepare(self, number: int, path: Path, data: bytes, props: dict[str, str]) -> Loaded:
        """Loads a bundle while others are served."""

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
            self._models.bundles[number] = bundle
            return Loaded(bundle.provider, bundle.provider_reason, bundle.num_threads)

        executor = self._loading if self._server is None else self._loading_behind
        return await self._loop.run_in_executor(executor, load)

    async def _choose_chunk(self, number: int, chunk: int) -> int:
        bundle = self._models.bundles.get(number)
        if bundle is None:
            return 0
        return await self._loop.run_in_executor(self._loading_behind, bundle.prepare, chunk)

    async def _serve(self) -> None:
        ask = self._channel.request

        async def statistics(path: Path) -> Statistics:
            return total(await ask("statistics", path))

        siblings = Siblings(
            SharedLimiter(self._channel), partial(ask, "refresh"), statistics, self._metrics
        )
        drift = None
        if self._config.drift.references:
            from limelens.serve.tools.drift.watching import DriftMonitor

            drift = await asyncio.to_thread(DriftMonitor, self._config.drift, self._models)
        self._server = Server(self._config, self._models, siblings=siblings, drift=drift)
        await self._server.start()
        if self._config.device.startswith(DEVICE_PROCESS):
            self._device = device_client(self._config.device.removeprefix(DEVICE_PROCESS))
            self._device.on_change = self._follow_device_from_thread
            self._follow_device()  # it may have been lost before
        self._proofs = Proofs(self._server.runner, self._proof_pause_s)
        self._proving = asyncio.create_task(self._proofs.run())

    def _follow_device_from_thread(self) -> None:
        with contextlib.suppress(RuntimeError):  # the loop was closed
            self._loop.call_soon_threadsafe(self._follow_device)

    def _follow_device(self) -> None:
        """Has the health and the supervisor know whether the device can be used now."""
        assert self._device is not None
        assert self._server is not None
        self._server.health.follow_device(self._device.has_all)
        self._channel.send("device", self._device.has_all)

    def _own_statistics(self, path: Path) -> Statistics:
        return Statistics() if self._server is None else self._server.runner.counting.of(path)

    def _sample(self) -> None:
        if self._metrics is not None:
            self._metrics.sample()

    def _report(self, number: int, ok: bool) -> None:
        with contextlib.suppress(RuntimeError):  # the loop was closed: nothing counts any more
            self._loop.call_soon_threadsafe(self._channel.send, "result", number, ok)


def main() -> None:
    """Runs the worker."""
    # The supervisor handles Ctrl-C and SIGHUP.
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGINT, signal.SIGHUP))  # for our children
    end = socket.socket(fileno=int(sys.argv[1]))
    epoch = Epoch(int(sys.argv[2]))
    assignment: Assignment = receive_first(end)
    config = assignment.config
    set_up_logs(config.log_level, config.log_format, worker=assignment.number)
    allow_many_connections()
    give_large_blocks_back()

    async def work() -> None:
        await Worker(assignment, epoch).run(end)

    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        runner.run(work())


if __name__ == "__main__":
    main()
