"""One state of versions for all workers: loaded by all, then held by all from one moment on.

The supervisor's repository finds and judges versions and decides what is served, as a server alone
does; but its bundles are only described here, and run in the workers. It asks for a bundle to be
loaded (`load`), and tells when its state changed (`publish`); both wait until it is so.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import weakref
from collections.abc import Iterable
from pathlib import Path

from limelens.serve.bundle import Bundle
from limelens.serve.bundle.session import CPU
from limelens.serve.errors import BundleError, LimelensError, UnavailableError
from limelens.serve.processes.epoch import Epoch
from limelens.serve.processes.messages import Loaded, Stage
from limelens.serve.processes.process import WorkerProcess
from limelens.serve.repository.model_repository import Repository
from limelens.serve.repository.validation import Validator, read_judged

_MOST_LOST = 2
"""So many workers may be lost over a bundle before it is refused."""
_log = logging.getLogger(__name__)


class Rollout:
    """Brings bundles and states to the workers.

    Args:
        epoch: Is read by every worker for every call.
        judge: Checks files where the repository names nobody.
        count: How many workers there are to be; nothing is loaded before all of them are.
        num_threads: Of all of them, on the CPU.
    """

    def __init__(self, epoch: Epoch, judge: Validator, count: int, num_threads: int) -> None:
        self._epoch = epoch
        self._judge = judge
        self._count = count
        self._num_threads = num_threads
        self._closed = False
        self._loop = asyncio.get_running_loop()
        self._repository: Repository | None = None
        self._members: list[WorkerProcess] = []
        self._joined = asyncio.Condition()
        self._was_complete = False
        self._stage: Stage | None = None
        self._held: tuple[Bundle, ...] = ()  # what the stage names, while it holds
        self._on_trial: frozenset[int] = frozenset()
        self._chunks: dict[int, int] = {}  # by the bundle's number
        self._choosing: asyncio.Task[None] | None = None
        self._changing = asyncio.Lock()  # held from deciding what the state is until it holds
        self._numbers = itertools.count(1)
        # What the repository lets go, neither served nor to go back to, the workers let go too.
        self._bundles: weakref.WeakValueDictionary[int, Bundle] = weakref.WeakValueDictionary()

    @property
    def members(self) -> tuple[WorkerProcess, ...]:
        """Workers that have what is served."""
        return tuple(self._members)

    # From the repository's threads.

    def load(self, path: Path, judge: Validator | None) -> Bundle:
        """Has all workers load a file; see `limelens.serve.repository.model_repository.Load`.

        Raises:
            BundleError: A judge or one of them refuses it.
            ProviderError: A worker's device cannot be used.
            UnavailableError: There are no workers any more.
        """
        data, metadata = read_judged(path, (judge or self._judge)(path))
        found = Bundle(metadata, _version(path), path, "", "", 0, session=None, file=data)
        return asyncio.run_coroutine_threadsafe(self._load(found), self._loop).result()

    def publish_from_thread(self) -> None:
        """Has all workers change to the repository's state; returns when they have."""
        asyncio.run_coroutine_threadsafe(self.publish(), self._loop).result()

    # On the loop.

    async def begin(self, repository: Repository) -> None:
        """Publishes a repository's state from now on."""
        self._repository = repository
        await self.publish()
        # A server that starts serves meanwhile; whoever wants an explanation waits.
        self._choosing = asyncio.create_task(self._choose_chunks())

    async def _choose_chunks(self) -> None:
        for number, bundle in sorted(self._bundles.items()):
            await self._choose_chunk(number, bundle)

    async def join(self, worker: WorkerProcess) -> None:
        """Gives a worker what the others have. From then on it takes part in every change.

        Raises:
            LimelensError: It cannot have it.
        """
        await self._catch_up(worker)  # takes long, and must not hold up a change
        async with self._changing:
            await self._catch_up(worker)
            if self._stage is not None:
                await worker.stage(self._stage)
            self._members.append(worker)
        async with self._joined:
            self._was_complete |= len(self._members) == self._count
            self._joined.notify_all()

    def leave(self, worker: WorkerProcess) -> None:
        """A worker is gone."""
        if worker in self._members:
            self._members.remove(worker)

    async def close(self) -> None:
        """Nothing is loaded any more; who waits for that is told."""
        if self._choosing is not None:
            self._choosing.cancel()
        self._closed = True
        async with self._joined:
            self._joined.notify_all()

    async def publish(self) -> None:
        """Has all workers change to the repository's state at one moment."""
        assert self._repository is not None
        async with self._changing:
            repository, snapshot = self._repository, self._repository.snapshot
            served = [one for model in snapshot.values() for one in model.served.values()]
            numbers = {bundle: number for number, bundle in self._bundles.items()}
            stage = Stage(
                self._epoch.read() + 1,
                {(one.name, one.version): numbers[one.bundle] for one in served},
                tuple(one for model in snapshot.values() for one in model.refused.values()),
                repository.swaps,
                self._numbers_of(repository.on_trial),
            )
            await asyncio.gather(*(self._bring(worker, stage) for worker in self._members))
            self._epoch.write(stage.epoch)
            self._stage, self._held = stage, tuple(one.bundle for one in served)
            self._on_trial = stage.on_trial
            for worker in self._members:
                worker.tell("settle", stage.epoch, stage.on_trial)

    def noted(self) -> None:
        """Answers were counted: of a version that has proved itself workers tell no more."""
        assert self._repository is not None
        on_trial = self._numbers_of(self._repository.on_trial)
        if on_trial != self._on_trial:
            self._on_trial = on_trial
            for worker in self._members:
                worker.tell("follow", on_trial)

    def bundle(self, number: int) -> Bundle | None:
        """The bundle of a number; None where it was let go."""
        return self._bundles.get(number)

    async def _load(self, found: Bundle) -> Bundle:
        number = next(self._numbers)
        # At the start nothing but the start is lost with a worker.
        first = None if self._stage is None else await self._load_on_one(number, found)
        if first is None:
            await self._members_are_there()
        answers = await asyncio.gather(
            *(self._load_on(worker, number, found) for worker in self._members),
            return_exceptions=True,
        )
        for one in answers:
            if isinstance(one, UnavailableError) and first is not None:
                # Another takes its place, and catches up; at the end none does.
                _log.log(logging.DEBUG if self._closed else logging.WARNING, "%s", one)
            elif isinstance(one, BaseException):
                self._release(number)
                raise one
            else:
                first = first or one
        assert first is not None
        bundle = Bundle(
            metadata=found.metadata,
            version=found.version,
            path=found.path,
            provider=first.provider,
            provider_reason=first.provider_reason,
            num_threads=self._num_threads if first.provider == CPU else first.num_threads,
            session=None,
            file=found.file,
        )
        self._bundles[number] = bundle
        weakref.finalize(bundle, self._let_go, number).atexit = False
        if self._stage is not None:
            await self._choose_chunk(number, bundle)
        return bundle

    async def _choose_chunk(self, number: int, bundle: Bundle) -> None:
        """Has one worker choose the chunk of explanations by its device, and the others take it.

        Each for itself would choose by how busy the device was at that moment, and explanations of
        two workers would differ in their last digits.
        """
        if bundle.provider == CPU:
            return
        while number not in self._chunks and self._members:
            with contextlib.suppress(UnavailableError):
                self._chunks[number] = await self._members[0].choose_chunk(number)
        chunk = self._chunks.get(number, 0)
        await asyncio.gather(
            *(worker.choose_chunk(number, chunk) for worker in self._members),
            return_exceptions=True,
        )

    async def _load_on_one(self, number: int, found: Bundle) -> Loaded:
        """One worker tries it before the others: what it is lost over does not reach them."""
        lost: list[str] = []
        while len(lost) < _MOST_LOST:
            await self._members_are_there()
            try:
                loaded = await self._load_on(self._members[0], number, found)
            except UnavailableError as error:
                lost.append(str(error))
            else:
                assert loaded is not None
                return loaded
        raise BundleError(f"{found.path}: {len(lost)} workers were lost that loaded it: {lost[-1]}")

    async def _members_are_there(self) -> None:
        """Waits until all workers have been there, and some are.

        Raises:
            UnavailableError: Nothing is loaded any more.
        """
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
            raise

    async def _catch_up(self, worker: WorkerProcess) -> None:
        for number, bundle in sorted(self._bundles.items()):
            await worker.prepare(number, bundle)
            if number in self._chunks:
                await worker.choose_chunk(number, self._chunks[number])

    async def _bring(self, worker: WorkerProcess, stage: Stage) -> None:
        """Lays a state ready in a worker; one that fails is ended, for it would answer the old."""
        try:
            await self._catch_up(worker)
            await worker.stage(stage)
        except LimelensError as error:
            level = logging.DEBUG if self._closed else logging.ERROR
            _log.log(level, "worker %d cannot follow and is ended: %s", worker.number, error)
            worker.kill()
            await worker.ended()

    def _numbers_of(self, bundles: Iterable[Bundle]) -> frozenset[int]:
        wanted = {id(bundle) for bundle in bundles}
        return frozenset(one for one, bundle in self._bundles.items() if id(bundle) in wanted)

    def _let_go(self, number: int) -> None:
        with contextlib.suppress(RuntimeError):  # the loop was closed, and the workers are gone
            self._loop.call_soon_threadsafe(self._release, number)

    def _release(self, number: int) -> None:
        self._chunks.pop(number, None)
        for worker in self._members:
            worker.release(number)


def _version(path: Path) -> int:
    name = path.parent.name
    return int(name) if name.isdecimal() else 0
