"""The process that a user starts: it keeps the workers of one server.

It serves no calls. It reserves the port, decides which versions are served, counts the limits of
the whole server, passes signals on, and replaces workers that end, and processes that own a device.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from limelens.serve.access.limiting import Limiter
from limelens.serve.errors import LimelensError, ListenError, UnavailableError
from limelens.serve.lifecycle import ENDING_S, Signals, feed, proof_pause_s, report_start
from limelens.serve.processes.admission import Admissions
from limelens.serve.processes.channel import GoneError, Handler
from limelens.serve.processes.child_process import describe_end
from limelens.serve.processes.device_process import OwnedDevice, owned_device, owner_of
from limelens.serve.processes.layout import devices_to_own, num_threads_of, share_of
from limelens.serve.processes.messages import Assignment, Epoch
from limelens.serve.processes.owners import Owners
from limelens.serve.processes.port import held
from limelens.serve.processes.rollout import Rollout
from limelens.serve.processes.worker_process import LOAD_S, WorkerProcess
from limelens.serve.repository.model_repository import Repository
from limelens.serve.repository.registry import status_line
from limelens.serve.repository.reload import Watcher, watcher_for
from limelens.serve.repository.validation import Validator
from limelens.serve.rpc.server_config import ServerConfig
from limelens.serve.service_manager import ServiceManager

if TYPE_CHECKING:
    from limelens.serve.observing.http import HttpPort

_PAUSES_S: Final = (0.0, 0.0, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
"""Before a process is replaced; the more often replacements end soon, the longer."""
_SOUND_S: Final = 10.0  # a process that lived so long does not count as one that ended soon
_MEMORY: Final = Path("/dev/shm")
_PING_S: Final = 5.0
_REPLY_S: Final = 1.0
_log = logging.getLogger(__name__)


def supervise(config: ServerConfig, announce: Callable[[str], Any] = print) -> int:
    """Serves with several processes until SIGTERM or SIGINT; see `run_server.serve`."""
    config.check()
    if sys.platform != "linux":
        raise ListenError("several processes need Linux; give --processes 1, no --device-process")
    manager = ServiceManager()  # before any child could speak in its name
    with contextlib.ExitStack() as holding:
        signals = holding.enter_context(Signals(leaves_early=False))
        config = replace(config, listen=holding.enter_context(held(config.listen)))
        if config.health_listen is not None:
            address = held(config.health_listen, option="--health-listen")
            config = replace(config, health_listen=holding.enter_context(address))
        owned = [holding.enter_context(owned_device(one)) for one in devices_to_own(config)]
        counts_folder = None
        if config.http is not None:
            from limelens.serve.observing.http import check_address

            check_address(config.http, insecure=config.insecure_http)
            # In memory if possible: counts are not written to a disk.
            memory = _MEMORY if os.access(_MEMORY, os.W_OK) else None
            folder = tempfile.TemporaryDirectory(prefix="limelens-metrics-", dir=memory)
            counts_folder = Path(holding.enter_context(folder))

        async def run() -> None:
            await Supervisor(config, owned, counts_folder, signals, manager).run(announce)

        asyncio.run(run())
    return 0


class Supervisor:
    """Keeps the workers of one server, for one run."""

    def __init__(
        self,
        config: ServerConfig,
        owned: Sequence[OwnedDevice],
        counts_folder: Path | None,
        signals: Signals,
        manager: ServiceManager,
    ) -> None:
        self._config = config
        self._manager = manager
        self._counts_folder = counts_folder
        self._signals = signals
        self._loop = asyncio.get_running_loop()
        self._epoch = Epoch()
        self._limiter = Limiter()
        # Does not run models: workers do, before they serve them.
        self._validator = Validator(config.public_keys, run=False)
        # The owner of the CPU runs batches on one thread.
        num_threads = 1 if owned else num_threads_of(config)
        self._rollout = Rollout(self._epoch, self._validator, config.processes, num_threads)
        self._repository: Repository | None = None
        self._watcher: Watcher | None = None
        self._http: HttpPort | None = None
        self._workers: dict[int, WorkerProcess] = {}
        self._serving: dict[int, WorkerProcess] = {}
        self._ping_s = min(_PING_S, proof_pause_s(manager))
        self._owners = Owners(config, owned, self._ping_s)
        self._may_serve = asyncio.Event()  # versions are loaded
        self._complete = asyncio.Event()  # all workers have served once
        self._stopping = asyncio.Event()
        self._num_restarts = 0
        # In the order of results, and not on the loop, which a rollback waits for.
        self._recording = ThreadPoolExecutor(1, "limelens-results")

    async def run(self, announce: Callable[[str], Any]) -> None:
        """Announces the ready line and serves until it is stopped."""
        self._signals.on_hurry = self._leave
        self._signals.follow(
            lambda: self._loop.call_soon_threadsafe(self._stop),
            lambda: self._loop.call_soon_threadsafe(self._request_scan),
        )
        stop = asyncio.create_task(self._stopping.wait())
        feeding = asyncio.create_task(feed(self._manager, self._is_alive))
        starting = asyncio.create_task(self._start_serving(announce))
        owning = [
            asyncio.create_task(self._keep(owner_of(one.device), partial(self._owners.run, one)))
            for one in self._owners.devices
        ]
        keeping = [
            asyncio.create_task(self._keep(f"worker {number}", partial(self._run_worker, number)))
            for number in range(1, self._config.processes + 1)
        ]
        failed = True
        try:
            # Of these, only a successful start ends without an error. A worker that ends while it
            # loads makes the start fail too, but `_keep` says which worker it was and how it ended.
            with contextlib.suppress(GoneError):
                await _first(stop, starting, *keeping, *owning)
            await _first(stop, *keeping, *owning)
            failed = False
        finally:
            await self._end(starting, keeping, owning, at_once=failed)
            stop.cancel()
            feeding.cancel()

    def why_unready(self) -> str:
        """Why the server is not ready; empty while it is. Any thread may call."""
        if self._stopping.is_set():
            return "going down"
        if not self._complete.is_set():
            return "starting"
        serving = tuple(self._serving.values())
        if not self._owners.is_complete or not all(one.has_device for one in serving):
            return "a device is starting anew"
        return "" if serving else "no worker serves"

    async def _start_serving(self, announce: Callable[[str], Any]) -> None:
        """Loads the models and waits until all workers serve."""
        config = self._config
        self._repository = repository = await asyncio.to_thread(
            Repository,
            config.models,
            versions=config.versions,
            public_keys=config.public_keys,
            hold_back=config.hold_back,
            hold_back_images=config.hold_back_images,
            load=self._rollout.load,
            validator=self._validator,
            # A file that ends the process of a device would end the calls of all workers.
            tries_on_cpu=config.device_process,
        )
        await self._rollout.begin(repository)
        repository.subscribe(self._rollout.publish_from_thread)
        self._watcher = watcher_for(repository, config.reload, config.reload_s)
        if self._counts_folder is not None:
            from limelens.serve.observing.http import HttpPort
            from limelens.serve.processes.metrics_page import metrics_of_all

            assert config.http is not None
            registry = metrics_of_all(
                self._counts_folder,
                repository,
                sample=self._sample_from_thread,
                workers=lambda: [one.pid for one in tuple(self._serving.values())],
                owners=lambda: self._owners.pids,
                restarts=lambda: self._num_restarts,
            )
            self._http = HttpPort(
                config.http, registry, self.why_unready, insecure=config.insecure_http
            )
        self._may_serve.set()
        await self._complete.wait()
        if self._watcher is not None:
            self._watcher.start()
        report_start(config, repository, config.listen, self._http, announce)
        repository.subscribe(lambda: self._manager.is_now(self._status()))
        self._manager.ready(self._status())

    async def _keep(self, name: str, run: Callable[[], Awaitable[str]]) -> None:
        """Runs one process after the other, until the server stops."""
        num_ended_soon = 0
        while True:
            began = time.monotonic()
            try:
                end = await run()
            except OSError as error:  # no process, file or memory is left to start it
                end = f"it could not be started: {error}"
            if self._stopping.is_set():
                return
            if not self._complete.is_set():
                raise LimelensError(f"{name} ended before the server was ready: {end}")
            num_ended_soon = 0 if time.monotonic() - began > _SOUND_S else num_ended_soon + 1
            pause_s = _PAUSES_S[min(num_ended_soon, len(_PAUSES_S)) - 1] if num_ended_soon else 0.0
            _log.error("%s ended: %s; another starts in %g s", name, end, pause_s)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause_s):
                    await self._stopping.wait()
            if self._stopping.is_set():
                return
            self._num_restarts += 1

    async def _run_worker(self, number: int) -> str:
        """Runs one worker from its start to its end."""
        admissions = Admissions(self._limiter)
        assignment = Assignment(
            *(number, share_of(self._config, number, self._owners.devices), self._counts_folder),
            proof_pause_s(self._manager),
        )
        worker: WorkerProcess | None = None

        def note_device(has_device: bool) -> None:
            if worker is not None:
                worker.has_device = has_device

        handlers: dict[str, Handler] = {
            "device": note_device,
            "admit": admissions.admit,
            "leave": admissions.leave,
            "charge": admissions.charge,
            "result": self._record,
            "refresh": self._refresh,
            "statistics": partial(self._request_all, "statistics"),
        }
        worker = await WorkerProcess.start(assignment, self._epoch.file, handlers)
        self._workers[number] = worker
        ended = asyncio.create_task(worker.ended())
        try:
            if self._stopping.is_set():
                worker.kill()
            await self._bring_up(worker, ended)
            await worker.watch(ended, self._ping_s)
        except UnavailableError as error:
            _log.debug("worker %d: %s", number, error)
        except LimelensError as error:
            if not self._complete.is_set():
                raise
            return str(error)
        finally:
            worker.kill()
            code = await ended
            self._rollout.leave(worker)
            self._serving.pop(number, None)
            del self._workers[number]
            admissions.close()
            if self._counts_folder is not None:
                from limelens.serve.processes.metrics_page import forget_state

                forget_state(self._counts_folder, number)
        return describe_end(code)

    async def _bring_up(self, worker: WorkerProcess, ended: asyncio.Task[int]) -> None:
        """Waits until a worker serves."""
        await self._rollout.join(worker)
        may_serve = asyncio.create_task(self._may_serve.wait())
        try:
            await _first(may_serve, ended)
        finally:
            may_serve.cancel()
        await worker.request("serve", timeout_s=LOAD_S)
        worker.proved_at = time.monotonic()
        self._serving[worker.number] = worker
        if len(self._serving) == self._config.processes:
            self._complete.set()

    async def _end(
        self,
        starting: asyncio.Task[None],
        keeping: Sequence[asyncio.Task[None]],
        owning: Sequence[asyncio.Task[None]],
        *,
        at_once: bool,
    ) -> None:
        """Ends everything, in reverse order."""
        self._stopping.set()
        self._validator.stop()
        await self._rollout.close()
        if at_once:
            self._kill()
        for worker in self._workers.values():
            worker.send("stop")
        _, late = await asyncio.wait(keeping, timeout=self._config.grace_s + ENDING_S)
        if late:
            _log.error("%d workers did not end in time", len(late))
            self._kill()
        starting.cancel()
        await asyncio.gather(starting, *keeping, return_exceptions=True)
        # Only now: workers that finish their calls need the devices.
        self._owners.close()
        await asyncio.gather(*owning, return_exceptions=True)
        if self._watcher is not None:
            await asyncio.to_thread(self._watcher.stop)
        await asyncio.to_thread(self._recording.shutdown)
        if self._http is not None:
            await asyncio.to_thread(self._http.close)
        _log.info("stopped")

    def _is_alive(self) -> bool:
        """Whether every worker that serves proved it lately; one that is replaced does not count.

        A worker that loads or starts has a time limit of its own.
        """
        limit_s = self._manager.watchdog_s / 2
        now = time.monotonic()
        return all(now - one.proved_at < limit_s for one in self._serving.values())

    def _status(self) -> str:
        assert self._repository is not None
        line = status_line(self._config.listen, self._repository)
        return f"{line}, {self._config.processes} processes"

    def _stop(self) -> None:
        self._manager.stopping(self._config.grace_s + 2 * ENDING_S)
        _log.info("stopping; calls in flight have %g seconds", self._config.grace_s)
        self._stopping.set()

    def _leave(self) -> None:
        """Ends everything that would outlive this process, at once; for a signal handler."""
        self._validator.kill()
        self._kill()
        if self._counts_folder is not None:
            shutil.rmtree(self._counts_folder, ignore_errors=True)

    def _kill(self) -> None:
        for worker in self._workers.values():
            worker.kill()
        self._owners.kill()

    def _request_scan(self) -> None:
        """Requests a scan for new versions and does not wait for it."""
        if self._watcher is not None:
            self._manager.reloading()
            self._watcher.request_scan(lambda: self._manager.ready(self._status()))
        elif self._may_serve.is_set():
            _log.warning("cannot look for new models: reloading is switched off")

    async def _refresh(self) -> None:
        """Scans, and waits until all workers serve what was found."""
        if self._watcher is not None:
            await asyncio.to_thread(self._watcher.scan)

    def _record(self, number: int, ok: bool) -> None:
        """Counts a result of a canary."""
        bundle, repository = self._rollout.bundles.get(number), self._repository
        if bundle is None or repository is None or self._stopping.is_set():
            return

        def count() -> None:
            repository.record(bundle, ok=ok)
            self._loop.call_soon_threadsafe(self._rollout.follow_canaries)

        self._recording.submit(count)

    def _sample_from_thread(self) -> None:
        """Has workers set their gauges."""
        with contextlib.suppress(TimeoutError, RuntimeError):
            sampling = asyncio.run_coroutine_threadsafe(self._request_all("sample"), self._loop)
            sampling.result(2 * _REPLY_S)

    async def _request_all(self, word: str, *content: object) -> list[Any]:
        """The replies of all workers that reply soon."""
        requests = [
            asyncio.create_task(one.request(word, *content)) for one in self._serving.values()
        ]
        if not requests:
            return []
        _, late = await asyncio.wait(requests, timeout=_REPLY_S)
        for one in late:
            one.cancel()
        found = await asyncio.gather(*requests, return_exceptions=True)
        return [one for one in found if not isinstance(one, BaseException)]


async def _first(*tasks: asyncio.Task[Any]) -> None:
    """Waits until the first of some tasks is done, and raises what it raised."""
    done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for one in done:
        one.result()
