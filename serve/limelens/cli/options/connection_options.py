"""The options of commands that call a server, and their error messages if that fails.

`securely` gives a command these options; `connect` opens a client by them.
`limelens.serve.tools.doctor` finds out why a server cannot be reached.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from limelens.cli.options import in_place_of
from limelens.serve.addresses import parse_address
from limelens.serve.errors import (
    AccessPolicyError,
    BundleError,
    LimelensError,
    MissingExtraError,
    NotOfferedError,
    PermissionDeniedError,
    UnauthenticatedError,
    UnavailableError,
)

if TYPE_CHECKING:
    from limelens.serve.client import Client, Tls

TOKEN_VARIABLE: Final = "LIMELENS_TOKEN"
OF_THE_SERVER: Final = (
    UnavailableError, UnauthenticatedError, PermissionDeniedError,
    # No detector, for faces:
    NotOfferedError, BundleError, MissingExtraError,
)  # fmt: skip
"""Errors that concern every image alike."""
_option: Final = functools.partial(typer.Option, rich_help_panel="A server beyond this machine")
_PROBE_S: Final = 3.0


@dataclass(frozen=True)
class Credentials:
    """TLS and the token of a connection, as of `Client`."""

    tls: Tls | None = None
    token: str | Callable[[], str] | None = field(default=None, repr=False)
    insecure_token: bool = False


NOTHING: Final = Credentials()


def read_credentials(
    tls: Annotated[
        bool, _option("--tls", help="Use TLS and the authorities that this system trusts.")
    ] = False,
    ca: Annotated[
        Path | None,
        _option(metavar="FILE", help="Use TLS and trust this authority's certificate, PEM."),
    ] = None,
    cert: Annotated[
        Path | None,
        _option(metavar="FILE", help="Use TLS and send this certificate, PEM; with --key."),
    ] = None,
    key: Annotated[Path | None, _option(metavar="FILE", help="The private key of --cert.")] = None,
    server_name: Annotated[
        str | None,
        _option(
            metavar="NAME",
            help="The name in the server's certificate.",
            show_default="the host in its address",
        ),
    ] = None,
    token_file: Annotated[
        Path | None,
        _option(
            metavar="FILE",
            help=f"A file that holds the token, read for each call; the variable {TOKEN_VARIABLE} "
            "holds the token itself.",
        ),
    ] = None,
    insecure_token: Annotated[
        bool,
        _option(
            "--insecure-token",
            help="Send the token in plaintext, which anybody in between can read.",
        ),
    ] = False,
) -> Credentials:
    """Turns the options into credentials; an `AccessPolicyError` names a file that is unusable."""
    if (cert is None) != (key is None):
        raise typer.BadParameter("--cert and --key are given together")
    for file in (ca, cert, key):
        if file is not None and not file.is_file():
            raise AccessPolicyError(f"{file} is no file; expected a PEM file")
    found = None
    if tls or ca is not None or cert is not None:
        from limelens.serve.client import Tls
        from limelens.serve.client.authorities import system_authorities

        found = Tls(ca or system_authorities(), cert, key, server_name)
    elif server_name is not None:
        raise typer.BadParameter("--server-name needs TLS: --ca FILE or --tls")
    token: str | Callable[[], str] | None = None
    if token_file is not None:
        token = functools.partial(_read_token, token_file)
        token()  # an unusable file fails before anything begins
    elif os.environ.get(TOKEN_VARIABLE):
        token = os.environ[TOKEN_VARIABLE].strip()
    return Credentials(found, token, insecure_token)


securely: Final = in_place_of("credentials", read_credentials)
"""Gives a command the options of `read_credentials`, in place of its `credentials`."""


@contextmanager
def connect(server: str, credentials: Credentials = NOTHING) -> Iterator[Client]:
    """A client of a server; its errors say what to do.

    Raises:
        UnavailableError: The server cannot be reached; the message says why.
        UnauthenticatedError: The server does not know the caller.
        PermissionDeniedError: The caller may not do this.
    """
    from limelens.serve.client import Client

    try:
        with Client(server, **vars(credentials)) as client:
            yield client
    except UnavailableError as error:
        raise UnavailableError(_why(server, credentials, error)) from error
    except UnauthenticatedError as error:
        if credentials.token is None:
            raise UnauthenticatedError(
                f"{server} needs a token; put yours into a file and name it "
                f"(--token-file FILE), or set {TOKEN_VARIABLE}"
            ) from error
        raise UnauthenticatedError(f"{server} refuses the token: {error}") from error
    except PermissionDeniedError as error:
        raise PermissionDeniedError(f"{server} refuses: {error}") from error


def _why(server: str, credentials: Credentials, error: LimelensError) -> str:
    """Why a server cannot be reached, in one sentence."""
    from limelens.serve.tools.doctor import State, check_way, proxy_for

    if ":" not in server:
        return (
            f"{server} does not answer on port 443, which is tried without a port; expected "
            f"HOST:PORT, such as {server}:8500"
        )
    through = ""
    try:
        proxy = proxy_for(parse_address(server).host)
        if proxy is not None and proxy.is_usable:
            through = f" through the proxy {proxy.shown} ({proxy.variable}; {proxy.way_around})"
        for check in check_way(server, credentials.tls, _PROBE_S):
            if check.state is State.WRONG:
                return str(check)
    except ValueError:
        return f"{server}: {error}"
    return (
        f"{server} does not answer{through} ({error}); limelens doctor --server {server} finds out "
        "why"
    )


def _read_token(path: Path) -> str:
    try:
        token = path.read_text(encoding="ascii").strip()
    except OSError as error:
        raise AccessPolicyError(
            f"{path}: {error.strerror}; expected a file that holds a token"
        ) from error
    except UnicodeDecodeError:
        token = ""
    if not token or any(one.isspace() for one in token):
        raise AccessPolicyError(f"{path} does not hold one token and nothing else")
    return token
