"""Certificates: the server's, which are renewed while it runs, and those of clients."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.serve.access.conftest import Callers

from limelens.serve.access.config import AccessConfig
from limelens.serve.client import Client
from limelens.serve.errors import (
    ListenError,
    OverloadedError,
    PermissionDeniedError,
    UnauthenticatedError,
    UnavailableError,
)
from limelens.serve.rpc.server import Server, ServerConfig, Tls
from limelens.serve.run_server import serve

RED = np.full((8, 8, 3), (255, 0, 0), np.uint8)


class Files:
    """The server's certificate files, which are replaced as a renewal does."""

    def __init__(self, folder: Path) -> None:
        self.certificate, self.key, self.client_ca = (
            folder / name for name in ("tls.pem", "tls.key", "clients.pem")
        )

    def put(self, pair: tuple[Path, Path] | None = None, client_ca: Path | None = None) -> None:
        for source, target in zip(
            (*(pair or (None, None)), client_ca),
            (self.certificate, self.key, self.client_ca),
            strict=True,
        ):
            if source is not None:
                beside = target.with_suffix(".new")
                shutil.copy(source, beside)
                beside.rename(target)

    def tls(self, *, mutual: bool = False) -> Tls:
        return Tls(self.certificate, self.key, self.client_ca if mutual else None)


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


def test_the_owner_of_a_certificate_is_found_in_the_file_of_clients(
    start_server: Callable[..., Any],
    authority: Callable[..., Any],
    tokens: Any,
    caller: Any,
    credentials: Callable[..., Any],
    files: Files,
) -> None:
    ca = authority("ca")
    files.put(ca.issue("localhost"), ca.path)
    tokens.set("porter", ["classify"], subject="CN=door,O=Doors")
    tokens.set("late", ["classify"], "expires = 2020-01-01", subject="CN=late,O=Doors")
    token = tokens.set("by-token", ["models"])
    server = start_server(listen="localhost:0", tls=files.tls(mutual=True), access=tokens.access())
    door = credentials(ca.path, *ca.issue("door"))
    client = caller(server.address, credentials=door)
    assert client.classify(RED)[0].label == "red"
    with pytest.raises(PermissionDeniedError, match="porter has no right to models"):
        client.models()
    # A token that is shown decides, whatever the certificate says.
    assert caller(server.address, token, credentials=door).models()
    with pytest.raises(UnauthenticatedError, match="the token is not known"):
        caller(server.address, "wrong", credentials=door).classify(RED)
    with pytest.raises(UnauthenticatedError, match="CN=stranger,O=Doors belongs to no client"):
        caller(server.address, credentials=credentials(ca.path, *ca.issue("stranger"))).models()
    with pytest.raises(UnauthenticatedError, match="the access of late has expired"):
        caller(server.address, credentials=credentials(ca.path, *ca.issue("late"))).classify(RED)


def test_where_only_certificates_count_their_owner_may_do_all(
    start_server: Callable[..., Any],
    authority: Callable[..., Any],
    caller: Any,
    credentials: Callable[..., Any],
    files: Files,
) -> None:
    ca = authority("ca")
    files.put(ca.issue("localhost"), ca.path)
    access = AccessConfig(rate_limit="1/hour", production=True)
    server = start_server(listen="localhost:0", tls=files.tls(mutual=True), access=access)
    door, hall = (credentials(ca.path, *ca.issue(name)) for name in ("door", "hall"))
    assert caller(server.address, credentials=door).models()
    with pytest.raises(OverloadedError, match="CN=door,O=Doors has made 1 calls"):
        caller(server.address, credentials=door).models()
    assert caller(server.address, credentials=hall).models()


def test_a_renewed_certificate_leaves_open_streams_alone(
    start_server: Callable[..., Any],
    authority: Callable[..., Any],
    caller: Any,
    camera: Callable[..., Any],
    credentials: Callable[..., Any],
    files: Files,
) -> None:
    old, new = authority("old"), authority("new")
    files.put(old.issue("localhost"))
    server = start_server(listen="localhost:0", tls=files.tls())
    stream = camera(caller(server.address, credentials=credentials(old.path)))
    assert stream().frame_id == 0
    files.put(new.issue("localhost"))
    assert caller(server.address, credentials=credentials(new.path)).models()
    with pytest.raises(UnavailableError):
        caller(server.address, credentials=credentials(old.path)).models()
    assert stream().frame_id == 1


