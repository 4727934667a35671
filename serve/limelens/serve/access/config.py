"""The operator's settings: who may call, and how much. It reads no file and imports no library."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Tls:
    """Certificates as PEM files, which are read again for new connections."""

    certificate: Path  # the server's chain
    key: Path  # its private key
    client_ca: Path | None = None  # the CA of client certificates; if set, clients must show one


@dataclass(frozen=True)
class JwtConfig:
    """Which signed tokens are valid."""

    key: Path  # the issuer's public key as PEM, or its key set as JSON (JWKS)
    issuer: str  # expected value of `iss`
    audience: str  # expected value of `aud`, or one of its values
    rights_claim: str = "scope"  # the claim with the rights: a list, or words between spaces
    leeway_s: float = 5.0  # how far the issuer's clock may differ


@dataclass(frozen=True)
class AccessConfig:
    """Who may call, and how much. Without tokens and jwt, anybody may do everything."""

    tokens: Path | None = None  # the file of clients; see `limelens.serve.access.tokens`
    jwt: JwtConfig | None = None
    # Limit for clients without one of their own, such as `100/second`; None is no limit. If
    # callers have no names, each address is a client.
    rate_limit: str | None = None
    max_calls_per_client: int | None = None  # limit on calls and streams in flight
    max_waiting_per_client: int = 0  # how many further calls may wait instead of being refused
    check_s: float = 1.0  # how often to check the files for changes
    production: bool = False  # refuses settings that are meant for trying out; see docs/security.md
