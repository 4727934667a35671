"""How a server is reached: its address, TLS, token, retries and keepalive.

It knows gRPC's options and opens nothing: each of the two clients opens its own kind of channel.
"""

from __future__ import annotations

import json
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Final, Literal, TypedDict

import grpc

from limelens.serve.addresses import is_loopback
from limelens.serve.client.channels import MAX_CONNECTIONS
from limelens.serve.client.requests import CallArguments, read_file
from limelens.serve.errors import ExpiredError, InvalidRequestError
from limelens.serve.redaction import without_secrets

Token = str | Callable[[], str] | Callable[[], Awaitable[str]]
"""A token, or a function that gives a fresh one for each call. Only `AsyncClient` takes one that
returns an awaitable."""
LoadBalancing = Literal["pick_first", "round_robin"]
Metadata = tuple[tuple[str, str], ...]

MAX_REQUEST_BYTES: Final = 7 * 1024 * 1024
"""Limit on the bytes of images that the client puts into one request: gRPC can retry that many."""
_RETRY_BUFFER_BYTES: Final = 8 * 1024 * 1024
_MAX_MESSAGE_BYTES: Final = 256 * 1024 * 1024
_SERVICE: Final = "limelens.v1.ClassifierService"
# Not the cameras' stream: frames would be old when they are sent again.
_RETRIED: Final = ("Classify", "Embed", "Explain", "ExplainStream", "ListModels", "GetModel")
_MAX_RECONNECT_MS: Final = 10_000
_MOST_CONNECTIONS: Final = 64
_SCHEME: Final = re.compile(r"(https?|grpcs?|tcp)://", re.IGNORECASE)
_TOKEN: Final = re.compile(r"[!-~]+")
_REQUEST_ID: Final = re.compile(r"[ -~]{1,64}")


@dataclass(frozen=True)
class Tls:
    """Certificates of a TLS connection.

    Args:
        ca: The authority that signs servers' certificates, a PEM file; None is the system's
            authorities.
        certificate: The client's own chain, a PEM file, if the server asks for one.
        key: Its private key, a PEM file.
        server_name: The name in the server's certificate, if it differs from the address.
    """

    ca: Path | None = None
    certificate: Path | None = None
    key: Path | None = None
    server_name: str | None = None


class ConnectArguments(TypedDict, total=False):
    """The keyword arguments of `Client` and `AsyncClient`; see `Connection`."""

    tls: Tls | None
    token: Token | None
    insecure_token: bool
    timeout_s: float | None
    max_attempts: int
    keepalive_s: float
    load_balancing: LoadBalancing
    max_connections: int


