"""Camera streams before their configuration came: they have a place, and end with the server."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import pytest
from tests.waiting import until

from limelens.serve.rpc.server_config import ServiceSettings
from limelens.v1 import classifier_service_pb2 as service_pb2
from limelens.v1 import image_pb2

CONFIG = service_pb2.ClassifyStreamRequest(config=service_pb2.StreamConfig(camera_id="a"))
FRAME = service_pb2.ClassifyStreamRequest(
    frame=service_pb2.Frame(
        image=image_pb2.Image(raw=image_pb2.RawImage(height=1, width=1, data=bytes(3)))
    )
)


class Quiet:
    """A stream on a bare stub that sends only what a test sends."""

    def __init__(self, stub: Any) -> None:
        self._messages: queue.Queue[Any] = queue.Queue()
        self.call = stub.ClassifyStream(iter(self._messages.get, None))

    def say(self, *messages: Any) -> None:
        for message in messages:
            self._messages.put(message)

    def end(self) -> None:
        self._messages.put(None)


@pytest.fixture
def open_stream() -> Iterator[Callable[[Any], Quiet]]:
    opened: list[Quiet] = []

    def one(stub: Any) -> Quiet:
        opened.append(Quiet(stub))
        return opened[-1]

    yield one
    for stream in opened:
        stream.end()


def test_a_stream_has_its_place_before_its_configuration_came(
    start_server: Callable[..., Any], open_stream: Callable[[Any], Quiet]
) -> None:
    server = start_server(service=ServiceSettings(max_streams=2))
    stub = server.stub()
    streams = [open_stream(stub) for _ in range(2)]
    until(lambda: server.server.open_calls.count == 2)
    third = open_stream(stub)
    third.say(CONFIG, FRAME)
    with pytest.raises(grpc.RpcError) as refused:
        next(third.call)
    assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert refused.value.details() == "stream limit reached (2 open)"
    for stream in streams:
        stream.say(CONFIG, FRAME)
        assert next(stream.call).frame_id == 0
        stream.end()
        assert list(stream.call) == []


def test_a_stream_that_ends_unconfigured_frees_its_place(
    start_server: Callable[..., Any], open_stream: Callable[[Any], Quiet]
) -> None:
    server = start_server(service=ServiceSettings(max_streams=1))
    stub = server.stub()
    silent = open_stream(stub)
    until(lambda: server.server.open_calls.count == 1)
    silent.call.cancel()
    until(lambda: server.server.open_calls.count == 0)
    other = open_stream(stub)
    other.say(CONFIG, FRAME)
    assert next(other.call).frame_id == 0


def test_a_silent_stream_does_not_delay_a_stopping_server(
    start_server: Callable[..., Any], open_stream: Callable[[Any], Quiet]
) -> None:
    server = start_server()
    silent = open_stream(server.stub())
    until(lambda: server.server.open_calls.count == 1)
    # Were it waited for, the server would end it only after this time, as CANCELLED.
    stopping = threading.Thread(target=server.stop, args=[25.0])
    stopping.start()
    with pytest.raises(grpc.RpcError) as ended:
        next(silent.call)
    stopping.join()
    assert ended.value.code() is grpc.StatusCode.UNAVAILABLE
    assert ended.value.details() == "the server is going down"
