"""The way to a server: its proxy, or its name, its port, the port's protocol and TLS.

It knows the first bytes of protocols, and no calls. What it finds wrong with a certificate comes
from OpenSSL, and its advice is the `openssl` command that shows the certificate.
"""

from __future__ import annotations

import shlex
import socket
import ssl
import time
from collections.abc import Iterator, Sequence
from typing import Final

from limelens.serve.addresses import is_loopback_host, parse_address
from limelens.serve.client import Tls
from limelens.serve.tools.doctor.check import Check, State, ok, warning, wrong
from limelens.serve.tools.doctor.proxies import check_proxy, proxy_for

Address = tuple[str, int]
"""An IP address and a port."""

# RFC 9113, section 3.4: the first bytes of a client, here with empty SETTINGS.
_PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\x04\0\0\0\0\0"
_FRAME_HEADER: Final = 9
_SETTINGS_FRAME: Final = 4
_SOON_DAYS: Final = 14
_UNKNOWN_ISSUER: Final = (2, 18, 19, 20, 21)
"""OpenSSL's codes (X509_V_ERR_…) for a chain that leads to no known authority."""


def check_way(server: str, tls: Tls | None, timeout_s: float) -> Iterator[Check]:
    """Checks the connection to `HOST:PORT`, up to the first step that fails.

    Raises:
        ValueError: The server is not `HOST:PORT`.
    """
    host, port = parse_address(server)
    proxy = proxy_for(host)
    if proxy is not None:
        yield check_proxy(proxy, server, timeout_s)
        if proxy.is_usable:
            # Names and ports beyond the proxy may be invisible from here.
            return
    name, addresses = _check_name(host, port)
    yield name
    if not addresses:
        return
    connection, address = _check_connection(server, addresses, timeout_s)
    yield connection
    if address is None:
        return
    protocol = _check_protocol(server, address, wants_tls=tls is not None, timeout_s=timeout_s)
    yield protocol
    if tls is not None and protocol.state is not State.WRONG:
        yield from _check_tls(server, tls.server_name or host, address, tls, timeout_s)


def _check_name(host: str, port: int) -> tuple[Check, tuple[Address, ...]]:
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


