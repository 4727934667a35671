"""The clients of servers, one for each address; cameras share them. It knows no camera."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final

from limelens.serve.client import Client, Tls
from limelens.serve.client.authorities import system_authorities
from limelens.watch.cameras.settings import ServerSettings
from limelens.watch.secret import read_secret

_TIMEOUT_S: Final = 10.0


class Connections:
    """Open clients. Safe to use from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._clients: dict[ServerSettings, Client] = {}

    def client(self, server: ServerSettings) -> Client:
        """The client of a server; made if there is none.

        Raises:
            LimelensError: Its token cannot be read, or may not be sent in plaintext.
            OSError: A certificate cannot be read.
        """
        with self._lock:
            if server not in self._clients:
                self._clients[server] = connect(server)
            return self._clients[server]

    def keep_only(self, servers: Iterable[ServerSettings]) -> None:
        """Closes the clients of all other servers."""
        kept = set(servers)
        with self._lock:
            gone = [self._clients.pop(one) for one in list(self._clients) if one not in kept]
        for client in gone:
            client.close()


def connect(server: ServerSettings) -> Client:
    """A client of a server; raises as `Connections.client`."""
    return Client(
        server.address,
        tls=tls_of(server),
        token=_token(server.token_file, server.token_env),
        insecure_token=server.insecure_token,
        timeout_s=_TIMEOUT_S,
    )


def tls_of(server: ServerSettings) -> Tls | None:
    """The certificates of a connection; None is plaintext."""
    if not server.wants_tls:
        return None
    ca = server.tls_ca or system_authorities()
    return Tls(ca, server.tls_cert, server.tls_key, server.tls_server_name)


def _token(file: Path | None, variable: str | None) -> Callable[[], str] | None:
    if file is None and variable is None:
        return None

    def read() -> str:
        secret = read_secret("the server's token", file, variable)
        assert secret is not None
        return secret.get_secret_value()

    read()  # an unusable one is reported before anything begins
    return read
