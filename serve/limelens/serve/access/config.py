"""The operator's settings: who may call, and how much. It reads no file and imports no library."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Tls:
    """Certificates as PEM files, which are read again for new connections.

    Args:
        certificate: The server's chain.
        key: Its private key.
        client_ca: The CA of client certificates; if set, clients must show one.
    """

    certificate: Path
    key: Path
    client_ca: Path | None = None


@dataclass(frozen=True)
class JwtConfig:
    """Which signed tokens are valid.

    Args:
        key: The issuer's public key as PEM, or its key set as JSON (JWKS).
        issuer: Expected value of `iss`.
        audience: Expected value of `aud`, or one of its values.
        rights_claim: The claim with the rights: a list, or words between spaces.
        leeway_s: How far the issuer's clock may differ.
    """

    key: Path
    issuer: str
    audience: str
    rights_claim: str = "scope"
    leeway_s: float = 5.0


@dataclass(frozen=True)
class AccessConfig:
    """Who may call, and how much. Without tokens and jwt, anybody may do everything.

    Args:
        tokens: The file of clients; see `limelens.serve.access.tokens`.
        rate_limit: Limit for clients without one of their own, such as `100/second`; None is no
            limit. If callers have no names, each address is a client.
        max_calls_per_client: Limit on calls and streams in flight.
        max_waiting_per_client: How many further calls may wait instead of being refused.
        check_s: How often to check the files for changes.
        production: Refuses settings that are meant for trying out; see docs/security.md.
    """

    tokens: Path | None = None
    jwt: JwtConfig | None = None
    rate_limit: str | None = None
    max_calls_per_client: int | None = None
    max_waiting_per_client: int = 0
    check_s: float = 1.0
    production: bool = False
