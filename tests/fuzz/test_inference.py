"""The same for the Open Inference Protocol: a response or a refusal, and a server that goes on."""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from google.protobuf.message_factory import GetMessageClass
from hypothesis import given
from hypothesis import strategies as st

from fuzz.calling import Caller, CallResult, can_be_parsed, is_finite
from fuzz.effort import examples
from fuzz.images import good_images
from fuzz.messages import Usable, broken, choice, messages, spoilt
from limelens.inference import inference_service_pb2 as pb2

METHODS: Mapping[str, Any] = pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"].methods_by_name
UNARY = [name for name in sorted(METHODS) if not METHODS[name].client_streaming]
REQUEST = "inference.ModelInferRequest"
SIZE = 32
IMAGES = list(good_images().values())
PARAMETERS = [
    {},
    {"timeout": pb2.InferParameter(int64_param=60_000_000)},
    {"priority": pb2.InferParameter(uint64_param=1)},
]


@st.composite
def tensors(draw: st.DrawFn) -> tuple[Any, list[bytes]]:
    """An input tensor, and what goes beside it as raw contents."""
    tensor = pb2.ModelInferRequest.InferInputTensor
    count = draw(st.integers(1, 3))
    typed = draw(st.booleans())
    if draw(st.booleans()):
        shape = [count, SIZE, SIZE, 3]
        pixels = np.full(shape, draw(st.integers(0, 255)), np.uint8)
        if typed:
            contents = pb2.InferTensorContents(uint_contents=pixels.ravel().tolist())
            return tensor(name="images", datatype="UINT8", shape=shape, contents=contents), []
        return tensor(name="images", datatype="UINT8", shape=shape), [pixels.tobytes()]
    shape = [count, 1] if draw(st.booleans()) else [count]
    elements = [draw(choice(IMAGES)) for _ in range(count)]
    if typed:
        contents = pb2.InferTensorContents(bytes_contents=elements)
        return tensor(name="images", datatype="BYTES", shape=shape, contents=contents), []
    packed = b"".join(struct.pack("<I", len(one)) + one for one in elements)
    return tensor(name="images", datatype="BYTES", shape=shape), [packed]


@st.composite
def infer_requests(draw: st.DrawFn) -> pb2.ModelInferRequest:
    tensor, raw = draw(tensors())
    output = pb2.ModelInferRequest.InferRequestedOutputTensor
    names = draw(st.lists(st.sampled_from(("probabilities", "embedding")), unique=True))
    outputs = [output(name=name) for name in names]
    for one in outputs:
        if draw(st.booleans()):
            one.parameters["classification"].int64_param = draw(st.integers(0, 4))
    return pb2.ModelInferRequest(
        model_name=draw(st.sampled_from(("colours", "tags"))),
        model_version=draw(st.sampled_from(("", "1"))),
        id=draw(st.text(st.characters(codec="utf-8"), max_size=10)),
        parameters=draw(st.sampled_from(PARAMETERS)),
        inputs=[tensor],
        outputs=outputs,
        raw_input_contents=raw,
    )


NAMES = st.sampled_from(("colours", "tags"))
KEYS = st.sampled_from(("timeout", "priority", "classification", "shared_memory_region"))
USABLE = Usable(
    {
        REQUEST: infer_requests(),
        **{
            f"inference.{kind}.name": NAMES
            for kind in ("ModelReadyRequest", "ModelMetadataRequest", "ModelConfigRequest")
        },
        "inference.ModelStatisticsRequest.name": st.none() | NAMES,
        "inference.RepositoryModelLoadRequest.model_name": NAMES,
        f"{REQUEST}.ParametersEntry.key": KEYS,
        f"{REQUEST}.InferInputTensor.ParametersEntry.key": KEYS,
        f"{REQUEST}.InferRequestedOutputTensor.ParametersEntry.key": KEYS,
    }
)


def input_of(name: str) -> Any:
    return GetMessageClass(METHODS[name].input_type)


def usable_request(name: str) -> st.SearchStrategy[Any]:
    return infer_requests() if name == "ModelInfer" else messages(input_of(name), USABLE)


