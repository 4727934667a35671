"""The certificates of server and client.

A first handshake trusts everything, to read the server's certificate and to see whether the server
accepts the client; a second one verifies. It knows TLS, and nothing of what is sent over it.
"""

from __future__ import annotations

import datetime
import socket
import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from limelens.serve.client import Tls
from limelens.serve.tools.doctor.check import Check, ok, warning, wrong
from limelens.serve.tools.doctor.network import PREFACE, Address

_SOON: Final = datetime.timedelta(days=14)
_SERVER: Final = "server certificate"
_CLIENT: Final = "client certificate"
# OpenSSL's codes of what is wrong with a chain (X509_V_ERR_…).
_NOT_YET_VALID: Final = 9
_EXPIRED: Final = 10
_UNKNOWN_ISSUER: Final = (2, 18, 19, 20, 21)
_OTHER_NAME: Final = (62, 64)


@dataclass(frozen=True)
class Certificate:
    """What a certificate says.

    Args:
        subject: Its owner.
        issuer: The authority that signed it.
        names: The host names and addresses that it is for.
        begins: From when it is valid.
        ends: Until when.
    """

    subject: str
    issuer: str
    names: tuple[str, ...]
    begins: datetime.datetime
    ends: datetime.datetime


@dataclass(frozen=True)
class _Handshake:
    """The result of a handshake that trusts everything.

    Args:
        certificate: The server's, DER; empty if the handshake ended before.
        version: Of TLS.
        is_http2: Whether both sides agreed on HTTP/2.
        refusal: Why the server hung up; empty if it did not.
    """

    certificate: bytes
    version: str
    is_http2: bool
    refusal: str


def check_tls(host: str, address: Address, tls: Tls, timeout_s: float) -> Iterator[Check]:
    """The handshake with a port that speaks TLS.

    Args:
        host: The name in the address.
        address: Its IP address and port.
        tls: The files of this side.
        timeout_s: Of each step.
    """
    try:
        context = _context(tls)
    except (OSError, ValueError) as error:
        yield _unusable(tls, error)
        return
    own = _read(tls.certificate) if tls.certificate is not None else None
    seen = _shake(context, host, address, timeout_s)
    yield _server_check(context, tls.server_name or host, address, seen, timeout_s)
    yield from _client_checks(tls, own, seen)
    if seen.version and not seen.refusal:
        if seen.is_http2:
            yield ok("handshake", f"{seen.version}, HTTP/2 agreed on (ALPN)")
        else:
            yield wrong(
                "handshake",
                f"{seen.version} without HTTP/2 (ALPN h2), which gRPC needs",
                "check the port; a proxy in between must pass HTTP/2 on",
            )


def read_certificate(der: bytes) -> Certificate | None:
    """Reads a certificate; None if cryptography is not installed or cannot read it."""
    try:
        from cryptography import x509
    except ImportError:
        return None
    try:
        found = x509.load_der_x509_certificate(der)
        try:
            extension = found.extensions.get_extension_for_class(x509.SubjectAlternativeName)
        except x509.ExtensionNotFound:
            names = []
        else:
            names = [
                str(one.value)
                for one in extension.value
                if isinstance(one, (x509.DNSName, x509.IPAddress))
            ]
        return Certificate(
            found.subject.rfc4514_string(),
            found.issuer.rfc4514_string(),
            tuple(names),
            found.not_valid_before_utc,
            found.not_valid_after_utc,
        )
    except ValueError:
        return None


def _context(tls: Tls) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=None if tls.ca is None else str(tls.ca))
    context.set_alpn_protocols(["h2"])
    if tls.certificate is not None:
        # Without this a key with a password would ask for it on the terminal.
        context.load_cert_chain(tls.certificate, tls.key, password=lambda: b"")
    return context


def _unusable(tls: Tls, error: OSError | ValueError) -> Check:
    """Says which file of this side cannot be used."""
    reason = getattr(error, "reason", None) or getattr(error, "strerror", None) or str(error)
    if tls.ca is not None:
        try:
            ssl.create_default_context(cafile=str(tls.ca))
        except (OSError, ValueError):
            return wrong(
                "authority",
                f"{tls.ca} holds no certificate that can be read ({reason})",
                "give the PEM file of the authority that signed the server's certificate (--ca)",
            )
    if getattr(error, "reason", "") == "KEY_VALUES_MISMATCH":
        return wrong(
            _CLIENT,
            f"{tls.key} is not the key of {tls.certificate}",
            "give the two that belong together (--cert, --key)",
        )
    return wrong(
        _CLIENT,
        f"{tls.certificate} and {tls.key} cannot be used ({reason})",
        "give a certificate and its key, without a password, as PEM files (--cert, --key)",
    )


