"""What an operator says about who may call. It reads no file and loads no library."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Tls:
    """Certificates as PEM files. They are looked at again for every new connection.

    Args:
        certificate: The server's chain.
        key: Its private key.
        client_ca: Who signs clients' certificates; with it clients must show one.
    """

    certificate: Path
    key: Path
    client_ca: Path | None = None


@dataclass(frozen=True)
class JwtConfig:
    """Whose signed tokens are good.

    Args:
        key: The issuer's public key as PEM, or its key set as JSON (JWKS).
        issuer: What a token's `iss` must be.
        audience: What its `aud` must be or hold.
        rights_claim: Where its rights stand: a list of words, or words with spaces between.
        leeway_s: How far the issuer's clock may be off.
    """

    key: Path
    issuer: str
    audience: str
    rights_claim: str = "scope"
    leeway_s: float = 5.0


@dataclass(frozen=True)
class AccessConfig:
    """Who may call and how much. With neither tokens nor jwt whoever can connect may do all.

    Args:
        tokens: The file of clients; see `limelens.serve.access.tokens`.
        jwt: Whose signed tokens are good.
        rate_limit: For each client that has none of its own, such as `100/second`; None is none.
            Where callers have no names, a client is an address.
        max_calls_per_client: Calls and streams at a time; None is no limit.
        max_waiting_per_client: Further calls that wait for their turn, in place of being refused.
        check_s: How often the files are looked at.
        production: Refuses to start with what is meant for trying out; see docs/security.md.
    """

    tokens: Path | None = None
    jwt: JwtConfig | None = None
    rate_limit: str | None = None
    max_calls_per_client: int | None = None
    max_waiting_per_client: int = 0
    check_s: float = 1.0
    production: bool = False