def _check_connection(
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


def _check_protocol(shown: str, address: Address, *, wants_tls: bool, timeout_s: float) -> Check:
    """Whether a port speaks the protocol that the client will use."""
    # Tried first: a server logs bytes that it cannot understand.
    if wants_tls and _speaks_tls(address, timeout_s):
        return ok("protocol", "TLS")
    if _speaks_http2(address, timeout_s):
        found = "HTTP/2 in plaintext, as gRPC without TLS does"
        if wants_tls:
            return wrong(
                "protocol",
                f"{shown} speaks plaintext, but this client uses TLS",
                "check the port, or start the server with --tls-cert and --tls-key; to use "
                "plaintext leave out --ca, --tls and --cert",
            )
        if is_loopback_host(address[0]):
            return ok("protocol", found)
        return warning(
            "protocol",
            f"{found}: anybody in between can read and change it",
            "give the server a certificate (limelens serve --tls-cert, --tls-key)",
        )
    if _speaks_tls(address, timeout_s):
        return wrong(
            "protocol",
            f"{shown} speaks TLS, but this client uses plaintext",
            "name its authority (--ca FILE), or --tls for the system's authorities",
        )
    return wrong(
        "protocol",
        f"{shown} speaks neither TLS nor HTTP/2 in plaintext, so no gRPC",
        f"check the port (curl -v http://{shown} shows a web server); restart a server that hangs",
    )


def _speaks_http2(address: Address, timeout_s: float) -> bool:
    """Whether a port answers the preface of HTTP/2 with its SETTINGS."""
    received = b""
    try:
        with socket.create_connection(address, timeout_s) as connection:
            connection.sendall(_PREFACE)
            while len(received) < _FRAME_HEADER and (more := connection.recv(1024)):
                received += more
    except OSError:
        pass
    return len(received) >= _FRAME_HEADER and received[3] == _SETTINGS_FRAME


def _speaks_tls(address: Address, timeout_s: float) -> bool:
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


def _check_tls(
    server: str, name: str, address: Address, tls: Tls, timeout_s: float
) -> Iterator[Check]:
    """A verified handshake, and whether the server admits the client after it."""
    name_of, file, options = "authority", tls.ca, "--ca"
    try:
        context = ssl.create_default_context(cafile=None if tls.ca is None else str(tls.ca))
        context.set_alpn_protocols(["h2"])
        name_of, file, options = "client certificate", tls.certificate, "--cert, --key"
        if tls.certificate is not None:
            # Without this a key with a password would ask for it on the terminal.
            context.load_cert_chain(tls.certificate, tls.key, password=lambda: b"")
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", None) or getattr(error, "strerror", None) or error
        yield wrong(
            name_of,
            f"{file} cannot be used ({reason})",
            f"give PEM files that belong together, without a password ({options}); "
            f"openssl x509 -noout -text -in {shlex.quote(str(file))} shows a certificate",
        )
        return
    try:
        with (
            socket.create_connection(address, timeout_s) as plain,
            context.wrap_socket(plain, server_hostname=name) as secure,
        ):
            ends = str((secure.getpeercert() or {})["notAfter"])
            spoken, is_http2 = secure.version(), secure.selected_alpn_protocol() == "h2"
            # In TLS 1.3 the server checks the client's certificate after the handshake. Its alert
            # would be lost if this side sent something meanwhile.
            secure.settimeout(min(1.0, timeout_s))
            try:
                received = secure.recv(1024)
            except TimeoutError:
                secure.settimeout(timeout_s)
                secure.sendall(_PREFACE)
                received = secure.recv(1024)
            if not received:
                raise ConnectionError("it hung up")
    except ssl.SSLCertVerificationError as error:
        yield _not_trusted(error, server, name)
        return
    except OSError as error:
        reason = getattr(error, "reason", None) or error.strerror or error
        sent = "no client certificate" if tls.certificate is None else str(tls.certificate)
        yield wrong(
            "client certificate",
            f"{sent} was sent, and the server refuses the connection ({reason})",
            "give one that the server's --tls-client-ca signed (--cert, --key); openssl x509 "
            f"-noout -subject -issuer -dates -in {shlex.quote(str(tls.certificate or 'FILE'))} "
            "shows who signed it, and until when it is good",
        )
        return
    good, left_s = f"good for {name} until {ends}", ssl.cert_time_to_seconds(ends) - time.time()
    if left_s < _SOON_DAYS * 24 * 3600:
        advice = "renew it; the server takes new files while it runs"
        yield warning("server certificate", f"{good}: {left_s / 3600:.0f} hours left", advice)
    else:
        yield ok("server certificate", good)
    if is_http2:
        yield ok("handshake", f"{spoken}, HTTP/2 agreed on (ALPN)")
    else:
        yield wrong(
            "handshake",
            f"{spoken} without HTTP/2 (ALPN h2), which gRPC needs",
            "check the port; a proxy in between must pass HTTP/2 on",
        )


def _not_trusted(error: ssl.SSLCertVerificationError, server: str, name: str) -> Check:
    """What OpenSSL says of the server's certificate, and the command that shows it."""
    show = (
        f"openssl s_client -connect {server} -servername {name} -showcerts </dev/null | "
        "openssl x509 -noout -subject -issuer -dates -ext subjectAltName"
    )
    if error.verify_code in _UNKNOWN_ISSUER:
        found = "is signed by an authority that is not known here"
        advice = f"give that authority's certificate (--ca FILE); its name: {show}"
    else:
        found = f"is refused: {error.verify_message}; it is {time.strftime('%F %T %Z')} here"
        advice = f"check this machine's clock, and whom the certificate is for: {show}"
    return wrong("server certificate", f"the server's certificate {found}", advice)
