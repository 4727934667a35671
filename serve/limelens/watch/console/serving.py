"""Serves the page by uvicorn in a thread, and refuses to where that would be unsafe."""

from __future__ import annotations

import contextlib
import ipaddress
import logging
import socket
import ssl
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import uvicorn
from cryptography import x509

from limelens.serve.access.watched import Watched
from limelens.serve.addresses import is_loopback_host, parse_address
from limelens.serve.errors import AccessPolicyError, ListenError
from limelens.watch.console.access.visitors import Visitors
from limelens.watch.console.addresses import OWN, Network
from limelens.watch.console.app import application, navigation
from limelens.watch.console.changes import Changes
from limelens.watch.console.connections import LimitedSocket, WatchedProtocol
from limelens.watch.console.rendering import Pages
from limelens.watch.console.settings import ConsoleSettings
from limelens.watch.console.state import AppState
from limelens.watch.console.timings import Timings
from limelens.watch.live import LiveCameras

if TYPE_CHECKING:
    from limelens.serve.client import Client
    from limelens.watch.record import Record

_START_S: Final = 30.0
_STOP_S: Final = 5.0
_log = logging.getLogger(__name__)


class Console:
    """The page, listening from its construction until it is closed; arguments as of `serve`."""

    def __init__(
        self,
        settings: ConsoleSettings,
        live: LiveCameras | None,
        record: Record | None,
        client: Callable[[], Client] | None,
        problems: Callable[[], Sequence[str]],
    ) -> None:
        many = [*_proxies(settings), *OWN]
        listening = LimitedSocket(_listen(settings), many)
        self._closing = threading.Event()
        try:
            pair = _watched_pair(settings)
            host, port = parse_address(settings.listen).host, listening.getsockname()[1]
            names = {host, *settings.hosts, *_certificate_names(settings)}
            self._changes = Changes(live)
            visitors = Visitors(settings, port)
            pages = Pages(navigation(live, record, client))
            state = AppState(
                settings,
                live,
                record,
                client,
                problems,
                self._changes,
                Timings(live or LiveCameras()),
                visitors,
                pages,
            )
            self._started = threading.Event()
            self._server = uvicorn.Server(
                _config(settings, application(state, names, self._started.set))
            )
        except BaseException:
            listening.close()
            raise
        scheme = "http" if settings.tls_cert is None else "https"
        shown = f"[{host}]" if ":" in host else host
        self.address: Final = f"{scheme}://{shown}:{port}"
        self._thread = threading.Thread(
            target=self._server.run,
            kwargs={"sockets": [listening]},
            name="limelens-console",
            daemon=True,
        )
        self._thread.start()
        if pair is not None:
            renewing = threading.Thread(
                target=self._renew,
                args=(pair, settings.reread_s),
                name="limelens-console-tls",
                daemon=True,
            )
            renewing.start()
        if not self._started.wait(_START_S):
            self.close()
            raise ListenError(f"the page at {self.address} did not start within {_START_S:g} s")

    def close(self) -> None:
        """Stops listening and ends all connections."""
        self._closing.set()
        self._changes.close()
        self._server.should_exit = True
        self._thread.join(_STOP_S)

    def _renew(self, pair: Watched[tuple[Path, Path]], reread_s: float) -> None:
        """Uses a renewed certificate for new connections; a pair that does not fit is logged."""
        while not self._closing.wait(reread_s):
            context = self._server.config.ssl
            if pair.reread() and context is not None:
                context.load_cert_chain(*pair.value, "")


def _config(settings: ConsoleSettings, app: Any) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        http=WatchedProtocol,
        ws="none",
        loop="asyncio",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=bool(settings.trusted_proxies),
        forwarded_allow_ips=list(settings.trusted_proxies),
        timeout_graceful_shutdown=3,
        ssl_certfile=settings.tls_cert,
        ssl_keyfile=settings.tls_key,
    )


def _listen(settings: ConsoleSettings) -> socket.socket:
    """The socket.

    Raises:
        ListenError: The address cannot be used, or not like this.
    """
    try:
        host, port = parse_address(settings.listen)
    except ValueError as error:
        raise ListenError(f"for the page, {error}") from error
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError as error:
        raise ListenError(
            f"cannot serve the page on {settings.listen}: {error.strerror or error}; expected an "
            "address of this machine, such as 127.0.0.1:8600"
        ) from error
    family, _, _, _, address = found[0]
    if not is_loopback_host(str(address[0])):
        _check_beyond(settings)
    _check_tls(settings)
    try:
        return socket.create_server((address[0], address[1]), family=family)
    except OSError as error:
        raise ListenError(
            f"cannot serve the page on {settings.listen}: {error.strerror}; the port is taken, or "
            "the address is not this machine's: listen on another"
        ) from error


def _proxies(settings: ConsoleSettings) -> list[Network]:
    """The proxies that are trusted.

    Raises:
        AccessPolicyError: One is no address, or everybody is.
    """
    found: list[Network] = []
    for text in settings.trusted_proxies:
        network: Network | None = None
        with contextlib.suppress(ValueError):
            network = ipaddress.ip_network(text, strict=False)
        if network is None or not network.prefixlen:
            raise AccessPolicyError(
                f"{text!r} cannot be trusted as a proxy; expected the proxy's own address, such as "
                "10.0.0.2: whoever is trusted may claim any address, and dodge the limit on wrong "
                "logins"
            )
        found.append(network)
    return found


def _check_beyond(settings: ConsoleSettings) -> None:
    if settings.users is None:
        raise ListenError(
            f"{settings.listen} can be reached from other machines, where the page needs a login: "
            "name a file of users (limelens console users add NAME makes one), or listen on "
            "127.0.0.1"
        )
    if settings.tls_cert is None and not settings.insecure:
        raise ListenError(
            f"{settings.listen} can be reached from other machines, which could read passwords and "
            "images on the way: give tls_cert and tls_key, or insecure where a proxy in front ends "
            "TLS"
        )


def _check_tls(settings: ConsoleSettings) -> None:
    if (settings.tls_cert is None) != (settings.tls_key is None):
        raise AccessPolicyError("tls_cert and tls_key of the page are given together")
    if settings.tls_cert is None or settings.tls_key is None:
        return
    for file in (settings.tls_cert, settings.tls_key):
        if not file.is_file():
            raise AccessPolicyError(f"{file} is no file; expected a PEM file")
    _check_pair(settings.tls_cert, settings.tls_key)


def _watched_pair(settings: ConsoleSettings) -> Watched[tuple[Path, Path]] | None:
    """The certificate and its key, whose files are read again; None without."""
    cert, key = settings.tls_cert, settings.tls_key
    if cert is None or key is None:
        return None

    def checked(_: Sequence[bytes]) -> tuple[Path, Path]:
        _check_pair(cert, key)
        return cert, key

    return Watched((cert, key), checked, settle_s=0.2)


def _check_pair(cert: Path, key: Path) -> None:
    try:
        ssl.create_default_context().load_cert_chain(cert, key, "")
    except (ssl.SSLError, OSError, ValueError) as error:
        raise AccessPolicyError(
            f"{cert} and {key} cannot be used ({error}); expected a certificate chain and its "
            "private key, without a password, as PEM"
        ) from error


def _certificate_names(settings: ConsoleSettings) -> list[str]:
    """The names that the certificate is for."""
    if settings.tls_cert is None:
        return []
    certificate = x509.load_pem_x509_certificates(settings.tls_cert.read_bytes())[0]
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    except x509.ExtensionNotFound:
        return []
    return names.value.get_values_for_type(x509.DNSName)
