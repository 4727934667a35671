"""The fields of a message are counted before it is parsed."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import grpc
import pytest
from tests.waiting import until

from limelens.inference import inference_service_pb2 as inference_pb2
from limelens.serve.errors import InvalidRequestError
from limelens.serve.rpc.transport.wire import MAX_FIELDS, MAX_NUMBERS, MAX_REPEATED, check_fields
from limelens.v1 import classifier_service_pb2 as pb2
from limelens.v1 import image_pb2

EXPLAIN: Any = pb2.ExplainRequest.DESCRIPTOR
CLASSIFY: Any = pb2.ClassifyRequest.DESCRIPTOR
INFER: Any = inference_pb2.ModelInferRequest.DESCRIPTOR


def varint(number: int) -> bytes:
    found = bytearray()
    while number > 0x7F:
        found.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*found, number])


def field(number: int, body: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(body)) + body


COUNT = 2_000_000
FLOODS: dict[str, tuple[Any, bytes, str]] = {
    "packed enums": (EXPLAIN, field(17, b"\x01" * COUNT), "pictures"),
    "single enums": (EXPLAIN, b"\x88\x01\x01" * COUNT, "pictures"),
    "empty messages": (CLASSIFY, b"\x1a\0" * COUNT, "images"),
    "empty contrasts": (EXPLAIN, b"\xaa\x01\0" * COUNT, "contrasts"),
    "texts": (EXPLAIN, b"\x22\0" * COUNT, "labels"),
    "tensors": (INFER, b"\x2a\0" * COUNT, "inputs"),
    "entries of a map": (INFER, b"\x22\0" * COUNT, "parameters"),
    "a shape": (INFER, field(5, field(3, b"\x01" * COUNT)), "inputs[0].shape"),
    "floats of a tensor": (
        INFER,
        field(5, field(5, field(6, bytes(4 * COUNT)))),
        "inputs[0].contents.fp32_contents",
    ),
    "pixels of a tensor": (
        INFER,
        field(5, field(5, field(4, b"\x01" * (MAX_NUMBERS + 1)))),
        "inputs[0].contents.uint_contents",
    ),
    "one field again and again": (EXPLAIN, b"\x1a\0" * COUNT, ""),
    "fields that nobody knows": (CLASSIFY, b"\xf8\x07\x01" * COUNT, ""),
    "fields within an image": (CLASSIFY, field(3, b"\x0a\0" * COUNT), "images[0]."),
}


@pytest.mark.parametrize("name", FLOODS)
def test_a_flood_of_fields_is_refused_and_named(name: str) -> None:
    kind, data, place = FLOODS[name]
    with pytest.raises(InvalidRequestError, match="more than") as caught:
        check_fields(data, kind)
    assert caught.value.field == place


def test_messages_within_the_limits_pass() -> None:
    images = [image_pb2.Image(encoded=bytes(3000))] * MAX_REPEATED
    check_fields(pb2.ClassifyRequest(images=images).SerializeToString(), CLASSIFY)
    tensor = inference_pb2.ModelInferRequest.InferInputTensor(
        contents=inference_pb2.InferTensorContents(uint_contents=[200] * 300_000)
    )
    request = inference_pb2.ModelInferRequest(inputs=[tensor])
    check_fields(request.SerializeToString(), INFER)


def test_packed_numbers_of_two_bytes_count_once() -> None:
    count = MAX_NUMBERS // 2 + 1
    check_fields(field(5, field(5, field(4, b"\xc8\x01" * count))), INFER)


@pytest.mark.parametrize("data", [b"\xff" * 5000, b"\x1a" * 5001, bytes(5000), b"\x0b" * 5000])
def test_malformed_messages_are_left_to_the_parser(data: bytes) -> None:
    assert len(data) < MAX_FIELDS
    check_fields(data, CLASSIFY)


def test_a_number_without_end_is_not_read_to_its_end() -> None:
    began = time.thread_time()
    check_fields(b"\x10" + b"\x80" * 20_000_000, CLASSIFY)
    check_fields(b"\x80" * 20_000_000, CLASSIFY)
    assert time.thread_time() - began < 1.5  # read byte by byte they take seconds


def test_a_tag_of_too_many_bits_counts_as_the_field_the_parser_reads() -> None:
    long_tag = bytes([17 << 3 & 0x7F | 2 | 0x80, 17 << 3 >> 7 | 0x80, 0x80, 0x80, 0x10])
    with pytest.raises(InvalidRequestError, match="pictures"):
        check_fields(long_tag + varint(COUNT) + b"\x01" * COUNT, EXPLAIN)


def test_a_flood_never_holds_the_event_loop(start_server: Callable[..., Any]) -> None:
    server = start_server()
    paths = {
        EXPLAIN: "/limelens.v1.ClassifierService/Explain",
        CLASSIFY: "/limelens.v1.ClassifierService/Classify",
        INFER: "/inference.GRPCInferenceService/ModelInfer",
    }

    async def spent_s() -> float:
        return time.thread_time()  # of the loop, whatever else has the machine

    with grpc.insecure_channel(server.address) as channel:
        for kind, data, _ in FLOODS.values():
            call: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(paths[kind])
            began = server.call(spent_s())
            with pytest.raises(grpc.RpcError) as caught:
                call(data, compression=grpc.Compression.Gzip)
            assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
            # Where any of these is built it is held for seconds.
            assert server.call(spent_s()) - began < 1.5


def test_a_blocked_loop_is_measured(start_server: Callable[..., Any]) -> None:
    server = start_server()
    server.loop.call_soon_threadsafe(time.sleep, 0.3)
    until(lambda: server.server.pauses.recent_s >= 0.2)


def test_a_message_that_unpacks_beyond_the_limit_is_refused(
    start_server: Callable[..., Any],
) -> None:
    server = start_server(max_message_bytes=1_000_000)
    request = pb2.ClassifyRequest(images=[image_pb2.Image(encoded=bytes(5_000_000))])
    with grpc.insecure_channel(server.address) as channel:
        call: grpc.UnaryUnaryMultiCallable[bytes, bytes]
        call = channel.unary_unary("/limelens.v1.ClassifierService/Classify")
        with pytest.raises(grpc.RpcError) as caught:
            call(request.SerializeToString(), compression=grpc.Compression.Gzip)
    assert caught.value.code() in (
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        grpc.StatusCode.INVALID_ARGUMENT,
    )