def require_well_ended(result: CallResult, sent: Any, *, parsed: bool = True) -> None:
    assert all(map(is_finite, result.replies)), result
    if not parsed:
        assert (result.code, result.reason) == ("INTERNAL", "MALFORMED_MESSAGE"), result
        return
    allowed = {"OK", "INVALID_ARGUMENT", "NOT_FOUND"}
    if isinstance(sent, pb2.ModelInferRequest) and "timeout" in sent.parameters:
        allowed.add("DEADLINE_EXCEEDED")
    if isinstance(sent, (pb2.RepositoryModelLoadRequest, pb2.RepositoryModelUnloadRequest)):
        allowed.add("UNIMPLEMENTED")
    assert result.code in allowed, result
    assert result.code == "OK" or (result.message and result.reason), result


def require_serving(caller: Caller) -> None:
    assert caller.is_serving()
    tensor = pb2.ModelInferRequest.InferInputTensor
    request = pb2.ModelInferRequest(
        model_name="colours",
        model_version="1",
        inputs=[tensor(name="images", datatype="UINT8", shape=[1, SIZE, SIZE, 3])],
        raw_input_contents=[bytes((255, 0, 0)) * (SIZE * SIZE)],
    )
    result = caller.call(METHODS["ModelInfer"], [request.SerializeToString()])
    assert result.code == "OK", result
    probabilities = np.frombuffer(result.replies[0].raw_output_contents[0], "<f4")
    red, other = 1 / (1 + 2 * math.exp(-6)), 1 / (2 + math.exp(6))  # see tests/conftest.py
    assert probabilities == pytest.approx([red, other, other], rel=1e-4)


@examples(40)
@given(request_message=infer_requests())
def test_usable_tensors_get_a_response(caller: Caller, request_message: Any) -> None:
    sent = request_message.SerializeToString()
    result = caller.call(METHODS["ModelInfer"], [sent])
    assert result.code == "OK", result
    (reply,) = result.replies
    assert reply.id == request_message.id
    wanted = [one.name for one in request_message.outputs] or ["probabilities", "embedding"]
    assert [one.name for one in reply.outputs] == wanted
    assert len(reply.raw_output_contents) == len(wanted)


@examples(150)
@given(data=st.data())
def test_spoilt_requests_get_a_response_or_a_refusal(caller: Caller, data: st.DataObject) -> None:
    name = data.draw(st.sampled_from([*UNARY, *["ModelInfer"] * len(UNARY)]))
    request = data.draw(spoilt(input_of(name), USABLE))
    result = caller.call(METHODS[name], [request.SerializeToString()])
    require_well_ended(result, request)
    require_serving(caller)


@examples(100)
@given(data=st.data())
def test_broken_bytes_are_refused_or_a_message(caller: Caller, data: st.DataObject) -> None:
    name = data.draw(st.sampled_from([*UNARY, *["ModelInfer"] * len(UNARY)]))
    kind = input_of(name)
    sent = data.draw(broken(kind, USABLE) | st.binary(max_size=60))
    result = caller.call(METHODS[name], [sent])
    parsed = can_be_parsed(kind, sent)
    require_well_ended(result, kind.FromString(sent) if parsed else None, parsed=parsed)
    require_serving(caller)


@examples(40)
@given(data=st.data())
def test_a_stream_responds_to_each_request_in_order(caller: Caller, data: st.DataObject) -> None:
    one = infer_requests() | spoilt(pb2.ModelInferRequest, USABLE)
    sent = data.draw(st.lists(one, max_size=5))
    result = caller.call(
        METHODS["ModelStreamInfer"], [message.SerializeToString() for message in sent]
    )
    require_well_ended(result, None)
    assert result.code == "OK", result
    assert [reply.infer_response.id for reply in result.replies] == [one.id for one in sent]
    require_serving(caller)


@examples(30)
@given(data=st.data())
def test_a_stream_may_hold_broken_bytes(caller: Caller, data: st.DataObject) -> None:
    kind = pb2.ModelInferRequest
    good = infer_requests().map(kind.SerializeToString)
    sent = data.draw(st.lists(good, max_size=3))
    junk = data.draw(broken(kind, USABLE) | st.binary(max_size=40))
    sent.insert(data.draw(st.integers(0, len(sent))), junk)
    result = caller.call(METHODS["ModelStreamInfer"], sent)
    require_well_ended(result, None, parsed=can_be_parsed(kind, junk))
    require_serving(caller)
