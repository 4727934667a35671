"""Names, ports, and the protocol of a port. It knows the first bytes of protocols, and no calls."""

from __future__ import annotations

import socket
import ssl
import time
from collections.abc import Sequence
from enum import Enum
from typing import Final

from limelens.serve.addresses import is_loopback_host
from limelens.serve.tools.doctor.check import Check, ok, warning, wrong

Address = tuple[str, int]
"""An IP address and a port."""

# RFC 9113, section 3.4: the first bytes of a client, here with empty SETTINGS.
PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\x04\0\0\0\0\0"
_FRAME_HEADER: Final = 9
_SETTINGS_FRAME: Final = 4
_TLS_RECORDS: Final = (b"\x15\x03", b"\x16\x03")
_HTTP1: Final = b"GET / HTTP/1.1\r\nHost: doctor\r\nConnection: close\r\n\r\n"


class Spoken(Enum):
    """The protocol of a port."""

    HTTP2 = "HTTP/2 in plaintext, as gRPC without TLS does"
    TLS = "TLS"
    HTTP1 = "HTTP/1"
    OTHER = "neither HTTP nor TLS"


def check_name(host: str, port: int) -> tuple[Check, tuple[Address, ...]]:
    """Resolves a name."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        return wrong(
            "name",
            f"{host} has no address ({getattr(error, 'strerror', None) or error})",
            "check how it is spelled, and this machine's DNS",
        ), ()
    addresses = tuple(dict.fromkeys((str(one[4][0]), port) for one in found))
    listed = ", ".join(one[0] for one in addresses)
    return ok("name", listed if listed == host else f"{host} is {listed}"), addresses


def check_connection(
    shown: str, addresses: Sequence[Address], timeout_s: float
) -> tuple[Check, Address | None]:
    """Finds the first address where something listens."""
    refused, reason = False, ""
    for address in addresses:
        began = time.monotonic()
        try:
            with socket.create_connection(address, timeout_s):
                took_ms = (time.monotonic() - began) * 1000
        except ConnectionRefusedError:
            refused = True
        except OSError as error:
            reason = str(error.strerror or error)
        else:
            where = f"{shown} at {address[0]}" if address[0] not in shown else shown
            return ok("connection", f"{where} is open, {took_ms:.1f} ms"), address
    if refused:
        found, advice = f"nothing listens on {shown}", "start the server there, or check the port"
    else:
        found = f"{shown} cannot be reached ({reason})"
        advice = "check the address, the network and firewalls in between"
    return wrong("connection", found, advice), None


def check_protocol(shown: str, address: Address, *, wants_tls: bool, timeout_s: float) -> Check:
    """Whether a port speaks the protocol that the client will use."""
    # Tried first: a server logs bytes that it cannot understand.
    if wants_tls and speaks_tls(address, timeout_s):
        return ok("protocol", "TLS")
    spoken = protocol_of(address, timeout_s)
    if spoken is Spoken.HTTP2 and not wants_tls:
        if is_loopback_host(address[0]):
            return ok("protocol", spoken.value)
        return warning(
            "protocol",
            f"{spoken.value}: anybody in between can read and change it",
            "give the server a certificate (limelens serve --tls-cert, --tls-key)",
        )
    if spoken is Spoken.TLS:
        found = f"{shown} speaks TLS, and was spoken to in plaintext"
        advice = "name its authority (--ca FILE), or --tls for the system's authorities"
    elif spoken is Spoken.HTTP2:
        found = f"{shown} speaks plaintext, and was spoken to in TLS"
        advice = (
            "check the port, or start the server with --tls-cert and --tls-key; to use plaintext "
            "leave out --ca, --tls and --cert"
        )
    elif spoken is Spoken.HTTP1:
        found, advice = f"{shown} is a web server (HTTP/1) without gRPC", "check the port"
    else:
        found = f"{shown} speaks {spoken.value}, so no gRPC"
        advice = "check the port; restart a server that hangs"
    return wrong("protocol", found, advice)


def protocol_of(address: Address, timeout_s: float) -> Spoken:
    """The protocol of a port, by its response to the first bytes of each."""
    received = _response(address, PREFACE, timeout_s)
    if len(received) >= _FRAME_HEADER and received[3] == _SETTINGS_FRAME:
        return Spoken.HTTP2
    if received.startswith(_TLS_RECORDS) or speaks_tls(address, timeout_s):
        return Spoken.TLS
    if received.startswith(b"HTTP/1"):
        return Spoken.HTTP1
    # Some close the connection on bytes that they do not know.
    if _response(address, _HTTP1, timeout_s).startswith(b"HTTP/1"):
        return Spoken.HTTP1
    return Spoken.OTHER


def speaks_tls(address: Address, timeout_s: float) -> bool:
    """Whether a TLS handshake begins there, however it ends."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    try:
        with socket.create_connection(address, timeout_s) as plain, context.wrap_socket(plain):
            return True
    except ssl.SSLError as error:
        return "ALERT" in (error.reason or "")
    except OSError:
        return False


def _response(address: Address, request: bytes, timeout_s: float) -> bytes:
    """The first bytes that come back; empty if none do."""
    received = b""
    try:
        with socket.create_connection(address, timeout_s) as connection:
            connection.sendall(request)
            while len(received) < _FRAME_HEADER and (more := connection.recv(1024)):
                received += more
    except OSError:
        pass
    return received