def test_a_renewed_client_authority_leaves_open_streams_alone(
    start_server: Callable[..., Any],
    authority: Callable[..., Any],
    caller: Any,
    camera: Callable[..., Any],
    credentials: Callable[..., Any],
    files: Files,
) -> None:
    ca, old, new = authority("ca"), authority("old"), authority("new")
    files.put(ca.issue("localhost"), old.path)
    server = start_server(listen="localhost:0", tls=files.tls(mutual=True))
    by_old = credentials(ca.path, *old.issue("door"))
    by_new = credentials(ca.path, *new.issue("door"))
    stream = camera(caller(server.address, credentials=by_old))
    assert stream().frame_id == 0
    with pytest.raises(UnavailableError):
        caller(server.address, credentials=by_new).models()
    files.put(client_ca=new.path)
    assert caller(server.address, credentials=by_new).models()
    with pytest.raises(UnavailableError):
        caller(server.address, credentials=by_old).models()
    assert stream().frame_id == 1


def test_half_a_renewal_leaves_the_old_pair_in_use_and_is_logged(
    start_server: Callable[..., Any],
    authority: Callable[..., Any],
    caller: Any,
    credentials: Callable[..., Any],
    files: Files,
    caplog: pytest.LogCaptureFixture,
) -> None:
    old, new = authority("old"), authority("new")
    files.put(old.issue("localhost"), old.path)
    server = start_server(listen="localhost:0", tls=files.tls(mutual=True))
    own = old.issue("door")

    def answers(ca: Path) -> bool:
        return bool(caller(server.address, credentials=credentials(ca, *own)).models())

    chain, key = new.issue("localhost")
    shutil.copy(chain, files.certificate)  # its key is still the old one
    assert answers(old.path)
    assert answers(old.path)
    assert caplog.text.count("tls.key is not the key of") == 1
    files.certificate.write_bytes(chain.read_bytes()[:200])
    assert answers(old.path)
    assert "tls.pem holds no certificate that can be read" in caplog.text
    shutil.copy(chain, files.certificate)
    files.key.write_text("")
    assert answers(old.path)
    assert "tls.key holds no private key that can be read" in caplog.text
    files.key.unlink()
    assert answers(old.path)
    assert "tls.key: No such file" in caplog.text
    shutil.copy(key, files.key)
    assert answers(new.path)
    files.client_ca.write_text("half")
    assert answers(new.path)
    assert "clients.pem holds no certificate that can be read" in caplog.text
    assert "PRIVATE" not in caplog.text


@pytest.mark.parametrize(
    ("certificate", "key", "sentence"),
    [
        ("one.pem", "two.key", "two.key is not the key of"),
        ("one.key", "one.key", "one.key holds no certificate"),
        ("one.pem", "one.pem", "one.pem holds no private key"),
    ],
)
def test_a_server_whose_certificates_do_not_fit_does_not_start(
    one_model: Path,
    authority: Callable[..., Any],
    certificate: str,
    key: str,
    sentence: str,
) -> None:
    ca = authority("ca")
    ca.issue("one")
    ca.issue("two")
    tls = Tls(ca.folder / certificate, ca.folder / key)
    config = ServerConfig(models=one_model, listen="127.0.0.1:0", device="cpu", tls=tls)
    with pytest.raises(ListenError) as caught:
        serve(config)
    assert sentence in str(caught.value)


class Serving:
    """`limelens serve` in a process of its own."""

    def __init__(self, *arguments: object) -> None:
        environment = {key: v for key, v in os.environ.items() if not key.startswith("GRPC_")}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "limelens.cli", "serve", *map(str, arguments)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
        )
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, self._process.communicate()[1]
        self.address = line.split(" on ")[1].split()[0]

    def stop(self) -> str:
        """What it wrote to stderr."""
        self._process.send_signal(signal.SIGTERM)
        errors = self._process.communicate(timeout=60)[1]
        assert self._process.returncode == 0, errors
        return errors

    def kill(self) -> None:
        if self._process.poll() is None:
            self._process.kill()
            self._process.communicate()


@pytest.fixture
def run_server(one_model: Path) -> Iterator[Callable[..., Serving]]:
    started: list[Serving] = []

    def run(*arguments: object) -> Serving:
        base = ("--models", one_model, "--listen", "localhost:0", "--device", "cpu")
        started.append(Serving(*base, *arguments))
        return started[-1]

    yield run
    for one in started:
        one.kill()