def _shake(context: ssl.SSLContext, host: str, address: Address, timeout_s: float) -> _Handshake:
    """A handshake that trusts everything, and the first bytes after it."""
    before = context.check_hostname, context.verify_mode
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    der, version, is_http2 = b"", "", False
    try:
        with (
            socket.create_connection(address, timeout_s) as plain,
            context.wrap_socket(plain, server_hostname=host) as secure,
        ):
            der = secure.getpeercert(binary_form=True) or b""
            version = secure.version() or "TLS"
            is_http2 = secure.selected_alpn_protocol() == "h2"
            # In TLS 1.3 the server checks the client's certificate after the handshake. Its alert
            # would be lost if this side sent something meanwhile.
            secure.settimeout(min(1.0, timeout_s))
            try:
                received = secure.recv(1024)
            except TimeoutError:
                secure.settimeout(timeout_s)
                secure.sendall(PREFACE)
                received = secure.recv(1024)
            return _Handshake(der, version, is_http2, "" if received else "it hung up")
    except ssl.SSLError as error:
        return _Handshake(der, version, is_http2, (error.reason or str(error)).replace("_", " "))
    except OSError as error:
        return _Handshake(der, version, is_http2, str(error.strerror or error))
    finally:
        context.verify_mode, context.check_hostname = before[1], before[0]


def _server_check(
    context: ssl.SSLContext, name: str, address: Address, seen: _Handshake, timeout_s: float
) -> Check:
    shown = read_certificate(seen.certificate)
    try:
        with (
            socket.create_connection(address, timeout_s) as plain,
            context.wrap_socket(plain, server_hostname=name),
        ):
            pass
    except ssl.SSLCertVerificationError as error:
        return _not_trusted(error, name, shown)
    except OSError as error:  # the server refuses the client: the first handshake says why
        if not seen.certificate:
            return wrong(
                _SERVER,
                f"the handshake failed before it was sent ({seen.refusal or error})",
                "look at the server's log",
            )
    if shown is None:
        return ok(_SERVER, f"good for {name}")
    found = f"good for {name}, by {shown.issuer}, until {_day(shown.ends)}"
    return _expiring(_SERVER, found, shown, "renew it; the server takes new files while it runs")


def _expiring(name: str, found: str, certificate: Certificate, advice: str) -> Check:
    """A warning if a certificate ends soon."""
    left = certificate.ends - _now()
    if left >= _SOON:
        return ok(name, found)
    hours = int(left.total_seconds() // 3600)
    span = f"{hours // 24} days" if hours >= 48 else f"{hours} hours"
    return warning(name, f"{found}: {span} left", advice)


def _not_trusted(
    error: ssl.SSLCertVerificationError, name: str, shown: Certificate | None
) -> Check:
    code = error.verify_code
    if code == _EXPIRED:
        when = f" since {_day(shown.ends)}" if shown is not None else ""
        found = (
            f"the server's certificate, or one of its chain, has expired{when}; "
            f"it is {_day(_now())} here"
        )
        advice = "renew it; the server takes new files while it runs; check this machine's clock"
    elif code == _NOT_YET_VALID:
        when = f" before {_day(shown.begins)}" if shown is not None else " yet"
        found = f"the server's certificate is not good{when}; it is {_day(_now())} here"
        advice = "set the clock of the machine that is wrong"
    elif code in _OTHER_NAME:
        names = f", but for {', '.join(shown.names) or 'no name'}" if shown is not None else ""
        found = f"the server's certificate is not for {name}{names}"
        advice = (
            "use an address that it is for, name the one to expect (--server-name NAME), or make "
            "one for this name"
        )
    elif code in _UNKNOWN_ISSUER:
        by = f" ({shown.issuer})" if shown is not None else ""
        found = f"the server's certificate is signed by an authority that is not known here{by}"
        advice = "give that authority's certificate (--ca FILE)"
    else:
        found = f"the server's certificate is refused: {error.verify_message}"
        advice = "renew it on the server"
    return wrong(_SERVER, found, advice)


def _client_checks(tls: Tls, own: Certificate | None, seen: _Handshake) -> Iterator[Check]:
    file, here = tls.certificate, f"it is {_day(_now())} here"
    if own is not None and own.ends < _now():
        yield wrong(
            _CLIENT,
            f"{file} has expired since {_day(own.ends)}; {here}",
            "renew it (--cert, --key)",
        )
    elif own is not None and own.begins > _now():
        yield wrong(
            _CLIENT,
            f"{file} is not good before {_day(own.begins)}; {here}",
            "set this machine's clock, or wait",
        )
    elif seen.refusal and seen.certificate:
        issuer = f", signed by {own.issuer}," if own is not None else ""
        found = (
            "no client certificate was sent, and the server refuses the connection"
            if file is None
            else f"the server refuses {file}{issuer}"
        )
        yield wrong(
            _CLIENT,
            f"{found} ({seen.refusal})",
            "give one that the server's --tls-client-ca signed (--cert, --key)",
        )
    elif own is not None:
        found = f"{own.subject}, until {_day(own.ends)}"
        yield _expiring(_CLIENT, found, own, "renew it (--cert, --key)")
    elif file is not None:
        yield ok(_CLIENT, f"{file} is accepted")


def _read(path: Path) -> Certificate | None:
    """The first certificate of a PEM file."""
    text = path.read_text(encoding="ascii", errors="replace")
    begin, end = text.find(ssl.PEM_HEADER), text.find(ssl.PEM_FOOTER)
    try:
        return read_certificate(ssl.PEM_cert_to_DER_cert(text[begin : end + len(ssl.PEM_FOOTER)]))
    except ValueError:
        return None


def _now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)


def _day(moment: datetime.datetime) -> str:
    return moment.strftime("%Y-%m-%d %H:%M UTC")
