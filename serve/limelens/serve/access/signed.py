"""Signed tokens (JWT, RFC 7519), checked with their issuer's public key.

The key decides which algorithms are valid, never the token: a token that says `none`, or that is
signed with the public key's text as a shared secret, is refused. No message repeats a token.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import jwt
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from limelens.serve.access.caller import Caller
from limelens.serve.access.config import JwtConfig
from limelens.serve.access.rights import Right
from limelens.serve.errors import AccessPolicyError, UnauthenticatedError

PublicKey = (
    rsa.RSAPublicKey | ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey | ed448.Ed448PublicKey
)
_MAX_NAME: Final = 200
_MIN_RSA_BITS: Final = 2048
_MAX_TIME: Final = 253_402_300_800.0  # the year 10000
_CURVES: Final = {"secp256r1": "ES256", "secp384r1": "ES384", "secp521r1": "ES512"}


@dataclass(frozen=True)
class Key:
    """One public key.

    Args:
        algorithms: The algorithms that it may sign with.
        key_id: Its id in tokens; empty if it has none.
    """

    key: PublicKey
    algorithms: tuple[str, ...]
    key_id: str = ""


def read_keys(data: bytes, where: str) -> tuple[Key, ...]:
    """The keys of a PEM or JWKS file."""
    if data.lstrip().startswith(b"{"):
        return _read_key_set(data, where)
    if b"PRIVATE KEY" in data:
        raise AccessPolicyError(
            f"{where} holds a private key; expected the public one, which is all a server needs"
        )
    try:
        if b"BEGIN CERTIFICATE" in data:
            found: Any = x509.load_pem_x509_certificate(data).public_key()
        else:
            found = load_pem_public_key(data)
    except ValueError as error:
        raise AccessPolicyError(
            f"{where} holds no key that can be read; expected a public key as PEM or JWKS"
        ) from error
    return (Key(found, _algorithms(found, where)),)


def read_token(token: str, keys: Sequence[Key], config: JwtConfig) -> Caller:
    """The owner of a token.

    Raises:
        UnauthenticatedError: No key has signed the token, it has expired, is meant for another
            server, or holds invalid claims.
    """
    try:
        return _read_token(token, keys, config)
    except UnauthenticatedError:
        raise
    # Libraries raise almost anything for odd tokens (huge numbers, lists instead of texts).
    except Exception:
        raise _not_ours() from None


def _read_token(token: str, keys: Sequence[Key], config: JwtConfig) -> Caller:
    header = jwt.get_unverified_header(token)
    key_id = header.get("kid")
    for key in keys:
        if key_id and key.key_id and key.key_id != key_id:
            continue
        # Not an algorithm of this key.
        if header.get("alg") not in key.algorithms:
            continue
        try:
            claims = jwt.decode(
                token,
                key=key.key,
                algorithms=key.algorithms,
                issuer=config.issuer,
                audience=config.audience,
                leeway=config.leeway_s,
                options={"require": ["exp", "iss", "aud", "sub"]},
            )
        except jwt.InvalidSignatureError:
            continue
        except jwt.PyJWTError as error:
            raise _refusal(error, config) from None
        return _caller(claims, config)
    raise _not_ours()


def _refusal(error: jwt.PyJWTError, config: JwtConfig) -> UnauthenticatedError:
    match error:
        case jwt.ExpiredSignatureError():
            reason = "the token has expired; ask its issuer for another"
        case jwt.ImmatureSignatureError():
            reason = "the token is not valid yet; check the clocks of this server and its issuer"
        case jwt.InvalidAudienceError():
            reason = f"the token is for another audience; expected {config.audience!r}"
        case jwt.InvalidIssuerError():
            reason = f"the token is from another issuer; expected {config.issuer!r}"
        case jwt.MissingRequiredClaimError(claim=claim):
            reason = f"the token has no {claim}; expected one"
        case _:
            return _not_ours()
    return UnauthenticatedError(reason)


def _caller(claims: dict[str, Any], config: JwtConfig) -> Caller:
    name = claims["sub"]
    if not isinstance(name, str) or not 0 < len(name) <= _MAX_NAME or not name.isprintable():
        raise UnauthenticatedError(
            f"the token's sub cannot be a name; expected 1 to {_MAX_NAME} printable characters"
        )
    words = claims.get(config.rights_claim, ())
    if isinstance(words, str):
        words = words.split()
    # Issuers grant scopes that are not our rights, such as `openid`.
    rights = frozenset(right for right in Right if isinstance(words, list) and right in words)
    expires_at = float(claims["exp"]) + config.leeway_s
    if not 0 < expires_at < _MAX_TIME:  # NaN fails, too
        raise UnauthenticatedError("the token's exp is not a time; expected seconds since 1970")
    return Caller(name, "jwt", rights, expires_at=expires_at)


def _not_ours() -> UnauthenticatedError:
    return UnauthenticatedError(
        "the token is not signed by a known key; expected one from this server's issuer"
    )


def _read_key_set(data: bytes, where: str) -> tuple[Key, ...]:
    try:
        document = json.loads(data)
    except ValueError as error:
        raise AccessPolicyError(f"{where} is not JSON: {error}; correct it") from error
    entries = document.get("keys", [document])
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise AccessPolicyError(f"{where}: keys: expected a list of keys")
    keys = []
    for entry in entries:
        if "d" in entry or entry.get("kty") == "oct":
            raise AccessPolicyError(
                f"{where} holds a secret key; expected public keys, which are all a server needs"
            )
        if entry.get("use", "sig") != "sig":
            continue
        try:
            found: Any = jwt.PyJWK(entry).key
        except jwt.PyJWTError:
            continue  # a kind of key for other uses
        algorithms = _algorithms(found, where)
        if "alg" in entry:
            algorithms = tuple(name for name in algorithms if name == entry["alg"])
        if algorithms:
            keys.append(Key(found, algorithms, str(entry.get("kid", ""))))
    if not keys:
        raise AccessPolicyError(f"{where} holds no key that signatures can be checked with")
    return tuple(keys)


def _algorithms(key: Any, where: str) -> tuple[str, ...]:
    if isinstance(key, rsa.RSAPublicKey):
        if key.key_size < _MIN_RSA_BITS:
            raise AccessPolicyError(
                f"{where}: an RSA key of {key.key_size} bits; expected at least {_MIN_RSA_BITS}"
            )
        return ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512")
    if isinstance(key, ec.EllipticCurvePublicKey) and key.curve.name in _CURVES:
        return (_CURVES[key.curve.name],)
    if isinstance(key, (ed25519.Ed25519PublicKey, ed448.Ed448PublicKey)):
        return ("EdDSA",)
    raise AccessPolicyError(
        f"{where} holds a key of a kind that signs no tokens; expected RSA, EC (P-256, P-384, "
        "P-521) or Ed25519"
    )
