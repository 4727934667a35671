"""Callers with tokens and certificates; the files that let them in are in tests/conftest.py."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import grpc
import numpy as np
import pytest
from tests.serve.paced import Paced

from limelens.serve import Client
from limelens.serve.client.results import FrameAnswer
from limelens.v1 import classifier_service_pb2_grpc as service_grpc

RED = np.full((8, 8, 3), (255, 0, 0), np.uint8)


class _Details(NamedTuple):
    method: str
    timeout: float | None
    metadata: Sequence[tuple[str, str]]
    credentials: Any
    wait_for_ready: bool | None


class _Adding(
    grpc.UnaryUnaryClientInterceptor,
    grpc.UnaryStreamClientInterceptor,
    grpc.StreamStreamClientInterceptor,
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

    intercept_unary_stream: Any = intercept_unary_unary
    intercept_stream_stream: Any = intercept_unary_unary


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


class Camera(Paced):
    """Sends red frames, unless told otherwise."""

    def __call__(self, frame: Any = RED) -> FrameAnswer:
        return super().__call__(frame)


@pytest.fixture
def camera() -> Iterator[Callable[..., Camera]]:
    opened: list[Camera] = []

    def open_one(client: Client, **settings: Any) -> Camera:
        opened.append(Camera(client, **settings))
        return opened[-1]

    yield open_one
    for one in opened:
        one.leave()


def credentials(ca: Path, chain: Path | None = None, key: Path | None = None) -> Any:
    """What a client connects with."""
    return grpc.ssl_channel_credentials(
        *(None if path is None else path.read_bytes() for path in (ca, key, chain))
    )


@pytest.fixture(name="credentials")
def credentials_fixture() -> Callable[..., Any]:
    return credentials
