"""The proxy that gRPC would use for a server, and whether it lets calls through.

It knows the variables that gRPC reads and HTTP's CONNECT, and nothing of the server itself.
"""

from __future__ import annotations

import base64
import ipaddress
import os
import socket
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import unquote

from limelens.serve.addresses import is_loopback_host
from limelens.serve.redaction import without_secrets
from limelens.serve.tools.doctor.check import Check, ok, warning, wrong

# As gRPC's core reads them: in lower case only, the first that is set counts.
_VARIABLES: Final = ("grpc_proxy", "https_proxy", "http_proxy")
_EXCEPTIONS: Final = ("no_grpc_proxy", "no_proxy")
_USUAL_PORT: Final = 443
_FOUND: Final = b" 200"


@dataclass(frozen=True)
class Proxy:
    """A proxy from an environment variable.

    `shown` leaves out its password. `host` is empty if gRPC cannot use the value; it then connects
    directly. `credentials` is `USER:PASSWORD` or empty.
    """

    variable: str
    shown: str
    host: str
    port: int
    credentials: str = field(default="", repr=False)

    @property
    def is_usable(self) -> bool:
        """Whether gRPC would use it."""
        return bool(self.host)

    @property
    def way_around(self) -> str:
        """How to avoid the proxy."""
        return f"add the server's host to no_proxy, or unset {self.variable}"


def proxy_for(host: str) -> Proxy | None:
    """The proxy that gRPC uses for a host without a port; None if it connects directly.

    For this machine limelens uses no proxy.
    """
    if is_loopback_host(host) or _is_excepted(host):
        return None
    variable = next((name for name in _VARIABLES if name in os.environ), "")
    value = os.environ.get(variable, "")
    if not value:
        return None
    scheme, separator, rest = value.partition("://")
    credentials, _, place = rest.partition("/")[0].rpartition("@")
    shown = without_secrets(value) if separator else "what it holds"
    name, colon, port = place.rpartition(":")
    if not colon or port.endswith("]"):
        name, port = place, str(_USUAL_PORT)
    if scheme.lower() != "http" or not name or not port.isdecimal():
        return Proxy(variable, shown, "", 0)
    return Proxy(variable, shown, name.strip("[]"), int(port), unquote(credentials))


def check_proxy(proxy: Proxy, server: str, timeout_s: float) -> Check:
    """Whether a proxy can be reached and lets calls through to a server, `HOST:PORT`."""
    if not proxy.is_usable:
        return warning(
            "proxy",
            f"{proxy.variable} is {proxy.shown}, which gRPC cannot use: it connects directly",
            "expected http://HOST:PORT",
        )
    through = f"gRPC goes through the proxy {proxy.shown} ({proxy.variable})"
    headers = [f"CONNECT {server} HTTP/1.1", f"Host: {server}"]
    if proxy.credentials:
        encoded = base64.b64encode(proxy.credentials.encode()).decode()
        headers.append(f"Proxy-Authorization: Basic {encoded}")
    try:
        with socket.create_connection((proxy.host, proxy.port), timeout_s) as connection:
            connection.settimeout(timeout_s)
            connection.sendall("\r\n".join([*headers, "", ""]).encode())
            received = connection.recv(1024).partition(b"\r\n")[0]
    except OSError as error:
        reason = getattr(error, "strerror", None) or str(error)
        return wrong("proxy", f"{through}, which cannot be reached ({reason})", proxy.way_around)
    if _FOUND not in received[:16]:
        shown = received.decode("ascii", "replace")[:80] or "it hangs up"
        return wrong(
            "proxy",
            f"{through}, which does not let it through to {server} ({shown})",
            proxy.way_around,
        )
    return ok("proxy", f"{through}, which lets it through")


def _is_excepted(host: str) -> bool:
    variable = next((name for name in _EXCEPTIONS if name in os.environ), "")
    for entry in os.environ.get(variable, "").split(","):
        wanted = entry.strip().lower()
        if wanted and (host.lower().endswith(wanted) or _is_within(host, wanted)):
            return True
    return False


def _is_within(host: str, network: str) -> bool:
    if "/" not in network:
        return False
    try:
        return ipaddress.ip_address(host) in ipaddress.ip_network(network, strict=False)
    except ValueError:
        return False
