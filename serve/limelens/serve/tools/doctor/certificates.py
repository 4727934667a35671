"""Who proves what to whom: the server's certificate, and the client's.

A first handshake believes everything, to see what is shown and whether the client is let in; a
second one verifies. It knows TLS, and nothing of what is said over it.
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
_CLIENT_ADVICE: Final = "give one that the server's --tls-client-ca signed (--cert, --key)"
# OpenSSL's codes of what is wrong with a chain (X509_V_ERR_…).
_NOT_YET_VALID: Final = 9
_EXPIRED: Final = 10
_UNKNOWN_ISSUER: Final = (2, 18, 19, 20, 21)
_OTHER_NAME: Final = (62, 64)


@dataclass(frozen=True)
class Shown:
    """What a certificate says.

    Args:
        subject: Its owner.
        issuer: Who signed it.
        names: The names and addresses that it is good for.
        begins: From when on it is good.
        ends: Until when.
    """

    subject: str
    issuer: str
    names: tuple[str, ...]
    begins: datetime.datetime
    ends: datetime.datetime


@dataclass(frozen=True)
class _Handshake:
    """What came of a handshake that believes everything.

    Args:
        der: The server's certificate; empty where it did not come to that.
        version: Of TLS.
        is_http2: Whether both sides agreed on HTTP/2.
        refusal: Why the server hung up; empty where it did not.
    """

    der: bytes
    version: str
    is_http2: bool
    refusal: str


def check_tls(host: str, address: Address, tls: Tls, timeout_s: float) -> Iterator[Check]:
    """The handshake with a port that speaks TLS.

    Args:
        host: What was dialled.
        address: What that is.
        tls: What each side is to prove.
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


def read_certificate(der: bytes) -> Shown | None:
    """What a certificate says; None where cryptography is not installed or cannot read it."""
    try:
        from cryptography import x509
    except ImportError:
        return None
    try:
        found = x509.load_der_x509_certificate(der)
        names: tuple[str, ...] = ()
        try:
            alternative = found.extensions.get_extension_for_class(x509.SubjectAlternativeName)
        except x509.ExtensionNotFound:
            pass
        else:
            names = tuple(
                str(one.value)
                for one in alternative.value
                if isinstance(one, (x509.DNSName, x509.IPAddress))
            )
        return Shown(
            found.subject.rfc4514_string(),
            found.issuer.rfc4514_string(),
            names,
            found.not_valid_before_utc,
            found.not_valid_after_utc,
        )
    except ValueError:
        return None


def _context(tls: Tls) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=None if tls.ca is None else str(tls.ca))
    context.set_alpn_protocols(["h2"])
    if tls.certificate is not None:
        # A key that wants a password would ask for it on the terminal.
        context.load_cert_chain(tls.certificate, tls.key, password=lambda: b"")
    return context


