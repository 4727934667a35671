"""Traces as a collector gets them: a real OTLP receiver on loopback."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc

from limelens.inference import inference_service_pb2 as inference_pb2
from limelens.inference import inference_service_pb2_grpc as inference_grpc
from limelens.serve import Client
from limelens.serve.errors import InvalidRequestError, LimelensError
from limelens.serve.observing import tracing
from limelens.v1 import classifier_service_pb2 as service_pb2
from limelens.v1 import image_pb2

RED = np.full((32, 32, 3), (255, 0, 0), np.uint8)
SERVICE = "limelens.v1.ClassifierService"
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
PARENT = "00f067aa0ba902b7"


class Collector(trace_service_pb2_grpc.TraceServiceServicer):
    """Keeps all that it is sent."""

    def __init__(self) -> None:
        self.requests: list[Any] = []
        self._server = grpc.server(ThreadPoolExecutor(2))
        trace_service_pb2_grpc.add_TraceServiceServicer_to_server(  # type: ignore[no-untyped-call]
            self, self._server
        )
        self.address = f"127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"
        self._server.start()

    def Export(self, request: Any, _context: Any) -> Any:
        self.requests.append(request)
        return trace_service_pb2.ExportTraceServiceResponse()

    def stop(self) -> None:
        self._server.stop(0).wait()

    @property
    def spans(self) -> list[Any]:
        return [
            span
            for request in self.requests
            for resource in request.resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        ]

    def one(self, name: str) -> Any:
        (found,) = [span for span in self.spans if span.name == name]
        return found

    def children(self, parent: Any) -> list[Any]:
        found = [span for span in self.spans if span.parent_span_id == parent.span_id]
        return sorted(found, key=lambda span: span.start_time_unix_nano)

    def resource(self) -> dict[str, Any]:
        return attributes(self.requests[0].resource_spans[0].resource)


def attributes(of: Any) -> dict[str, Any]:
    return {one.key: getattr(one.value, one.value.WhichOneof("value")) for one in of.attributes}


@pytest.fixture
def collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[Collector]:
    monkeypatch.setattr(tracing, "CLOSE_S", 60.0)  # as long as a busy machine may take
    collector = Collector()
    yield collector
    collector.stop()


def test_a_call_is_a_span_in_its_callers_trace_with_its_stages(
    start_server: Callable[..., Any], collector: Collector
) -> None:
    server = start_server(trace_to=collector.address)
    image = image_pb2.Image(raw=image_pb2.RawImage(height=32, width=32, data=RED.tobytes()))
    server.stub().Classify(
        service_pb2.ClassifyRequest(images=[image, image]),
        metadata=[("traceparent", f"00-{TRACE}-{PARENT}-01"), ("x-request-id", "door-7")],
    )
    server.stop()
    span = collector.one(f"{SERVICE}/Classify")
    assert span.trace_id.hex() == TRACE
    assert span.parent_span_id.hex() == PARENT
    assert attributes(span) == {
        "rpc.system": "grpc",
        "limelens.caller": "127.0.0.1",
        "rpc.service": SERVICE,
        "rpc.method": "Classify",
        "rpc.grpc.status_code": 0,
        "limelens.request_id": "door-7",
        "limelens.model": "colours",
        "limelens.version": 1,
        "limelens.images": 2,
    }
    children = collector.children(span)
    assert sorted(one.name for one in children) == sorted(["queue", "decode", "run"] * 2)
    for one in children:
        assert one.trace_id == span.trace_id
        assert one.end_time_unix_nano >= one.start_time_unix_nano
        # Two clocks meet here: within a few milliseconds the stages lie within the call.
        assert one.start_time_unix_nano > span.start_time_unix_nano - 5e6
        assert one.end_time_unix_nano < span.end_time_unix_nano + 5e6
    assert {attributes(one)["limelens.image"] for one in children} == {0, 1}
    assert collector.resource()["service.name"] == "limelens"


def test_a_call_with_tensors_has_the_same_stages(
    start_server: Callable[..., Any], collector: Collector
) -> None:
    server = start_server(trace_to=collector.address)
    tensor = inference_pb2.ModelInferRequest.InferInputTensor(
        name="images", datatype="UINT8", shape=[1, *RED.shape]
    )
    with grpc.insecure_channel(server.address) as channel:
        stub = inference_grpc.GRPCInferenceServiceStub(channel)  # type: ignore[no-untyped-call]
        stub.ModelInfer(
            inference_pb2.ModelInferRequest(inputs=[tensor], raw_input_contents=[RED.tobytes()])
        )
    server.stop()
    span = collector.one("inference.GRPCInferenceService/ModelInfer")
    assert attributes(span)["limelens.model"] == "colours"
    assert attributes(span)["limelens.version"] == 1
    assert [one.name for one in collector.children(span)] == ["queue", "decode", "run"]


def test_an_explanation_has_its_stages(
    start_server: Callable[..., Any], collector: Collector
) -> None:
    server = start_server(trace_to=collector.address)
    with Client(server.address) as client:
        client.explain(RED, num_samples=50)
    server.stop()
    span = collector.one(f"{SERVICE}/Explain")
    names = [one.name for one in collector.children(span)]
    assert names == ["queue", "decode", "segment", "predict", "fit"]
    assert attributes(span)["limelens.samples"] == 50


def test_a_callers_mistake_is_no_error_of_the_server(
    start_server: Callable[..., Any], collector: Collector
) -> None:
    server = start_server(trace_to=collector.address)
    with Client(server.address, max_attempts=1) as client, pytest.raises(InvalidRequestError):
        client.classify([b"no image"])
    server.stop()
    span = collector.one(f"{SERVICE}/Classify")
    assert attributes(span)["rpc.grpc.status_code"] == 3
    assert span.status.code == 0


def test_a_failure_of_the_server_is_an_error(
    start_server: Callable[..., Any], collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    from limelens.serve.bundle import Bundle

    def broken(_self: Bundle, _images: np.ndarray) -> np.ndarray:
        raise RuntimeError("swordfish")

    server = start_server(trace_to=collector.address)
    monkeypatch.setattr(Bundle, "predict", broken)
    with Client(server.address, max_attempts=1) as client, pytest.raises(LimelensError):
        client.classify([RED])
    server.stop()
    span = collector.one(f"{SERVICE}/Classify")
    assert (span.status.code, span.status.message) == (2, "INTERNAL")
    assert b"swordfish" not in b"".join(one.SerializeToString() for one in collector.requests)


def test_each_frame_is_a_trace_that_points_at_its_stream(
    start_server: Callable[..., Any], collector: Collector
) -> None:
    server = start_server(trace_to=collector.address)
    with Client(server.address) as client:
        answers = list(client.stream(iter([RED])))
    assert answers[0].alert
    server.stop()
    stream, frame = collector.one(f"{SERVICE}/ClassifyStream"), collector.one("frame")
    assert frame.trace_id != stream.trace_id
    assert [link.span_id for link in frame.links] == [stream.span_id]
    assert attributes(frame)["limelens.alert"] is True
    assert [one.name for one in collector.children(frame)] == ["queue", "decode", "run"]


def test_a_trace_that_was_not_sampled_by_its_caller_is_not_sent(
    start_server: Callable[..., Any], collector: Collector
) -> None:
    server = start_server(trace_to=collector.address)
    image = image_pb2.Image(encoded=b"no image")
    request = service_pb2.ClassifyRequest(images=[image])
    with pytest.raises(grpc.RpcError):
        server.stub().Classify(request, metadata=[("traceparent", f"00-{TRACE}-{PARENT}-00")])
    server.stop()
    assert collector.spans == []


@pytest.mark.parametrize("traceparent", ["", "nonsense", f"00-{'0' * 32}-{PARENT}-01", "x" * 999])
def test_an_invalid_traceparent_begins_a_new_trace(
    start_server: Callable[..., Any], collector: Collector, traceparent: str
) -> None:
    server = start_server(trace_to=collector.address)
    server.stub().ListModels(
        service_pb2.ListModelsRequest(), metadata=[("traceparent", traceparent)]
    )
    server.stop()
    assert collector.one(f"{SERVICE}/ListModels").parent_span_id == b""


def test_variables_of_opentelemetry_apply(
    start_server: Callable[..., Any], collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://{collector.address}")
    monkeypatch.setenv("OTEL_SERVICE_NAME", "door")
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "site=north")
    server = start_server(trace_to="otlp")
    with Client(server.address) as client:
        client.classify([RED])
    server.stop()
    assert collector.resource()["service.name"] == "door"
    assert collector.resource()["site"] == "north"


def test_no_pixel_and_no_token_is_ever_sent(
    start_server: Callable[..., Any], collector: Collector
) -> None:
    marker = b"swordfish-swordfish-swordfish"
    server = start_server(trace_to=collector.address)
    image = image_pb2.Image(encoded=b"\xff\xd8\xff" + marker * 10)
    with pytest.raises(grpc.RpcError):
        server.stub().Classify(
            service_pb2.ClassifyRequest(images=[image]),
            metadata=[("authorization", f"Bearer {marker.decode()}"), ("baggage", "a=swordfish")],
        )
    server.stop()
    assert collector.spans
    assert b"swordfish" not in b"".join(one.SerializeToString() for one in collector.requests)


@pytest.mark.parametrize("listens", [False, True])
def test_a_silent_collector_delays_neither_calls_nor_the_end(
    start_server: Callable[..., Any], listens: bool
) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        if listens:
            silent.listen()
        server = start_server(trace_to=f"127.0.0.1:{silent.getsockname()[1]}")
        with Client(server.address) as client:
            assert client.classify([RED])[0].label == "red"
        began = time.monotonic()
        server.stop()
        assert time.monotonic() - began < 30


@pytest.mark.parametrize("target", ["nowhere", "ftp://a:1", ":4317", "127.0.0.1:otlp"])
def test_an_impossible_target_is_refused(start_server: Callable[..., Any], target: str) -> None:
    with pytest.raises(LimelensError, match="expected HOST:PORT"):
        start_server(trace_to=target)


def test_without_the_extra_the_command_names_it(one_model: Path) -> None:
    code = (
        "import sys; sys.modules['opentelemetry'] = None; "
        "sys.argv = ['limelens', 'serve', '--models', sys.argv[1], '--listen', '127.0.0.1:0', "
        "'--trace-to', 'console']; from limelens.cli import main; main()"
    )
    found = subprocess.run(
        [sys.executable, "-c", code, str(one_model)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
    )
    assert found.returncode == 1
    assert "pip install 'limelens[tracing]'" in found.stderr
    assert len(found.stderr.splitlines()) == 1
