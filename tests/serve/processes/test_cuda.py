"""Several processes on one GPU; skipped where there is none."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable

import grpc
import onnxruntime
import pytest
from tests.serve.processes.conftest import GREEN, Fleet
from tests.waiting import until

from limelens.cli.serving import default_models
from limelens.v1 import classifier_service_pb2 as service_pb2

pytestmark = pytest.mark.skipif(
    "CUDAExecutionProvider" not in onnxruntime.get_available_providers(),
    reason="this onnxruntime has no CUDA",
)


@pytest.mark.parametrize("layout", [(), ("--device-process",)], ids=["alike", "device process"])
def test_on_a_gpu_all_processes_explain_alike_and_a_new_one_too(
    fleet: Callable[..., Fleet], layout: tuple[str, ...]
) -> None:
    server = fleet("--device", "cuda", *layout, models=default_models())
    request = service_pb2.ExplainRequest(image=GREEN.images[0], num_samples=1000, seed=3)

    def explanations() -> set[bytes]:
        found = set()
        for stub in server.stubs():
            explanation = stub.Explain(request)
            explanation.ClearField("timings")
            found.add(explanation.SerializeToString())
        return found

    first = explanations()
    assert len(first) == 1
    model = server.stub().GetModel(service_pb2.GetModelRequest()).model
    assert list(model.batch_sizes) == [1, 2, 4, 8, 16, 32, 64]
    assert model.no_graph_reason == ""
    server.replace_worker()
    until(lambda: len({stub.Classify(GREEN).model.version for stub in server.stubs()}) == 1)
    assert explanations() == first


def test_on_a_gpu_an_owner_that_is_killed_is_replaced_and_explains_alike(
    fleet: Callable[..., Fleet],
) -> None:
    server = fleet("--device", "cuda", "--device-process", models=default_models())
    request = service_pb2.ExplainRequest(image=GREEN.images[0], num_samples=1000, seed=3)

    def explained() -> bytes | None:
        call = server.stub().Explain.future(request)
        if call.code() is grpc.StatusCode.UNAVAILABLE:
            return None
        explanation = call.result()
        explanation.ClearField("timings")
        return bytes(explanation.SerializeToString())

    first = explained()
    assert first is not None
    killed = server.owner
    os.kill(killed, signal.SIGKILL)
    until(lambda: server.owner not in (0, killed) and explained() is not None)
    assert explained() == first
