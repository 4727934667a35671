"""One caller's burst or large request is refused, freed at once, and affects nobody else."""

from __future__ import annotations

import asyncio
import gc
import threading
import weakref
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from tests.waiting import slow_by, until

from limelens.serve import Client
from limelens.serve.access.config import AccessConfig
from limelens.serve.access.shares import Shares
from limelens.serve.errors import InvalidRequestError, OverloadedError
from limelens.serve.image import ResizeRule
from limelens.serve.image.encoded import EncodedImage
from limelens.serve.rpc.classifier_service import ClassifierService
from limelens.serve.rpc.server_config import Limits, ServiceSettings
from limelens.serve.rpc.slow_images import SlowImages
from limelens.serve.scheduling.memory_budget import Budget
from limelens.serve.status import forget, without_paths
from limelens.v1 import classifier_service_pb2 as pb2
from limelens.v1 import image_pb2

RED = np.full((8, 8, 3), (255, 0, 0), np.uint8)


def request(*images: bytes, **fields: Any) -> pb2.ClassifyRequest:
    return pb2.ClassifyRequest(images=[image_pb2.Image(encoded=one) for one in images], **fields)


def raw_request(count: int = 1) -> pb2.ClassifyRequest:
    raw = image_pb2.RawImage(data=RED.tobytes(), height=8, width=8)
    return pb2.ClassifyRequest(images=[image_pb2.Image(raw=raw)] * count)


@pytest.fixture
def no_collector() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.mark.parametrize(
    "fields", [{"top_k": -1}, {"model": "nothing"}, {}], ids=["field", "model", "image"]
)
def test_a_refused_request_is_freed_at_once(
    start_server: Callable[..., Any],
    no_collector: None,  # noqa: ARG001
    monkeypatch: pytest.MonkeyPatch,
    fields: dict[str, Any],
) -> None:
    alive: weakref.WeakSet[Any] = weakref.WeakSet()

    class Watched(EncodedImage):
        def __init__(self, *arguments: Any, **more: Any) -> None:
            super().__init__(*arguments, **more)
            alive.add(self)

    monkeypatch.setattr("limelens.serve.rpc.requests.classify.EncodedImage", Watched)
    requests: weakref.WeakSet[Any] = weakref.WeakSet()
    classify = ClassifierService.Classify

    async def noted(self: Any, request: Any, context: Any) -> Any:
        requests.add(request)
        waiting = [request]
        del request  # as gRPC's own caller does not hold it
        return await classify(self, waiting.pop(), context)

    monkeypatch.setattr(ClassifierService, "Classify", noted)
    server = start_server()
    stub = server.stub()
    for _ in range(5):
        with pytest.raises(grpc.RpcError):
            stub.Classify(request(bytes(100_000), **fields))
    # The last answer has left; the server may still end the call. No collector frees anything.
    until(lambda: not server.server.open_calls.count)
    until(lambda: len(alive) == len(requests) == 0)
    assert server.server.runner.budget.held == 0


def test_an_error_frees_its_request() -> None:
    class Large:
        pass

    def fail() -> None:
        large = Large()
        found.append(weakref.ref(large))
        try:
            raise ValueError("first")
        except ValueError as error:
            raise InvalidRequestError("field", "second") from error

    found: list[weakref.ref[Large]] = []
    kept: list[Exception] = []
    try:
        fail()
    except InvalidRequestError as error:
        kept.append(error)
    assert found[0]() is not None
    forget(kept[0])
    assert found[0]() is None
    assert str(kept[0]) == "field: second"


def test_messages_are_counted_while_they_are_held(
    start_server: Callable[..., Any], one_model: Path
) -> None:
    server = start_server(one_model, service=ServiceSettings(max_waiting_bytes=150_000))
    budget = server.server.runner.budget
    assert isinstance(budget, Budget)
    stub = server.stub()
    with budget.holding(100_000), pytest.raises(grpc.RpcError) as caught:
        stub.Classify(request(bytes(100_000)))
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    with pytest.raises(grpc.RpcError) as caught:
        stub.Classify(request(bytes(100_000)))
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert budget.held == 0


@pytest.mark.ci
def test_a_burst_of_one_connection_is_refused_and_others_are_served(
    start_server: Callable[..., Any],
) -> None:
    server = start_server(service=ServiceSettings(max_queue=64))
    flood, other = server.stub(), server.stub()
    codes: Counter[str] = Counter()
    pending = [flood.Classify.future(raw_request()) for _ in range(2500)]
    for _ in range(20):
        assert other.Classify(raw_request()).predictions
    for call in pending:
        error = call.exception()
        codes["OK" if error is None else error.code().name] += 1
        if error is not None:
            status = rpc_status.from_call(error)
            assert any(one.Is(error_details_pb2.RetryInfo.DESCRIPTOR) for one in status.details)
    assert set(codes) <= {"OK", "RESOURCE_EXHAUSTED"}, codes
    assert other.Classify(raw_request()).predictions


@pytest.mark.slow
def test_a_call_that_is_not_seen_for_long_is_answered(start_server: Callable[..., Any]) -> None:
    server = start_server()
    stub = server.stub()
    stub.Classify(raw_request())
    busy, goes_on = threading.Event(), threading.Event()

    async def hold() -> None:
        busy.set()
        goes_on.wait(60)

    holding = asyncio.run_coroutine_threadsafe(hold(), server.loop)
    assert busy.wait(60)
    calls = [stub.Classify.future(raw_request()) for _ in range(6)]
    slow_by(32)  # by itself, gRPC ends calls that nobody asked for within 30 s
    goes_on.set()
    holding.result(60)
    assert [len(call.result().predictions) for call in calls] == [1] * 6


