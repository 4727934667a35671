"""Where a server listens: which addresses are refused, how a port is taken, gRPC's options.

It knows nothing of models and calls.
"""

from __future__ import annotations

import contextlib
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from limelens.serve.access.config import Tls
from limelens.serve.addresses import is_loopback_host, is_unix, parse_address
from limelens.serve.errors import ListenError

if TYPE_CHECKING:
    import grpc.aio

_CONNECT_S: Final = 1.0
_MAX_FILES: Final = 65536
_NO_LIMIT: Final = 2**31 - 1
BURST_OPTIONS: Final = (
    ("grpc.server.max_pending_requests", _NO_LIMIT),
    ("grpc.server.max_pending_requests_hard_limit", _NO_LIMIT),
    ("grpc.server_max_unrequested_time_in_server", _NO_LIMIT),
)
"""Leave bursts to our own limits, which are fair and say when to retry.

Above its own limit of pending calls, and of the 30 s that one may be pending on a busy machine,
gRPC ends calls of any client.
"""


def check_listen(listen: str, tls: Tls | None, *, production: bool, insecure: bool) -> None:
    """Refuses addresses that are malformed or would expose plaintext, which `insecure` allows.

    In production plaintext stays on this machine.
    """
    if is_unix(listen):
        return
    try:
        host, _ = parse_address(listen)
    except ValueError as error:
        raise ListenError(f"listen on {error}") from error
    if tls is not None or is_loopback_host(host):
        return
    if production:
        raise ListenError(
            f"--production, and {listen} can be reached from other machines without TLS, "
            "which --insecure does not change; give a certificate and a key (--tls-cert, "
            "--tls-key) or listen on 127.0.0.1"
        )
    if not insecure:
        raise ListenError(
            f"{listen} can be reached from other machines, and without TLS anybody in between can "
            "read and change the messages; give a certificate and a key "
            "(--tls-cert, --tls-key), listen on 127.0.0.1, or give --insecure"
        )


def bind(
    server: grpc.aio.Server, listen: str, tls: Tls | None = None, *, option: str = "--listen"
) -> int:
    """Takes a port or a socket for a server; returns the port, 1 for a socket.

    Raises:
        ListenError: The address is taken or is not this machine's, or a certificate is unusable.
    """
    credentials = None
    if tls is not None:
        from limelens.serve.access.certificates import server_credentials  # loads cryptography

        credentials = server_credentials(tls)
    if listen.startswith("unix:"):
        _check_socket(listen.removeprefix("unix:"))
    try:
        if credentials is None:
            port = server.add_insecure_port(listen)
        else:
            port = server.add_secure_port(listen, credentials)
    except RuntimeError:
        port = 0
    if port == 0:
        raise cannot_listen(listen, option)
    return port


def server_options(
    max_message_bytes: int, *, shares_port: bool, max_connection_age_s: float = 0.0
) -> list[tuple[str, Any]]:
    """GRPC's options for a server."""
    # Calls of a connection that is old may go on as long as they like.
    age = ("grpc.max_connection_age_ms", max(1, round(1000 * max_connection_age_s)))
    return [
        *([age] if max_connection_age_s else []),
        ("grpc.max_receive_message_length", max_message_bytes),
        ("grpc.max_send_message_length", max_message_bytes),
        # Two servers on one port each get some of the connections; this would go unnoticed.
        ("grpc.so_reuseport", int(shares_port)),
        # Cameras behind routers that forget silent connections may ping, even between streams.
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
        # Detects clients that vanished.
        ("grpc.keepalive_time_ms", 60_000),
        ("grpc.keepalive_timeout_ms", 20_000),
    ]


def allow_many_connections() -> None:
    """Raises the process's limit of open files: shells often start at 1024."""
    try:
        import resource
    except ImportError:  # Windows has no such limit
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = _MAX_FILES if hard == resource.RLIM_INFINITY else min(_MAX_FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < most:
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


def cannot_listen(listen: str, option: str) -> ListenError:
    """The error for an address that is taken or is not this machine's."""
    return ListenError(
        f"cannot listen on {listen}: the port is taken, or the address is not this machine's; "
        f"stop what listens there or choose another ({option} HOST:PORT)"
    )


def _check_socket(path: str) -> None:
    """Refuses a socket that another server answers on; gRPC would silently take it over."""
    if not path or not Path(path).parent.is_dir():
        raise ListenError(
            f"cannot listen on unix:{path}; expected unix:PATH in a folder that exists"
        )
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(_CONNECT_S)
        try:
            probe.connect(path)
        except (FileNotFoundError, ConnectionRefusedError):  # no server, or one that has ended
            return
        except (TimeoutError, BlockingIOError):  # a server that is too busy to answer
            pass
        except OSError as error:
            raise ListenError(f"cannot listen on unix:{path}: {error}") from error
    raise ListenError(
        f"cannot listen on unix:{path}: another server answers there; stop it or choose "
        "another (--listen unix:PATH)"
    )
