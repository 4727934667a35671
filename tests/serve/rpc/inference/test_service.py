"""The protocol's service against a real server: what stock clients do not send, and its life."""

from __future__ import annotations

import concurrent.futures
import io
import re
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from PIL import Image
from tests.serve.rpc.conftest import Gate, refused
from tests.waiting import ever_longer, until

from limelens.inference import inference_service_pb2 as pb2
from limelens.inference import inference_service_pb2_grpc as pb2_grpc
from limelens.serve import Client
from limelens.serve.bundle import Bundle
from limelens.serve.rpc.inference.pipelining import IN_FLIGHT
from limelens.serve.rpc.server_config import Limits, ServiceSettings

NAME = "inference.GRPCInferenceService"
RED = np.full((32, 32, 3), (255, 0, 0), np.uint8)
Tensor = pb2.ModelInferRequest.InferInputTensor
Contents = pb2.InferTensorContents
Output = pb2.ModelInferRequest.InferRequestedOutputTensor
ONLY_PROBABILITIES = [Output(name="probabilities")]


def png(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def red(**fields: Any) -> pb2.ModelInferRequest:
    """A good request for one red image's probabilities."""
    return pb2.ModelInferRequest(
        inputs=[Tensor(name="images", datatype="UINT8", shape=[1, 32, 32, 3])],
        outputs=ONLY_PROBABILITIES,
        raw_input_contents=[RED.tobytes()],
        **fields,
    )


def encoded(data: list[bytes], count: int) -> pb2.ModelInferRequest:
    return pb2.ModelInferRequest(
        inputs=[Tensor(name="images", datatype="BYTES", shape=[count])], raw_input_contents=data
    )


def typed(contents: pb2.InferTensorContents, datatype: str, *shape: int) -> pb2.ModelInferRequest:
    tensor = Tensor(name="images", datatype=datatype, shape=shape, contents=contents)
    return pb2.ModelInferRequest(inputs=[tensor])


def top(response: pb2.ModelInferResponse) -> int:
    return int(np.argmax(np.frombuffer(response.raw_output_contents[0], "<f4")))


@contextmanager
def calling(server: Any) -> Iterator[Any]:
    """The generated stub, for what the stock client never sends."""
    with grpc.insecure_channel(server.address, [("grpc.enable_retries", 0)]) as channel:
        yield pb2_grpc.GRPCInferenceServiceStub(channel)  # type: ignore[no-untyped-call]


@pytest.fixture
def stub(server: Any) -> Iterator[Any]:
    with calling(server) as stub:
        yield stub


def test_client_and_stock_client_live_in_one_process() -> None:
    for first, second in (
        ("limelens.serve.client", "tritonclient.grpc"),
        ("tritonclient.grpc", "limelens.serve.client"),
    ):
        code = (
            f"import {first}, {second}, limelens.v1.classifier_service_pb2, sys; "
            "from limelens.serve import Client; Client('127.0.0.1:1').close(); import limelens.cli;"
            "assert not [m for m in sys.modules if m.startswith('limelens.inference')]"
        )
        subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_elements_given_one_by_one_are_read(stub: Any) -> None:
    pixels = typed(Contents(uint_contents=RED.ravel().tolist()), "UINT8", 1, 32, 32, 3)
    files = typed(Contents(bytes_contents=[png(RED), png(255 - RED)]), "BYTES", 2, 1)
    answers = [stub.ModelInfer(pixels), stub.ModelInfer(files)]
    assert [list(answer.outputs[0].shape) for answer in answers] == [[1, 3], [2, 3]]
    rows = [np.frombuffer(answer.raw_output_contents[0], "<f4") for answer in answers]
    assert np.array_equal(rows[0], rows[1][:3])


@pytest.mark.parametrize(
    ("request_", "field", "description"),
    [
        (pb2.ModelInferRequest(), "inputs", "0 tensors (none); expected one, 'images'"),
        (
            typed(Contents(), "UINT8", 1, 32, 32, 3),
            "inputs[0]",
            "no elements; expected raw_input_contents or contents.uint_contents",
        ),
        (
            typed(Contents(uint_contents=[1, 2, 3]), "UINT8", 1, 32, 32, 3),
            "inputs[0].contents.uint_contents",
            "3 elements; expected [1, 32, 32, 3] UINT8 = 3,072",
        ),
        (
            typed(Contents(uint_contents=[0] * 3071 + [256]), "UINT8", 1, 32, 32, 3),
            "inputs[0].contents.uint_contents[3071]",
            "256; expected 0 to 255, the range of UINT8",
        ),
        (
            typed(Contents(fp32_contents=[0.5]), "UINT8", 1, 32, 32, 3),
            "inputs[0].contents.fp32_contents",
            "set for UINT8; expected uint_contents or raw_input_contents",
        ),
        (
            typed(Contents(bytes_contents=[b"a"]), "BYTES", 2),
            "inputs[0].contents.bytes_contents",
            "1 elements; expected 2, as the shape says",
        ),
        (
            pb2.ModelInferRequest(
                inputs=[Tensor(name="images", datatype="UINT8", shape=[1, 32, 32, 3])],
                raw_input_contents=[b"123"],
            ),
            "raw_input_contents[0]",
            "3 bytes; expected [1, 32, 32, 3] UINT8 = 3,072",
        ),
        (
            pb2.ModelInferRequest(
                inputs=[
                    Tensor(
                        name="images",
                        datatype="UINT8",
                        shape=[1, 32, 32, 3],
                        contents=Contents(uint_contents=[1]),
                    )
                ],
                raw_input_contents=[RED.tobytes()],
            ),
            "inputs[0].contents",
            "given together with raw_input_contents; expected one of them",
        ),
        (
            encoded([b"", b""], 1),
            "raw_input_contents",
            "2 entries for 1 input; expected 1",
        ),
        (
            encoded([struct.pack("<I", 10) + b"short"], 1),
            "raw_input_contents[0]",
            "element 0 is said to have 10 bytes and 5 follow; expected its length in 4 bytes, "
            "little-endian, before each element",
        ),
        (
            encoded([struct.pack("<I", 1) + b"a" + b"\0\0"], 2),
            "raw_input_contents[0]",
            "2 bytes after element 0; expected the length of the next in 4",
        ),
        (
            encoded([struct.pack("<I", 1) + b"a"], 2),
            "raw_input_contents[0]",
            "1 elements; expected 2, as the shape says",
        ),
        (
            encoded([(struct.pack("<I", 1) + b"a") * 3], 2),
            "raw_input_contents[0]",
            "5 bytes after the 2 elements that the shape says; expected none",
        ),
        (
            encoded([(struct.pack("<I", len(png(RED))) + png(RED)) + struct.pack("<I", 0)], 2),
            "images[1]",
            "no bytes; expected an encoded image",
        ),
        (encoded([b""], 0), "inputs[0].shape", "0 images; expected 1 to 64"),
        (encoded([b""], -1), "inputs[0].shape", "-1 images; expected 1 to 64"),
        (
            red(parameters={"timeout": pb2.InferParameter(string_param="soon")}),
            "parameters[timeout]",
            "'soon'; expected a whole number of microseconds, 0 or more, as int64_param",
        ),
    ],
)
def test_a_wrong_field_is_named_in_the_details(
    stub: Any, request_: pb2.ModelInferRequest, field: str, description: str
) -> None:
    error, details = refused(lambda: stub.ModelInfer(request_))
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    (violation,) = details["BadRequest"].field_violations
    assert (violation.field, violation.description) == (field, description)


def test_unknown_parameters_have_no_effect(stub: Any) -> None:
    request = red(
        parameters={
            "priority": pb2.InferParameter(uint64_param=3),
            "sequence_id": pb2.InferParameter(int64_param=7),
            "mine": pb2.InferParameter(double_param=0.5),
        }
    )
    request.inputs[0].parameters["binary_data_size"].int64_param = 3072
    assert top(stub.ModelInfer(request)) == 0


def test_malformed_messages_are_refused_with_an_id(server: Any) -> None:
    with grpc.insecure_channel(server.address) as channel:
        call: grpc.StreamUnaryMultiCallable[bytes, bytes]
        call = channel.stream_unary(f"/{NAME}/ModelInfer")
        error, details = refused(lambda: call(iter([b"\xff\xff\xff"])))
    assert error.code() is grpc.StatusCode.INTERNAL
    assert details["RequestInfo"].request_id


def test_a_failing_models_error_is_hidden_on_calls_and_streams(
    stub: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: Any) -> np.ndarray:
        raise RuntimeError("secret")

    monkeypatch.setattr(Bundle, "predict", fails)
    error, details = refused(lambda: stub.ModelInfer(red()))
    assert error.code() is grpc.StatusCode.INTERNAL
    assert "secret" not in str(error.details())
    assert details["RequestInfo"].request_id in str(error.details())
    (answer,) = stub.ModelStreamInfer(iter([red(id="a")]))
    assert answer.infer_response.id == "a"
    assert "request id" in answer.error_message
    assert "secret" not in answer.error_message


def test_a_timeout_ends_the_wait_and_the_model_never_runs(
    server: Any, stub: Any, gate: Gate
) -> None:
    first = gate.close(lambda: stub.ModelInfer.future(red()))
    short = {"timeout": pb2.InferParameter(int64_param=500_000)}
    late = [stub.ModelInfer.future(red(parameters=short)) for _ in range(10)]
    streamed = list(stub.ModelStreamInfer(iter([red(id="late", parameters=short)])))
    for call in late:
        error, _ = refused(call.result)
        assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        assert "the request's own timeout passed" in str(error.details())
    assert streamed[0].infer_response.id == "late"
    assert "the request's own timeout passed" in streamed[0].error_message
    gate.opened.set()
    assert [top(call.result()) for call in first] == [0, 0]
    assert top(stub.ModelInfer(red())) == 0
    counts = server.counts()
    assert (counts.run, counts.dropped) == (3, 11)

    def counted() -> tuple[int, int]:
        (found,) = stub.ModelStatistics(pb2.ModelStatisticsRequest()).model_stats
        return found.inference_count, found.inference_stats.fail.count

    until(lambda: counted() == (3, 11))


def test_a_deadline_of_the_call_is_honoured_too(server: Any, stub: Any, gate: Gate) -> None:
    first = gate.close(lambda: stub.ModelInfer.future(red()))
    with pytest.raises(grpc.RpcError) as caught:
        stub.ModelInfer(red(), timeout=0.1)
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    gate.opened.set()
    assert [top(call.result()) for call in first] == [0, 0]
    assert top(stub.ModelInfer(red())) == 0
    assert server.counts().run == 3


def test_both_services_share_queue_and_budget(start_server: Callable[..., Any], gate: Gate) -> None:
    server = start_server(service=ServiceSettings(max_queue=2, max_waiting_bytes=10_000))
    with (
        Client(server.address, max_attempts=1) as client,
        calling(server) as stub,
        concurrent.futures.ThreadPoolExecutor(8) as pool,
    ):
        held = gate.close(lambda: pool.submit(client.classify, RED))
        # Two messages of an image of 3,072 bytes are held; a third fits, a fourth does not.
        waiting = stub.ModelInfer.future(red())
        until(lambda: num_held(server) == 3)
        error, details = refused(lambda: stub.ModelInfer(red()))
        assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert re.match(r"requests of 9,[23]\d\d bytes are waiting", str(error.details()))
        assert details["RetryInfo"].retry_delay.seconds == 1
        gate.opened.set()
        assert top(waiting.result()) == 0
        assert [future.result()[0].label for future in held] == ["red", "red"]


def num_held(server: Any) -> int:
    """Images of 32x32 pixels that the server's budget counts."""
    return int(server.server.runner.budget.held / RED.nbytes)


def test_the_limits_are_the_services_own(start_server: Callable[..., Any]) -> None:
    server = start_server(service=ServiceSettings(limits=Limits(max_images=1, max_pixels=100)))
    with calling(server) as stub:
        data = struct.pack("<I", len(png(RED))) + png(RED)
        error, details = refused(lambda: stub.ModelInfer(encoded([data], 1)))
        assert details["ErrorInfo"].reason == "IMAGE_TOO_LARGE"
        assert str(error.details()) == "images[0]: 32x32 is 1,024 pixels; the limit is 100"
        error, _ = refused(lambda: stub.ModelInfer(encoded([data * 2], 2)))
        assert "2 images; expected 1 to 1" in str(error.details())


def test_calls_carry_the_callers_request_id(stub: Any, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("DEBUG", "limelens"):
        stub.ModelInfer(red(), metadata=[("x-request-id", "door-7")])
    assert any("ModelInfer OK" in line and "door-7" in line for line in caplog.messages)


def test_health_and_reflection_know_the_service(server: Any) -> None:
    with grpc.insecure_channel(server.address) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        answer = health.Check(health_pb2.HealthCheckRequest(service=NAME))
        assert answer.status == health_pb2.HealthCheckResponse.SERVING
        call = reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo
        asked = reflection_pb2.ServerReflectionRequest(file_containing_symbol=NAME)
        (found,) = call(iter([asked]))
        assert found.file_descriptor_response.file_descriptor_proto


def test_a_stream_reads_no_more_than_it_works_on(server: Any, stub: Any, gate: Gate) -> None:
    gate.opened.clear()
    ids = [str(i) for i in range(3 * IN_FLIGHT)]
    answers = stub.ModelStreamInfer(red(id=own) for own in ids)
    until(lambda: num_held(server) == IN_FLIGHT)
    time.sleep(0.2)
    assert num_held(server) == IN_FLIGHT
    gate.opened.set()
    assert [answer.infer_response.id for answer in answers] == ids


def test_a_silent_stream_is_ended(start_server: Callable[..., Any]) -> None:
    never = threading.Event()

    def silent() -> Iterator[pb2.ModelInferRequest]:
        yield red(id="only")
        never.wait(60)

    for idle_s in ever_longer(0.2):
        server = start_server(service=ServiceSettings(stream_idle_s=idle_s))
        with calling(server) as stub:
            answers = stub.ModelStreamInfer(silent())
            try:
                assert next(answers).infer_response.id == "only"
            except grpc.RpcError:
                continue  # a busy machine may be too late with it
            error, _ = refused(lambda: next(answers))  # noqa: B023
            break
    never.set()
    assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert f"no request for {idle_s:g} seconds" in str(error.details())


def test_a_caller_that_never_reads_is_ended(start_server: Callable[..., Any]) -> None:
    for idle_s in ever_longer(0.5):
        error, details = end_of_an_unread_stream(
            start_server(service=ServiceSettings(stream_idle_s=idle_s))
        )
        if error.code() is not grpc.StatusCode.DEADLINE_EXCEEDED:
            break  # a busy machine may be too late with the next request
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert f"no response was read for {idle_s:g} seconds" in str(error.details())
    assert details["RetryInfo"].retry_delay.seconds == 1


def end_of_an_unread_stream(server: Any) -> tuple[grpc.RpcError, dict[str, Any]]:
    """The error that ends a stream of which nothing is read before it is over for the server."""
    over = threading.Event()

    def requests() -> Iterator[pb2.ModelInferRequest]:
        # The id comes back, so that answers fill what lies between server and reader.
        while not over.is_set():
            yield red(id="x" * 500_000)

    with calling(server) as stub:
        answers = stub.ModelStreamInfer(requests())
        until(lambda: server.server.inference.num_streams or answers.done())
        until(lambda: not server.server.inference.num_streams)
        over.set()
        return refused(lambda: list(answers))


def test_streams_beyond_the_limit_are_refused(start_server: Callable[..., Any]) -> None:
    server = start_server(service=ServiceSettings(max_streams=1))
    over = threading.Event()

    def one() -> Iterator[pb2.ModelInferRequest]:
        yield red(id="one")
        over.wait(60)

    with calling(server) as stub:
        first = stub.ModelStreamInfer(one())
        assert next(first).infer_response.id == "one"
        error, _ = refused(lambda: next(stub.ModelStreamInfer(iter([red()]))))
        assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        over.set()
        assert list(first) == []
        assert next(stub.ModelStreamInfer(iter([red(id="two")]))).infer_response.id == "two"


def test_a_stopping_server_responds_to_requests_of_a_stream(
    server: Any, stub: Any, gate: Gate
) -> None:
    over = threading.Event()

    def one() -> Iterator[pb2.ModelInferRequest]:
        yield red(id="one")
        over.wait(60)

    gate.opened.clear()
    answers = stub.ModelStreamInfer(one())
    assert gate.entered.acquire(timeout=60)
    stopping = threading.Thread(target=server.stop, args=(60,))
    stopping.start()
    until(lambda: server.server.inference.is_stopping)
    gate.opened.set()
    assert next(answers).infer_response.id == "one"
    error, _ = refused(lambda: next(answers))
    assert error.code() is grpc.StatusCode.UNAVAILABLE
    over.set()
    stopping.join()