@dataclass(frozen=True)
class Connection:
    """How a server is reached.

    Args:
        address: `HOST:PORT`, or another of gRPC's names: `dns:///HOST:PORT` for all addresses of
            a host, `ipv4:A:PORT,B:PORT` for a list, `unix:PATH` for a socket of this machine.
        tls: None is plaintext.
        token: Sent with each call as `authorization: Bearer …`; a function is called for each.
        insecure_token: Whether the token may be sent in plaintext to other machines.
        timeout_s: Deadline of a call that names none itself; None is no deadline.
        max_attempts: How often a call is tried, 1 to 5.
        keepalive_s: Seconds of silence after which the client pings the server, which allows 10 or
            more.
        load_balancing: `pick_first` stays with one address, `round_robin` takes them in turn.
        max_connections: Over how many connections to spread calls that are under way at once,
            1 to 64; there is only one while calls follow one another.

    Raises:
        InvalidRequestError: The address is a web address, the token would be sent in plaintext
            to another machine, a certificate lacks its key, or `max_connections` is out of range.
    """

    address: str
    tls: Tls | None = None
    token: Token | None = field(default=None, repr=False)
    insecure_token: bool = False
    timeout_s: float | None = 60.0
    max_attempts: int = 4
    keepalive_s: float = 30.0
    load_balancing: LoadBalancing = "pick_first"
    max_connections: int = MAX_CONNECTIONS

    def __post_init__(self) -> None:
        if not 1 <= self.max_connections <= _MOST_CONNECTIONS:
            raise InvalidRequestError(
                "max_connections", f"{self.max_connections}; expected 1 to {_MOST_CONNECTIONS}"
            )
        if _SCHEME.match(self.address):
            raise InvalidRequestError(
                "address",
                f"{without_secrets(self.address)}; expected HOST:PORT without a scheme, such as "
                "127.0.0.1:8500 (TLS is asked for by tls=Tls(…))",
            )
        tls = self.tls
        if tls is not None and (tls.certificate is None) is not (tls.key is None):
            raise InvalidRequestError(
                "tls", "a certificate without its key or a key alone; expected both or neither"
            )
        if (
            self.token is not None
            and tls is None
            and not self.insecure_token
            and not is_loopback(self.address)
        ):
            raise InvalidRequestError(
                "token",
                f"to be sent to {self.address} in plaintext, where anybody in between can read "
                "it; expected tls=Tls(…), an address of this machine, or insecure_token=True",
            )

    @cached_property
    def credentials(self) -> grpc.ChannelCredentials | None:
        """Credentials for TLS; None is plaintext.

        Raises:
            UnreadableFileError: A certificate cannot be read.
        """
        if self.tls is None:
            return None
        return grpc.ssl_channel_credentials(
            *(
                None if path is None else read_file(path, "a PEM file")
                for path in (self.tls.ca, self.tls.key, self.tls.certificate)
            )
        )

    def channel(self, api: Any, *more: tuple[str, Any]) -> Any:
        """A channel that is not connected yet.

        Args:
            api: `grpc` or `grpc.aio`.
            more: Further options.
        """
        options = [*self.options(), *more]
        if self.credentials is None:
            return api.insecure_channel(self.address, options)
        return api.secure_channel(self.address, self.credentials, options)

    def options(self) -> list[tuple[str, Any]]:
        """Options of the channel."""
        options: list[tuple[str, Any]] = [
            ("grpc.service_config", json.dumps(self._service_config())),
            # Otherwise all channels of this process to one address would share one connection.
            ("grpc.use_local_subchannel_pool", 1),
            ("grpc.max_receive_message_length", _MAX_MESSAGE_BYTES),
            ("grpc.max_send_message_length", _MAX_MESSAGE_BYTES),
            # Larger requests are not retried: the default would leave out most images.
            ("grpc.per_rpc_retry_buffer_size", _RETRY_BUFFER_BYTES),
            ("grpc.keepalive_time_ms", round(self.keepalive_s * 1000)),
            ("grpc.keepalive_timeout_ms", 10_000),
            # Routers forget connections that are silent between calls too, and an explanation
            # that takes minutes sends nothing meanwhile.
            ("grpc.keepalive_permit_without_calls", 1),
            ("grpc.http2.max_pings_without_data", 0),
            # The default of two minutes is too long for a door.
            ("grpc.initial_reconnect_backoff_ms", 200),
            ("grpc.max_reconnect_backoff_ms", _MAX_RECONNECT_MS),
        ]
        return [*options, *address_options(self.address, self.tls)]

    def timeout_of(self, arguments: CallArguments) -> float | None:
        """The deadline of one call, in seconds from now; None is no deadline.

        Raises:
            ExpiredError: It has passed. grpc.aio would take 0 for no deadline at all, and the
                blocking gRPC may have a response before it checks.
        """
        timeout_s = arguments.get("timeout_s")
        if timeout_s is None:
            timeout_s = self.timeout_s
        if timeout_s is not None and timeout_s <= 0:
            raise ExpiredError("the deadline passed before the call began")
        return timeout_s

    def metadata(self, token: str | None, request_id: str | None) -> Metadata | None:
        """The headers of a call, from its token and its id in the server's log; None without any.

        Raises:
            InvalidRequestError: One of them has a character that no header may have.
        """
        found = []
        if token is not None:
            if not _TOKEN.fullmatch(token):  # never printed: it may be a valid one with a newline
                raise InvalidRequestError(
                    "token", f"{len(token)} characters; expected printable ASCII without spaces"
                )
            found.append(("authorization", f"Bearer {token}"))
        if request_id is not None:
            if not _REQUEST_ID.fullmatch(request_id):
                raise InvalidRequestError(
                    "request_id", f"{request_id!r}; expected 1 to 64 printable ASCII characters"
                )
            found.append(("x-request-id", request_id))
        return tuple(found) or None

    def _service_config(self) -> dict[str, Any]:
        config: dict[str, Any] = {"loadBalancingConfig": [{self.load_balancing: {}}]}
        if self.max_attempts > 1:
            config["methodConfig"] = [
                {
                    "name": [{"service": _SERVICE, "method": name} for name in _RETRIED],
                    "retryPolicy": {
                        "maxAttempts": self.max_attempts,
                        "initialBackoff": "0.1s",
                        "maxBackoff": "2s",
                        "backoffMultiplier": 2,
                        # gRPC's own server cancels calls that came as it stops.
                        "retryableStatusCodes": ["UNAVAILABLE", "RESOURCE_EXHAUSTED", "CANCELLED"],
                    },
                }
            ]
            # If most calls fail, retrying each would keep a server from recovering.
            config["retryThrottling"] = {"maxTokens": 20, "tokenRatio": 0.2}
        return config


def address_options(address: str, tls: Tls | None = None) -> list[tuple[str, Any]]:
    """Options that every channel to an address needs, in TLS or, with None, in plaintext."""
    options: list[tuple[str, Any]] = []
    if is_loopback(address):
        # Nothing that stays on this machine may go through a proxy, least of all a token.
        options.append(("grpc.enable_http_proxy", 0))
    if tls is not None and tls.server_name is not None:
        options.append(("grpc.ssl_target_name_override", tls.server_name))
    return options
