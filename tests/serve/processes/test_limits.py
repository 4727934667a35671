"""What is promised about a client holds for all processes together."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from typing import Any

import grpc
import pytest
from tests.serve.processes.conftest import GREEN, Fleet
from tests.waiting import until

from limelens.v1 import classifier_service_pb2 as service_pb2


def test_a_rate_counts_calls_to_all_processes(fleet: Callable[..., Fleet]) -> None:
    server = fleet("--rate-limit", "7/hour")
    stubs = server.stubs()
    for stub in stubs[:7]:
        stub.ListModels(service_pb2.ListModelsRequest())
    for stub in stubs:
        with pytest.raises(grpc.RpcError) as caught:
            stub.ListModels(service_pb2.ListModelsRequest())
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        trailing = {one.key: one.value for one in caught.value.trailing_metadata()}
        assert int(trailing["grpc-retry-pushback-ms"]) > 1_000_000


class Camera:
    """A stream that stays open until it is ended."""

    def __init__(self, stub: Any) -> None:
        self._over = threading.Event()
        self.call = stub.ClassifyStream(self._requests())

    def _requests(self) -> Any:
        config = service_pb2.StreamConfig(camera_id="door")
        yield service_pb2.ClassifyStreamRequest(config=config)
        frame = service_pb2.Frame(frame_id=1, image=GREEN.images[0])
        yield service_pb2.ClassifyStreamRequest(frame=frame)
        self._over.wait(60)

    def is_let_in(self) -> bool:
        try:
            next(self.call)
        except grpc.RpcError as error:
            # Or the worker is gone, or not there yet.
            if error.code() in (
                grpc.StatusCode.RESOURCE_EXHAUSTED,
                grpc.StatusCode.UNAVAILABLE,
            ):
                return False
            raise
        return True

    def end(self) -> None:
        self._over.set()
        self.call.cancel()


@pytest.mark.ci
def test_calls_at_a_time_are_counted_over_all_processes(fleet: Callable[..., Fleet]) -> None:
    server = fleet("--max-calls-per-client", "3")
    cameras: list[Camera] = []

    def let_in() -> list[Camera]:
        more = [Camera(stub) for stub in server.stubs(8)]
        cameras.extend(more)
        return [one for one in more if one.is_let_in()]

    first = let_in()
    assert len(first) == 3
    first.pop().end()
    found: list[Camera] = []

    def one_is() -> bool:
        found.extend(let_in())
        return bool(found)

    until(one_is)
    assert len(found) == 1
    # The places of a worker's calls are free again when it is gone.
    for pid in server.workers:
        os.kill(pid, signal.SIGKILL)
    until(lambda: len(server.workers) == 2)
    again: list[Camera] = []

    def three_are() -> bool:
        again.extend(let_in())
        return len(again) == 3

    until(three_are)
    for one in cameras:
        one.end()


@pytest.mark.ci
def test_a_call_waits_for_its_turn_in_any_process(fleet: Callable[..., Fleet]) -> None:
    server = fleet("--max-calls-per-client", "1", "--max-waiting-per-client", "1")
    camera = Camera(server.stub())
    assert camera.is_let_in()
    waiting = [one.Classify.future(GREEN, timeout=120) for one in server.stubs(4)]
    until(lambda: sum(one.done() for one in waiting) == 3)
    refused = [one for one in waiting if one.done()]
    assert {one.code() for one in refused} == {grpc.StatusCode.RESOURCE_EXHAUSTED}
    camera.end()
    (answered,) = [one for one in waiting if one not in refused]
    assert answered.result().predictions[0].label == "green"


@pytest.mark.ci
def test_a_caller_who_leaves_frees_its_place(fleet: Callable[..., Fleet]) -> None:
    server = fleet("--max-calls-per-client", "1", "--max-waiting-per-client", "9")
    camera = Camera(server.stub())
    assert camera.is_let_in()
    waiting = [one.Classify.future(GREEN, timeout=120) for one in server.stubs(4)]
    with pytest.raises(grpc.FutureTimeoutError):
        waiting[0].result(timeout=0.3)
    at_once = [one.Classify.future(GREEN, timeout=120) for one in server.stubs(4)]
    for one in (*waiting, *at_once):
        one.cancel()
    camera.end()
    for stub in server.stubs(4):
        assert stub.Classify(GREEN, timeout=120).model.version == 1
