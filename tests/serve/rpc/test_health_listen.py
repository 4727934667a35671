"""The port for health alone, for probes without TLS."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from tests.waiting import until

from limelens.serve.access.config import Tls
from limelens.serve.client import Client
from limelens.serve.client import Tls as ClientTls
from limelens.serve.errors import ListenError, ServerError

SERVICE = "limelens.v1.ClassifierService"


@pytest.fixture
def probe() -> Iterator[Callable[[str, str], int]]:
    """Asks for the health of a service, in plaintext and without a token."""
    channels: list[Any] = []

    def ask(address: str, service: str) -> int:
        channels.append(grpc.insecure_channel(address))
        stub = health_pb2_grpc.HealthStub(channels[-1])
        status: int = stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=30).status
        return status

    yield ask
    for channel in channels:
        channel.close()


def test_probes_get_the_health_of_a_closed_server_and_nothing_else(
    start_server: Callable[..., Any],
    authority: Callable[..., Any],
    tokens: Any,
    probe: Callable[[str, str], int],
) -> None:
    tokens.set("door", ["models"])
    server = start_server(
        tls=Tls(*authority("ca").issue("localhost")),
        access=tokens.access(production=True),
        health_listen="127.0.0.1:0",
    )
    address = server.server.health_address
    for service in ("", SERVICE):
        assert probe(address, service) == health_pb2.HealthCheckResponse.SERVING
    with Client(address, max_attempts=1) as client, pytest.raises(ServerError) as caught:
        client.models()
    assert caught.value.code == "UNIMPLEMENTED"


def test_probes_see_a_server_that_drains(
    start_server: Callable[..., Any],
    authority: Callable[..., Any],
    probe: Callable[[str, str], int],
) -> None:
    ca = authority("ca")
    server = start_server(tls=Tls(*ca.issue("localhost")), health_listen="127.0.0.1:0")
    address = server.server.health_address
    pixels = np.full((64, 64, 3), (250, 0, 0), np.uint8)
    with Client(server.address, tls=ClientTls(ca.path)) as client:
        updates = client.explain_stream(pixels, num_samples=10_000)
        next(updates)

        async def begin_to_stop() -> Any:
            return asyncio.create_task(server.server.stop(60.0))

        task = server.call(begin_to_stop())
        until(lambda: probe(address, SERVICE) == health_pb2.HealthCheckResponse.NOT_SERVING)
        assert list(updates)[-1].explanation.num_samples == 10_000

    async def stopped() -> None:
        await task

    server.call(stopped())


def test_a_taken_health_port_is_reported(start_server: Callable[..., Any]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ListenError, match=rf"127.0.0.1:{port}.*--health-listen"):
            start_server(health_listen=f"127.0.0.1:{port}")
    with pytest.raises(ListenError, match="expected HOST:PORT"):
        start_server(health_listen="8502")
