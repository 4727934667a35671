"""Where a server listens: which addresses are refused, and how a port or a socket is taken.

It knows nothing of models and calls.
"""

from __future__ import annotations

import socket
from pathlib import Path
from typing import TYPE_CHECKING, Final

from limelens.serve.access.config import Tls
from limelens.serve.addresses import is_loopback_host, is_unix, parse_address
from limelens.serve.errors import ListenError

if TYPE_CHECKING:
    import grpc.aio

_ASKING_S: Final = 1.0


def check_listen(listen: str, tls: Tls | None, *, production: bool, insecure: bool) -> None:
    """Refuses what is no address, or may not be listened on.

    Args:
        listen: `HOST:PORT` or `unix:PATH`.
        tls: None is plaintext.
        production: Plaintext is for this machine alone, whatever `insecure` says.
        insecure: Plaintext may be seen by others.

    Raises:
        ListenError: It is so.
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
            f"{listen} can be reached from other machines, and without TLS anybody in "
            "between can read and change what is said; give a certificate and a key "
            "(--tls-cert, --tls-key), listen on 127.0.0.1, or say --insecure"
        )


def check_health_listen(listen: str | None) -> None:
    """Refuses what is no address to tell the health on; None is none at all.

    Raises:
        ListenError: It is none.
    """
    if listen is None:
        return
    try:
        parse_address(listen)
    except ValueError as error:
        raise ListenError(f"for the health, {error}") from error


def bind(
    server: grpc.aio.Server, listen: str, tls: Tls | None = None, *, option: str = "--listen"
) -> int:
    """Takes a port or a socket for a server.

    Args:
        server: Was not started yet.
        listen: `HOST:PORT` or `unix:PATH`.
        tls: None is plaintext.
        option: By which the address was given, for messages.

    Returns:
        The port; 1 for a socket.

    Raises:
        ListenError: It is taken, or not this machine's, or the certificates cannot be used.
    """
    credentials = None
    if tls is not None:
        from limelens.serve.access.certificates import server_credentials  # loads cryptography

        credentials = server_credentials(tls)
    if listen.startswith("unix:"):
        _check_socket(listen.removeprefix("unix:"))
    port: int
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


def cannot_listen(listen: str, option: str) -> ListenError:
    """The error for an address that somebody else has, or nobody can have.

    Args:
        listen: The address.
        option: By which it was given.
    """
    return ListenError(
        f"cannot listen on {listen}: the port is taken, or the address is not this machine's; "
        f"stop what listens there or choose another ({option} HOST:PORT)"
    )


def _check_socket(path: str) -> None:
    """Refuses a socket that somebody answers on, which gRPC would take away from them in silence.

    Raises:
        ListenError: Somebody does, or there cannot be a socket.
    """
    if not path or not Path(path).parent.is_dir():
        raise ListenError(
            f"cannot listen on unix:{path}; expected unix:PATH in a folder that exists"
        )
    with socket.socket(socket.AF_UNIX) as asking:
        asking.settimeout(_ASKING_S)
        try:
            asking.connect(path)
        except (FileNotFoundError, ConnectionRefusedError):  # nobody, or a server that is gone
            return
        except (TimeoutError, BlockingIOError):  # somebody who is too busy to answer
            pass
        except OSError as error:
            raise ListenError(f"cannot listen on unix:{path}: {error}") from error
    raise ListenError(
        f"cannot listen on unix:{path}: another server answers there; stop it or choose "
        "another (--listen unix:PATH)"
    )
