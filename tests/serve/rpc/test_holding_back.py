"""A server that holds back what is clearly worse: seen by its callers, and by its operator."""

from __future__ import annotations

import threading
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from tests.golden_images import golden_images, put_bundle
from tests.serve.rpc.test_swapping import SERVING, health
from tests.waiting import until

from limelens.inference import inference_service_pb2 as inference_pb2
from limelens.inference import inference_service_pb2_grpc as inference_grpc
from limelens.serve import Client, ServerConfig
from limelens.serve.errors import InvalidRequestError, NotFoundError

RED = np.full((8, 8, 3), (255, 0, 0), np.uint8)
HELD_BACK = "held back: right on 8 of 24 golden images, version 1 on 24 (p = 1.5e-05)"


def test_a_version_at_chance_never_answers_and_a_like_one_takes_over_without_a_failed_call(
    start_server: Callable[..., Any], tmp_path: Path
) -> None:
    put_bundle(tmp_path, 1, images=golden_images())
    server = start_server(tmp_path, reload_s=0.05, hold_back=True, http="127.0.0.1:0")
    seen: list[int] = []
    stopping = threading.Event()

    def call() -> None:
        with Client(server.address, max_attempts=1) as client:
            # The process that judges has a lower priority: leave it some time.
            while not stopping.wait(0.02):
                seen.append(client.classify(RED).model.version)

    caller = threading.Thread(target=call)
    caller.start()
    try:
        with Client(server.address, max_attempts=1) as client:
            put_bundle(tmp_path, 2, gain=0.0)
            until(lambda: len(client.models()) == 2)
            first, second = client.models()
            assert (first.ready, second.ready) == (True, False)
            assert (second.version, second.state_reason) == (2, HELD_BACK)
            with pytest.raises(NotFoundError, match=r"no version 2 .*was held back: right on 8"):
                client.classify(RED, version=2)
            assert health(server.address, "colours") == SERVING
            put_bundle(tmp_path, 3, gain=5.0)
            until(lambda: client.classify(RED).model.version == 3)
        url = f"http://{server.server.http.address}/metrics"
        metrics = urllib.request.urlopen(url).read().decode()
    finally:
        stopping.set()
        caller.join()
    assert set(seen) <= {1, 3}
    assert 'limelens_held_back_versions{model="colours"} 1.0' in metrics
    assert 'limelens_refused_versions{model="colours"} 0.0' in metrics
    assert "limelens_versions_held_back_total 1.0" in metrics


def test_a_folder_that_is_missing_is_refused_before_anything_is_loaded(tmp_path: Path) -> None:
    config = ServerConfig(tmp_path, hold_back_images=tmp_path / "nowhere")
    with pytest.raises(InvalidRequestError, match=r"hold_back_images: .*nowhere is no folder"):
        config.check()


def test_a_request_to_load_says_that_a_version_is_held_back(
    start_server: Callable[..., Any], tmp_path: Path
) -> None:
    put_bundle(tmp_path, 1, images=golden_images())
    server = start_server(tmp_path, reload="request", hold_back=True)
    put_bundle(tmp_path, 2, gain=0.0)
    with grpc.insecure_channel(server.address) as channel:
        stub = inference_grpc.GRPCInferenceServiceStub(channel)  # type: ignore[no-untyped-call]
        with pytest.raises(grpc.RpcError) as caught:
            stub.RepositoryModelLoad(inference_pb2.RepositoryModelLoadRequest(model_name="colours"))
        assert caught.value.code() is grpc.StatusCode.FAILED_PRECONDITION
        assert f"'colours' version 2 was {HELD_BACK}" in str(caught.value.details())
        index = stub.RepositoryIndex(inference_pb2.RepositoryIndexRequest()).models
        assert [(one.version, one.state) for one in index] == [
            ("1", "READY"),
            ("2", "UNAVAILABLE"),
        ]
        assert index[1].reason == HELD_BACK
