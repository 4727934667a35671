"""One state of versions for all workers: all load it, then all serve it from one moment on.

The supervisor's repository finds, validates and swaps versions, as in a single server; but its
bundles are only descriptions, and run in the workers. It calls `load` for a bundle and `publish`
when its state changed; both return when the workers have followed.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import weakref
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from limelens.serve.bundle import Bundle
from limelens.serve.bundle.devices import CPU
from limelens.serve.bundle.folder import version_of
from limelens.serve.bundle.remote.device_client import DeviceGoneError
from limelens.serve.errors import BundleError, LimelensError, UnavailableError
from limelens.serve.processes.messages import Epoch, Loaded, Stage
from limelens.serve.processes.worker_process import WorkerProcess
from limelens.serve.repository.model_repository import Repository
from limelens.serve.repository.validation import Validate, Validator, read_validated

_PAUSE_S = 0.1  # before a worker whose device is away is asked again
_MOST_LOST = 2  # a bundle is refused once this many workers ended while they loaded it
_log = logging.getLogger(__name__)


class Rollout:
    """Brings bundles and states to the workers.

    Args:
        validator: Checks files while the server starts, when the repository gives no validator.
    """

    def __init__(self, epoch: Epoch, validator: Validator, count: int, num_threads: int) -> None:
        self._epoch = epoch
        self._validator = validator
        self._count = count
        self._num_threads = num_threads
        self._closed = False
        self._loop = asyncio.get_running_loop()
        self._repository: Repository | None = None
        self._members: list[WorkerProcess] = []  # that have loaded what is served
        self._joined = asyncio.Condition()
        self._was_complete = False
        self._stage: Stage | None = None
        self._served: tuple[Bundle, ...] = ()  # keeps the bundles of the stage alive
        self._canaries: frozenset[int] = frozenset()
        self._chunks: dict[int, int] = {}  # by the bundle's number
        self._choosing: asyncio.Task[None] | None = None
        self._changing = asyncio.Lock()  # held from reading the state until it is served
        self._numbers = itertools.count(1)
        # Workers release the bundles that the repository no longer holds.
        self.bundles: weakref.WeakValueDictionary[int, Bundle] = weakref.WeakValueDictionary()

    # Called in the repository's threads.

    def load(self, path: Path, validate: Validate | None) -> Bundle:
        """Has all workers load a file; see `limelens.serve.repository.model_repository.Load`."""
        data, metadata = read_validated(path, (validate or self._validator)(path))
        found = Bundle(metadata, version_of(path), path, "", "", 0, session=None, file=data)
        return asyncio.run_coroutine_threadsafe(self._load(found), self._loop).result()

    def publish_from_thread(self) -> None:
        """Has all workers serve the repository's state; returns when they do."""
        asyncio.run_coroutine_threadsafe(self.publish(), self._loop).result()

    # Called on the loop.

    async def begin(self, repository: Repository) -> None:
        """Publishes a repository's state from now on."""
        self._repository = repository
        await self.publish()

        # The server starts meanwhile; only explanations wait.
        async def choose_chunks() -> None:
            for number in sorted(self.bundles):
                await self._choose_chunk(number)

        self._choosing = asyncio.create_task(choose_chunks())

    async def join(self, worker: WorkerProcess) -> None:
        """Has a worker load what the others have; from then on it takes part in every change."""
        await self._catch_up(worker)  # takes long, and must not delay a change
        async with self._changing:
            await self._catch_up(worker)
            if self._stage is not None:
                await worker.request("stage", self._stage)
            self._members.append(worker)
        async with self._joined:
            self._was_complete |= len(self._members) == self._count
            self._joined.notify_all()

    def leave(self, worker: WorkerProcess) -> None:
        """Removes a worker that is gone."""
        if worker in self._members:
            self._members.remove(worker)

    async def close(self) -> None:
        """Ends all waits for workers; nothing is loaded any more."""
        if self._choosing is not None:
            self._choosing.cancel()
        self._closed = True
        async with self._joined:
            self._joined.notify_all()

    async def publish(self) -> None:
        """Has all workers serve the repository's state from one moment on."""
        assert self._repository is not None
        async with self._changing:
            repository, snapshot = self._repository, self._repository.snapshot
            served = [one for model in snapshot.values() for one in model.served.values()]
            numbers = {bundle: number for number, bundle in self.bundles.items()}
            stage = Stage(
                self._epoch.read() + 1,
                {(one.name, one.version): numbers[one.bundle] for one in served},
                tuple(one for model in snapshot.values() for one in model.rejected.values()),
                repository.load_counts,
                self._numbers_of(repository.canaries),
            )
            await asyncio.gather(*(self._stage_on(worker, stage) for worker in self._members))
            self._epoch.write(stage.epoch)
            self._stage, self._served = stage, tuple(one.bundle for one in served)
            self._canaries = stage.canaries
            for worker in self._members:
                worker.send("settle", stage.epoch, stage.canaries)

    def follow_canaries(self) -> None:
        """Has workers report the results of current canaries only."""
        assert self._repository is not None
        canaries = self._numbers_of(self._repository.canaries)
        if canaries != self._canaries:
            self._canaries = canaries
            for worker in self._members:
                worker.send("follow", canaries)

    async def _load(self, found: Bundle) -> Bundle:
        number = next(self._numbers)
        # At the start no calls are lost with a worker, so that all may load at once.
        first = None if self._stage is None else await self._load_on_one(number, found)
        if first is None:
            await self._wait_for_members()
        outcomes = await asyncio.gather(
            *(self._load_on(worker, number, found) for worker in self._members),
            return_exceptions=True,
        )
        for one in outcomes:
            if isinstance(one, UnavailableError) and first is not None:
                # Its replacement catches up; when the server ends there is none.
                _log.log(logging.DEBUG if self._closed else logging.WARNING, "%s", one)
            elif isinstance(one, BaseException):
                self._release(number)
                raise one
            else:
                first = first or one
        assert first is not None
        bundle = replace(
            found,
            provider=first.provider,
            provider_reason=first.provider_reason,
            num_threads=self._num_threads if first.provider == CPU else first.num_threads,
        )
        self.bundles[number] = bundle
        weakref.finalize(bundle, self._release_from_thread, number).atexit = False
        if self._stage is not None:
            await self._choose_chunk(number)
        return bundle

    async def _choose_chunk(self, number: int) -> None:
        """Has one worker choose the chunk of explanations, and the others take it.

        If each chose for itself, by how busy the device is at that moment, explanations of two
        workers would differ in their last digits.
        """
        while number not in self._chunks and self._members:
            try:
                self._chunks[number] = await self._members[0].choose_chunk(number)
            except UnavailableError:  # it is gone, or the device is for now
                await asyncio.sleep(_PAUSE_S)
        chunk = self._chunks.get(number, 0)
        await asyncio.gather(
            *(self._take_chunk(worker, number, chunk) for worker in self._members),
            return_exceptions=True,
        )

    async def _take_chunk(self, worker: WorkerProcess, number: int, chunk: int) -> None:
        """Has a worker take the chunk, once its device is there."""
        while True:
            try:
                await worker.choose_chunk(number, chunk)
            except DeviceGoneError:
                await asyncio.sleep(_PAUSE_S)
            else:
                return

    async def _load_on_one(self, number: int, found: Bundle) -> Loaded:
        """Tries a bundle on one worker first: a bundle that ends it does not reach the others."""
        lost: list[str] = []
        while len(lost) < _MOST_LOST:
            await self._wait_for_members()
            try:
                loaded = await self._load_on(self._members[0], number, found)
            except DeviceGoneError:  # no fault of the file
                raise
            except UnavailableError as error:
                lost.append(str(error))
            else:
                assert loaded is not None
                return loaded
        raise BundleError(
            f"{found.path}: {len(lost)} workers ended while they loaded it: {lost[-1]}"
        )

    async def _wait_for_members(self) -> None:
        """Waits until all workers have joined once, and at least one is there."""
        async with self._joined:
            await self._joined.wait_for(
                lambda: self._closed or (self._was_complete and self._members)
            )
        if self._closed:
            raise UnavailableError("the server is going down")

    async def _load_on(self, worker: WorkerProcess, number: int, bundle: Bundle) -> Loaded | None:
        try:
            return await worker.prepare(number, bundle)
        except UnavailableError:
            self.leave(worker)
            worker.kill()  # if it is still there, it would serve an old state from now on
            raise

    async def _catch_up(self, worker: WorkerProcess) -> None:
        for number, bundle in sorted(self.bundles.items()):
            await worker.prepare(number, bundle)
            if number in self._chunks:
                await self._take_chunk(worker, number, self._chunks[number])

    async def _stage_on(self, worker: WorkerProcess, stage: Stage) -> None:
        """Stages a state in a worker; ends one that fails, which would serve an old state."""
        try:
            await self._catch_up(worker)
            await worker.request("stage", stage)
        except LimelensError as error:
            level = logging.DEBUG if self._closed else logging.ERROR
            _log.log(level, "worker %d cannot follow and is ended: %s", worker.number, error)
            worker.kill()
            await worker.ended()

    def _numbers_of(self, bundles: Iterable[Bundle]) -> frozenset[int]:
        wanted = {id(bundle) for bundle in bundles}
        return frozenset(one for one, bundle in self.bundles.items() if id(bundle) in wanted)

    def _release_from_thread(self, number: int) -> None:
        with contextlib.suppress(RuntimeError):  # the loop was closed, and the workers are gone
            self._loop.call_soon_threadsafe(self._release, number)

    def _release(self, number: int) -> None:
        self._chunks.pop(number, None)
        for worker in self._members:
            worker.release(number)
