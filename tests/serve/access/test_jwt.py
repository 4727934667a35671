"""Tokens that somebody else signed."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import hmac
import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import jwt
import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from jwt.algorithms import ECAlgorithm, RSAAlgorithm
from tests.waiting import until

from limelens.serve.access.config import AccessConfig, JwtConfig
from limelens.serve.access.signed import read_keys, read_token
from limelens.serve.errors import AccessPolicyError, PermissionDeniedError, UnauthenticatedError

RED = np.full((8, 8, 3), (255, 0, 0), np.uint8)
RSA = rsa.generate_private_key(65537, 2048)
OTHER_RSA = rsa.generate_private_key(65537, 2048)
EC = ec.generate_private_key(ec.SECP256R1())
EDWARDS = ed25519.Ed25519PrivateKey.generate()
NOBODY = "not signed by a known key"


def pem(key: Any) -> bytes:
    found: bytes = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return found


def claims(**changes: Any) -> dict[str, Any]:
    found = {
        "sub": "porter",
        "iss": "https://issuer.example",
        "aud": ["others", "limelens"],
        "exp": time.time() + 600,
        "scope": "openid classify",
        **changes,
    }
    return {key: value for key, value in found.items() if value is not None}


def part(value: Any) -> str:
    data = value if isinstance(value, bytes) else json.dumps(value).encode()
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


@pytest.fixture
def config(tmp_path: Path) -> JwtConfig:
    path = tmp_path / "issuer.pem"
    path.write_bytes(pem(RSA))
    return JwtConfig(path, "https://issuer.example", "limelens", leeway_s=0.0)


@pytest.fixture
def address(start_server: Callable[..., Any], config: JwtConfig) -> str:
    found: str = start_server(access=AccessConfig(jwt=config, check_s=0.05)).address
    return found


def test_a_signed_token_lets_its_subject_in_with_the_rights_of_its_scope(
    address: str, caller: Any
) -> None:
    client = caller(address, jwt.encode(claims(), RSA, "RS256"))
    assert client.classify(RED)[0].label == "red"
    with pytest.raises(PermissionDeniedError, match="porter has no right to explain"):
        client.explain(RED)


@pytest.mark.parametrize("algorithm", ["RS256", "RS512", "PS256", "PS384"])
def test_every_algorithm_of_the_key_counts(address: str, caller: Any, algorithm: str) -> None:
    caller(address, jwt.encode(claims(), RSA, algorithm)).classify(RED)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"exp": 1000}, "the token has expired"),
        ({"exp": None}, "the token has no exp"),
        ({"exp": "soon"}, NOBODY),
        ({"nbf": time.time() + 6000}, "not valid yet"),
        ({"aud": "others"}, "for another audience; expected 'limelens'"),
        ({"aud": None}, "the token has no aud"),
        ({"iss": "https://else.example"}, "from another issuer; expected 'https://issuer"),
        ({"iss": None}, "the token has no iss"),
        ({"sub": None}, "the token has no sub"),
        ({"sub": "a\nb"}, "cannot be a name"),
        ({"sub": 7}, NOBODY),
    ],
)
def test_a_token_whose_claims_do_not_fit_is_refused(
    address: str, caller: Any, changes: dict[str, Any], sentence: str
) -> None:
    signed = jwt.api_jws.encode(json.dumps(claims(**changes)).encode(), RSA, "RS256")
    client = caller(address, signed)
    for call in (lambda: client.classify(RED), lambda: list(client.stream([RED]))):
        with pytest.raises(UnauthenticatedError) as caught:
            call()
        assert sentence in str(caught.value)


def test_a_token_that_another_key_signed_is_refused(address: str, caller: Any) -> None:
    for token in (
        jwt.encode(claims(), OTHER_RSA, "RS256"),
        jwt.encode(claims(), EC, "ES256"),
        jwt.encode(claims(), RSA, "RS256")[:-4] + "AAAA",
    ):
        with pytest.raises(UnauthenticatedError, match=NOBODY):
            caller(address, token).classify(RED)


def test_a_token_without_a_signature_is_refused(address: str, caller: Any) -> None:
    for name in ("none", "None", "NONE", ""):
        for signature in ("", part(b"x")):
            token = f"{part({'alg': name, 'typ': 'JWT'})}.{part(claims())}.{signature}"
            with pytest.raises(UnauthenticatedError, match=NOBODY):
                caller(address, token).classify(RED)


def test_the_public_key_is_not_a_shared_secret(address: str, caller: Any) -> None:
    for secret in (pem(RSA), pem(RSA).strip()):
        signed = f"{part({'alg': 'HS256', 'typ': 'JWT'})}.{part(claims())}"
        signature = hmac.new(secret, signed.encode(), hashlib.sha256).digest()
        with pytest.raises(UnauthenticatedError, match=NOBODY):
            caller(address, f"{signed}.{part(signature)}").classify(RED)


@pytest.mark.parametrize("token", ["..", "a.b.c", f"{part({})}.{part({})}.", "a.b.c.d"])
def test_malformed_tokens_are_refused(address: str, caller: Any, token: str) -> None:
    with pytest.raises(UnauthenticatedError):
        caller(address, token).classify(RED)


def test_a_stream_ends_when_its_signed_token_expires(
    address: str, caller: Any, camera: Callable[..., Any]
) -> None:
    for lifetime_s in (2, 8, 32):  # a busy machine may take long to open a stream
        token = jwt.encode(claims(exp=time.time() + lifetime_s), RSA, "RS256")
        stream = camera(caller(address, token))
        with contextlib.suppress(UnauthenticatedError):
            assert stream().frame_id == 0
            break
    with pytest.raises(UnauthenticatedError, match="the token of porter has expired"):
        stream.answer()


def test_a_new_key_counts_at_once_and_ends_streams_of_the_old(
    address: str,
    config: JwtConfig,
    caller: Any,
    camera: Callable[..., Any],
) -> None:
    old, new = jwt.encode(claims(), RSA, "RS256"), jwt.encode(claims(), EDWARDS, "EdDSA")
    stream = camera(caller(address, old))
    stream()
    config.key.write_bytes(pem(EDWARDS))

    def lets_in() -> bool:
        try:
            caller(address, new).classify(RED)
        except UnauthenticatedError:
            return False
        return True

    until(lets_in)
    with pytest.raises(UnauthenticatedError, match=NOBODY):
        caller(address, old).classify(RED)
    with pytest.raises(UnauthenticatedError, match=NOBODY):
        stream.answer()


def test_a_key_set_finds_the_key_by_its_id(
    start_server: Callable[..., Any], config: JwtConfig, caller: Any
) -> None:
    keys = [
        {**RSAAlgorithm.to_jwk(RSA.public_key(), as_dict=True), "kid": "one", "use": "sig"},
        {**ECAlgorithm.to_jwk(EC.public_key(), as_dict=True), "kid": "two", "alg": "ES256"},
        {**RSAAlgorithm.to_jwk(OTHER_RSA.public_key(), as_dict=True), "kid": "x", "use": "enc"},
        {"kty": "new", "kid": "three"},
    ]
    config.key.write_text(json.dumps({"keys": keys}))
    address = start_server(access=AccessConfig(jwt=config)).address
    known: list[tuple[Any, str, str]] = [(RSA, "RS256", "one"), (EC, "ES256", "two")]
    for key, algorithm, key_id in known:
        for headers in ({"kid": key_id}, {}):
            caller(address, jwt.encode(claims(), key, algorithm, headers)).classify(RED)
    strange: list[tuple[Any, str, str]] = [
        (RSA, "RS256", "two"),
        (EC, "ES256", "one"),
        (OTHER_RSA, "RS256", "x"),
        (RSA, "RS256", "unknown"),
    ]
    for key, algorithm, key_id in strange:
        with pytest.raises(UnauthenticatedError, match=NOBODY):
            caller(address, jwt.encode(claims(), key, algorithm, {"kid": key_id})).classify(RED)


def test_rights_may_be_a_list_in_another_claim(
    start_server: Callable[..., Any], config: JwtConfig, caller: Any
) -> None:
    config = replace(config, rights_claim="roles")
    address = start_server(access=AccessConfig(jwt=config)).address
    caller(address, jwt.encode(claims(roles=["models", "x"]), RSA, "RS256")).models()
    for roles in (None, {"models": 1}, 5, ["classify"]):
        with pytest.raises(PermissionDeniedError, match="no right to models"):
            caller(address, jwt.encode(claims(roles=roles), RSA, "RS256")).models()


def test_tokens_of_the_file_and_signed_ones_work_side_by_side(
    start_server: Callable[..., Any], config: JwtConfig, tokens: Any, caller: Any
) -> None:
    token = tokens.set("door", ["classify"])
    address = start_server(access=tokens.access(jwt=config)).address
    caller(address, token).classify(RED)
    caller(address, jwt.encode(claims(), RSA, "RS256")).classify(RED)


def private(key: Any) -> bytes:
    found: bytes = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return found


def secret_set() -> bytes:
    return json.dumps({"keys": [{"kty": "oct", "k": part(b"0" * 32)}]}).encode()


@pytest.mark.filterwarnings("ignore::UserWarning:cryptography")
@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (b"", "holds no key that can be read"),
        (b"-----BEGIN PUBLIC KEY-----\nAA==\n-----END PUBLIC KEY-----", "no key that can be read"),
        (private(RSA), "holds a private key; expected the public one"),
        (pem(rsa.generate_private_key(65537, 1024)), "an RSA key of 1024 bits; expected at least"),
        (pem(ec.generate_private_key(ec.SECP256K1())), "of a kind that signs no tokens"),
        (b"{", "is not JSON"),
        (b'{"keys": 1}', "expected a list of keys"),
        (b'{"keys": []}', "no key that signatures can be checked with"),
        (b'{"keys": [{"kty": "new"}]}', "no key that signatures can be checked with"),
        (secret_set(), "holds a secret key"),
        (json.dumps(RSAAlgorithm.to_jwk(RSA, as_dict=True)).encode(), "holds a secret key"),
    ],
)
def test_an_unusable_key_file_is_refused_with_the_reason(data: bytes, sentence: str) -> None:
    with pytest.raises(AccessPolicyError) as caught:
        read_keys(data, "issuer.pem")
    assert sentence in str(caught.value)


def test_an_issuers_certificate_holds_its_key(authority: Callable[..., Any]) -> None:
    (key,) = read_keys(authority("issuer").path.read_bytes(), "x")
    assert key.algorithms == ("ES256",)


@pytest.mark.parametrize(
    "changes",
    [
        {"exp": 10**400},
        {"exp": 1e308},
        {"exp": "soon"},
        {"exp": [1]},
        {"exp": True},
        {"nbf": 10**400},
        {"iat": 1e308},
        {"iat": {}},
        {"sub": 7},
        {"sub": ["porter"]},
        {"aud": 7},
        {"iss": [1]},
        {"scope": {"classify": 1}},
    ],
    ids=str,
)
def test_odd_values_in_a_token_let_nobody_in(changes: dict[str, Any]) -> None:
    keys = read_keys(pem(RSA), "key.pem")
    config = JwtConfig(Path("key.pem"), "https://issuer.example", "limelens")
    head = part({"alg": "RS256", "typ": "JWT"})
    body = part(json.dumps(claims(**changes)).encode())
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import padding

    signature = RSA.sign(f"{head}.{body}".encode(), padding.PKCS1v15(), hashes.SHA256())
    token = f"{head}.{body}.{part(signature)}"
    if "scope" in changes:  # grants nothing
        assert not read_token(token, keys, config).rights
        return
    with pytest.raises(UnauthenticatedError):
        read_token(token, keys, config)


@pytest.mark.parametrize(
    "header", [{"alg": ["RS256"]}, {"alg": "RS256", "kid": {}}, [], 7], ids=str
)
def test_odd_headers_of_a_token_let_nobody_in(header: Any) -> None:
    keys = read_keys(pem(RSA), "key.pem")
    config = JwtConfig(Path("key.pem"), "https://issuer.example", "limelens")
    with pytest.raises(UnauthenticatedError):
        read_token(f"{part(header)}.{part(claims())}.AAAA", keys, config)