def _unusable(tls: Tls, error: OSError | ValueError) -> Check:
    """Which of the files on this side cannot be used."""
    reason = getattr(error, "reason", None) or getattr(error, "strerror", None) or str(error)
    if tls.ca is not None:
        try:
            ssl.create_default_context(cafile=str(tls.ca))
        except (OSError, ValueError):
            return wrong(
                "authority",
                f"{tls.ca} holds no certificate that can be read ({reason})",
                "give the PEM file of who signed the server's certificate (--ca)",
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
    """A handshake that believes everything, and the first words after it."""
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
            # In TLS 1.3 the server looks at the client's certificate after the handshake. What it
            # says of that would be lost if something was sent meanwhile.
            secure.settimeout(min(1.0, timeout_s))
            try:
                said = secure.recv(1024)
            except TimeoutError:
                secure.settimeout(timeout_s)
                secure.sendall(PREFACE)
                said = secure.recv(1024)
            return _Handshake(der, version, is_http2, "" if said else "it hung up")
    except ssl.SSLError as error:
        return _Handshake(der, version, is_http2, (error.reason or str(error)).replace("_", " "))
    except OSError as error:
        return _Handshake(der, version, is_http2, str(error.strerror or error))
    finally:
        context.verify_mode, context.check_hostname = before[1], before[0]


def _server_check(
    context: ssl.SSLContext, name: str, address: Address, seen: _Handshake, timeout_s: float
) -> Check:
    shown = read_certificate(seen.der)
    try:
        with (
            socket.create_connection(address, timeout_s) as plain,
            context.wrap_socket(plain, server_hostname=name),
        ):
            pass
    except ssl.SSLCertVerificationError as error:
        return _not_trusted(error, name, shown)
    except OSError as error:  # the client is refused, of which the first handshake tells
        if not seen.der:
            return wrong(
                _SERVER,
                f"the handshake failed before it was shown ({seen.refusal or error})",
                "look at the server's log",
            )
    return _trusted(name, shown)


def _trusted(name: str, shown: Shown | None) -> Check:
    if shown is None:
        return ok(_SERVER, f"good for {name}")
    left = shown.ends - _now()
    found = f"good for {name}, by {shown.issuer}, until {_day(shown.ends)}"
    if left < _SOON:
        return warning(
            _SERVER,
            f"{found}: {_span(left)} left",
            "renew it; the server takes new files without a restart",
        )
    return ok(_SERVER, found)


def _not_trusted(error: ssl.SSLCertVerificationError, name: str, shown: Shown | None) -> Check:
    code = error.verify_code
    if code == _EXPIRED:
        when = f" since {_day(shown.ends)}" if shown is not None else ""
        return wrong(
            _SERVER,
            f"the server's certificate, or one of its chain, has expired{when}; "
            f"it is {_day(_now())} here",
            "renew it on the server, which takes new files without a restart; check this "
            "machine's clock",
        )
    if code == _NOT_YET_VALID:
        when = f" before {_day(shown.begins)}" if shown is not None else " yet"
        return wrong(
            _SERVER,
            f"the server's certificate is not good{when}; it is {_day(_now())} here",
            "set the clock of whichever machine is wrong",
        )
    if code in _OTHER_NAME:
        names = f", but for {', '.join(shown.names) or 'no name'}" if shown is not None else ""
        return wrong(
            _SERVER,
            f"the server's certificate is not for {name}{names}",
            "dial a name that it is for, say which one to expect (--server-name NAME), or make "
            "one for this name",
        )
    if code in _UNKNOWN_ISSUER:
        by = f" ({shown.issuer})" if shown is not None else ""
        return wrong(
            _SERVER,
            f"the server's certificate is signed by an authority that is not known here{by}",
            "give that authority's certificate (--ca FILE)",
        )
    return wrong(
        _SERVER,
        f"the server's certificate is refused: {error.verify_message}",
        "renew it on the server",
    )


def _client_checks(tls: Tls, own: Shown | None, seen: _Handshake) -> Iterator[Check]:
    if own is not None and own.ends < _now():
        yield wrong(
            _CLIENT,
            f"{tls.certificate} has expired since {_day(own.ends)}; it is {_day(_now())} here",
            "renew it (--cert, --key)",
        )
    elif own is not None and own.begins > _now():
        yield wrong(
            _CLIENT,
            f"{tls.certificate} is not good before {_day(own.begins)}; it is {_day(_now())} here",
            "set this machine's clock, or wait",
        )
    elif seen.refusal and seen.der:
        if tls.certificate is None:
            yield wrong(
                _CLIENT,
                "no client certificate was shown, and the server refuses the connection "
                f"({seen.refusal})",
                _CLIENT_ADVICE,
            )
        else:
            issuer = f", signed by {own.issuer}," if own is not None else ""
            yield wrong(
                _CLIENT,
                f"the server refuses {tls.certificate}{issuer} ({seen.refusal})",
                _CLIENT_ADVICE,
            )
    elif own is not None:
        left = own.ends - _now()
        found = f"{own.subject}, until {_day(own.ends)}"
        if left < _SOON:
            yield warning(_CLIENT, f"{found}: {_span(left)} left", "renew it (--cert, --key)")
        else:
            yield ok(_CLIENT, found)
    elif tls.certificate is not None:
        yield ok(_CLIENT, f"{tls.certificate} is accepted")


def _read(path: Path) -> Shown | None:
    """The first certificate of a PEM file."""
    text = path.read_text(encoding="ascii", errors="replace")
    begin, end = text.find(ssl.PEM_HEADER), text.find(ssl.PEM_FOOTER)
    if begin < 0 or end < begin:
        return None
    try:
        return read_certificate(ssl.PEM_cert_to_DER_cert(text[begin : end + len(ssl.PEM_FOOTER)]))
    except ValueError:
        return None


def _now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)


def _day(moment: datetime.datetime) -> str:
    return moment.strftime("%Y-%m-%d %H:%M UTC")


def _span(left: datetime.timedelta) -> str:
    hours = int(left.total_seconds() // 3600)
    return f"{hours // 24} days" if hours >= 48 else f"{hours} hours"
