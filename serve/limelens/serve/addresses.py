"""Addresses of servers: `HOST:PORT` as in options, and gRPC's names."""

from __future__ import annotations

import ipaddress
from typing import Final, NamedTuple

from limelens.serve.redaction import without_secrets

_MAX_PORT: Final[int] = 65535


class Address(NamedTuple):
    """A host without brackets, and a port."""

    host: str
    port: int


def parse_address(text: str) -> Address:
    """Reads `HOST:PORT`, with IPv6 addresses in brackets."""
    if "://" in text or "@" in text:
        raise ValueError(
            f"{without_secrets(text)}; expected HOST:PORT without a scheme, such as 127.0.0.1:8500"
        )
    host, _, port = text.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:  # without brackets, an IPv6 address hides where the port begins
        host = ""
    is_port = port.isascii() and port.isdecimal() and int(port) <= _MAX_PORT
    if not host or not is_port or not set(host).isdisjoint("[]"):
        raise ValueError(f"{text!r}; expected HOST:PORT, such as 127.0.0.1:8500")
    return Address(host, int(port))


def is_unix(address: str) -> bool:
    """Whether a gRPC name is a socket of this machine."""
    return address.startswith(("unix:", "unix-abstract:"))


def is_loopback(address: str) -> bool:
    """Whether a gRPC name can only be this machine."""
    if is_unix(address):
        return True
    scheme, colon, rest = address.partition(":")
    if colon and scheme in ("ipv4", "ipv6"):
        return all(is_loopback_host(_host(one)) for one in rest.split(","))
    if colon and scheme == "dns":
        if rest.startswith("//"):  # dns://SERVER/HOST:PORT: the server may return any address
            server, _, rest = rest[2:].partition("/")
            if server:
                return False
        return is_loopback_host(_host(rest))
    return is_loopback_host(_host(address))


def is_loopback_host(host: str) -> bool:
    """Whether a host without a port can only be this machine."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.partition("%")[0]).is_loopback
    except ValueError:
        return False


def _host(address: str) -> str:
    if address.startswith("["):
        return address[1:].partition("]")[0]
    host, _, port = address.rpartition(":")
    return host if host and port.isdecimal() and ":" not in host else address
