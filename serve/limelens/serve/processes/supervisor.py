"""The process that a user starts: it keeps workers that serve, and speaks for all of them.

It answers no call. It holds the port, decides which versions are served, counts what is counted for
the whole server, passes signals on, and starts a worker in the place of one that ended.
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
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from limelens.serve.access.limiting import Limiter
from limelens.serve.errors import LimelensError, ListenError, UnavailableError
from limelens.serve.processes.admission import Admissions
from limelens.serve.processes.channel import Handler
from limelens.serve.processes.epoch import Epoch
from limelens.serve.processes.layout import num_threads_of, share_of
from limelens.serve.processes.messages import Assignment
from limelens.serve.processes.ports import held
from limelens.serve.processes.process import LOAD_S, WorkerProcess, describe_end
from limelens.serve.processes.rollout import Rollout
from limelens.serve.repository.model_repository import Repository, ready_line
from limelens.serve.repository.reload import Watcher, watcher_for
from limelens.serve.repository.validation import Validator
from limelens.serve.rpc.server_config import ServerConfig
from limelens.serve.rpc.signals import Signals
from limelens.serve.rpc.starting import announce_to, log_start
from limelens.serve.scheduling.statistics import Statistics

if TYPE_CHECKING:
    from limelens.serve.observing.http import HttpPort

_ENDING_S: Final = 5.0
"""Beyond the time of grace, until a worker that was told to stop is ended."""
_PAUSES_S: Final = (0.0, 0.0, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
"""Before a worker is started in the place of one that ended; longer and longer while they do."""
_SOUND_S: Final = 10.0
"""A worker that lived for so long did not fail for what it is."""
_PING_S: Final = 5.0
_ASKING_S: Final = 1.0
_log = logging.getLogger(__name__)


def supervise(config: ServerConfig, announce: Callable[[str], Any] = print) -> int:
    """Serves with several processes until SIGTERM or SIGINT; see `limelens.serve.rpc.server.serve`.

    Args:
        config: How they are set up together.
        announce: Is given one line once all of them answer.

    Returns:
        The exit code, 0: the server was told to stop and did.

    Raises:
        LimelensError: As of `limelens.serve.rpc.server.serve`.
    """
    config.check()
    if sys.platform != "linux":
        raise ListenError("only Linux spreads connections over processes; give --processes 1")
    with contextlib.ExitStack() as holding:
        signals = holding.enter_context(Signals(leaves_early=False))
        config = replace(config, listen=holding.enter_context(held(config.listen)))
        if config.health_listen is not None:
            address = held(config.health_listen, option="--health-listen")
            config = replace(config, health_listen=holding.enter_context(address))
        counted = None
        if config.http is not None:
            from limelens.serve.observing.http import check_address

            check_address(config.http, insecure=config.insecure_http)
            counted = Path(holding.enter_context(_memory_folder("limelens-metrics-")))
        asyncio.run(_run(config, counted, announce, signals))
    return 0


def _memory_folder(prefix: str) -> tempfile.TemporaryDirectory[str]:
    """A folder in memory, where there is such: what is counted goes to no disk."""
    memory = Path("/dev/shm")
    return tempfile.TemporaryDirectory(
        prefix=prefix, dir=memory if os.access(memory, os.W_OK) else None
    )


async def _run(
    config: ServerConfig, counted: Path | None, announce: Callable[[str], Any], signals: Signals
) -> None:
    await Supervisor(config, counted, signals).run(announce)


class Supervisor:
    """Keeps the workers of one server, for one run.

    Args:
        config: Of the whole server, with the port's number.
        counted: Where workers count; None: nobody asks for metrics.
        signals: Say when to stop and when to look for new versions.
    """

    def __init__(self, config: ServerConfig, counted: Path | None, signals: Signals) -> None:
        self._config = config
        self._counted = counted
        self._signals = signals
        self._loop = asyncio.get_running_loop()
        self._epoch = Epoch()
        self._limiter = Limiter()
        # At the start nobody waits, and workers run a model before they serve it.
        self._judge = Validator(config.public_keys, run=False)
        self._rollout = Rollout(self._epoch, self._judge, config.processes, num_threads_of(config))
        self._repository: Repository | None = None
        self._watcher: Watcher | None = None
        self._http: HttpPort | None = None
        self._workers: dict[int, WorkerProcess] = {}
        self._answering: dict[int, WorkerProcess] = {}
        self._may_serve = asyncio.Event()  # there is something to serve
        self._complete = asyncio.Event()  # all workers have answered once
        self._told = asyncio.Event()  # to stop
        self._num_restarts = 0
        # In the order in which answers ended, and not on the loop, which a rollback waits for.
        self._noting = ThreadPoolExecutor(1, "limelens-noting")

    async def run(self, announce: Callable[[str], Any]) -> None:
        """Serves until it is told to stop.

        Args:
            announce: Is given the ready line.

        Raises:
            LimelensError: It could not begin.
        """
        self._signals.on_hurry(self._leave)
        self._signals.follow(
            lambda: self._loop.call_soon_threadsafe(self._stop),
            lambda: self._loop.call_soon_threadsafe(self._look_now),
        )
        told = asyncio.create_task(self._told.wait())
        beginning = asyncio.create_task(self._begin(announce))
        keeping = [
            asyncio.create_task(self._keep(number + 1)) for number in range(self._config.processes)
        ]
        failed = True
        try:
            # Of these only a beginning that went well ends without an error.
            await _first(told, beginning, *keeping)
            await _first(told, *keeping)
            failed = False
        finally:
            await self._end(beginning, keeping, at_once=failed)
            told.cancel()

    def why_unready(self) -> str:
        """Why no calls are welcome; empty while they are. May be asked from any thread."""
        if self._told.is_set():
            return "going down"
        if not self._complete.is_set():
            return "starting"
        return "" if self._answering else "no worker answers"

    async def _begin(self, announce: Callable[[str], Any]) -> None:
        """Until all workers answer."""
        config = self._config
        self._repository = repository = await asyncio.to_thread(
            Repository,
            config.models,
            versions=config.versions,
            public_keys=config.public_keys,
            load=self._rollout.load,
        )
        await self._rollout.begin(repository)
        repository.subscribe(self._rollout.publish_from_thread)
        self._watcher = watcher_for(repository, config.reload, config.reload_s)
        if self._counted is not None:
            self._http = self._open_http(self._counted, repository)
        self._may_serve.set()
        await self._complete.wait()
        if self._watcher is not None:
            self._watcher.start()
        log_start(config, repository)
        line = ready_line(config.listen, repository, config.processes)
        _log.info("%s", line)
        if self._http is not None:
            _log.info("metrics and probes on http://%s", self._http.address)
        announce_to(announce, line)

    async def _keep(self, number: int) -> None:
        """Has a worker of this number live, one after the other, until all are told to stop.

        Raises:
            LimelensError: The first could not begin.
        """
        num_short = 0
        while True:
            began = time.monotonic()
            end = await self._live(number)
            if self._told.is_set():
                return
            if not self._complete.is_set():
                raise LimelensError(f"worker {number} ended before the server was ready: {end}")
            num_short = 0 if time.monotonic() - began > _SOUND_S else num_short + 1
            pause_s = _PAUSES_S[min(num_short, len(_PAUSES_S)) - 1] if num_short else 0.0
            _log.error("worker %d ended: %s; another starts in %g s", number, end, pause_s)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause_s):
                    await self._told.wait()
            if self._told.is_set():
                return
            self._num_restarts += 1

    async def _live(self, number: int) -> str:
        """One worker from its start to its end, of which it tells.

        Raises:
            LimelensError: It could not begin, and no other has served before.
        """
        admissions = Admissions(self._limiter)
        assignment = Assignment(number, share_of(self._config, number), self._counted)
        handlers: dict[str, Handler] = {
            "admit": admissions.admit,
            "leave": admissions.leave,
            "charge": admissions.charge,
            "note": self._note,
            "refresh": self._refresh,
            "statistics": self._statistics,
        }
        worker = await WorkerProcess.start(assignment, self._epoch.file, handlers)
        self._workers[number] = worker
        ended = asyncio.create_task(worker.ended())
        try:
            if self._told.is_set():
                worker.kill()
            await self._bring_up(worker, ended)
            while not ended.done():
                await asyncio.wait((ended,), timeout=_PING_S)
                if not ended.done():
                    await worker.ask("ping")
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
            self._answering.pop(number, None)
            del self._workers[number]
            admissions.close()
            if self._counted is not None:
                from limelens.serve.processes.totals import forget_state

                forget_state(self._counted, number)
        return describe_end(code)

    async def _bring_up(self, worker: WorkerProcess, ended: asyncio.Task[int]) -> None:
        """Until it answers."""
        await self._rollout.join(worker)
        may_serve = asyncio.create_task(self._may_serve.wait())
        try:
            await _first(may_serve, ended)
        finally:
            may_serve.cancel()
        await worker.ask("serve", timeout_s=LOAD_S)
        self._answering[worker.number] = worker
        if len(self._answering) == self._config.processes:
            self._complete.set()

    async def _end(
        self, beginning: asyncio.Task[None], keeping: Sequence[asyncio.Task[None]], *, at_once: bool
    ) -> None:
        """Ends everything, in the reverse order."""
        self._told.set()
        self._judge.stop()
        await self._rollout.close()
        if at_once:
            self._kill()
        for worker in self._workers.values():
            worker.tell("stop")
        _, late = await asyncio.wait(keeping, timeout=self._config.grace_s + _ENDING_S)
        if late:
            _log.error("%d workers did not end in time", len(late))
            self._kill()
        beginning.cancel()
        await asyncio.gather(beginning, *keeping, return_exceptions=True)
        if self._watcher is not None:
            await asyncio.to_thread(self._watcher.stop)
        await asyncio.to_thread(self._noting.shutdown)
        if self._http is not None:
            await asyncio.to_thread(self._http.close)
        _log.info("stopped")

    def _stop(self) -> None:
        _log.info("told to stop; calls under way have %g seconds", self._config.grace_s)
        self._told.set()

    def _leave(self) -> None:
        """All that cannot be left behind, at once and in the middle of anything."""
        self._judge.kill()
        self._kill()
        if self._counted is not None:
            shutil.rmtree(self._counted, ignore_errors=True)

    def _kill(self) -> None:
        for worker in self._workers.values():
            worker.kill()

    def _look_now(self) -> None:
        """Looks for new versions, without waiting for what comes of it."""
        if self._watcher is not None:
            self._watcher.look_now()
        elif self._may_serve.is_set():
            _log.warning("asked to look for new models, which is switched off")

    async def _refresh(self) -> None:
        """The same, in the caller's behalf: waits until all workers serve what was found."""
        if self._watcher is not None:
            await asyncio.to_thread(self._watcher.look_at_once)

    def _note(self, number: int, ok: bool) -> None:
        """An answer of a version on trial ended."""
        bundle, repository = self._rollout.bundle(number), self._repository
        if bundle is None or repository is None or self._told.is_set():
            return

        def count() -> None:
            repository.note(bundle, ok=ok)
            self._loop.call_soon_threadsafe(self._rollout.noted)

        self._noting.submit(count)

    def _open_http(self, counted: Path, repository: Repository) -> HttpPort:
        from limelens.serve.observing.http import HttpPort
        from limelens.serve.processes.totals import Totals

        assert self._config.http is not None
        totals = Totals(
            counted,
            repository,
            sample=self._sample_from_thread,
            workers=lambda: [one.pid for one in tuple(self._answering.values())],
            restarts=lambda: self._num_restarts,
        )
        return HttpPort(
            self._config.http,
            totals.registry,
            self.why_unready,
            insecure=self._config.insecure_http,
        )

    async def _statistics(self, path: Path) -> list[Statistics]:
        return await self._ask_all("statistics", path)

    def _sample_from_thread(self) -> None:
        """Has workers note what is true of this moment."""
        with contextlib.suppress(TimeoutError, RuntimeError):
            asking = asyncio.run_coroutine_threadsafe(self._ask_all("sample"), self._loop)
            asking.result(2 * _ASKING_S)

    async def _ask_all(self, word: str, *content: object) -> list[Any]:
        """What the workers answer; one that is busy or goes is not waited for long."""
        asking = [asyncio.create_task(one.ask(word, *content)) for one in self._answering.values()]
        if not asking:
            return []
        _, late = await asyncio.wait(asking, timeout=_ASKING_S)
        for one in late:
            one.cancel()
        found = await asyncio.gather(*asking, return_exceptions=True)
        return [one for one in found if not isinstance(one, BaseException)]


async def _first(*tasks: asyncio.Task[Any]) -> None:
    """Waits until the first of some tasks is done, and raises what it raised."""
    done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for one in done:
        one.result()
