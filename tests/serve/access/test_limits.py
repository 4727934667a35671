"""How often and how much at a time a client may call."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from tests.waiting import until

from limelens.serve import Client
from limelens.serve.access.config import AccessConfig
from limelens.serve.errors import OverloadedError, UnauthenticatedError
from limelens.v1 import classifier_service_pb2 as service_pb2
from limelens.v1 import classifier_service_pb2_grpc as service_grpc

RED = np.full((8, 8, 3), (255, 0, 0), np.uint8)


def test_a_client_that_calls_too_often_gets_a_retry_delay(
    start_server: Callable[..., Any], tokens: Any, caller: Any
) -> None:
    fast, slow = tokens.set("fast", ["models"]), tokens.set("slow", ["models"])
    own = tokens.set("own", ["models"], 'rate_limit = "5/hour"')
    address = start_server(access=tokens.access(rate_limit="3/hour")).address
    for _ in range(3):
        caller(address, fast).models()
    with pytest.raises(OverloadedError, match="fast has made 3 calls within 3600 s") as caught:
        caller(address, fast).models()
    assert 3000 < caught.value.retry_after_s <= 3600
    caller(address, slow).models()
    for _ in range(5):
        caller(address, own).models()
    with pytest.raises(OverloadedError):
        caller(address, own).models()


def test_the_reply_carries_the_delay_for_any_grpc_client(
    start_server: Callable[..., Any],
) -> None:
    server = start_server(access=AccessConfig(rate_limit="1/hour"))
    stub = server.stub()
    stub.ListModels(service_pb2.ListModelsRequest())
    with pytest.raises(grpc.RpcError) as caught:
        stub.ListModels(service_pb2.ListModelsRequest())
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    trailing = {one.key: one.value for one in caught.value.trailing_metadata()}
    assert int(trailing["grpc-retry-pushback-ms"]) > 1_000_000


def test_after_the_delay_calls_succeed_again(start_server: Callable[..., Any]) -> None:
    server = start_server(access=AccessConfig(rate_limit="2/second"))
    with Client(server.address, max_attempts=5) as client:
        # gRPC waits as long as the server says and tries again.
        for _ in range(5):
            assert client.models()


def test_refused_calls_of_strangers_do_not_count_against_a_client(
    start_server: Callable[..., Any], tokens: Any, caller: Any
) -> None:
    token = tokens.set("door", ["models"])
    address = start_server(access=tokens.access(rate_limit="1/hour")).address
    for _ in range(3):
        with pytest.raises(UnauthenticatedError):
            caller(address, "wrong").models()
    caller(address, token).models()


def test_the_limit_on_calls_counts_each_client_alone(
    start_server: Callable[..., Any],
    tokens: Any,
    caller: Any,
    camera: Callable[..., Any],
) -> None:
    first, second = tokens.set("first", ["classify"]), tokens.set("second", ["classify"])
    wide = tokens.set("wide", ["classify"], "max_calls = 2")
    address = start_server(access=tokens.access(max_calls_per_client=1)).address
    stream = camera(caller(address, first))
    stream()
    with pytest.raises(OverloadedError, match="first has 1 calls in flight, which") as caught:
        caller(address, first).classify(RED)
    assert caught.value.retry_after_s == 1.0
    caller(address, second).classify(RED)
    other = camera(caller(address, wide))
    other()
    caller(address, wide).classify(RED)
    assert stream().frame_id == 1
    stream.end()

    def answers() -> bool:
        try:
            caller(address, first).classify(RED)
        except OverloadedError:
            return False
        return True

    until(answers)


def test_calls_beyond_may_wait_for_their_turn(
    start_server: Callable[..., Any], caller: Any, camera: Callable[..., Any]
) -> None:
    access = AccessConfig(max_calls_per_client=1, max_waiting_per_client=1)
    address = start_server(access=access).address
    stream = camera(caller(address))
    stream()
    results: list[Any] = []
    one_came_back = threading.Event()

    def call() -> None:
        try:
            results.append(caller(address).classify(RED)[0].label)
        except OverloadedError as error:
            results.append(str(error))
        one_came_back.set()

    calling = [threading.Thread(target=call) for _ in range(2)]
    for one in calling:
        one.start()
    assert one_came_back.wait(60)
    assert results == [
        "127.0.0.1 has 1 calls in flight, which is its limit, and 1 waiting; expected one to end "
        "first"
    ]
    stream.end()
    for one in calling:
        one.join(60)
    assert results[1:] == ["red"]


def test_a_cancelled_waiting_call_frees_its_place(
    start_server: Callable[..., Any], caller: Any, camera: Callable[..., Any]
) -> None:
    access = AccessConfig(max_calls_per_client=1, max_waiting_per_client=1)
    address = start_server(access=access).address
    stream = camera(caller(address))
    stream()
    stub: Any = service_grpc.ClassifierServiceStub(  # type: ignore[no-untyped-call]
        caller.channel(address)
    )

    def waits_in_vain() -> bool:
        with pytest.raises(grpc.RpcError) as caught:
            stub.ListModels(service_pb2.ListModelsRequest(), timeout=0.3)
        return caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED

    for _ in range(3):
        until(waits_in_vain)  # the server may notice a little later that the last one left
    stream.end()
    stub.ListModels(service_pb2.ListModelsRequest(), timeout=60)


def test_an_address_is_one_client_for_all_ports(start_server: Callable[..., Any]) -> None:
    server = start_server(access=AccessConfig(rate_limit="2/hour"))
    for _ in range(2):
        with Client(server.address, max_attempts=1) as client:
            client.models()
    with Client(server.address, max_attempts=1) as client, pytest.raises(OverloadedError) as caught:
        client.models()
    assert str(caught.value).startswith("127.0.0.1 has made 2 calls")


def test_health_has_no_limit(start_server: Callable[..., Any]) -> None:
    server = start_server(access=AccessConfig(rate_limit="1/hour", max_calls_per_client=1))
    with grpc.insecure_channel(server.address) as channel:
        for _ in range(5):
            health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest())


def test_health_watchers_leave_room_for_callers(
    start_server: Callable[..., Any], caller: Any
) -> None:
    server = start_server(max_calls=8)
    with grpc.insecure_channel(server.address) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        watching = [health.Watch(health_pb2.HealthCheckRequest()) for _ in range(4)]
        for one in watching:
            next(one)
        with pytest.raises(grpc.RpcError) as caught:
            next(health.Watch(health_pb2.HealthCheckRequest()))
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert caller(server.address).models()
        watching.pop().cancel()

        def has_room() -> bool:
            try:
                next(health.Watch(health_pb2.HealthCheckRequest()))
            except grpc.RpcError:
                return False
            return True

        until(has_room)
