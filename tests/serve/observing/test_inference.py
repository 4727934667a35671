"""Metrics and logs of the inference protocol are the same as those of our own service."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import grpc
import numpy as np
import pytest

from limelens.inference import inference_service_pb2 as pb2
from limelens.inference import inference_service_pb2_grpc as pb2_grpc

RED = np.full((32, 32, 3), (255, 0, 0), np.uint8)


def question(output: str) -> pb2.ModelInferRequest:
    return pb2.ModelInferRequest(
        inputs=[
            pb2.ModelInferRequest.InferInputTensor(
                name="images", datatype="UINT8", shape=[1, *RED.shape]
            )
        ],
        outputs=[pb2.ModelInferRequest.InferRequestedOutputTensor(name=output)],
        raw_input_contents=[RED.tobytes()],
    )


@pytest.fixture
def stub_of() -> Iterator[Callable[[str], Any]]:
    channels: list[Any] = []

    def stub(address: str) -> Any:
        channels.append(grpc.insecure_channel(address))
        return pb2_grpc.GRPCInferenceServiceStub(channels[-1])  # type: ignore[no-untyped-call]

    yield stub
    for channel in channels:
        channel.close()


def test_predictions_for_tensors_are_counted(
    watch: Callable[..., Any], stub_of: Callable[[str], Any]
) -> None:
    watched = watch()
    stub = stub_of(watched.address)
    stub.ModelInfer(question("probabilities"))
    list(stub.ModelStreamInfer(iter([question("probabilities")])))
    assert watched.value("limelens_decisions_total", model="colours", label="red") == 2
    assert watched.value("limelens_alerts_total", source="request") == 2
    stub.ModelInfer(question("embedding"))  # decides nothing, as Embed
    assert watched.value("limelens_decisions_total") == 2


def test_the_line_of_a_call_with_tensors_names_the_model(
    start_server: Callable[..., Any],
    stub_of: Callable[[str], Any],
    caplog: pytest.LogCaptureFixture,
) -> None:
    stub = stub_of(start_server().address)
    with caplog.at_level("DEBUG", "limelens"):
        stub.ModelInfer(question("probabilities"))
    (line,) = [one for one in caplog.records if "ModelInfer OK" in one.message]
    assert (vars(line)["model"], vars(line)["version"]) == ("colours", 1)
