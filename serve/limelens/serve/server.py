"""The server process: listens, reports its health, and goes down without losing calls.

It knows ports, certificates, signals and the order of starting and stopping. What the calls do
is `limelens.serve.service`'s business.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import logging
import signal
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import grpc
import grpc.aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from limelens.serve.bundle.session import CPU, Device
from limelens.serve.calls import Calls
from limelens.serve.errors import ListenError
from limelens.serve.observing.observer import Observer, Observers
from limelens.serve.repository import Repository
from limelens.serve.scheduler import Ended
from limelens.serve.service import SERVICE_NAME, ClassifierService, ServiceSettings
from limelens.v1 import classifier_service_pb2_grpc as service_grpc

if TYPE_CHECKING:
    from limelens.serve.observing.http import HttpPort
    from limelens.serve.observing.metrics import Metrics

MAX_MESSAGE_BYTES: Final = 32 * 1024 * 1024
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Tls:
    """Certificates as PEM files. They are read again for every new connection.

    Args:
        certificate: The server's chain.
        key: Its private key.
        client_ca: Who signs clients' certificates; with it clients must show one.
    """

    certificate: Path
    key: Path
    client_ca: Path | None = None


@dataclass(frozen=True)
class ServerConfig:
    """How a server is set up.

    Args:
        models: The folder of models.
        listen: `HOST:PORT`; port 0 takes a free one.
        device: `auto`, `cpu` or `cuda`.
        num_threads: Of the CPU; None is one for each core that may be used.
        tls: Certificates; None is plaintext.
        insecure: Whether plaintext may be spoken beyond this machine.
        reflection: Whether clients may ask for the contract.
        max_message_bytes: Of one request or answer.
        max_calls: Calls and streams at a time, those about the server's health included; more are
            refused.
        grace_s: How long calls under way may go on when the server is told to stop.
        reload_s: How often the folder is looked at for new versions; 0 is never.
        service: How much is taken on.
        http: `HOST:PORT` of metrics and probes; None is nowhere.
        insecure_http: Whether other machines may reach that.
        trace_to: Where traces go, see `tracing_to`; None is nowhere.
        access_log: Whether calls that went well are logged at INFO too, not only at DEBUG.
    """

    models: Path
    listen: str = "127.0.0.1:8500"
    device: Device = "auto"
    num_threads: int | None = None
    tls: Tls | None = None
    insecure: bool = False
    reflection: bool = True
    max_message_bytes: int = MAX_MESSAGE_BYTES
    max_calls: int = 2048
    grace_s: float = 10.0
    reload_s: float = 0.0
    service: ServiceSettings = field(default_factory=ServiceSettings)
    http: str | None = None
    insecure_http: bool = False
    trace_to: str | None = None
    access_log: bool = False


class Server:
    """A server within an event loop; see `serve` for a process that does nothing else.

    Args:
        config: How it is set up.
        repository: What it serves.
        observers: Are told what happens, beside those that the configuration asks for.
        caller: Says who calls, within a call, for the log and for traces.

    Raises:
        ListenError: The address may not or cannot be listened on.
        MissingExtraError: Traces are asked for without what they need.
    """

    def __init__(
        self,
        config: ServerConfig,
        repository: Repository,
        *,
        observers: Iterable[Observer] = (),
        caller: Callable[[], str] = lambda: "",
    ) -> None:
        host = _host(config)
        self._config = config
        self._repository = repository
        metrics = _metrics(config, repository)
        self._observer = Observers([*observers, *([metrics] if metrics else []), *_traces(config)])
        self._calls = Calls(
            [SERVICE_NAME],
            self._observer,
            caller=caller,
            log_ok=logging.INFO if config.access_log else logging.DEBUG,
        )
        self._server = grpc.aio.server(
            interceptors=[self._calls],
            options=_options(config.max_message_bytes),
            maximum_concurrent_rpcs=config.max_calls,
        )
        port = _bind(self._server, config)
        self.address = f"{host}:{port}" if port > 1 else config.listen
        self.service = ClassifierService(
            repository,
            config.service,
            on_ended=_telling(self._observer.picture_ended),
            observer=self._observer,
        )
        self._health = health.aio.HealthServicer()
        service_grpc.add_ClassifierServiceServicer_to_server(  # type: ignore[no-untyped-call]
            self.service, self._server
        )
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        if config.reflection:
            names = [SERVICE_NAME, health.SERVICE_NAME, reflection.SERVICE_NAME]
            reflection.enable_server_reflection(names, self._server)
        self._reloading: asyncio.Task[None] | None = None
        self._unready = "starting"
        self.http: HttpPort | None = None
        if config.http is not None and metrics is not None:
            from limelens.serve.observing.http import HttpPort

            metrics.look_at(self.service)
            self.http = HttpPort(
                config.http, metrics.registry, self.why_unready, insecure=config.insecure_http
            )

    def why_unready(self) -> str:
        """Why no calls are welcome; empty while they are. May be asked from any thread."""
        return self._unready or ("" if self._repository.served else "no model is served")

    async def start(self) -> None:
        """Begins to answer."""
        await self._health.set(SERVICE_NAME, health_pb2.HealthCheckResponse.SERVING)
        await self._server.start()
        self._unready = ""
        if self._config.reload_s > 0:
            self._reloading = asyncio.create_task(self._reload())

    async def stop(self, grace_s: float | None = None) -> None:
        """Reports NOT_SERVING and takes no more calls; those under way go on for a while.

        Args:
            grace_s: How long at most; None is what the configuration says.
        """
        grace_s = self._config.grace_s if grace_s is None else grace_s
        self._unready = "going down"
        if self._reloading is not None:
            self._reloading.cancel()
        await self._health.enter_graceful_shutdown()
        self.service.stop_streams()
        stopping = asyncio.create_task(self._server.stop(grace_s))
        # Watchers of the health never leave by themselves: only our own calls are waited for.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(grace_s):
                await self._calls.none_left()
                # What was answered last must still reach its caller.
                await asyncio.sleep(0.05)
        await self._server.stop(0)
        await stopping
        await asyncio.to_thread(self.service.close)
        await asyncio.to_thread(self._observer.close)
        if self.http is not None:
            await asyncio.to_thread(self.http.close)

    async def _reload(self) -> None:
        while True:
            await asyncio.sleep(self._config.reload_s)
            try:
                await asyncio.to_thread(self._repository.refresh)
            # Whatever is wrong with the folder, what is loaded serves on.
            except Exception:
                _log.exception("the models could not be looked at again")


def serve(config: ServerConfig, announce: Callable[[str], Any] = print) -> int:
    """Serves until SIGTERM or SIGINT.

    Args:
        config: How the server is set up.
        announce: Is given one line once the server answers.

    Returns:
        The exit code, 0: the server was told to stop and did.

    Raises:
        BundleError: There is nothing to serve.
        ProviderError: The device that was asked for cannot be used.
        ListenError: The address may not or cannot be listened on.
    """
    _host(config)  # refused before the models are loaded
    if config.http is not None:
        from limelens.serve.observing.http import check_address

        check_address(config.http, insecure=config.insecure_http)
    repository = Repository(config.models, config.device, num_threads=config.num_threads)
    asyncio.run(_run(config, repository, announce))
    return 0


def ready_line(address: str, repository: Repository) -> str:
    """What is served, where and on what."""
    served = repository.served
    names = ", ".join(f"{one.name} {one.version}" for one in served)
    places = sorted(
        {
            f"{one.bundle.provider}, {one.bundle.num_threads} threads"
            if one.bundle.provider == CPU
            else one.bundle.provider
            for one in served
        }
    )
    return f"limelens: serving {names} on {address} ({'; '.join(places)})"


async def _run(
    config: ServerConfig, repository: Repository, announce: Callable[[str], Any]
) -> None:
    loop = asyncio.get_running_loop()
    told = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, told.set)
    server = Server(config, repository)
    await server.start()
    for one in repository.served:
        if one.bundle.provider_reason and config.device != "cpu":
            _log.warning("%s runs on the CPU: %s", one.name, one.bundle.provider_reason)
    line = ready_line(server.address, repository)
    _log.info("%s", line)
    if server.http is not None:
        _log.info("metrics and probes on http://%s", server.http.address)
    announce(line)
    await told.wait()
    _log.info("told to stop; calls under way have %g seconds", config.grace_s)
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.remove_signal_handler(number)  # a second signal ends the process at once
    await server.stop()
    _log.info("stopped")


def _telling(*listeners: Callable[[Ended], None]) -> Callable[[Ended], None]:
    """One callable that tells several."""

    def tell(ended: Ended) -> None:
        for listener in listeners:
            listener(ended)

    return tell


def _metrics(config: ServerConfig, repository: Repository) -> Metrics | None:
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


def _options(max_message_bytes: int) -> list[tuple[str, Any]]:
    return [
        ("grpc.max_receive_message_length", max_message_bytes),
        ("grpc.max_send_message_length", max_message_bytes),
        # Two servers on one port would each get some of the calls, and nobody would notice.
        ("grpc.so_reuseport", 0),
        # Cameras behind routers that forget silent connections may ping, even between streams.
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
        # Clients that vanished are noticed.
        ("grpc.keepalive_time_ms", 60_000),
        ("grpc.keepalive_timeout_ms", 20_000),
    ]


def _host(config: ServerConfig) -> str:
    host, colon, port = config.listen.rpartition(":")
    if config.listen.startswith("unix:"):
        return ""
    if not colon or not host or not port.isdecimal() or int(port) > 65535:
        raise ListenError(
            f"listen on {config.listen!r}; expected HOST:PORT, such as 127.0.0.1:8500"
        )
    if config.tls is None and not config.insecure and not _is_loopback(host):
        raise ListenError(
            f"{config.listen} can be reached from other machines, and without TLS anybody in "
            "between can read and change what is said; give a certificate and a key "
            "(--tls-cert, --tls-key), listen on 127.0.0.1, or say --insecure"
        )
    return host


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def _bind(server: grpc.aio.Server, config: ServerConfig) -> int:
    credentials = None if config.tls is None else _credentials(config.tls)
    port: int
    try:
        if credentials is None:
            port = server.add_insecure_port(config.listen)
        else:
            port = server.add_secure_port(config.listen, credentials)
    except RuntimeError as error:
        raise _cannot_listen(config.listen) from error
    if port == 0:
        raise _cannot_listen(config.listen)
    return port


def _cannot_listen(listen: str) -> ListenError:
    return ListenError(
        f"cannot listen on {listen}: the port is taken, or the address is not this machine's; "
        "stop what listens there or choose another (--listen HOST:PORT)"
    )


def _credentials(tls: Tls) -> grpc.ServerCredentials:
    last: list[tuple[bytes, ...]] = []

    def read() -> tuple[bytes, ...]:
        paths = [tls.key, tls.certificate, *([tls.client_ca] if tls.client_ca else [])]
        return tuple(path.read_bytes() for path in paths)

    def configuration(pems: tuple[bytes, ...]) -> Any:
        last[:] = [pems]
        return grpc.ssl_server_certificate_configuration(
            [(pems[0], pems[1])], pems[2] if len(pems) > 2 else None
        )

    def fetch() -> Any:
        """Called for every new connection: a certificate renewed on disk is used at once."""
        try:
            pems = read()
        except OSError as error:
            _log.error("the certificate cannot be read again, the old one is used: %s", error)
            return None
        return None if [pems] == last else configuration(pems)

    try:
        pems = read()
    except OSError as error:
        raise ListenError(
            f"{error.filename}: {error.strerror}; expected a certificate, its key and, where "
            "clients need one, a client CA as PEM files"
        ) from error
    return grpc.dynamic_ssl_server_credentials(
        configuration(pems), fetch, require_client_authentication=tls.client_ca is not None
    )