def test_calls_beyond_the_limit_get_a_retry_delay(
    start_server: Callable[..., Any],
) -> None:
    server = start_server(max_calls=2)
    with Client(server.address, max_attempts=1) as client:
        first, second = client.stream(_forever()), client.stream(_forever())
        next(first), next(second)
        with pytest.raises(OverloadedError, match="2 calls are in flight, which is the limit"):
            client.models()
        first.close()
        second.close()


def _forever() -> Iterator[Any]:
    while True:
        yield RED


def test_one_client_may_take_nearly_all_but_several_share() -> None:
    shares = Shares(10, "places", is_limit=True)
    one, two = ("one", ""), ("two", "")
    with (
        shares.holding(8, one),
        shares.holding(1, one),
        pytest.raises(OverloadedError, match="9 places for this connection, whose share is 9"),
    ):
        shares.holding(1, one).__enter__()
    with shares.holding(10, one):
        with pytest.raises(OverloadedError, match="10 places, which is the limit"):
            shares.holding(1, two).__enter__()
        assert shares.num_refused == 2
    with shares.holding(5, one):
        with pytest.raises(OverloadedError, match="5 places for one, whose share is 5"):
            shares.holding(1, one).__enter__()
        with shares.holding(3, two):
            pass
    assert shares.total == 0


def test_the_connections_of_one_address_share_what_it_has() -> None:
    shares = Shares(10, "places")
    first, second = ("10.0.0.1", "10.0.0.1:1"), ("10.0.0.1", "10.0.0.1:2")
    with shares.holding(1, second):
        pass
    with shares.holding(5, first):
        with pytest.raises(OverloadedError, match="5 places for this connection"):
            shares.holding(1, first).__enter__()
        with shares.holding(5, second):
            pass


def test_clients_with_slow_images_take_turns() -> None:
    order: list[str] = []

    class Slow(EncodedImage):
        def fitted(self, rule: ResizeRule) -> Any:  # noqa: ARG002
            order.append(self.place)
            return RED

    async def run() -> None:
        slow = SlowImages(1, max_waiting=6)
        rule = ResizeRule(8, 8)

        async def ask(who: str, place: str) -> None:
            holders[asyncio.current_task()] = (who, "")
            await slow.decode(Slow(place, b""), rule)

        tasks = [asyncio.create_task(ask("many", f"many {i}")) for i in range(5)]
        tasks.append(asyncio.create_task(ask("one", "one 0")))
        await asyncio.gather(*tasks)
        slow.close()

    holders: dict[Any, tuple[str, str]] = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "limelens.serve.rpc.slow_images.holder", lambda: holders[asyncio.current_task()]
        )
        asyncio.run(run())
    assert len(order) == 6
    assert order.index("one 0") <= 2


def test_a_stream_of_requests_counts_its_images(start_server: Callable[..., Any]) -> None:
    from limelens.inference import inference_service_pb2 as inference_pb2
    from limelens.inference import inference_service_pb2_grpc as inference_grpc

    server = start_server(access=AccessConfig(rate_limit="5/hour"))
    tensor = inference_pb2.ModelInferRequest.InferInputTensor
    one = inference_pb2.ModelInferRequest(
        inputs=[tensor(name="images", datatype="UINT8", shape=[2, 32, 32, 3])],
        raw_input_contents=[bytes(2 * 32 * 32 * 3)],
    )
    with grpc.insecure_channel(server.address) as channel:
        stub = inference_grpc.GRPCInferenceServiceStub(channel)  # type: ignore[no-untyped-call]
        answers = [answer.error_message for answer in stub.ModelStreamInfer(iter([one] * 6))]
    assert answers[:2] == ["", ""]
    assert all("5 calls within 3600 s" in answer for answer in answers[2:])


def test_a_request_that_costs_more_than_the_limit_is_served_once(
    start_server: Callable[..., Any],
) -> None:
    server = start_server(access=AccessConfig(rate_limit="5/hour"))
    stub = server.stub()
    assert len(stub.Classify(raw_request(20)).predictions) == 20
    with pytest.raises(grpc.RpcError) as caught:
        stub.Classify(raw_request())
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


def test_an_explanation_counts_its_samples(start_server: Callable[..., Any]) -> None:
    server = start_server(access=AccessConfig(rate_limit="50/hour"))
    stub = server.stub()
    image = raw_request().images[0]
    stub.Explain(pb2.ExplainRequest(image=image, num_samples=40, segmentation={"method": 4}))
    with pytest.raises(grpc.RpcError) as caught:
        stub.Explain(pb2.ExplainRequest(image=image, num_samples=40))
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("/srv/models/door/3/model.onnx: no ONNX file", "model.onnx: no ONNX file"),
        ("models/door/3/model.onnx is refused", "model.onnx is refused"),
        ("[Errno 13] Permission denied: '/srv/x'", "[Errno 13] Permission denied: 'x'"),
        ("100/second; expected 1 to 64 and/or 0", "100/second; expected 1 to 64 and/or 0"),
    ],
)
def test_callers_see_no_paths(text: str, expected: str) -> None:
    assert without_paths(text) == expected


def test_a_limit_on_decoding_is_the_servers_own(start_server: Callable[..., Any]) -> None:
    limits = Limits(max_decode_s=-1.0)
    server = start_server(service=ServiceSettings(limits=limits))
    with Client(server.address, max_attempts=1) as client:
        with pytest.raises(InvalidRequestError, match="takes too long to decode"):
            client.classify([_png()])
        assert client.classify([RED])


def _png() -> bytes:
    import io

    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(RED).save(file, "PNG")
    return file.getvalue()
