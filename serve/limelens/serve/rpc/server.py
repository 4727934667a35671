"""The server within an event loop: it starts, reports its health, and stops without losing calls.

It knows the order of starting and stopping. `limelens.serve.run_server` runs a process that does
nothing else.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import grpc.aio
from grpc_reflection.v1alpha import reflection

from limelens.inference import inference_service_pb2_grpc as inference_grpc
from limelens.serve.access.config import Tls as Tls
from limelens.serve.access.guard import Guard, ReflectionGuard, WatcherLimit
from limelens.serve.access.limiting import Limiter
from limelens.serve.access.policy import Access
from limelens.serve.addresses import is_unix
from limelens.serve.faces.options import DEFAULT_DETECTOR, NO_DETECTOR
from limelens.serve.observing.observer import Observer, notify_all
from limelens.serve.observing.pauses import Pauses
from limelens.serve.repository.model_repository import Repository
from limelens.serve.repository.registry import ModelRegistry
from limelens.serve.repository.registry import ready_line as ready_line
from limelens.serve.repository.reload import Watcher, watcher_for
from limelens.serve.rpc import health
from limelens.serve.rpc.classifier_service import SERVICE_NAME, ClassifierService
from limelens.serve.rpc.faces.face_runner import FaceRunner
from limelens.serve.rpc.health import Health
from limelens.serve.rpc.inference.service import SERVICE_NAME as INFERENCE_NAME
from limelens.serve.rpc.inference.service import InferenceService
from limelens.serve.rpc.interceptor import CallInterceptor
from limelens.serve.rpc.model_runner import ModelRunner
from limelens.serve.rpc.server_config import MAX_MESSAGE_BYTES as MAX_MESSAGE_BYTES
from limelens.serve.rpc.server_config import ServerConfig as ServerConfig
from limelens.serve.rpc.transport.disconnecting import cut
from limelens.serve.rpc.transport.listening import BURST_OPTIONS, bind, server_options
from limelens.serve.rpc.transport.message_io import Reader
from limelens.serve.scheduling.memory_budget import Budget
from limelens.serve.scheduling.statistics import Statistics
from limelens.v1 import classifier_service_pb2_grpc as service_grpc

if TYPE_CHECKING:
    from limelens.serve.errors import LimelensError
    from limelens.serve.faces.detector import FaceDetector
    from limelens.serve.observing.drift import DriftWatch
    from limelens.serve.observing.http import HttpPort
    from limelens.serve.observing.metrics import Metrics

MAX_DRAIN_S: Final = 3.0
_MAX_PROBES: Final = 64
_MAX_PROBE_BYTES: Final = 64 * 1024
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Siblings:
    """What a server shares with other processes that listen on the same port.

    Args:
        limiter: Counts the calls of all processes.
        refresh: Makes all processes look for new versions.
        statistics: Of a version's file, in all processes.
        metrics: Counts for all processes; None if there are no metrics.
    """

    limiter: Limiter
    refresh: Callable[[], Awaitable[None]]
    statistics: Callable[[Path], Awaitable[Statistics]]
    metrics: Metrics | None = None


class Server:
    """A server within an event loop.

    Args:
        repository: The models to serve; the server watches a `Repository` for new versions.
        drift: Watches for drift, if there are metrics; the server starts and closes it.

    Raises:
        ListenError: The server may not or cannot listen on an address.
        AccessPolicyError: The files that say who may call are missing or invalid.
        MissingExtraError: Traces need a package that is not installed.
    """

    def __init__(
        self,
        config: ServerConfig,
        repository: ModelRegistry,
        *,
        observers: Iterable[Observer] = (),
        siblings: Siblings | None = None,
        drift: DriftWatch | None = None,
    ) -> None:
        if siblings is None:  # else the supervisor has checked the whole
            config.check()
        self._drift = drift
        self._config = config
        self._siblings = siblings
        self._unready = "starting"
        self._watching: asyncio.Task[None] | None = None
        with contextlib.ExitStack() as undo:
            self._build(repository, observers, undo)
            undo.pop_all()

    def _build(
        self, repository: ModelRegistry, observers: Iterable[Observer], undo: contextlib.ExitStack
    ) -> None:
        """Takes ports and starts threads; `undo` gives them back."""
        config, siblings = self._config, self._siblings
        detector = _detector(config)  # first, as it may fail
        metrics = None if siblings is None else siblings.metrics
        # Imported only when needed: a server without metrics starts sooner and is smaller.
        if siblings is None and config.http is not None:
            from limelens.serve.observing.metrics import Metrics

            metrics = Metrics(repository)
        notified = [*observers, *([metrics] if metrics else [])]
        if config.trace_to is not None:
            from limelens.serve.observing.tracing import tracing_to

            notified.append(tracing_to(config.trace_to))
        self._observer = notify_all(notified)
        undo.callback(self._observer.close)
        self.access = Access(config.access)  # who may call
        guard = Guard(self.access, siblings.limiter if siblings is not None else None)
        budget = Budget(config.service.max_waiting_bytes)
        self._interceptor = CallInterceptor(
            [SERVICE_NAME, INFERENCE_NAME],
            guard,
            self._observer,
            Reader(config.service.stream_idle_s, budget, config.max_message_bytes),
            log_ok=logging.INFO if config.access_log else logging.DEBUG,
            max_calls=config.max_calls,
        )
        self.open_calls = self._interceptor.open_calls  # the calls in flight
        self.pauses = Pauses()  # how long the event loop was blocked
        self.http: HttpPort | None = None  # metrics and probes; None without `config.http`
        if config.http is not None and metrics is not None:
            from limelens.serve.observing.http import HttpPort

            self.http = HttpPort(
                config.http, metrics.registry, self.why_unready, insecure=config.insecure_http
            )
            undo.callback(self.http.close)
        self.health = Health(repository, [SERVICE_NAME, INFERENCE_NAME])
        self._health_server: grpc.aio.Server | None = None
        self.health_address = ""  # `HOST:PORT` of `config.health_listen`; empty without it
        if config.health_listen is not None:
            server = self._health_server = grpc.aio.server(
                interceptors=[WatcherLimit(_MAX_PROBES // 2)],
                options=server_options(_MAX_PROBE_BYTES, shares_port=siblings is not None),
                maximum_concurrent_rpcs=_MAX_PROBES,
            )
            self.health.add_to(server)
            port = bind(server, config.health_listen, option="--health-listen")
            self.health_address = f"{config.health_listen.rpartition(':')[0]}:{port}"
            undo.callback(_release_port, server)
        self._server = grpc.aio.server(
            interceptors=[
                self._interceptor,
                ReflectionGuard(guard),
                WatcherLimit(max(1, config.max_calls // 2)),
            ],
            options=[
                *server_options(
                    config.max_message_bytes,
                    shares_port=siblings is not None,
                    max_connection_age_s=config.max_connection_age_s,
                ),
                *BURST_OPTIONS,
            ],
        )
        port = bind(self._server, config.listen, config.tls)
        undo.callback(_release_port, self._server)
        is_socket = is_unix(config.listen)
        self.address = config.listen if is_socket else f"{config.listen.rpartition(':')[0]}:{port}"
        """`HOST:PORT` or `unix:PATH` of the services."""
        drift = self._drift if metrics is not None else None
        if drift is not None and metrics is not None:
            drift.start(metrics.registry, repository)
            undo.callback(drift.close)
        self.runner = ModelRunner(repository, config.service, self._observer, budget, drift)
        """Runs the models for all services."""
        undo.callback(self.runner.close)
        self.service = ClassifierService(self.runner, FaceRunner(self.runner, detector))
        """`limelens.v1.ClassifierService`."""
        undo.callback(self.service.close)
        if metrics is not None:
            metrics.sample_from(
                engines=self.runner.engines,
                budget=budget,
                num_streams=lambda: len(self.service.cameras),
                num_slow=lambda: self.runner.slow_images.num_waiting,
                images=self.runner.shares,
                calls=self._interceptor.shares,
                pauses=self.pauses,
            )
        self._watcher: Watcher | None = None
        if isinstance(repository, Repository):
            self._watcher = watcher_for(repository, config.reload, config.reload_s)
        self.inference = InferenceService(self.runner, self._statistics, self._refresh())
        """`inference.GRPCInferenceService`."""
        service_grpc.add_ClassifierServiceServicer_to_server(  # type: ignore[no-untyped-call]
            self.service, self._server
        )
        inference_grpc.add_GRPCInferenceServiceServicer_to_server(  # type: ignore[no-untyped-call]
            self.inference, self._server
        )
        self.health.add_to(self._server)
        if config.reflection and not config.access.production:
            names = [SERVICE_NAME, INFERENCE_NAME, health.SERVICE_NAME, reflection.SERVICE_NAME]
            reflection.enable_server_reflection(names, self._server)

    def why_unready(self) -> str:
        """Why the server takes no calls; empty while it does. May be called from any thread."""
        return self._unready

    async def start(self) -> None:
        """Starts to serve calls."""
        await self.health.start()
        await self._server.start()
        if self._health_server is not None:
            await self._health_server.start()
        self._unready = ""
        self.pauses.start()
        self._watching = asyncio.create_task(self.access.watch())
        if self._watcher is not None:
            self._watcher.start()

    def reload(self, done: Callable[[], object] = lambda: None) -> None:
        """Looks for new versions now, without waiting for the result; then any thread calls `done`.

        Nothing is done where reloading is switched off.
        """
        if self._watcher is None:
            _log.warning("cannot look for new models: reloading is switched off")
            done()
        else:
            self._watcher.request_scan(done)

    async def stop(self, grace_s: float | None = None) -> None:
        """Reports NOT_SERVING and takes no more calls; calls in flight go on for a while.

        Args:
            grace_s: Limit on that while, from now; None takes the configuration's.
        """
        grace_s = self._config.grace_s if grace_s is None else grace_s
        ends_at = time.monotonic() + grace_s
        self._unready = "going down"
        if self._watching is not None:
            self._watching.cancel()
        await self.health.stop()
        self.service.stop_streams()
        self.inference.stop()
        await self.open_calls.drain(min(MAX_DRAIN_S, grace_s))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(max(0.0, ends_at - time.monotonic())):
                await self.open_calls.none.wait()
        self.cut()
        await self._server.stop(0)
        self.pauses.stop()
        if self._watcher is not None:
            await asyncio.to_thread(self._watcher.stop)
        if self._health_server is not None:
            await self._health_server.stop(0)
        await asyncio.to_thread(self.runner.close)
        await asyncio.to_thread(self.service.close)
        await asyncio.to_thread(self._observer.close)
        if self._drift is not None:
            await asyncio.to_thread(self._drift.close)
        if self.http is not None:
            await asyncio.to_thread(self.http.close)

    def cut(self) -> None:
        """Closes all connections: calls in flight end UNAVAILABLE. Any thread may call this."""
        for address in (self.address, self.health_address):
            if address:
                cut(address)

    def leave(self) -> None:
        """Closes at once what would outlive the process or keep clients waiting."""
        self.cut()
        if self._watcher is not None:
            self._watcher.kill()

    async def _statistics(self, path: Path) -> Statistics:
        if self._siblings is not None:
            return await self._siblings.statistics(path)
        return self.runner.counting.of(path)

    def _refresh(self) -> Callable[[], Awaitable[object]] | None:
        """Looks for new versions and waits for the result; None if reloading is switched off."""
        if self._config.reload == "off":
            return None
        if self._siblings is not None:
            return self._siblings.refresh
        if self._watcher is None:
            return None
        return functools.partial(asyncio.to_thread, self._watcher.scan)


def _detector(config: ServerConfig) -> FaceDetector | LimelensError | None:
    """The detector of faces; None or an error of the one that is missing where there is none.

    Raises:
        LimelensError: The one that was asked for cannot be used.
    """
    if config.face_detector == NO_DETECTOR:
        return None
    # Imported only when needed: a server without faces is smaller.
    from limelens.serve.faces import detector

    if config.face_detector == DEFAULT_DETECTOR and not detector.DEFAULT_PATH.is_file():
        missing = detector.missing_default()
        _log.warning("calls that ask for faces are refused: %s", missing)
        return missing
    return detector.load_detector(
        config.face_detector,
        config.device,
        num_threads=config.num_threads,
        tf32=config.tf32,
        max_batch_size=config.service.max_batch_size,
    )


_releasing: Final[set[asyncio.Task[Any]]] = set()
"""Keeps the tasks alive until they are done: the event loop does not."""


def _release_port(server: grpc.aio.Server) -> None:
    """Frees the port of a server that never started: gRPC frees only those of servers that ran."""

    async def start_and_stop() -> None:
        await server.start()
        await server.stop(0)

    task = asyncio.get_running_loop().create_task(start_and_stop())
    _releasing.add(task)
    task.add_done_callback(_releasing.discard)
