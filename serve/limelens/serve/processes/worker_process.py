"""One worker as the supervisor sees it: a process that loads bundles and serves them."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Final

from limelens.serve.bundle import Bundle
from limelens.serve.bundle.devices import DEVICE_PROCESS
from limelens.serve.processes.channel import Channel, Handler
from limelens.serve.processes.child_process import HANGS_S, ChildProcess
from limelens.serve.processes.messages import Assignment, Loaded

_MODULE: Final = "limelens.serve.processes.worker"
LOAD_S: Final = 180.0  # a worker that takes longer to load one bundle, or to start serving, hangs


class WorkerProcess(ChildProcess):
    """A worker that was started."""

    def __init__(self, name: str, process: asyncio.subprocess.Process, channel: Channel) -> None:
        super().__init__(name, process, channel)
        self.number = 0
        self.has_device = True
        """Whether its models can run now; only the owner of a device takes that away."""
        self._bundles: set[int] = set()
        self._chunks: dict[int, int] = {}

    @classmethod
    async def start(
        cls, assignment: Assignment, epoch_file: int, handlers: Mapping[str, Handler]
    ) -> WorkerProcess:
        """Starts a worker; it waits for requests."""
        name = f"worker {assignment.number}"
        worker = await cls.started(name, _MODULE, (epoch_file,), assignment, handlers)
        worker.number = assignment.number
        if assignment.config.device.startswith(DEVICE_PROCESS):
            worker.hangs_s = 2 * HANGS_S  # the owner of the device hangs first, if one does
        return worker

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
        if chunk and self._chunks.get(number) == chunk:
            return chunk
        chosen: int = await self.request("choose_chunk", number, chunk, timeout_s=LOAD_S)
        self._chunks[number] = chosen
        return chosen

    def release(self, number: int) -> None:
        """Has the worker forget a bundle."""
        self._chunks.pop(number, None)
        if number in self._bundles:
            self._bundles.discard(number)
            self.send("release", number)
