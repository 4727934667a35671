"""The server process: listens, reports its health, and goes down without losing calls.

It knows the order of starting and stopping. Where it listens is the business of
`limelens.serve.rpc.transport.listening`, what the calls do that of
`limelens.serve.rpc.classifier_service`.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import grpc
import grpc.aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from limelens.inference import inference_service_pb2_grpc as inference_grpc
from limelens.serve.access.config import Tls as Tls
from limelens.serve.access.guard import Guard, ReflectionGuard, WatcherLimit
from limelens.serve.access.limiting import Limiter
from limelens.serve.access.policy import Access
from limelens.serve.addresses import is_unix
from limelens.serve.observing.observer import Observer, Observers
from limelens.serve.observing.pauses import Pauses
from limelens.serve.repository.model_repository import Repository
from limelens.serve.repository.registry import ModelRegistry
from limelens.serve.repository.registry import ready_line as ready_line
from limelens.serve.repository.reload import Watcher, watcher_for
from limelens.serve.rpc.classifier_service import SERVICE_NAME, ClassifierService
from limelens.serve.rpc.inference.service import SERVICE_NAME as INFERENCE_NAME
from limelens.serve.rpc.inference.service import Dependencies, InferenceService
from limelens.serve.rpc.interceptor import CallInterceptor
from limelens.serve.rpc.server_config import MAX_MESSAGE_BYTES as MAX_MESSAGE_BYTES
from limelens.serve.rpc.server_config import ServerConfig as ServerConfig
from limelens.serve.rpc.transport.cutting import cut
from limelens.serve.rpc.transport.listening import bind
from limelens.serve.scheduling.inference import Completion
from limelens.serve.scheduling.memory_budget import Budget
from limelens.serve.scheduling.statistics import Statistics, StatisticsCollector
from limelens.v1 import classifier_service_pb2_grpc as service_grpc

if TYPE_CHECKING:
    from limelens.serve.observing.http import HttpPort
    from limelens.serve.observing.metrics import Metrics

_LEAVING_S: Final = 3.0
"""How long at most a server going down waits until no more calls come."""
_MAX_FILES: Final = 65536
_NO_LIMIT: Final = 2**31 - 1
_MAX_PROBES: Final = 64
_MAX_PROBE_BYTES: Final = 64 * 1024
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Siblings:
    """What a server has in common with others that listen on the same port.

    Args:
        limiter: Counts the calls of all of them.
        refresh: Has all of them look for new versions.
        statistics: What a version has done in all of them, by its file.
        metrics: Counts into what is told of all; None where nobody asks for metrics.
    """

    limiter: Limiter
    refresh: Callable[[], Awaitable[None]]
    statistics: Callable[[Path], Awaitable[Statistics]]
    metrics: Metrics | None = None


class Server:
    """A server within an event loop; see `serve` for a process that does nothing else.

    Args:
        config: How it is set up.
        repository: What it serves; looked after here where it is one that finds new versions.
        observers: Are told what happens, beside those that the configuration asks for.
        siblings: What it shares with other servers on its port; None: it has the port alone.

    Raises:
        ListenError: The address may not or cannot be listened on.
        AccessPolicyError: What says who may call is missing or cannot be used.
        MissingExtraError: Traces are asked for without what they need.
    """

    def __init__(
        self,
        config: ServerConfig,
        repository: ModelRegistry,
        *,
        observers: Iterable[Observer] = (),
        siblings: Siblings | None = None,
    ) -> None:
        config.check()
        self._config = config
        self._repository = repository
        self._siblings = siblings
        self._unready = "starting"
        self._named: set[str] = set()
        self._changed = asyncio.Event()
        self._telling: asyncio.Task[None] | None = None
        self._watching: asyncio.Task[None] | None = None
        self._unsubscribe: Callable[[], None] | None = None
        with contextlib.ExitStack() as undoing:
            self._build(observers, undoing)
            undoing.pop_all()

    def _build(self, observers: Iterable[Observer], undoing: contextlib.ExitStack) -> None:
        """Takes ports and begins threads; `undoing` gives back what was taken."""
        config, repository, siblings = self._config, self._repository, self._siblings
        metrics = siblings.metrics if siblings is not None else _metrics(config, repository)
        self._observer = Observers([*observers, *([metrics] if metrics else []), *_traces(config)])
        undoing.callback(self._observer.close)
        self._access = Access(config.access)
        guard = Guard(self._access, siblings.limiter if siblings is not None else None)
        budget = Budget(config.service.max_waiting_bytes)
        self._calls = CallInterceptor(
            [SERVICE_NAME, INFERENCE_NAME],
            guard,
            self._observer,
            log_ok=logging.INFO if config.access_log else logging.DEBUG,
            idle_s=config.service.stream_idle_s,
            budget=budget,
            max_calls=config.max_calls,
            max_message_bytes=config.max_message_bytes,
        )
        self.pauses = Pauses()
        self.http: HttpPort | None = None
        if config.http is not None and metrics is not None:
            from limelens.serve.observing.http import HttpPort

            self.http = HttpPort(
                config.http, metrics.registry, self.why_unready, insecure=config.insecure_http
            )
            undoing.callback(self.http.close)
        self._health = health.aio.HealthServicer()
        self._health_server: grpc.aio.Server | None = None
        self.health_address = ""
        if config.health_listen is not None:
            self._health_server, self.health_address = _telling_health(
                self._health, config.health_listen, shares_port=siblings is not None
            )
            undoing.callback(_give_back, self._health_server)
        self._server = grpc.aio.server(
            interceptors=[
                self._calls,
                ReflectionGuard(guard),
                WatcherLimit(max(1, config.max_calls // 2)),
            ],
            # The interceptor limits calls and streams: it says when to try again.
            options=[
                *_options(config.max_message_bytes, shares_port=siblings is not None),
                *_burst_options(),
            ],
        )
        port = bind(self._server, config.listen, config.tls)
        undoing.callback(_give_back, self._server)
        is_socket = is_unix(config.listen)
        self.address = config.listen if is_socket else f"{config.listen.rpartition(':')[0]}:{port}"
        self.counting = StatisticsCollector()
        self.service = ClassifierService(
            repository,
            config.service,
            on_ended=_telling([self.counting.record, self._observer.image_ended]),
            observer=self._observer,
            budget=budget,
        )
        undoing.callback(self.service.close)
        if metrics is not None:
            metrics.look_at(self.service, self._calls.shares, self.pauses)
        self._watcher: Watcher | None = None
        if isinstance(repository, Repository):
            self._watcher = watcher_for(repository, config.reload, config.reload_s)
        self.inference = InferenceService(self._backing())
        service_grpc.add_ClassifierServiceServicer_to_server(  # type: ignore[no-untyped-call]
            self.service, self._server
        )
        inference_grpc.add_GRPCInferenceServiceServicer_to_server(  # type: ignore[no-untyped-call]
            self.inference, self._server
        )
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        if config.reflection and not config.access.production:
            names = [SERVICE_NAME, INFERENCE_NAME, health.SERVICE_NAME, reflection.SERVICE_NAME]
            reflection.enable_server_reflection(names, self._server)

    def why_unready(self) -> str:
        """Why no calls are welcome; empty while they are. May be asked from any thread."""
        return self._unready

    async def start(self) -> None:
        """Begins to answer."""
        loop = asyncio.get_running_loop()

        def on_change() -> None:
            with contextlib.suppress(RuntimeError):  # the loop was closed: nobody asks any more
                loop.call_soon_threadsafe(self._changed.set)

        self._unsubscribe = self._repository.subscribe(on_change)
        await self._tell_health()
        self._telling = asyncio.create_task(self._keep_telling_health())
        await self._server.start()
        if self._health_server is not None:
            await self._health_server.start()
        self._unready = ""
        self.pauses.start()
        self._watching = asyncio.create_task(self._access.watch())
        if self._watcher is not None:
            self._watcher.start()

    def reload(self) -> None:
        """Looks for new versions now, without waiting for what comes of it."""
        if self._watcher is None:
            _log.warning("asked to look for new models, which is switched off")
        else:
            self._watcher.request_scan()

    async def stop(self, grace_s: float | None = None) -> None:
        """Reports NOT_SERVING and takes no more calls; those under way go on for a while.

        Args:
            grace_s: How long at most, from now; None is what the configuration says.
        """
        grace_s = self._config.grace_s if grace_s is None else grace_s
        ends_at = time.monotonic() + grace_s
        self._unready = "going down"
        if self._unsubscribe is not None:
            self._unsubscribe()
        for task in (self._watching, self._telling):
            if task is not None:
                task.cancel()
        await self._health.enter_graceful_shutdown()
        self.service.stop_streams()
        self.inference.stop()
        await self._calls.take_leave(min(_LEAVING_S, grace_s))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(max(0.0, ends_at - time.monotonic())):
                await self._calls.none_left()
        self.cut()
        await self._server.stop(0)
        self.pauses.stop()
        if self._watcher is not None:
            await asyncio.to_thread(self._watcher.stop)
        if self._health_server is not None:
            await self._health_server.stop(0)
        await asyncio.to_thread(self.service.close)
        await asyncio.to_thread(self._observer.close)
        if self.http is not None:
            await asyncio.to_thread(self.http.close)

    @property
    def num_calls(self) -> int:
        """Calls and streams under way."""
        return self._calls.num_open

    def cut(self) -> None:
        """Ends all connections; calls under way end UNAVAILABLE. May be called from any thread."""
        for address in (self.address, self.health_address):
            if address:
                cut(address)

    def leave(self) -> None:
        """Lets go, in a moment, of what would outlive the process or keep callers waiting."""
        self.cut()
        if self._watcher is not None:
            self._watcher.kill()

    async def _keep_telling_health(self) -> None:
        while True:
            await self._changed.wait()
            self._changed.clear()
            await self._tell_health()

    async def _tell_health(self) -> None:
        """To whoever asks for health, each model is a service of its name."""
        answering = {one.name for one in self._repository.served}
        self._named |= answering | {one.name for one in self._repository.rejected}
        states = {name: name in answering for name in self._named}
        states |= dict.fromkeys(
            (health.OVERALL_HEALTH, SERVICE_NAME, INFERENCE_NAME), bool(answering)
        )
        status = health_pb2.HealthCheckResponse
        for name, is_well in states.items():
            await self._health.set(name, status.SERVING if is_well else status.NOT_SERVING)

    async def _statistics(self, path: Path) -> Statistics:
        if self._siblings is not None:
            return await self._siblings.statistics(path)
        return self.counting.of(path)

    def _refresh(self) -> Callable[[], Awaitable[None]] | None:
        """Looks for new versions and waits for what comes of it; None where nobody ever looks."""
        if self._config.reload == "off":
            return None
        if self._siblings is not None:
            return self._siblings.refresh
        if self._watcher is None:
            return None
        return functools.partial(asyncio.to_thread, self._watcher.scan)

    def _backing(self) -> Dependencies:
        settings = self._config.service
        return Dependencies(
            repository=self._repository,
            engine=self.service.engine,
            budget=self.service.budget,
            limits=settings.request_limits,
            statistics=self._statistics,
            shares=self.service.shares,
            slow_images=self.service.slow_images,
            max_streams=settings.max_streams,
            stream_idle_s=settings.stream_idle_s,
            refresh=self._refresh(),
            observer=self._observer,
        )


def loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """uvloop, where it is: it takes less CPU for each call. Windows has asyncio's own alone."""
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop


def open_repository(config: ServerConfig) -> Repository:
    """Loads what a server of this configuration serves.

    Raises:
        BundleError: There is nothing to serve.
        ProviderError: The device that was asked for cannot be used.
        SigningError: A public key cannot be used.
    """
    return Repository(
        config.models,
        config.device,
        num_threads=config.num_threads,
        versions=config.versions,
        public_keys=config.public_keys,
        max_batch_size=config.service.max_batch_size,
        tf32=config.tf32,
    )


def _telling(listeners: Sequence[Callable[[Completion], None]]) -> Callable[[Completion], None]:
    """One listener that tells several."""

    def tell(ended: Completion) -> None:
        for listener in listeners:
            listener(ended)

    return tell


def allow_many_connections() -> None:
    """Lets the process open what the system allows: shells often start at 1024 files."""
    try:
        import resource
    except ImportError:  # not on Windows, which has no such limit
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = _MAX_FILES if hard == resource.RLIM_INFINITY else min(_MAX_FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < most:
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


def _metrics(config: ServerConfig, repository: ModelRegistry) -> Metrics | None:
    if config.http is None:
        return None
    # Loaded only where they are asked for: a server without them starts sooner and is smaller.
    from limelens.serve.observing.metrics import Metrics

    return Metrics(repository)


def _traces(config: ServerConfig) -> list[Observer]:
    if config.trace_to is None:
        return []
    from limelens.serve.observing.tracing import tracing_to

    return [tracing_to(config.trace_to)]


def _telling_health(
    servicer: Any, listen: str, *, shares_port: bool
) -> tuple[grpc.aio.Server, str]:
    """A server that tells the health and nothing else, and its address."""
    server = grpc.aio.server(
        interceptors=[WatcherLimit(_MAX_PROBES // 2)],
        options=_options(_MAX_PROBE_BYTES, shares_port=shares_port),
        maximum_concurrent_rpcs=_MAX_PROBES,
    )
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    taken = bind(server, listen, option="--health-listen")
    return server, f"{listen.rpartition(':')[0]}:{taken}"


_giving_back: Final[set[asyncio.Task[None]]] = set()
"""Holds the tasks until they are done: the event loop does not."""


def _give_back(server: grpc.aio.Server) -> None:
    """Frees the port of a server that never began: gRPC does so only for one that ran."""

    async def begin_and_end() -> None:
        await server.start()
        await server.stop(0)

    task = asyncio.get_running_loop().create_task(begin_and_end())
    _giving_back.add(task)
    task.add_done_callback(_giving_back.discard)


def _burst_options() -> list[tuple[str, Any]]:
    """So that a burst meets our own limits, which are fair and say when to try again.

    Above its own limit of calls that nobody has picked up, gRPC ends those of anybody.
    """
    return [
        ("grpc.server.max_pending_requests", _NO_LIMIT),
        ("grpc.server.max_pending_requests_hard_limit", _NO_LIMIT),
    ]


def _options(max_message_bytes: int, *, shares_port: bool) -> list[tuple[str, Any]]:
    return [
        ("grpc.max_receive_message_length", max_message_bytes),
        ("grpc.max_send_message_length", max_message_bytes),
        # Two servers on one port each get some of the connections. Where they are not meant to,
        # nobody would notice.
        ("grpc.so_reuseport", int(shares_port)),
        # Cameras behind routers that forget silent connections may ping, even between streams.
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
        # Clients that vanished are noticed.
        ("grpc.keepalive_time_ms", 60_000),
        ("grpc.keepalive_timeout_ms", 20_000),
    ]
