"""How many connections a client opens, and which of them takes a call."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from tests.serve.paced import Paced
from tests.waiting import until, until_async

from limelens.serve import AsyncClient, Client
from limelens.serve.client import Tls
from limelens.serve.client.channels import Channel, Channels
from limelens.serve.client.connection import Connection
from limelens.serve.client.results import FrameStatus
from limelens.serve.errors import InvalidRequestError
from limelens.serve.rpc.server import Tls as ServerTls

RED = np.full((8, 8, 3), (255, 0, 0), np.uint8)
EXPLAIN: Any = {"num_samples": 60, "segmentation": "grid", "num_segments": 9, "seed": 5}


def ports_to(address: str) -> set[int]:
    """The client's ends of this process's connections; it holds the server too."""
    port = int(address.rpartition(":")[2])
    return {
        one.laddr.port
        for one in psutil.Process().net_connections("tcp")
        if one.raddr and one.raddr.port == port and one.status == psutil.CONN_ESTABLISHED
    }


def connections_to(address: str) -> int:
    return len(ports_to(address))


class Cameras:
    """Streams that stay open, each with one answer read."""

    def __init__(self, client: Any) -> None:
        self._client = client
        self._over = threading.Event()
        self._open: list[Iterator[Any]] = []

    def add(self, count: int) -> None:
        for _ in range(count):
            self._open.append(self._client.stream(self._frames(), drop_old=False))
            assert next(self._open[-1]).smoothed_label == "red"

    def _frames(self) -> Iterator[Any]:
        yield RED
        self._over.wait(60)

    def close(self) -> None:
        self._over.set()
        while self._open:
            assert list(self._open.pop()) == []


@pytest.fixture
def cameras() -> Iterator[Callable[[Any], Cameras]]:
    made: list[Cameras] = []

    def make(client: Any) -> Cameras:
        made.append(Cameras(client))
        return made[-1]

    yield make
    for one in made:
        one.close()


def test_one_caller_has_one_connection(
    start_server: Callable[..., Any], connect: Callable[..., Any]
) -> None:
    address = start_server().address
    client = connect(address)
    for _ in range(10):
        client.classify(RED)
        client.models()
        client.explain(RED, **EXPLAIN)
        list(client.explain_stream(RED, **EXPLAIN))
        list(client.stream([RED], drop_old=False))
    assert connections_to(address) == 1


@pytest.mark.parametrize(("settings", "most"), [({}, 8), ({"max_connections": 3}, 3)])
def test_there_are_as_many_connections_as_calls_in_flight(
    start_server: Callable[..., Any],
    connect: Callable[..., Any],
    cameras: Callable[..., Cameras],
    settings: dict[str, int],
    most: int,
) -> None:
    address = start_server().address
    client = connect(address, **settings)
    streams = cameras(client)
    for expected in (*range(1, most + 1), most, most):
        streams.add(1)
        until(lambda: connections_to(address) == expected)  # noqa: B023
    assert client.classify(RED)[0].label == "red"
    assert connections_to(address) == most
    streams.close()
    client.close()
    until(lambda: connections_to(address) == 0)


def test_a_client_may_be_kept_to_one_connection(
    start_server: Callable[..., Any], connect: Callable[..., Any], cameras: Callable[..., Cameras]
) -> None:
    address = start_server().address
    client = connect(address, max_connections=1)
    cameras(client).add(4)
    assert client.classify(RED)[0].label == "red"
    assert connections_to(address) == 1


def test_bulk_uses_several_connections(
    start_server: Callable[..., Any],
    connect: Callable[..., Any],
    gate: Any,
) -> None:
    address = start_server().address
    client = connect(address)
    client.models()
    results: list[Any] = []
    thread = threading.Thread(
        target=lambda: results.extend(client.classify_many([RED] * 40, batch_size=2))
    )
    with gate_closed(gate):
        thread.start()
        until(lambda: connections_to(address) == 4)
    thread.join(60)
    assert [one.label for one in results] == ["red"] * 40


@contextlib.contextmanager
def gate_closed(gate: Any) -> Iterator[None]:
    gate.opened.clear()
    try:
        yield
    finally:
        gate.opened.set()


def test_tls_and_tokens_hold_on_every_connection(
    start_server: Callable[..., Any],
    connect: Callable[..., Any],
    certificates: Path,
    tokens: Any,
    cameras: Callable[..., Cameras],
) -> None:
    token = tokens.set("door", ["classify", "models"])
    tls = ServerTls(
        certificates / "server.pem", certificates / "server.key", certificates / "ca.pem"
    )
    address = start_server(tls=tls, access=tokens.access()).address
    own = Tls(certificates / "ca.pem", certificates / "client.pem", certificates / "client.key")
    client = connect(address, tls=own, token=token)
    cameras(client).add(4)
    until(lambda: connections_to(address) == 4)
    assert client.classify(RED)[0].label == "red"


def test_a_socket_of_this_machine_takes_several_connections(
    start_server: Callable[..., Any],
    connect: Callable[..., Any],
    cameras: Callable[..., Cameras],
    tmp_path: Path,
) -> None:
    address = start_server(listen=f"unix:{tmp_path}/s").address
    client = connect(address)
    cameras(client).add(4)
    assert client.classify(RED)[0].label == "red"


@pytest.mark.skipif(not hasattr(socket, "SO_REUSEPORT"), reason="no SO_REUSEPORT here")
def test_all_servers_behind_one_port_are_called(
    start_witnessed: Callable[..., Any], connect: Callable[..., Any]
) -> None:
    first = start_witnessed()
    second = start_witnessed(listen=first.address)

    def called(client: Any) -> list[bool]:
        for one in (first, second):
            one.witness.calls.clear()
        with ThreadPoolExecutor(8) as pool:
            for _ in range(5):
                list(pool.map(client.classify, [RED] * 16))
        return [bool(one.witness.calls) for one in (first, second)]

    assert sorted(called(connect(first.address, max_connections=1))) == [False, True]
    # The kernel deals connections at random: now and then one server gets all of a client's.
    assert any(called(connect(first.address)) == [True, True] for _ in range(20))


@pytest.mark.skipif(not hasattr(socket, "SO_REUSEPORT"), reason="no SO_REUSEPORT here")
def test_a_server_behind_the_port_that_stops_loses_no_call(
    start_witnessed: Callable[..., Any], connect: Callable[..., Any]
) -> None:
    first = start_witnessed()
    second = start_witnessed(listen=first.address)
    client = connect(first.address)
    stopped = threading.Event()

    def ask() -> int:
        count = 0
        while count < 10 or not stopped.is_set():
            assert client.classify(RED)[0].label == "red"
            count += 1
        for _ in range(10):
            assert client.classify(RED)[0].label == "red"
        return count

    with ThreadPoolExecutor(8) as pool:
        asking = [pool.submit(ask) for _ in range(8)]
        second.stop()
        stopped.set()
        assert all(one.result(60) >= 10 for one in asking)


class OneConnection:
    """A way to a server that takes one connection and resets all others, as some proxies do."""

    def __init__(self, target: str) -> None:
        host, _, port = target.rpartition(":")
        self._target = host, int(port)
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listening.getsockname()[1]}"
        self.num_refused = 0
        self._sockets: list[socket.socket] = [self._listening]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            inside, _ = self._listening.accept()
            outside = socket.create_connection(self._target)
            self._sockets += [inside, outside]
            for one, other in ((inside, outside), (outside, inside)):
                threading.Thread(target=self._copy, args=(one, other), daemon=True).start()
            while True:
                refused, _ = self._listening.accept()
                self.num_refused += 1
                refused.close()

    def _copy(self, one: socket.socket, other: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := one.recv(65536):
                other.sendall(data)

    def close(self) -> None:
        for one in self._sockets:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()


def test_no_call_waits_for_an_impossible_connection(
    start_server: Callable[..., Any],
    connect: Callable[..., Any],
    cameras: Callable[..., Cameras],
) -> None:
    way = OneConnection(start_server().address)
    client = connect(way.address)
    try:
        streams = cameras(client)
        streams.add(4)
        until(lambda: way.num_refused > 0)
        streams.add(4)
        assert client.classify(RED)[0].label == "red"
        streams.close()
    finally:
        client.close()
        way.close()


async def test_a_cancelled_call_makes_room_on_its_connection(
    start_server: Callable[..., Any], gate: Any
) -> None:
    address = start_server().address
    async with AsyncClient(address) as client:
        await client.models()
        gate.opened.clear()
        for _ in range(5):
            task = asyncio.create_task(client.classify(RED))
            await until_async(lambda: gate.num_entered)
            gate.num_entered = 0
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            gate.opened.set()
            await client.models()
            gate.opened.clear()
        gate.opened.set()
        assert connections_to(address) == 1


@pytest.mark.parametrize("count", [0, 65])
def test_an_impossible_number_of_connections_is_refused(count: int) -> None:
    with pytest.raises(InvalidRequestError, match="expected 1 to 64"):
        Connection("127.0.0.1:1", max_connections=count)


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def pool(most: int = 4) -> tuple[Channels, list[Channel], Clock]:
    """Channels, those that wait to be connected, and what the time is."""
    waiting: list[Channel] = []
    clock = Clock()
    return Channels(most, lambda: Channel(None, None), waiting.append, clock=clock), waiting, clock


def test_a_call_takes_the_least_busy_connection() -> None:
    channels, waiting, _ = pool()
    first, again = channels.take(), channels.take()
    assert first is again
    (second,) = waiting
    assert channels.take() is first  # the second does not stand yet
    channels.connected(second, True)
    assert [channels.take() for _ in range(2)] == [second, second]
    for _ in range(2):
        channels.give_back(first)
    assert channels.take() is first


def test_a_lost_connection_takes_no_more_calls_and_closes_after_its_last() -> None:
    channels, waiting, clock = pool()
    first = channels.take()
    channels.take()
    second = waiting.pop()
    channels.connected(second, True)
    assert channels.take() is second
    channels.take()  # on either
    busy_there = second.busy
    for left in range(busy_there - 1, -1, -1):
        assert channels.give_back(second, is_lost=True) is (left == 0)
    waiting.clear()
    assert channels.take() is first
    assert waiting == []  # none is tried for a while
    clock.now += 60
    channels.take()
    assert len(waiting) == 1


def test_the_first_connection_stays_even_if_it_is_lost() -> None:
    channels, _, _ = pool()
    first = channels.take()
    assert not channels.give_back(first, is_lost=True)
    assert channels.take() is first


def test_a_late_connection_is_closed_with_the_rest() -> None:
    channels, waiting, _ = pool()
    first = channels.take()
    channels.take()
    assert channels.close() == [first, waiting[0]]
    assert not channels.connected(waiting[0], True)
    channels.take()
    assert len(waiting) == 1


def test_an_old_connection_takes_no_more_calls_but_keeps_its_stream(
    start_server: Callable[..., Any],
) -> None:
    address = start_server(max_connection_age_s=0.3).address
    with Client(address, max_attempts=1) as client:
        camera = Paced(client)
        camera(RED)
        old = ports_to(address)
        until(lambda: client.classify(RED) and ports_to(address) - old)
        assert camera(RED).status is FrameStatus.CLASSIFIED
        assert old <= ports_to(address)
        camera.end()
