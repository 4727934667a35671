"""The server's certificates: checked before use, and read again when they change on disk.

`limelens.serve.access.policy` maps a client's certificate to a client.
"""

from __future__ import annotations

import datetime
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import grpc
from cryptography import x509
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_private_key,
)

from limelens.serve.access.config import Tls
from limelens.serve.access.watched import Watched
from limelens.serve.errors import AccessPolicyError, ListenError

_log = logging.getLogger(__name__)


def server_credentials(tls: Tls) -> grpc.ServerCredentials:
    """GRPC's credentials for listening.

    New connections use the current files; open connections are not affected. Files that do not
    belong together, such as a new certificate with the old key, are logged, and the previous ones
    stay in use.
    """
    paths = [tls.key, tls.certificate, *([tls.client_ca] if tls.client_ca else [])]

    def parse(data: Sequence[bytes]) -> Any:
        _check(tls, *data)
        return grpc.ssl_server_certificate_configuration(
            [(data[0], data[1])], data[2] if len(data) > 2 else None
        )

    try:
        watched = Watched(paths, parse)
    except OSError as error:
        raise ListenError(
            f"{error.filename}: {error.strerror}; expected a certificate, its key and, where "
            "clients need one, a client CA as PEM files"
        ) from error
    except AccessPolicyError as error:
        raise ListenError(str(error)) from error

    def fetch() -> Any:
        return watched.value if watched.reread() else None

    return grpc.dynamic_ssl_server_credentials(
        watched.value, fetch, require_client_authentication=tls.client_ca is not None
    )


def _check(tls: Tls, key: bytes, chain: bytes, client_ca: bytes | None = None) -> None:
    certificate = _certificates(tls.certificate, chain)[0]
    try:
        public = load_pem_private_key(key, None).public_key()
    except (ValueError, TypeError) as error:
        raise AccessPolicyError(
            f"{tls.key} holds no private key that can be read; expected one as PEM, without a "
            "password"
        ) from error
    form = Encoding.DER, PublicFormat.SubjectPublicKeyInfo
    if public.public_bytes(*form) != certificate.public_key().public_bytes(*form):
        raise AccessPolicyError(
            f"{tls.key} is not the key of {tls.certificate}; expected the two to belong together"
        )
    if certificate.not_valid_after_utc < datetime.datetime.now(datetime.UTC):
        _log.warning(
            "%s expired at %s; clients will refuse it",
            tls.certificate,
            certificate.not_valid_after_utc.isoformat(),
        )
    if tls.client_ca is not None and client_ca is not None:
        _certificates(tls.client_ca, client_ca)


def _certificates(path: Path, data: bytes) -> list[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(data)
    except ValueError as error:
        raise AccessPolicyError(
            f"{path} holds no certificate that can be read; expected certificates as PEM"
        ) from error
