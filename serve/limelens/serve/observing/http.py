"""A small HTTP server for metrics and probes.

waitress reads requests on one thread and handles complete ones on two others, so that slow clients
do not hold up the rest.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterable
from typing import Any, Final

import waitress
from prometheus_client import CollectorRegistry, make_wsgi_app

from limelens.serve.addresses import is_loopback_host, parse_address
from limelens.serve.errors import ListenError

MAX_CONNECTIONS: Final = 1000
_IDLE_S: Final = 10
_MAX_HEADERS: Final = 16 * 1024

_Address = tuple[Any, ...]
_StartResponse = Callable[[str, list[tuple[str, str]]], Any]


class HttpPort:
    """Listens from its construction until it is closed.

    `/metrics` returns the registry (as OpenMetrics if accepted), `/healthz` 200 while the process
    lives, `/readyz` 200 while the server accepts calls, else 503 and the reason.

    Args:
        reason: Why the server accepts no calls; empty while it does. Called from other threads.
    """

    def __init__(
        self,
        listen: str,
        registry: CollectorRegistry,
        reason: Callable[[], str],
        *,
        insecure: bool = False,
    ) -> None:
        family, address = check_address(listen, insecure=insecure)
        try:
            listening = socket.create_server(address, family=family)
        except OSError as error:
            raise ListenError(
                f"cannot listen on {listen} for HTTP: the port is taken, or the address is not "
                "this machine's; give another to --http"
            ) from error
        self._connections: dict[int, Any] = {}
        self._server: Any = waitress.create_server(
            _Application(registry, reason),
            map=self._connections,
            sockets=[listening],
            threads=2,
            connection_limit=MAX_CONNECTIONS,
            channel_timeout=_IDLE_S,
            cleanup_interval=_IDLE_S // 2,
            max_request_header_size=_MAX_HEADERS,
            max_request_body_size=1,
            asyncore_use_poll=True,  # select() cannot use files above 1024, which cameras take
            log_socket_errors=False,
            ident=None,
        )
        self.address = f"{listen.rpartition(':')[0]}:{listening.getsockname()[1]}"
        self._thread = threading.Thread(target=self._server.run, name="limelens-http", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stops listening and closes all connections."""
        # Its loop ends with the last connection, and only the loop may close connections.
        self._server.trigger.pull_trigger(self._drop)
        self._thread.join(_IDLE_S)
        self._server.task_dispatcher.shutdown()

    def _drop(self) -> None:
        for connection in list(self._connections.values()):
            connection.close()


class _Application:
    """The three pages, as WSGI."""

    def __init__(self, registry: CollectorRegistry, reason: Callable[[], str]) -> None:
        self._metrics = make_wsgi_app(registry)
        self._reason = reason

    def __call__(self, environ: dict[str, Any], start: _StartResponse) -> Iterable[bytes]:
        path = environ["PATH_INFO"]
        if path not in ("/metrics", "/healthz", "/readyz"):
            return _text(start, "404 Not Found", "expected /metrics, /healthz or /readyz")
        if environ["REQUEST_METHOD"] != "GET":
            return _text(start, "405 Method Not Allowed", "expected GET", ("Allow", "GET"))
        if path == "/metrics":
            metrics: Iterable[bytes] = self._metrics(environ, start)
            return metrics
        reason = self._reason() if path == "/readyz" else ""
        if reason:
            return _text(start, "503 Service Unavailable", reason)
        return _text(start, "200 OK", "ok")


def _text(
    start: _StartResponse, status: str, text: str, *headers: tuple[str, str]
) -> Iterable[bytes]:
    body = f"{text}\n".encode()
    start(
        status,
        [
            ("Content-Type", "text/plain; charset=utf-8"),
            ("Content-Length", str(len(body))),
            ("Cache-Control", "no-store"),
            *headers,
        ],
    )
    return [body]


def check_address(listen: str, *, insecure: bool = False) -> tuple[socket.AddressFamily, _Address]:
    """The family and the socket address of a `HOST:PORT` of this machine.

    Raises:
        ListenError: It is malformed, or other machines could connect without `insecure`.
    """
    try:
        host, port = parse_address(listen)
    except ValueError as error:
        raise ListenError(f"for HTTP, {error}") from error
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError as error:
        raise ListenError(
            f"cannot listen on {listen} for HTTP: {error.strerror or error}; expected an address "
            "of this machine, such as 127.0.0.1:8501"
        ) from error
    family, _, _, _, address = found[0]
    if not insecure and not is_loopback_host(str(address[0])):
        raise ListenError(
            f"{listen} can be reached from other machines, which could read the metrics without "
            "encryption or authentication; listen on 127.0.0.1, or give --insecure-http"
        )
    return family, address
