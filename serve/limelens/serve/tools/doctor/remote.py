"""Checks a server from here: first the connection, then its calls.

It knows the order of the checks and when further ones are useless.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from limelens.serve.client import Tls, Token
from limelens.serve.tools.doctor.calls import check_calls
from limelens.serve.tools.doctor.certificates import check_tls
from limelens.serve.tools.doctor.check import Check, State
from limelens.serve.tools.doctor.network import check_connection, check_name, check_protocol
from limelens.serve.tools.doctor.proxies import check_proxy, proxy_for


@dataclass(frozen=True)
class Remote:
    """A server and how to reach it.

    Args:
        host: A name or an address.
        port: 1 to 65535.
        tls: None is plaintext.
        token: As of `Client`.
        insecure_token: Whether the token may be sent in plaintext to other machines.
        timeout_s: Of each step.
    """

    host: str
    port: int
    tls: Tls | None = None
    token: Token | None = field(default=None, repr=False)
    insecure_token: bool = False
    timeout_s: float = 5.0

    @property
    def address(self) -> str:
        """`HOST:PORT`, as gRPC takes it."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def check_remote(
    remote: Remote, *, deep: bool = False, only_health: bool = False
) -> Iterator[Check]:
    """Checks a server.

    Args:
        remote: The server.
        deep: Whether to check an explanation and the size of messages too, which costs the server
            some work.
        only_health: Whether to check only its health, which needs no token.

    Yields:
        Checks as they are done; none of calls if the connection is wrong.
    """
    is_wrong = False
    for check in check_way(remote):
        is_wrong = is_wrong or check.state is State.WRONG
        yield check
    if not is_wrong:
        yield from check_calls(
            remote.address,
            tls=remote.tls,
            token=remote.token,
            insecure_token=remote.insecure_token,
            timeout_s=remote.timeout_s,
            deep=deep,
            only_health=only_health,
        )


def check_way(remote: Remote) -> Iterator[Check]:
    """Checks the connection: a proxy; or the name, the port, its protocol and certificates."""
    proxy = proxy_for(remote.host)
    if proxy is not None:
        yield check_proxy(proxy, remote.address, remote.timeout_s)
        if proxy.is_usable:
            # Names and ports beyond the proxy may be invisible from here.
            return
    name, addresses = check_name(remote.host, remote.port)
    yield name
    if not addresses:
        return
    connection, address = check_connection(remote.address, addresses, remote.timeout_s)
    yield connection
    if address is None:
        return
    protocol = check_protocol(
        remote.address, address, wants_tls=remote.tls is not None, timeout_s=remote.timeout_s
    )
    yield protocol
    if remote.tls is not None and protocol.state is not State.WRONG:
        yield from check_tls(remote.host, address, remote.tls, remote.timeout_s)
