"""Finds what is wrong with this machine, or with the connection to a server.

Each check is a small function that returns `Check`s and never raises for a problem; the command
line prints them. Nothing here needs more than the client's packages.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Unpack

from limelens.serve.client import ConnectArguments
from limelens.serve.tools.doctor.check import Check, State
from limelens.serve.tools.doctor.machine import check_machine
from limelens.serve.tools.doctor.proxies import Proxy, proxy_for
from limelens.serve.tools.doctor.rpc_checks import check_calls
from limelens.serve.tools.doctor.way import check_way

__all__ = [
    "Check",
    "Proxy",
    "State",
    "check_machine",
    "check_remote",
    "check_way",
    "proxy_for",
]


def check_remote(
    server: str,
    *,
    deep: bool = False,
    only_health: bool = False,
    **settings: Unpack[ConnectArguments],
) -> Iterator[Check]:
    """Checks a server: first the connection, then its calls.

    Args:
        server: `HOST:PORT`.
        deep: Whether to check an explanation too, which costs the server some work, and the
            largest message.
        only_health: Whether to check only its health, which needs no token.
        settings: As of `Client`; `timeout_s` is the deadline of each step.

    Yields:
        Checks as they are done; none of calls if the connection is wrong.

    Raises:
        ValueError: The server is not `HOST:PORT`.
    """
    is_wrong = False
    for check in check_way(server, settings.get("tls"), settings.get("timeout_s") or 5.0):
        is_wrong = is_wrong or check.state is State.WRONG
        yield check
    if not is_wrong:
        yield from check_calls(server, settings, deep=deep, only_health=only_health)
