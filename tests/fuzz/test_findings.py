"""Bugs that random requests found, as plain tests."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fuzz.calling import Caller, is_finite
from fuzz.images import good_images
from limelens.inference import inference_service_pb2 as inference_pb2
from limelens.serve import Client
from limelens.serve.rpc.server_config import Limits, ServiceSettings
from limelens.v1 import classifier_service_pb2 as pb2
from limelens.v1 import explanation_pb2

STREAM = pb2.DESCRIPTOR.services_by_name["ClassifierService"].methods_by_name["ClassifyStream"]
EXPLAIN = pb2.DESCRIPTOR.services_by_name["ClassifierService"].methods_by_name["Explain"]
OTHER_STREAM = inference_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"].methods_by_name[
    "ModelStreamInfer"
]


@pytest.mark.parametrize("method", [STREAM, OTHER_STREAM], ids=lambda method: str(method.name))
def test_broken_bytes_in_a_stream_are_reported_as_such(caller: Caller, method: Any) -> None:
    result = caller.call(method, [b"\xff"])
    assert (result.code, result.reason) == ("INTERNAL", "MALFORMED_MESSAGE")
    assert result.message.startswith("the request cannot be parsed")


@pytest.mark.parametrize(
    ("config", "field"),
    [
        (pb2.StreamConfig(camera_id="door"), "config.model"),
        (pb2.StreamConfig(camera_id="door", model="tags", version=-1), "config.version"),
    ],
)
def test_a_cameras_wrong_model_is_named_by_its_field(
    caller: Caller, config: pb2.StreamConfig, field: str
) -> None:
    message = pb2.ClassifyStreamRequest(config=config)
    result = caller.call(STREAM, [message.SerializeToString()])
    assert (result.code, result.fields) == ("INVALID_ARGUMENT", (field,))


def test_the_default_number_of_samples_keeps_the_servers_limit(
    start_server: Callable[..., Any], one_model: Path
) -> None:
    settings = ServiceSettings(limits=Limits(max_samples=60))
    image = np.random.default_rng(1).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    with Client(start_server(one_model, service=settings).address, max_attempts=1) as client:
        assert client.explain(image).num_samples == 60


def test_fewer_samples_than_segments_leave_a_usable_covariance(
    caller: Caller,
) -> None:
    # An image of one row, cut off by its deadline: kernel SHAP's covariance was then no longer
    # positive definite, and the call failed.
    for seed in range(20):
        request = pb2.ExplainRequest(
            model="colours",
            image={"encoded": good_images()["strip.png"]},
            method=explanation_pb2.EXPLAIN_METHOD_KERNEL_SHAP,
            deadline_ms=1,
            seed=seed,
            contrasts=[explanation_pb2.Contrast(label="red", against="blue")],
        )
        result = caller.call(EXPLAIN, [request.SerializeToString()])
        assert result.code == "OK", result
        assert is_finite(result.replies[0])
