"""Callers with tokens and certificates, and the files that let them in."""

from __future__ import annotations

import datetime
import hashlib
import ipaddress
import queue
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import grpc
import numpy as np
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from limelens.serve import Client
from limelens.serve.access.config import AccessConfig
from limelens.serve.answers import FrameAnswer
from limelens.v1 import classifier_service_pb2_grpc as service_grpc

RED = np.full((8, 8, 3), (255, 0, 0), np.uint8)


class _Details(NamedTuple):
    method: str
    timeout: float | None
    metadata: Sequence[tuple[str, str]]
    credentials: Any
    wait_for_ready: bool | None


class _Adding(
    grpc.UnaryUnaryClientInterceptor,  # type: ignore[misc]  # grpcio has no types
    grpc.UnaryStreamClientInterceptor,  # type: ignore[misc]
    grpc.StreamStreamClientInterceptor,  # type: ignore[misc]
):
    """Adds metadata to every call."""

    def __init__(self, metadata: Iterable[tuple[str, str]]) -> None:
        self._metadata = tuple(metadata)

    def intercept_unary_unary(self, continuation: Any, details: Any, request: Any) -> Any:
        added = (*(details.metadata or ()), *self._metadata)
        more = _Details(
            details.method, details.timeout, added, details.credentials, details.wait_for_ready
        )
        return continuation(more, request)

    intercept_unary_stream = intercept_unary_unary
    intercept_stream_stream = intercept_unary_unary


class Callers:
    """Makes clients that try each call once, and closes them."""

    def __init__(self) -> None:
        self._channels: list[Any] = []

    def channel(
        self,
        address: str,
        token: str | None = None,
        *,
        metadata: Iterable[tuple[str, str]] = (),
        credentials: Any = None,
    ) -> Any:
        options = [("grpc.enable_retries", 0), ("grpc.use_local_subchannel_pool", 1)]
        channel = (
            grpc.insecure_channel(address, options)
            if credentials is None
            else grpc.secure_channel(address, credentials, options)
        )
        self._channels.append(channel)
        added = list(metadata)
        if token is not None:
            added.append(("authorization", f"Bearer {token}"))
        return grpc.intercept_channel(channel, _Adding(added))

    def __call__(self, address: str, token: str | None = None, **arguments: Any) -> Client:
        channel = self.channel(address, token, **arguments)
        return Client.over(service_grpc.ClassifierServiceStub(channel))  # type: ignore[no-untyped-call]

    def close(self) -> None:
        for channel in self._channels:
            channel.close()


@pytest.fixture
def caller() -> Iterator[Callers]:
    made = Callers()
    yield made
    made.close()


class Paced:
    """A camera that sends the next frame once the last was answered."""

    def __init__(self, client: Client) -> None:
        self._frames: queue.Queue[Any] = queue.Queue()
        self._answers = client.stream(self._sent())

    def _sent(self) -> Iterator[Any]:
        while (frame := self._frames.get()) is not None:
            yield frame

    def __call__(self, frame: Any = RED) -> FrameAnswer:
        self._frames.put(frame)
        return next(self._answers)

    def wait(self) -> FrameAnswer:
        """For an answer to nothing: that is, for the stream's end."""
        return next(self._answers)

    def close(self) -> None:
        self._frames.put(None)
        list(self._answers)


@pytest.fixture
def camera() -> Iterator[Callable[[Client], Paced]]:
    opened: list[Paced] = []

    def open_one(client: Client) -> Paced:
        opened.append(Paced(client))
        return opened[-1]

    yield open_one
    for one in opened:
        one._frames.put(None)


@dataclass
class TokenFile:
    """A file of clients whose tokens are `NAME-token`."""

    path: Path
    entries: dict[str, str] = field(default_factory=dict)

    def set(self, name: str, rights: Sequence[str], *more: str, subject: str = "") -> str:
        """Adds or changes a client; `more` are lines. Returns its token."""
        token = f"{name}-token"
        shown = (
            f'subject = "{subject}"'
            if subject
            else f'token_sha256 = "{hashlib.sha256(token.encode()).hexdigest()}"'
        )
        lines = ["[[client]]", f'name = "{name}"', shown, f"rights = {list(rights)}", *more]
        self.entries[name] = "\n".join(lines) + "\n"
        self.write()
        return token

    def remove(self, name: str) -> None:
        del self.entries[name]
        self.write()

    def write(self) -> None:
        self.path.write_text("# who may call\n" + "\n".join(self.entries.values()))
        self.path.chmod(0o600)

    def access(self, **settings: Any) -> AccessConfig:
        return AccessConfig(**{"tokens": self.path, "check_s": 0.05, **settings})


@pytest.fixture
def tokens(tmp_path: Path) -> TokenFile:
    return TokenFile(tmp_path / "tokens.toml")


def eventually(happens: Callable[[], bool]) -> None:
    """Waits, for as long as a very busy machine may take."""
    end = time.monotonic() + 60
    while not happens():
        assert time.monotonic() < end, "it never happened"
        time.sleep(0.02)


@pytest.fixture(name="eventually")
def eventually_fixture() -> Callable[[Callable[[], bool]], None]:
    return eventually


class Authority:
    """Signs certificates; they are written beside its own."""

    def __init__(self, folder: Path, name: str) -> None:
        self.folder = folder
        folder.mkdir(exist_ok=True)
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
        self.path = folder / f"{name}.pem"
        self._write(self.path, self._certificate(self._subject, self._key, 2, is_ca=True))

    def issue(self, name: str, *, days: int = 2) -> tuple[Path, Path]:
        """A certificate of `CN=name,O=Doors` and its key."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name(
            [
                x509.NameAttribute(x509.NameOID.ORGANIZATION_NAME, "Doors"),
                x509.NameAttribute(x509.NameOID.COMMON_NAME, name),
            ]
        )
        chain, private = self.folder / f"{name}.pem", self.folder / f"{name}.key"
        self._write(chain, self._certificate(subject, key, days, is_ca=False))
        private.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        return chain, private

    def _certificate(self, subject: x509.Name, key: Any, days: int, *, is_ca: bool) -> Any:
        now = datetime.datetime.now(datetime.UTC)
        names = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=9))
            .not_valid_after(now + datetime.timedelta(days=days))
            .add_extension(x509.BasicConstraints(ca=is_ca, path_length=None), critical=True)
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            .sign(self._key, hashes.SHA256())
        )

    def _write(self, path: Path, certificate: Any) -> None:
        path.write_bytes(certificate.public_bytes(Encoding.PEM))


@pytest.fixture
def authority(tmp_path: Path) -> Callable[[str], Authority]:
    """Makes authorities, each with a folder of its own."""
    return lambda name: Authority(tmp_path / name, name)


def credentials(ca: Path, chain: Path | None = None, key: Path | None = None) -> Any:
    """What a client connects with."""
    return grpc.ssl_channel_credentials(
        *(None if path is None else path.read_bytes() for path in (ca, key, chain))
    )


@pytest.fixture(name="credentials")
def credentials_fixture() -> Callable[..., Any]:
    return credentials
