"""Reserves an address for several processes that will listen on it side by side.

SO_REUSEPORT lets every process of a user join unnoticed, even one of another server. So this module
first proves that nothing listens there; then a socket that is bound and never listens keeps out
other servers, which make the same check. It knows no gRPC.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator

from limelens.serve.addresses import parse_address
from limelens.serve.rpc.transport.listening import cannot_listen


@contextlib.contextmanager
def held(listen: str, *, option: str = "--listen") -> Iterator[str]:
    """Reserves an address within the context, and yields it with the number of its port."""
    host, port = parse_address(listen)
    with contextlib.ExitStack() as holding:
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
            for family, _, _, _, address in found:
                # All addresses of a name get the same port.
                holder = _hold(family, (address[0], port, *address[2:]))
                port = holding.enter_context(holder).getsockname()[1]
        except OSError as error:
            raise cannot_listen(listen, option) from error
        yield f"{listen.rpartition(':')[0]}:{port}"


def _hold(family: int, address: tuple[object, ...]) -> socket.socket:
    with socket.socket(family, socket.SOCK_STREAM) as proof, contextlib.ExitStack() as undoing:
        # SO_REUSEADDR: lingering connections of a server that is gone do not count.
        proof.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            proof.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        proof.bind(address)
        proof.listen()  # binding alone would succeed beside a socket that is only bound
        holder = undoing.enter_context(socket.socket(family, socket.SOCK_STREAM))
        if family == socket.AF_INET6:
            holder.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        for option in (socket.SO_REUSEADDR, socket.SO_REUSEPORT):
            holder.setsockopt(socket.SOL_SOCKET, option, 1)
        proof.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)  # lets the holder in
        holder.bind(proof.getsockname())
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)  # or other proofs would pass
        undoing.pop_all()
        return holder