def test_a_failed_handshake_is_unavailable_and_logged_with_the_reason(
    run_server: Callable[..., Serving],
    authority: Callable[..., Any],
    caller: Any,
    credentials: Callable[..., Any],
    files: Files,
) -> None:
    ca, foreign = authority("ca"), authority("foreign")
    files.put(ca.issue("localhost"), ca.path)
    server = run_server(
        "--tls-cert", files.certificate, "--tls-key", files.key, "--tls-client-ca", files.client_ca
    )
    own = credentials(ca.path, *ca.issue("door"))
    refused = [
        credentials(ca.path),
        credentials(ca.path, *ca.issue("late", days=-1)),
        credentials(ca.path, *foreign.issue("door")),
        None,
    ]
    for one in refused:
        # Closed at once: an open channel tries again after a second.
        with contextlib.closing(Callers()) as refused_caller:
            stranger = refused_caller(server.address, credentials=one)
            with pytest.raises(UnavailableError):
                stranger.models()
        assert caller(server.address, credentials=own).models()
    reported = server.stop().splitlines()
    reasons = [
        "PEER_DID_NOT_RETURN_A_CERTIFICATE",
        "CERTIFICATE_VERIFY_FAILED: certificate has expired",
        "CERTIFICATE_VERIFY_FAILED: unable to get local issuer certificate",
        "WRONG_VERSION_NUMBER",
    ]
    assert all("Handshake failed" in line for line in reported), reported
    # Where localhost is two addresses, clients try both.
    found = [reason for line in reported for reason in reasons if reason in line]
    assert len(found) == len(reported)
    assert list(dict.fromkeys(found)) == reasons
    # docs/security.md says what these words mean.
    page = (Path(__file__).parents[3] / "docs" / "security.md").read_text()
    for reason in reasons:
        assert reason in page


def test_a_client_that_does_not_trust_the_server_sees_the_reason(
    start_server: Callable[..., Any],
    authority: Callable[..., Any],
    caller: Any,
    credentials: Callable[..., Any],
    files: Files,
) -> None:
    files.put(authority("ca").issue("localhost"))
    server = start_server(listen="localhost:0", tls=files.tls())
    with pytest.raises(UnavailableError, match="CERTIFICATE_VERIFY_FAILED"):
        caller(server.address, credentials=credentials(authority("other").path)).models()


def test_a_server_with_tls_writes_nothing_more_to_stderr_than_one_without(
    run_server: Callable[..., Serving],
    authority: Callable[..., Any],
    caller: Any,
    credentials: Callable[..., Any],
    files: Files,
) -> None:
    ca = authority("ca")
    files.put(ca.issue("localhost"))
    server = run_server("--tls-cert", files.certificate, "--tls-key", files.key)
    for _ in range(3):
        assert caller(server.address, credentials=credentials(ca.path)).models()
    with Client(server.address, max_attempts=1) as plain, pytest.raises(UnavailableError):
        plain.models()
    reported = server.stop().splitlines()
    assert reported
    assert all(re.search(r"Handshake failed .*WRONG_VERSION_NUMBER", line) for line in reported)


@pytest.mark.parametrize(
    ("access", "settings", "error", "sentence"),
    [
        ({}, {}, "AccessPolicyError", "nothing says who may call; give a file of clients"),
        ({}, {"listen": "unix:s"}, "AccessPolicyError", "nothing says who may call"),
        ({"tokens": True}, {"listen": "0.0.0.0:0"}, "ListenError", "--tls-cert"),
        ({"tokens": True}, {"listen": "0.0.0.0:0", "insecure": True}, "ListenError", "--insecure"),
    ],
)
def test_production_refuses_what_is_for_trying_out(
    start_server: Callable[..., Any],
    tokens: Any,
    access: dict[str, Any],
    settings: dict[str, Any],
    error: str,
    sentence: str,
) -> None:
    tokens.set("door", ["classify"])
    path = tokens.path if access else None
    with pytest.raises(Exception, match=sentence) as caught:
        start_server(access=AccessConfig(tokens=path, production=True), **settings)
    assert type(caught.value).__name__ == error


def test_production_serves_loopback_with_tokens_and_no_reflection(
    start_server: Callable[..., Any], tokens: Any, caller: Any
) -> None:
    import grpc
    from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

    token = tokens.set("door", ["models"])
    server = start_server(access=tokens.access(production=True))
    assert isinstance(server.server, Server)
    assert caller(server.address, token).models()
    ask = reflection_pb2_grpc.ServerReflectionStub(caller.channel(server.address, token))
    with pytest.raises(grpc.RpcError) as caught:
        list(ask.ServerReflectionInfo(iter([reflection_pb2.ServerReflectionRequest()])))
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
